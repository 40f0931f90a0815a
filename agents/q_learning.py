"""An agent that learns what each action is worth, from a memory of dreamed steps: much from few.

Here because a dream's steps cost most: each is learned from several times, and more often where something is about to
happen. It learns from others' luck as well: rows explore each by its own share.
Sources: Q-learning with two networks (van Hasselt et al. 2016), its worth and choice apart (Wang et al. 2016), steps
drawn by what they tell (Schaul et al. 2016), rows that explore unlike (Horgan et al. 2018).
Leaves out what is over by probability: a memory's ends are drawn.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldsim import EpisodeStore, WorldModel
from worldsim.agents.agent import Agent, AgentConfig, Network
from worldsim.agents.dreams import Dreams, Moments, earned, moments
from worldsim.agents.teaching import adam_from, adam_tensors, teach

MOST_CHANCE, LEAST_CHANCE = 0.4, 0.01  # of a random action, in the row that explores most and in that which does least
TAKEN_FOR = (1, 2, 4, 8)  # decisions that a random action is taken for: a walk goes nowhere by single steps
FIRST = 200  # decisions at random, as far as the memory reaches, before the first lesson
EVENED = 0.4  # power of a lesson's rarity by which it counts: 1 takes back that it was drawn for what happens


@dataclass(frozen=True)
class QLearning:
    """How an agent learns from a memory of dreams."""

    rows: int = 32  # dreams at once
    horizon: int = 300  # steps after which a dream begins anew
    window: int = 3  # frames that the agent sees
    hold: int = 1  # steps for which it holds an action
    discount: float = 0.99  # a step
    ahead: int = 5  # decisions whose rewards are counted before the network's word
    memory: int = 1000  # decisions of every row that are kept
    decisions: int = 4  # of every row, between updates
    batches: int = 4  # learned from in an update
    batch: int = 128
    events: float = 0.5  # share of a batch that is drawn by what is about to happen
    learning_rate: float = 3e-4
    follow: float = 0.01  # by how much the network that is asked follows the one that learns, a batch
    trials: int = 8
    trial_rows: int = 32

    def __post_init__(self):
        counts = ("rows", "horizon", "window", "hold", "ahead", "memory", "decisions", "batches", "batch", "trials",
                  "trial_rows")  # fmt: skip
        for name in counts:
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"expected {name} to be a whole number of at least 1, found {getattr(self, name)}")
        if self.horizon <= self.hold:
            raise ValueError(f"expected a horizon above hold={self.hold}, found {self.horizon}")
        if self.memory < 2 * (self.ahead + self.window):
            raise ValueError(f"expected a memory of at least {2 * (self.ahead + self.window)}, found {self.memory}")
        shares = 0 < self.discount < 1 and 0 <= self.events < 1 and 0 < self.follow <= 1 and self.learning_rate > 0
        if not shares:
            raise ValueError(
                "expected discount in (0, 1), events in [0, 1), follow in (0, 1] and a learning rate above 0, found "
                f"{self.discount}, {self.events}, {self.follow} and {self.learning_rate}"
            )

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Teaches an agent for so many minutes and writes it to `out`; resumes what is there, with a new memory."""
        starts, others = moments(world, store, self.window, seed).part()
        trial = lambda network: earned(network, world, others, self.trial_rows, self.horizon, self.hold, seed)  # noqa: E731
        return teach(Learner(self, world, starts, seed), self, world, store, out, minutes, seed, trial, self.trials)


