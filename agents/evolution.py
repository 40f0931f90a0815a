"""A linear agent that evolves in dreams, the way of the first world models (Ha and Schmidhuber 2018).

Here because it asks of a dream no more than what it pays, and of an agent a few hundred numbers.
Leaves out gradients. Source: separable CMA-ES (Ros and Hansen 2008), with the constants of Hansen 2016.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim import EpisodeStore, WorldModel, noise
from worldsim.agents.agent import Agent, AgentConfig, Linear, draw, features
from worldsim.agents.dreams import Dreams, Moments, earned, moments
from worldsim.agents.teaching import teach


@dataclass(frozen=True)
class Evolution:
    """How an agent evolves in dreams."""

    candidates: int = 24  # agents of a generation
    dreams: int = 4  # that each of them is judged by, the same for all
    horizon: int = 300  # steps of a dream at most
    window: int = 3  # frames from whose first to whose last it sees change
    hold: int = 1  # steps for which it holds an action
    trials: int = 8
    trial_rows: int = 32

    def __post_init__(self):
        if not all(isinstance(x, int) and x >= 1 for x in asdict(self).values()) or self.candidates < 4:
            raise ValueError(f"expected whole numbers of at least 1, and 4 candidates, found {self}")

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Evolves an agent for so many minutes and writes it to `out`; resumes what is there."""
        starts, others = moments(world, store, self.window, seed).part()
        trial = lambda network: earned(network, world, others, self.trial_rows, self.horizon, self.hold, seed)  # noqa: E731
        learner = Population(self, world, starts, seed)
        return teach(learner, self, world, store, out, minutes, seed, trial, self.trials)


class SeparableCMA:
    """The distribution that candidates are drawn from: a normal one whose spread is known for each number alone."""

    def __init__(self, numbers: int, candidates: int, spread: float):
        n, parents = numbers, candidates // 2
        ranks = torch.arange(1, parents + 1, dtype=torch.float64)
        self.weights = math.log((candidates + 1) / 2) - ranks.log()
        self.weights /= self.weights.sum()
        mass = float(1 / self.weights.square().sum())
        self.mass, self.candidates = mass, candidates
        self.rate_size = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.rate_size
        self.rate_path = (4 + mass / n) / (n + 4 + 2 * mass / n)
        faster = (n + 2) / 3  # what knowing no covariances allows
        one = 2 / ((n + 1.3) ** 2 + mass)
        self.rate_one = min(1.0, faster * one)
        many = 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass)
        self.rate_many = min(1 - self.rate_one, faster * many)
        self.expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        zero = torch.zeros(n, dtype=torch.float64)
        self.state = {
            "mean": zero, "variance": zero + 1, "path": zero, "size_path": zero,
            "size": torch.tensor(spread, dtype=torch.float64), "generation": torch.tensor(0),
        }  # fmt: skip

    def ask(self, generator: torch.Generator) -> Tensor:
        """Draws candidates, float64 `[candidates n]`."""
        s = self.state
        drawn = torch.randn(self.candidates, len(s["mean"]), generator=generator, dtype=torch.float64)
        return s["mean"] + s["size"] * s["variance"].sqrt() * drawn

    def tell(self, candidates: Tensor, worth: Tensor) -> None:
        """Learns from what candidates `[candidates n]` are worth `[candidates]`: more is better."""
        s, generation = dict(self.state), int(self.state["generation"]) + 1
        best = candidates[worth.argsort(descending=True)[: len(self.weights)]]
        steps = (best - s["mean"]) / s["size"]
        step = self.weights @ steps
        c, d, m = self.rate_size, s["variance"].sqrt(), self.mass
        s["size_path"] = (1 - c) * s["size_path"] + math.sqrt(c * (2 - c) * m) * step / d
        length = float(s["size_path"].norm())
        settled = length / math.sqrt(1 - (1 - c) ** (2 * generation)) < (1.4 + 2 / (len(step) + 1)) * self.expected
        p = self.rate_path
        s["path"] = (1 - p) * s["path"] + settled * math.sqrt(p * (2 - p) * m) * step
        one, many = self.rate_one, self.rate_many
        kept = 1 - one - many + (0.0 if settled else one * p * (2 - p))
        s["variance"] = kept * s["variance"] + one * s["path"].square() + many * (self.weights @ steps.square())
        s["mean"] = s["mean"] + s["size"] * step
        s["size"] = s["size"] * math.exp(c / self.damping * (length / self.expected - 1))
        s["generation"] = torch.tensor(generation)
        self.state = s


class Population:
    """What evolves, and the dreams it is judged in."""

    def __init__(self, how: Evolution, world: WorldModel, starts: Moments, seed: int):
        self.how, self.world, self.starts, self.seed = how, world, starts, seed
        config = AgentConfig(
            tuple(world.info.frame_shape), len(world.action_codec.table), how.window, how.hold, width=0, greedy=True
        )
        self.network = Linear(config).to(world.device)
        self.shape = self.network.choice.weight.shape
        self.search = SeparableCMA(
            self.shape.numel() + self.shape[0], how.candidates, 1.0
        )  # the likeliest action is the same at any size
        self._act()

    def _act(self) -> None:
        """Lets the network be the distribution's mean."""
        mean = self.search.state["mean"].float()
        with torch.no_grad():
            self.network.choice.weight.copy_(mean[: self.shape.numel()].view(self.shape))
            self.network.choice.bias.copy_(mean[self.shape.numel() :])

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """Lets a generation dream, the same moments and luck for all, and learns which of it did well."""
        generation = int(self.search.state["generation"])
        generator = torch.Generator().manual_seed((self.seed << 20) + generation)
        candidates = self.search.ask(generator)
        worth = self._earned(candidates.float().to(self.world.device), generation)
        self.search.tell(candidates, worth.double().cpu())
        self._act()
        return {"mean": float(worth.mean()), "best": float(worth.max()), "size": float(self.search.state["size"])}

    def _earned(self, candidates: Tensor, generation: int) -> Tensor:
        """Returns each candidate's mean return `[candidates]`."""
        how, device = self.how, self.world.device
        rows = how.candidates * how.dreams
        dreams = Dreams(self.world, self.starts, rows, self.seed)
        rng = np.random.default_rng([self.seed, generation])
        drawn = torch.from_numpy(rng.integers(len(self.starts.seen), size=how.dreams)).repeat(how.candidates).to(device)
        address = noise.address_of([self.seed] * rows, device)
        address[:, 1] = (generation * how.dreams + torch.arange(how.dreams)).repeat(how.candidates).to(device)
        dreams.state = replace(self.starts.state.select(drawn), address=address)
        dreams.seen = self.starts.seen[drawn]
        weight = candidates[:, : self.shape.numel()].view(-1, *self.shape).repeat_interleave(how.dreams, 0)
        bias = candidates[:, self.shape.numel() :].repeat_interleave(how.dreams, 0)
        total, alive = torch.zeros(rows, device=device), torch.ones(rows, device=device)
        for step in range(0, how.horizon, how.hold):
            logits = torch.einsum("b n f, b f -> b n", weight, features(dreams.seen)) + bias
            chosen = draw(logits, None)
            for left in reversed(range(min(how.hold, how.horizon - step))):
                reward, kept, _ = dreams.step(chosen, is_seen=left < how.window)
                total, alive = total + alive * reward, alive * kept
            if alive.max() < 0.01:
                break
        return total.view(how.candidates, how.dreams).mean(1)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the distribution's."""
        return self.search.state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from what `tensors` returned."""
        self.search.state = tensors
        self._act()
