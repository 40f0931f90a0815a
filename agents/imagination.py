"""An actor and a critic that learn wholly in dreams: no frame of the game is played.

Rows of one batch dream on from recorded moments; where one ends, or has grown too old to be trusted, it begins anew at
another. Outcomes count by their probability (an expected reward, the chance of living on), so that what the agent
learns from is less a matter of luck.

Sources: returns as in Hafner et al. 2023 (lambda-returns in dreams, in units of their size); steps as in Schulman et
al. 2017 (clipped ratios, so that dreams, which cost most, are learned from several times).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldsim import EpisodeStore, WorldModel
from worldsim.agents.agent import Agent, AgentConfig, Network, draw
from worldsim.agents.dreams import Dreams, Moments, earned, moments
from worldsim.agents.teaching import adam_from, adam_tensors, teach


@dataclass(frozen=True)
class Imagination:
    """How an agent learns in dreams."""

    rows: int = 64  # dreams at once
    decisions: int = 32  # that each of them makes before the agent learns from them
    horizon: int = 300  # steps after which a dream begins anew
    window: int = 3  # frames that the agent sees
    hold: int = 1  # steps for which it holds an action
    discount: float = 0.99  # a step
    trace: float = 0.95  # lambda: how far a return looks before it asks the critic
    entropy: float = 0.01
    clip: float = 0.2
    epochs: int = 3
    batch: int = 512
    learning_rate: float = 3e-4
    unsure: float = 0.0  # reward taken away for a step's uncertainty, which costs an evaluation more
    trials: int = 8  # in other dreams; the best agent is kept
    trial_rows: int = 32

    def __post_init__(self):
        counts = ("rows", "decisions", "horizon", "window", "hold", "epochs", "batch", "trials", "trial_rows")
        for name in counts:
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"expected {name} to be a whole number of at least 1, found {getattr(self, name)}")
        if not (0 < self.discount < 1 and 0 <= self.trace <= 1 and self.learning_rate > 0):
            raise ValueError(
                f"expected a discount in (0, 1), a trace in [0, 1] and a learning rate above 0, found {self.discount}, "
                f"{self.trace} and {self.learning_rate}"
            )
        if not all(isinstance(x, (int, float)) and x >= 0 for x in (self.entropy, self.unsure)):
            raise ValueError(f"expected entropy and unsure of at least 0, found {self.entropy!r} and {self.unsure!r}")

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Teaches an agent for so many minutes and writes it to `out`; resumes what is there, in other dreams.

        Dreams begin at moments of the recordings, or without a `store` at the world's own prompts.
        """
        starts, others = moments(world, store, self.window, seed).part()
        trial = lambda network: earned(network, world, others, self.trial_rows, self.horizon, self.hold, seed)  # noqa: E731
        learner = ActorCritic(self, world, starts, seed)
        return teach(learner, self, world, store, out, minutes, seed, trial, self.trials)


def returns(rewards: Tensor, kept: Tensor, over: Tensor, following: Tensor, trace: float) -> Tensor:
    """Returns lambda-returns `[t b]`.

    `kept` is the discount times the chance to live on, `following` the critic's word on what the step led to, and
    where a row is `over` the next moment is another dream's: there the critic's word stands for all that would come.
    """
    result, later = torch.zeros_like(rewards), following[-1]
    for t in reversed(range(len(rewards))):
        ahead = torch.where(over[t], following[t], (1 - trace) * following[t] + trace * later)
        later = result[t] = rewards[t] + kept[t] * ahead
    return result


