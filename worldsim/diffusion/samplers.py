"""Samplers that draw nothing but their start: frozen callables that follow the probability flow from noise to clean.

Here as single steps over one loop (`flow.solve`), read beside the papers they cite; x is in the coordinates of `flow`.
Leaves out samplers that draw noise on the way (`stochastic`) and where to stop (`grids`).

`steps` are intervals of the grid, and network evaluations too for those that need one each; `count_evaluations` tells.
Solvers of higher order ask for the mean clean latent (target level = level); a step told its target is a flow map's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from worldsim.diffusion.flow import Flow, Point, Visit, check, solve
from worldsim.diffusion.grids import UNIFORM, require
from worldsim.diffusion.process import expand
from worldsim.types import Grid, NoiseProcess


@dataclass(frozen=True)
class EulerSampler:
    """Order 1. Each step is told where it goes: with a shortcut-trained network, its flow map (Frans et al. 2024).

    With any other network plain Euler, which in every process is DDIM with eta = 0 (Song et al. 2021) and the first
    order of DPM-Solver++.
    """

    steps: int = 4
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        return move(x, flow.clean(x, start, end), start, end)


@dataclass(frozen=True)
class HeunSampler:
    """Order 2, two evaluations a step, one in the last, Euler's (Karras et al. 2022, whose time is sigma / alpha)."""

    steps: int = 4
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        return heun(flow, x, start, end)


@dataclass(frozen=True)
class MidpointSampler:
    """Order 2, two evaluations a step."""

    steps: int = 4
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        return midpoint(flow, x, start, end)


@dataclass(frozen=True)
class RungeKuttaSampler:
    """Order 4, four evaluations a step, one in the last: there is no slope to ask for at clean (Kutta 1901).

    That one is Adams and Bashforth's.
    """

    steps: int = 4
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        flow.past.append(Visit(start, x, flow.clean(x, start)))
        return adams(flow.past[-4:], end) if end.time == 0 else runge_kutta(flow, flow.past[-1], end)


@dataclass(frozen=True)
class AdamsBashforthSampler:
    """Orders 2 to 4 at one evaluation a step: the slope is the polynomial through the last `order` ones, integrated.

    On the grid's own, uneven times (the linear multistep method of k-diffusion). The first `order - 1` steps are Runge
    and Kutta's: shorter polynomials there would cost an order.
    """

    steps: int = 4
    order: int = 2
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.order in (2, 3, 4), "order 2, 3 or 4", self.order)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        flow.past.append(Visit(start, x, flow.clean(x, start)))
        starts = len(flow.past) < self.order and end.time > 0
        return runge_kutta(flow, flow.past[-1], end) if starts else adams(flow.past[-self.order :], end)


@dataclass(frozen=True)
class DPMSolverSingleSampler:
    """DPM-Solver++(2S): order 2, two evaluations a step, the second half-way in log-SNR (Lu et al. 2022).

    Where an end of the step has no finite log-SNR, half-way is in time.
    """

    steps: int = 4
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        half = (start.half_log_snr + end.half_log_snr) / 2
        if not math.isfinite(half):
            return midpoint(flow, x, start, end)
        middle = flow.between(1 / (1 + math.exp(half)))
        return move(x, flow.clean(move(x, flow.clean(x, start), start, middle), middle), start, end)


@dataclass(frozen=True)
class DPMSolverMultiSampler:
    """DPM-Solver++(2M) (Lu et al. 2022) and (3M), the same of a higher order: 2 and 3 at one evaluation a step.

    The clean latent is a polynomial in log-SNR through the last `order` points, and the step is exact for it. (3M)
    starts with Runge and Kutta; the last step, to infinite log-SNR, takes the clean latent as it is. The order holds on
    grids that are smooth in log-SNR. Starting where alpha = 0 with equal steps in level, log-SNR is not: order 2.
    """

    steps: int = 4
    order: int = 2
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.order in (2, 3), "order 2 or 3", self.order)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        flow.past.append(Visit(start, x, flow.clean(x, start, end if end.time == 0 else None)))
        finite = [visit for visit in flow.past[-self.order :] if visit.point.time < 1]
        if end.time == 0 or (self.order == 2 and len(finite) < 2):
            return move(x, flow.past[-1].clean, start, end)
        if len(finite) < self.order:
            return runge_kutta(flow, flow.past[-1], end)
        return dpm_solver_2m(finite, end) if self.order == 2 else dpm_solver_3m(finite, end)


