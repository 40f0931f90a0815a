"""An actor and a critic that learn wholly in dreams: no frame of the game is played.

Rows of one batch dream on from recorded moments; where one ends, or has grown too old to be trusted, it begins anew at
another. Outcomes count by their probability (an expected reward, the chance of living on), so that what the agent
learns from is less a matter of luck. Of the agents that a training passes through, the one that does best in dreams of
other moments is kept; the real game is never asked.

Sources: returns as in Hafner et al. 2023 (lambda-returns in dreams, in units of their size); steps as in Schulman et
al. 2017 (clipped ratios, so that dreams, which cost most, are learned from several times).
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from worldsim import EpisodeStore, WorldModel, noise
from worldsim.agents.agent import Agent, AgentConfig, draw, fresh, repeated, shown
from worldsim.files import save_tensors
from worldsim.types import Clip

MOMENTS = 512  # of recordings, that dreams begin in
ADAM = ("step", "exp_avg", "exp_avg_sq")
OTHER = 1 << 40  # seeds from here on are of the dreams that agents are chosen by


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
    checks: int = 8  # times that the agent is played in other dreams, the best of which is kept
    check_rows: int = 32
    log_seconds: float = 10.0
    save_seconds: float = 60.0

    def __post_init__(self):
        counts = ("rows", "decisions", "horizon", "window", "hold", "epochs", "batch", "checks", "check_rows")
        for name in counts:
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"expected {name} to be a whole number of at least 1, found {getattr(self, name)}")
        if not (0 < self.discount < 1 and 0 <= self.trace <= 1 and self.learning_rate > 0):
            raise ValueError(
                f"expected a discount in (0, 1), a trace in [0, 1] and a learning rate above 0, found {self.discount}, "
                f"{self.trace} and {self.learning_rate}"
            )

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Teaches an agent for so many minutes and writes it to `out`; resumes what is there.

        Dreams begin at moments of the recordings, or without a `store` at the world's own prompts.
        """
        return Training(self, world, store, out, minutes, seed).run()


@dataclass(frozen=True)
class Moments:
    """Where dreams begin, and what is seen there."""

    state: Any  # a world's state of n rows
    seen: Tensor  # [n window H W 3], the newest frame last


def moments(world: WorldModel, store: EpisodeStore | None, window: int, seed: int) -> Moments:
    """Returns moments of recordings, drawn evenly over their frames, or the world's own prompts."""
    if store is None:
        own = torch.arange(world.num_prompts, device=world.device)
        state = world.initial(own, noise.address_of(own.tolist(), world.device))
        return Moments(state, repeated(world.observe(state).clone(), window))
    _check(world, store)
    length, rng = world.prompts.latents.shape[1], np.random.default_rng(seed)
    steps = np.array([max(record.total_steps - length, 0) for record in store.records])
    if not steps.any():
        raise ValueError(f"expected an episode of more than {length} steps to begin dreams in, found none; record more")
    places = [(int(i), int(rng.integers(steps[i]))) for i in rng.choice(len(steps), MOMENTS, p=steps / steps.sum())]
    frames = torch.stack([torch.from_numpy(np.array(store.observations(i, t, t + length))) for i, t in places])
    actions = torch.stack([_led(world, store, i, t, length) for i, t in places])
    latents = torch.cat([world.encode(part) for part in frames.split(16)])
    true, zero = torch.ones(latents.shape[:2], dtype=torch.bool), torch.zeros(latents.shape[:2])
    clip = Clip(latents.cpu(), actions, true, zero, ~true, ~true).to(world.device)
    state = world.initial(clip, noise.address_of(list(range(MOMENTS)), world.device))
    return Moments(state, _last(frames, window).to(world.device))


def _check(world: WorldModel, store: EpisodeStore) -> None:
    mine, theirs = world.info, store.info
    if (mine.action_space, tuple(mine.frame_shape)) != (theirs.action_space, tuple(theirs.observation_shape)):
        raise ValueError(
            f"expected data= of the world's game, {mine.game} with {mine.action_space}, found {theirs.game} with "
            f"{theirs.action_space}"
        )


def _led(world: WorldModel, store: EpisodeStore, index: int, start: int, length: int) -> Tensor:
    """Returns the encoded action `[t a]` that led to each frame; null for an episode's first."""
    packed = store.actions(index)
    codec = world.action_codec
    if packed is None:
        return codec.null.expand(length, -1)
    led = codec.encode(np.array(packed[max(start - 1, 0) : start + length - 1]))
    return led if start else torch.cat((codec.null[None], led))


