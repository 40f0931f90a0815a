"""The way from noise to clean that all samplers walk: the loop, and any process in rectified flow's coordinates.

x / (alpha + sigma) = (1 - time) clean + time noise, where time = sigma / (alpha + sigma): there the probability flow is
smooth at both ends (alpha = 0 and sigma = 0), and straight where the clean latent is sure.
Here as what `samplers` and `stochastic` share. Leaves out the steps themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from worldsim.diffusion.grids import alpha_sigma, level_of_ratio
from worldsim.types import Denoise, Grid, Noise, NoiseProcess, Sampler


@dataclass(frozen=True)
class Point:
    """A place on a sampler's way: a level of the process, and what it is as a time of rectified flow."""

    level: float
    scale: float  # alpha + sigma
    time: float  # sigma / (alpha + sigma)
    index: int = -1  # of the grid's interval that starts here

    @property
    def half_log_snr(self) -> float:
        """log(alpha / sigma), infinite at the ends."""
        if self.time in (0, 1):
            return math.inf if self.time == 0 else -math.inf
        return math.log((1 - self.time) / self.time)


@dataclass(frozen=True)
class Flow:
    """A denoiser seen in rectified flow's coordinates: x stands for x / (alpha + sigma) in whatever follows."""

    denoise: Denoise
    process: NoiseProcess
    noise: Noise
    past: list[Visit] = field(default_factory=list)  # where a multistep solver has been; it is the one to append

    def point(self, level: float, index: int = -1) -> Point:
        """Returns the place of a level."""
        alpha, sigma = alpha_sigma(self.process, level)
        return Point(level, alpha + sigma, sigma / (alpha + sigma), index)

    def between(self, time: float) -> Point:
        """Returns the place of a time, strictly between 0 and 1."""
        level = level_of_ratio(self.process, time / (1 - time))
        alpha, sigma = alpha_sigma(self.process, level)
        return Point(level, alpha + sigma, time)

    def clean(self, x: Tensor, point: Point, target: Point | None = None) -> Tensor:
        """Evaluates the denoiser at `x [b c h w]`; `target` is where a flow map is to step to."""
        level = x.new_full((len(x),), point.level)
        return self.denoise(point.scale * x, level, level if target is None else torch.full_like(level, target.level))


@dataclass(frozen=True)
class Visit:
    """What a solver found at a point of the grid."""

    point: Point
    x: Tensor  # [b c h w]
    clean: Tensor  # [b c h w]

    @property
    def velocity(self) -> Tensor:
        """dx / dtime of the probability flow."""
        return (self.x - self.clean) / self.point.time


class Solver(Protocol):
    """A sampler that is one step, for each interval of a grid."""

    @property
    def steps(self) -> int: ...
    @property
    def grid(self) -> Grid: ...
    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor: ...


def solve(sampler: Solver, denoise: Denoise, process: NoiseProcess, shape: tuple[int, ...], noise: Noise) -> Tensor:
    """Returns a clean sample of `shape` = (b, c, h, w): the sampler's steps, one for each interval of its grid."""
    flow = Flow(denoise, process, noise)
    levels = sampler.grid.levels(sampler.steps, process)
    points = [flow.point(level, index) for index, level in enumerate(levels)]
    x = points[0].time * noise(0)
    if x.shape != shape:
        raise ValueError(f"expected noise of shape {tuple(shape)}, found {tuple(x.shape)}")
    for start, end in pairwise(points):
        x = sampler.step(flow, x, start, end)
    return points[-1].scale * x


def count_evaluations(sampler: Sampler, process: NoiseProcess) -> int:
    """Returns how often a sampler calls the network for one sample."""
    calls = []

    def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
        calls.append(level)
        return x

    sampler(denoise, process, (1, 1, 1, 1), lambda index: torch.zeros(1, 1, 1, 1))
    return len(calls)


def check(sampler: Solver) -> None:
    """Raises ValueError where a sampler's `steps` are no count."""
    if not isinstance(sampler.steps, int) or sampler.steps < 1:
        raise ValueError(f"expected steps to be a whole number of at least 1, found {sampler.steps!r}")