def move(x: Tensor, clean: Tensor, start: Point, end: Point) -> Tensor:
    """Moves `x [b c h w]` in the direction that `clean` implies: Euler's step, exact at alpha = 0 and to sigma = 0."""
    return clean + end.time / start.time * (x - clean)


def heun(flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
    """Averages the slopes at both ends of Euler's step; a step to clean is Euler's."""
    if end.time == 0:
        return move(x, flow.clean(x, start, end), start, end)
    first = Visit(start, x, flow.clean(x, start))
    ahead = move(x, first.clean, start, end)
    second = Visit(end, ahead, flow.clean(ahead, end))
    return x + (end.time - start.time) / 2 * (first.velocity + second.velocity)


def midpoint(flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
    """Takes the slope half-way in time."""
    middle = flow.between((start.time + end.time) / 2)
    ahead = move(x, flow.clean(x, start), start, middle)
    return x + (end.time - start.time) * Visit(middle, ahead, flow.clean(ahead, middle)).velocity


def runge_kutta(flow: Flow, first: Visit, end: Point) -> Tensor:
    """Returns x at `end` by the classical method of order 4 (Kutta 1901)."""
    start, x = first.point, first.x
    size, middle = end.time - start.time, flow.between((start.time + end.time) / 2)
    slopes = [first.velocity]
    for point, share in ((middle, 0.5), (middle, 0.5), (end, 1.0)):
        ahead = x + share * size * slopes[-1]
        slopes.append(Visit(point, ahead, flow.clean(ahead, point)).velocity)
    return x + size / 6 * (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3])


def adams(past: list[Visit], end: Point) -> Tensor:
    """Returns x at `end`: the polynomial through the slopes of `past`, integrated from the last one."""
    weights = adams_weights([visit.point.time for visit in past], end.time)
    return past[-1].x + sum(weight * visit.velocity for weight, visit in zip(weights, past, strict=True))


def adams_weights(times: list[float], end: float) -> list[float]:
    """Returns the integrals from `times[-1]` to `end` of the Lagrange polynomials on up to four times.

    By Gauss' rule of two nodes, which is exact for cubics.
    """
    middle, half = (times[-1] + end) / 2, (end - times[-1]) / 2
    nodes = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))

    def basis(time: float, node: float) -> float:
        return math.prod((node - other) / (time - other) for other in times if other != time)

    return [half * sum(basis(time, node) for node in nodes) for time in times]


def dpm_solver_2m(past: list[Visit], end: Point) -> Tensor:
    """Returns x at `end` from the last two visits: DPM-Solver++(2M) of Lu et al. 2022."""
    before, start = past[-2:]
    step = end.half_log_snr - start.point.half_log_snr
    r = (start.point.half_log_snr - before.point.half_log_snr) / step
    return move(start.x, start.clean + (start.clean - before.clean) / (2 * r), start.point, end)


def dpm_solver_3m(past: list[Visit], end: Point) -> Tensor:
    """Returns x at `end` from the last three visits: DPM-Solver++(3M), after Lu et al. 2022.

    The second difference has the factor 2 of a second derivative, which some implementations leave out: order 2 then.
    """
    d0, d1, d2 = (visit.clean for visit in reversed(past[-3:]))
    marks = [visit.point.half_log_snr for visit in past[-3:]] + [end.half_log_snr]
    h1, h0, h = (b - a for a, b in pairwise(marks))
    r0, r1 = h0 / h, h1 / h
    slope0, slope1 = (d0 - d1) / r0, (d1 - d2) / r1
    first = slope0 + r0 / (r0 + r1) * (slope0 - slope1)
    second = 2 * (slope0 - slope1) / (r0 + r1)
    phi2 = math.expm1(-h) / h + 1
    phi3 = phi2 / h - 0.5
    return move(past[-1].x, d0, past[-1].point, end) + (1 - end.time) * (phi2 * first - phi3 * second)


def euler_step(process: NoiseProcess, x: Tensor, clean: Tensor, level: Tensor, target: Tensor) -> Tensor:
    """Moves `x [b c h w]` from `level [b]` to `target [b]` as `move` does, each row by itself."""
    level, target = expand(level, x), expand(target, x)
    ratio = process.sigma(target) / process.sigma(level)
    return process.alpha(target) * clean + ratio * (x - process.alpha(level) * clean)