class ActorCritic:
    """What learns, and the rows it learns from."""

    def __init__(self, how: Imagination, world: WorldModel, starts: Moments, seed: int):
        self.how, self.world, self.starts, self.seed = how, world, starts, seed
        config = AgentConfig(tuple(world.info.frame_shape), len(world.action_codec.table), how.window, how.hold)
        self.network = Network(config, seed).to(world.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), how.learning_rate, eps=1e-5)
        self.updates = 0
        self._begin()

    def _begin(self) -> None:
        """Draws rows and luck, other ones for every number of updates."""
        self.dreams = Dreams(self.world, self.starts, self.how.rows, self.seed + self.updates)
        self.generator = torch.Generator(self.world.device).manual_seed(self.seed + self.updates)

    def update(self) -> dict[str, float]:
        """Dreams on for some decisions and learns from them."""
        told = self._learn(self._dream())
        self.updates += 1
        return told

    @torch.no_grad()
    def _dream(self) -> dict[str, Tensor]:
        """Returns what the rows lived through, `[t b ...]`."""
        how, dreams, parts = self.how, self.dreams, []
        for _ in range(how.decisions):
            seen = dreams.seen
            logits, worth = self.network(seen)
            chosen = draw(logits, self.generator)
            reward, kept, over = self._hold(chosen)
            following = self.network(dreams.seen)[1]
            logp = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            dead, over = over, over | (dreams.state.age >= how.horizon)
            parts.append((seen, chosen, logp, worth, reward, kept, over, following, dead))
            dreams.begin(over)
        names = ("seen", "chosen", "logp", "worth", "reward", "kept", "over", "following", "dead")
        return {name: torch.stack(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}

    def _hold(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Holds actions; returns the discounted reward, the discount times the chance to live on, and drawn ends."""
        reward, kept = torch.zeros_like(chosen, dtype=torch.float), torch.ones_like(chosen, dtype=torch.float)
        over = torch.zeros_like(chosen, dtype=torch.bool)
        for left in reversed(range(self.how.hold)):
            before = self.dreams.state
            expected, alive, ended = self.dreams.step(chosen, is_seen=left < self.how.window)
            if self.how.unsure:
                expected = expected - self.how.unsure * self.dreams.unsure(before, chosen)
            reward, kept, over = reward + kept * expected, kept * alive * self.how.discount, over | ended
        return reward, kept, over

    def _learn(self, lived: dict[str, Tensor]) -> dict[str, float]:
        how, scale = self.how, self.network.scale
        goal = returns(lived["reward"], lived["kept"], lived["over"], lived["following"] * scale, how.trace)
        better = (goal - lived["worth"] * scale).flatten()
        share = max(0.05, 1 / (self.updates + 1))  # at first the mean of all so far
        scale.lerp_(goal.std().clamp_min(1e-3), share)
        rows = {name: lived[name].flatten(0, 1) for name in ("seen", "chosen", "logp")}
        rows |= {"goal": goal.flatten() / scale, "better": (better - better.mean()) / better.std().clamp_min(1e-6)}
        entropies = []
        for _ in range(how.epochs):
            for part in torch.randperm(len(better), generator=self.generator, device=better.device).split(how.batch):
                loss, entropy = self._loss({name: value[part] for name, value in rows.items()})
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
                self.optimizer.step()
                entropies.append(entropy)
        told = {"return": goal, "reward": lived["reward"], "ends": lived["dead"], "entropy": torch.stack(entropies)}
        return {name: float(value.float().mean()) for name, value in told.items()}

    def _loss(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, worth = self.network(rows["seen"])
        logp = logits.log_softmax(-1)
        ratio = (logp.gather(1, rows["chosen"][:, None])[:, 0] - rows["logp"]).exp()
        clipped = ratio.clamp(1 - self.how.clip, 1 + self.how.clip)
        gain = torch.minimum(ratio * rows["better"], clipped * rows["better"]).mean()
        entropy = -(logp.exp() * logp).sum(-1).mean()
        critic = (worth - rows["goal"]).square().mean()
        return 0.5 * critic - gain - self.how.entropy * entropy, entropy.detach()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the network's and the optimiser's; rows are drawn anew."""
        return adam_tensors(self.network, self.optimizer) | {"updates": torch.tensor(self.updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from what `tensors` returned."""
        adam_from(tensors, self.network, self.optimizer)
        self.updates = int(tensors["updates"])
        self._begin()