class Memory:
    """The last decisions of rows that dream side by side, as rings `[length rows]`."""

    def __init__(self, length: int, rows: int, kept: int, frame_shape: tuple[int, ...], device: torch.device):
        """`kept` is how many frames are new at every decision."""

        def ring(*shape: int, dtype: torch.dtype = torch.float) -> Tensor:
            return torch.zeros(length, rows, *shape, dtype=dtype, device=device)

        self.frames = ring(kept, *frame_shape, dtype=torch.uint8)  # the last ones when it was decided
        self.chosen, self.age = ring(dtype=torch.long), ring(dtype=torch.long)  # age: decisions since the row began
        self.begun = ring(dtype=torch.long)  # at which moment
        self.reward, self.kept = ring(), ring()  # kept: the discount, 0 where it ended
        self.cut = ring(dtype=torch.bool)  # the next decision is another dream's, though this one has not ended
        self.told = 0  # decisions of a row so far

    def add(self, **step: Tensor) -> None:
        """Remembers a decision of every row, and forgets the oldest."""
        for name, value in step.items():
            getattr(self, name)[self.told % len(self.age)] = value
        self.told += 1

    def seen(self, at: Tensor, row: Tensor, starts: Tensor) -> Tensor:
        """Returns what was seen at decisions number `at` of rows `[b]`: `[b window H W 3]`.

        What lies before a row's beginning is as `starts [n window H W 3]` show its moment.
        """
        kept, window = self.frames.shape[2], starts.shape[1]
        back = torch.arange(window - 1, -1, -1, device=at.device)  # frames, of which a decision has `kept`
        place, age = at % len(self.age), self.age[at % len(self.age), row][:, None]
        dreamed = self.frames[(at[:, None] - back // kept) % len(self.age), row[:, None], kept - 1 - back % kept]
        which, frame = (back // kept >= age).nonzero(as_tuple=True)  # few: those from before a row's beginning
        steps = window - 1 - back[frame] + age[which, 0] * kept
        dreamed[which, frame] = starts[self.begun[place, row][which], steps.clamp_max(window - 1)]
        return dreamed

    def returns(self, at: Tensor, row: Tensor, ahead: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what decisions brought in up to `ahead` steps `[b]`, the discount of what came then, and when."""
        total, kept, then = torch.zeros(len(at), device=at.device), torch.ones(len(at), device=at.device), at.clone()
        going = torch.ones_like(row, dtype=torch.bool)
        for i in range(ahead):
            place = (at + i) % len(self.age)
            going = going & ~self.cut[place, row]
            total = total + going * kept * self.reward[place, row]
            kept = torch.where(going, kept * self.kept[place, row], kept)
            then = torch.where(going, at + i + 1, then)
            going = going & (kept > 0)
        return total, kept, then

    def draw(
        self, count: int, events: float, window: int, ahead: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the numbers and rows `[b]` of decisions to learn from, a share of them by what is about to happen.

        With them by how much each counts `[b]`, 1 at most: what happened by luck shall not seem too likely.
        """
        length = len(self.age)
        first = max(0, self.told - length) + window
        at = torch.arange(first, self.told - ahead, device=self.age.device)
        usual = self.reward[: self.told].median()
        happened = (self.reward - usual).abs() + (self.kept == 0)
        soon, going = torch.zeros_like(happened[at % length]), torch.ones_like(self.cut[at % length])
        for i in range(ahead):
            place = (at + i) % length
            going = going & ~self.cut[place]
            soon, going = soon + going * happened[place], going & (self.kept[place] > 0)
        learnable = (~self.cut[at % length]).float()
        weight = learnable * ((1 - events) / learnable.sum() + events * soon / (soon * learnable).sum().clamp_min(1e-9))
        drawn = torch.multinomial(weight.flatten().cpu(), count, replacement=True, generator=generator).to(at.device)
        rarity = 1 / weight.flatten()[drawn]
        return at[drawn // weight.shape[1]], drawn % weight.shape[1], (rarity / rarity.max()) ** EVENED


class Learner:
    """What learns, its rows and their memory."""

    def __init__(self, how: QLearning, world: WorldModel, starts: Moments, seed: int):
        self.how, self.world, self.starts, self.seed = how, world, starts, seed
        table = world.action_codec.table
        config = AgentConfig(tuple(world.info.frame_shape), len(table), how.window, how.hold, greedy=True)
        self.network = Network(config, seed).to(world.device)
        self.asked = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), how.learning_rate, eps=1e-5)
        share = torch.linspace(0, 1, how.rows, device=world.device)
        self.chance = MOST_CHANCE * (LEAST_CHANCE / MOST_CHANCE) ** share
        self.first = min(how.memory, max(FIRST, 2 * (how.ahead + how.window)))
        self.updates = 0
        self._begin()

    def _begin(self) -> None:
        """Draws rows and luck, other ones for every number of updates."""
        self.dreams = Dreams(self.world, self.starts, self.how.rows, self.seed + self.updates)
        self.generator = torch.Generator().manual_seed(self.seed + self.updates)
        self.age = torch.zeros(self.how.rows, dtype=torch.long, device=self.world.device)
        self.left = torch.zeros_like(self.age)  # decisions for which a row's random action is still taken
        self.other = torch.zeros_like(self.age)
        self.kept = min(self.how.hold, self.how.window)
        shape = tuple(self.world.info.frame_shape)
        self.memory = Memory(self.how.memory, self.how.rows, self.kept, shape, self.world.device)

    def update(self) -> dict[str, float]:
        """Dreams on for some decisions, and learns from what is remembered."""
        told = self._dream()
        while self.memory.told < self.first:
            told = self._dream()
        how = self.how
        drawn = self.memory.draw(how.batches * how.batch, how.events, how.window, how.ahead, self.generator)
        losses = [self._learn(*part) for part in zip(*(x.split(how.batch) for x in drawn), strict=True)]
        self.updates += 1
        return told | {"loss": sum(losses) / len(losses), "scale": float(self.network.scale)}

    @torch.no_grad()
    def _dream(self) -> dict[str, float]:
        how, dreams, rewards, ends = self.how, self.dreams, [], []
        for _ in range(how.decisions):
            frames, age, begun = dreams.seen[:, -self.kept :], self.age, dreams.begun.clone()
            chosen = self._explored(worths(self.network, dreams.seen).argmax(-1))
            reward, kept, over = self._hold(chosen)
            late = ~over & (dreams.state.age >= how.horizon)
            step = {"frames": frames, "chosen": chosen, "age": age, "begun": begun, "reward": reward}
            self.memory.add(**step, kept=torch.where(over, 0.0, kept), cut=late)
            dreams.begin(over | late)
            self.age = torch.where(over | late, 0, age + 1)
            rewards.append(reward.mean())
            ends.append(over.float().mean())
        return {"reward": float(torch.stack(rewards).mean()), "ends": float(torch.stack(ends).mean())}

    def _explored(self, chosen: Tensor) -> Tensor:
        """Returns what rows do `[b]`: what they chose, or a random action, which is taken for some decisions."""
        luck = torch.rand(len(chosen), generator=self.generator).to(chosen.device)
        other, taken_for = (
            torch.randint(count, (len(chosen),), generator=self.generator).to(chosen.device)
            for count in (self.network.config.num_actions, len(TAKEN_FOR))
        )
        # So many decisions at random as a chance for each of them would make.
        mean = sum(TAKEN_FOR) / len(TAKEN_FOR)
        chance = self.chance / (mean - self.chance * (mean - 1)) if self.updates else torch.ones_like(self.chance)
        begins = (self.left == 0) & (luck < chance)
        self.other = torch.where(begins, other, self.other)
        self.left = torch.where(begins, torch.tensor(TAKEN_FOR, device=chosen.device)[taken_for], self.left)
        random, self.left = self.left > 0, (self.left - 1).clamp_min(0)
        return torch.where(random, self.other, chosen)

    def _hold(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Holds actions; returns the discounted reward, the discount of what follows, and drawn ends, `[rows]`."""
        reward, kept = torch.zeros_like(chosen, dtype=torch.float), 1.0
        over = torch.zeros_like(chosen, dtype=torch.bool)
        for left in reversed(range(self.how.hold)):
            expected, _, ended = self.dreams.step(chosen, is_seen=left < self.how.window)
            reward = torch.where(over, reward, reward + kept * expected)
            kept, over = kept * self.how.discount, over | ended
        return reward, torch.full_like(reward, kept), over

    def _learn(self, at: Tensor, row: Tensor, counts: Tensor) -> float:
        """Learns from the decisions number `at` of rows, as much as each counts, `[b]`."""
        how, memory, scale = self.how, self.memory, self.network.scale
        reward, kept, then = memory.returns(at, row, how.ahead)
        following = memory.seen(then, row, self.starts.seen)
        with torch.no_grad():
            best = worths(self.network, following).argmax(-1, keepdim=True)
            goal = reward + kept * scale * worths(self.asked, following).gather(1, best)[:, 0]
        said = worths(self.network, memory.seen(at, row, self.starts.seen))
        said = said.gather(1, memory.chosen[at % how.memory, row][:, None])[:, 0]
        loss = (counts * (said - goal / scale).square()).mean()  # squared: a reward that may come counts by its chance
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.asked.parameters()), list(self.network.parameters()), how.follow)
            self._rescale(goal.abs().mean())
        return float(loss.detach())

    def _rescale(self, size: Tensor) -> None:
        """Lets the scale follow the size of returns; what is said stays as it is (van Hasselt et al. 2016b)."""
        old = self.network.scale.clone()
        new = old.lerp(size.clamp_min(1e-3), 0.01 if self.updates else 1.0)
        for network in (self.network, self.asked):
            network.scale.copy_(new)
            for head in (network.choice, network.worth):
                head.weight.mul_(old / new)
                head.bias.mul_(old / new)

    def tensors(self) -> dict[str, Tensor]:
        """Returns both networks' and the optimiser's; rows are drawn anew, and the memory is filled again."""
        asked = {f"asked.{name}": value for name, value in self.asked.state_dict().items()}
        return adam_tensors(self.network, self.optimizer) | asked | {"updates": torch.tensor(self.updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from what `tensors` returned."""
        adam_from(tensors, self.network, self.optimizer)
        self.asked.load_state_dict({name: tensors[f"asked.{name}"] for name in self.asked.state_dict()})
        self.updates = int(tensors["updates"])
        self._begin()


def worths(network: Network, seen: Tensor) -> Tensor:
    """Returns what each action is worth `[b n]` after frames `[b t H W 3]`, in units of the network's scale.

    The likeliest action by its log odds is the one that is worth most.
    """
    choice, worth = network(seen)
    return worth[:, None] + choice - choice.mean(1, keepdim=True)
