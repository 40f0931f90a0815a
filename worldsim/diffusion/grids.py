"""Grids: the levels a sampler stops at, from exactly 1 (pure noise) down to exactly 0 (clean).

Here as frozen values, apart from the solvers. Level 1 is where sampling starts, so every grid starts there, also one
whose formula would start elsewhere. Leaves out choosing levels to train on (`levels`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

import torch

from worldsim.types import NoiseProcess


@dataclass(frozen=True)
class UniformGrid:
    """Equal steps in level."""

    def levels(self, steps: int, process: NoiseProcess) -> list[float]:
        """Returns `steps + 1` levels from 1 to 0."""
        return [1 - i / steps for i in range(steps)] + [0.0]


UNIFORM = UniformGrid()  # what samplers have unless told otherwise


@dataclass(frozen=True)
class TrailingGrid:
    """Equal steps among the entries of a table of `table` levels, its noisiest one first (Lin et al. 2024)."""

    table: int = 1000

    def __post_init__(self):
        require(isinstance(self.table, int) and self.table >= 1, "table, a number of levels from 1", self.table)

    def levels(self, steps: int, process: NoiseProcess) -> list[float]:
        """Returns `steps + 1` levels from 1 to 0. Raises ValueError for more steps than the table has entries."""
        if steps > self.table:
            raise ValueError(f"expected at most {self.table} steps, the size of the table, found {steps}")
        return [round(self.table * (1 - i / steps)) / self.table for i in range(steps)] + [0.0]


@dataclass(frozen=True)
class KarrasGrid:
    """Equal steps in (sigma / alpha)^(1 / rho), down to `ratio_min`; then one step to 0 (Karras et al. 2022).

    Where level 1 has a ratio above `ratio_max` (rectified flow: an infinite one), the first step starts there instead.
    """

    rho: float = 7.0
    ratio_min: float = 0.002
    ratio_max: float = 80.0

    def __post_init__(self):
        require(self.rho > 0, "rho above 0", self.rho)
        require(0 <= self.ratio_min < self.ratio_max, "0 <= ratio_min < ratio_max", (self.ratio_min, self.ratio_max))

    def levels(self, steps: int, process: NoiseProcess) -> list[float]:
        """Returns `steps + 1` levels from 1 to 0. Raises ValueError for a `ratio_min` beyond the process' noisiest."""
        top = _top(process, self.ratio_min, self.ratio_max) ** (1 / self.rho)
        bottom = self.ratio_min ** (1 / self.rho)
        last = (
            steps - 1 if self.ratio_min else steps
        )  # without a smallest ratio, the grid's own last step is the one to 0
        ratios = [top + i / last * (bottom - top) for i in range(1, steps)]
        return [1.0, *(level_of_ratio(process, ratio**self.rho) for ratio in ratios), 0.0]


@dataclass(frozen=True)
class LogSNRGrid:
    """Equal steps in log-SNR down to `ratio_min` = sigma / alpha; then one step to 0 (Lu et al. 2022).

    It starts as `KarrasGrid` does, of which it is the limit of large rho.
    """

    ratio_min: float = 0.002
    ratio_max: float = 80.0

    def __post_init__(self):
        require(0 < self.ratio_min < self.ratio_max, "0 < ratio_min < ratio_max", (self.ratio_min, self.ratio_max))

    def levels(self, steps: int, process: NoiseProcess) -> list[float]:
        """Returns `steps + 1` levels from 1 to 0. Raises ValueError for a `ratio_min` beyond the process' noisiest."""
        top = _top(process, self.ratio_min, self.ratio_max)
        ratios = [top * (self.ratio_min / top) ** (i / (steps - 1)) for i in range(1, steps)]
        return [1.0, *(level_of_ratio(process, ratio) for ratio in ratios), 0.0]


def _top(process: NoiseProcess, ratio_min: float, ratio_max: float) -> float:
    alpha, sigma = alpha_sigma(process, 1.0)
    top = min(ratio_max, sigma / alpha if alpha else math.inf)
    require(ratio_min < top, f"ratio_min below {top:g}, the ratio of this process' level 1", ratio_min)
    return top


def require(fits: bool, expected: str, found: object) -> None:
    """Raises ValueError unless an argument `fits`."""
    if not fits:
        raise ValueError(f"expected {expected}, found {found}")


# Numbers that depend on the sampler and the process alone: constants to `torch.compile`, and computed once for others.
@torch.compiler.assume_constant_result
def alpha_sigma(process: NoiseProcess, level: float) -> tuple[float, float]:
    """Returns alpha and sigma at a level, in float64."""
    assert isinstance(process, Hashable)  # a frozen value
    return _alpha_sigma(process, level)


@torch.compiler.assume_constant_result
def level_of_ratio(process: NoiseProcess, ratio: float) -> float:
    """Returns the level at which sigma / alpha is `ratio`, in float64."""
    assert isinstance(process, Hashable)
    return _level_of_ratio(process, ratio)


@lru_cache(maxsize=4096)
def _alpha_sigma(process: NoiseProcess, level: float) -> tuple[float, float]:
    at = torch.tensor(level, dtype=torch.float64)
    return process.alpha(at).item(), process.sigma(at).item()


@lru_cache(maxsize=4096)
def _level_of_ratio(process: NoiseProcess, ratio: float) -> float:
    return process.level_at(-2 * torch.tensor(ratio, dtype=torch.float64).log()).item()
