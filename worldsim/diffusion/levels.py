"""Which noise levels a network is trained on: a uniform number in, a level out.

Here as frozen values apart from the weightings: how often a level is drawn, and how much its error counts, multiply.
Leaves out the levels that a sampler visits, which are the samplers' grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.diffusion.grids import require
from worldsim.types import NoiseProcess


@dataclass(frozen=True)
class UniformLevels:
    """Every level as often as another; 0 itself is never drawn."""

    def draw(self, u: Tensor, process: NoiseProcess) -> Tensor:
        """Returns levels `[...]` for uniform numbers in [0, 1); so do the others."""
        return 1 - u


@dataclass(frozen=True)
class PowerLevels:
    """1 - u^power: with a power above 1 most draws are near pure noise, where a nearly sure game is decided."""

    power: float = 2.0

    def __post_init__(self):
        require(self.power > 0, "power above 0", self.power)

    def draw(self, u: Tensor, process: NoiseProcess) -> Tensor:
        return 1 - u**self.power


@dataclass(frozen=True)
class LogitNormalLevels:
    """The sigmoid of a normal number, mostly middle levels (Esser et al. 2024)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        require(self.std > 0, "std above 0", self.std)

    def draw(self, u: Tensor, process: NoiseProcess) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(1 - u))


@dataclass(frozen=True)
class LogNormalLevels:
    """log(sigma / alpha) normal (Karras et al. 2022); what is noisier than the process' level 1 is drawn as level 1."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        require(self.std > 0, "std above 0", self.std)

    def draw(self, u: Tensor, process: NoiseProcess) -> Tensor:
        return process.level_at(-2 * (self.mean + self.std * torch.special.ndtri(1 - u)))


@dataclass(frozen=True)
class GridLevels:
    """1/steps, 2/steps, ... 1: the levels of discrete steps, or of a sampler with so many."""

    steps: int = 1000

    def __post_init__(self):
        require(isinstance(self.steps, int) and self.steps >= 1, "steps of at least 1", self.steps)

    def draw(self, u: Tensor, process: NoiseProcess) -> Tensor:
        return ((u * self.steps).floor() + 1) / self.steps