def _last(frames: Tensor, window: int) -> Tensor:
    """Returns the last `window` of frames `[n t H W 3]`, the first one repeated where there are fewer."""
    missing = max(0, window - frames.shape[1])
    return torch.cat((frames[:, :1].repeat(1, missing, 1, 1, 1), frames[:, -window:]), 1)


class Dreams:
    """Rows of a dream that begin anew by themselves, and what the agent sees of them."""

    def __init__(self, world: WorldModel, starts: Moments, rows: int, horizon: int, seed: int):
        self.world, self.starts, self.horizon = world, starts, horizon
        self._seed, self._begun, self._rng = seed, 0, np.random.default_rng(seed)
        table = torch.from_numpy(np.asarray(world.action_codec.table))
        self._actions = world.action_codec.encode(table).to(world.device)
        self.state, self.seen = self._fresh(rows)

    def step(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Takes actions by number `[b]`; returns expected rewards, the chances to live on, and drawn ends, `[b]`."""
        before, action = self.state, self._actions[chosen]
        self.state, likely = self.world.foresee(before, action)
        self.seen = shown(self.seen, self.world.observe(self.state), torch.zeros_like(chosen, dtype=torch.bool))
        luck = noise.uniform(self.state.address, (2,), noise.OUTCOME)[:, 1]  # as `WorldModel.step` draws it
        return likely.reward_mean, 1 - likely.end_probability, luck < likely.end_probability

    def unsure(self, before: Any, chosen: Tensor) -> Tensor:
        """Returns how unsure the last step was, `[b]`."""
        return self.world.uncertainty(before, self._actions[chosen], self.state)

    def begin(self, mask: Tensor) -> None:
        """Begins the rows of `mask` `[b]` anew."""
        rows = mask.nonzero()[:, 0]
        if len(rows):
            state, seen = self._fresh(len(rows))
            self.state = self.state.put(rows, state)
            self.seen = self.seen.index_copy(0, rows, seen)

    def _fresh(self, rows: int) -> tuple[Any, Tensor]:
        device = self.world.device
        drawn = torch.from_numpy(self._rng.integers(len(self.starts.seen), size=rows)).to(device)
        address = noise.address_of([self._seed] * rows, device)
        address[:, 1] = torch.arange(self._begun, self._begun + rows, device=device)
        self._begun += rows
        return replace(self.starts.state.select(drawn), address=address), self.starts.seen[drawn]


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


class Training:
    """One training: what learns, where it stands, and the loop."""

    def __init__(self, how: Imagination, world: WorldModel, store, out: Path, minutes: float, seed: int):
        self.how, self.world, self.out, self.minutes, self.seed = how, world, out, minutes, seed
        codec = world.action_codec
        config = AgentConfig(tuple(world.info.frame_shape), len(codec.table), how.window, how.hold)
        self.network = fresh(config, seed).to(world.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), how.learning_rate, eps=1e-5)
        self.starts = moments(world, store, how.window, seed)
        self.generator = torch.Generator(world.device).manual_seed(seed)
        self.facts: dict[str, Any] = {"updates": 0, "steps": 0, "seconds": 0.0, "checked": 0, "best": None}

    def run(self) -> Agent:
        """Dreams and learns until the minutes are spent."""
        self._resume()
        dreams = self.dreams()
        before, began = self.facts["seconds"], time.monotonic()
        logged = saved = began
        bar = tqdm(total=100, desc="imagination", bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}")
        while self.facts["seconds"] < 60 * self.minutes:
            told = self.update(dreams)
            now = time.monotonic()
            self.facts["seconds"] = before + now - began
            share = self.facts["seconds"] / (60 * self.minutes)
            if now - logged > self.how.log_seconds:
                self._log(told)
                bar.n = min(100, 100 * share)
                bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in told.items()))
                logged = now
            if share * self.how.checks >= self.facts["checked"] + 1 or share >= 1:
                self._check()
            if now - saved > self.how.save_seconds:
                self._save()
                saved = now
        self._save()
        bar.close()
        return Agent.load(self.out)

    def dreams(self) -> Dreams:
        """Returns rows to learn from, of their own luck after every resumption."""
        return Dreams(self.world, self.starts, self.how.rows, self.how.horizon, self.seed + self.facts["updates"])

    def update(self, dreams: Dreams) -> dict[str, float]:
        """Dreams on for some decisions and learns from them; returns what is worth logging."""
        told = self._learn(self._dream(dreams))
        self.facts["updates"] += 1
        return told

    @torch.no_grad()
    def _dream(self, dreams: Dreams) -> dict[str, Tensor]:
        """Returns what the rows lived through, `[t b ...]`."""
        how, parts = self.how, []
        for _ in range(how.decisions):
            seen = dreams.seen
            logits, worth = self.network(seen)
            chosen = draw(logits, self.generator)
            reward, kept, over = self._hold(dreams, chosen)
            following = self.network(dreams.seen)[1]
            logp = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            dead, over = over, over | (dreams.state.age >= how.horizon)
            parts.append((seen, chosen, logp, worth, reward, kept, over, following, dead))
            dreams.begin(over)
            self.facts["steps"] += how.hold * how.rows
        names = ("seen", "chosen", "logp", "worth", "reward", "kept", "over", "following", "dead")
        return {name: torch.stack(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}

    def _hold(self, dreams: Dreams, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Holds actions; returns the discounted reward, the discount times the chance to live on, and drawn ends."""
        reward, kept = torch.zeros_like(chosen, dtype=torch.float), torch.ones_like(chosen, dtype=torch.float)
        over = torch.zeros_like(chosen, dtype=torch.bool)
        for _ in range(self.how.hold):
            before = dreams.state
            expected, alive, ended = dreams.step(chosen)
            if self.how.unsure:
                expected = expected - self.how.unsure * dreams.unsure(before, chosen)
            reward = torch.where(over, reward, reward + kept * expected)
            kept = torch.where(over, kept, kept * alive * self.how.discount)
            over = over | ended
        return reward, kept, over

    def _learn(self, lived: dict[str, Tensor]) -> dict[str, float]:
        how, scale = self.how, self.network.scale
        goal = returns(lived["reward"], lived["kept"], lived["over"], lived["following"] * scale, how.trace)
        better = (goal - lived["worth"] * scale).flatten()
        share = 0.05 if self.facts["updates"] else 1.0
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

    @torch.no_grad()
    def _check(self) -> None:
        """Plays other dreams, always the same, and keeps the agent where it does better than any before."""
        dreams = Dreams(self.world, self.starts, self.how.check_rows, self.how.horizon, OTHER + self.seed)
        device = self.world.device
        total, alive = torch.zeros(self.how.check_rows, device=device), torch.ones(self.how.check_rows, device=device)
        luck = torch.Generator(device).manual_seed(self.seed)
        for _ in range(0, self.how.horizon, self.how.hold):
            chosen = draw(self.network(dreams.seen)[0], luck)
            for _ in range(self.how.hold):
                reward, kept, _ = dreams.step(chosen)
                total, alive = total + alive * reward, alive * kept
            if alive.max() < 0.01:
                break
        found = float(total.mean())
        self.facts["checked"] += 1
        best = self.facts["best"]
        if best is None or found >= best:
            self.facts["best"] = found
            self._agent().save(self.out)
        self._log({"check": found})

    def _agent(self) -> Agent:
        world = self.world
        facts = {"by": "imagination", **asdict(self.how), **self.facts, "world": world.fingerprint, "K": world.steps}
        facts |= {"game": world.info.game, "seed": self.seed, "minutes": self.minutes}
        network = deepcopy(self.network).cpu()
        return Agent(network, world.info.action_space, world.action_codec.table, facts)

    def _log(self, told: dict[str, float]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps({**self.facts, **told}) + "\n")

    def _save(self) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors |= {f"{key}.{name}": self.optimizer.state[parameter][key] for key in ADAM}
        self.out.mkdir(parents=True, exist_ok=True)
        facts = json.dumps(self._arguments() | self.facts)
        save_tensors(tensors, self.out / "checkpoint.safetensors", {"facts": facts})

    def _arguments(self) -> dict[str, Any]:
        return {"how": asdict(self.how), "minutes": self.minutes, "seed": self.seed, "world": self.world.fingerprint}

    def _resume(self) -> None:
        path = self.out / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        for key, value in self._arguments().items():
            if facts.pop(key) != value:
                raise ValueError(f"expected out={self.out} to hold a training with the same {key}; use another out=")
        self.facts = facts
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = {key: tensors[f"{key}.{name}"] for key in ADAM}
        print(f"imagination: resuming from update {self.facts['updates']}")
