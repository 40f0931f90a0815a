"""Samplers that draw noise on the way: ancestral, DDIM, SDE solvers, churn and Langevin correction.

Here as frozen callables over the loop in `flow`, in whose coordinates alpha = 1 - time and sigma = time. With s and t
the start and end of a step, decay = (alpha_s / sigma_s) / (alpha_t / sigma_t): 0 from pure noise, and 0 to clean.
Draw i >= 1 of `noise` belongs to step i, or where a step draws several, to these in order. The last step ends at the
mean clean latent, without noise. Leaves out variances that a network learned (`discrete`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from worldsim.diffusion.flow import Flow, Point, Visit, check, solve
from worldsim.diffusion.grids import UNIFORM, alpha_sigma, require
from worldsim.diffusion.samplers import heun, move
from worldsim.types import Grid


@dataclass(frozen=True)
class DDIMSampler:
    """DDIM: `eta` 0 draws nothing, 1 is ancestral sampling with the posterior's variance (Song et al. 2021)."""

    steps: int = 16
    eta: float = 0.0
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(0 <= self.eta <= 1, "eta from 0 to 1", self.eta)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        clean = _clean(flow, x, start, end)
        spread = self.eta * end.time * math.sqrt(1 - _decay(start, end) ** 2)
        noise = (x - (1 - start.time) * clean) / start.time
        mean = (1 - end.time) * clean + math.sqrt(end.time**2 - spread**2) * noise
        return _add(mean, spread, flow, start)


@dataclass(frozen=True)
class AncestralSampler:
    """DDPM's reverse Markov chain (Ho et al. 2020).

    Its variance is exact for Gaussian clean latents of standard deviation `clean_std`: 0 gives the posterior's (the
    smaller one of the paper, beta tilde), 1 gives beta, and what is between the optimal one (Bao et al. 2022).
    """

    steps: int = 16
    clean_std: float = 0.0
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.clean_std >= 0, "clean_std of at least 0", self.clean_std)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        clean, decay = _clean(flow, x, start, end), _decay(start, end)
        if end.time == 0:
            return clean
        weight = (1 - end.time) * (1 - decay**2)
        mean = weight * clean + decay * end.time / start.time * x
        unsure = (self.clean_std * start.time) ** 2 / ((self.clean_std * (1 - start.time)) ** 2 + start.time**2)
        variance = end.time**2 * (1 - decay**2) + weight**2 * unsure  # of x given the clean latent, and of that
        return _add(mean, math.sqrt(variance), flow, start)


@dataclass(frozen=True)
class SDEDPMSolverSampler:
    """SDE-DPM-Solver++ of order 1 and (2M), with `eta` times the noise of the reverse SDE (Lu et al. 2022)."""

    steps: int = 16
    order: int = 2
    eta: float = 1.0
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.order in (1, 2), "order 1 or 2", self.order)
        require(self.eta >= 0, "eta of at least 0", self.eta)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        flow.past.append(Visit(start, x, _clean(flow, x, start, end)))
        clean, decay = flow.past[-1].clean, _decay(start, end)
        if self.order == 2 and len(flow.past) > 1 and flow.past[-2].point.time < 1 and end.time > 0:
            before = flow.past[-2]
            step, step_before = (b.half_log_snr - a.half_log_snr for a, b in ((start, end), (before.point, start)))
            clean = clean + (clean - before.clean) * step / (2 * step_before)
        mean = end.time / start.time * decay**self.eta * x + (1 - end.time) * (1 - decay ** (1 + self.eta)) * clean
        return _add(mean, end.time * math.sqrt(1 - decay ** (2 * self.eta)), flow, start)


@dataclass(frozen=True)
class EulerMaruyamaSampler:
    """Euler and Maruyama's steps on the reverse variance-preserving SDE (Song et al. 2021), to which x is rescaled.

    In the time in which the SDE's rate is 1, -2 log alpha: infinite from alpha = 0, whence the first step is exact.
    """

    steps: int = 16
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self) -> None:
        check(self)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        clean = _clean(flow, x, start, end)
        if end.time == 0 or start.time == 1:
            return _add((1 - end.time) * clean, end.time, flow, start)
        norm, norm_end = (math.hypot(1 - point.time, point.time) for point in (start, end))
        x, alpha, sigma = x / norm, (1 - start.time) / norm, start.time / norm
        size = 2 * math.log((1 - end.time) / norm_end / alpha)
        score = (alpha * clean - x) / sigma**2
        return _add(norm_end * (x + size * (x / 2 + score)), norm_end * math.sqrt(size), flow, start)


@dataclass(frozen=True)
class ChurnSampler:
    """EDM's stochastic sampler: adds noise, then takes Heun's step from where that leads (Karras et al. 2022).

    The denoiser is asked at the churned level, that of the x it gets. Where the ratio sigma / alpha lies between
    `ratio_min` and `ratio_max` a step raises it by a share churn / steps, by no more than sqrt(2) - 1 and not beyond
    level 1. A `noise_scale` other than 1 biases the result and is for denoisers that remove too much.
    """

    steps: int = 16
    churn: float = 8.0
    ratio_min: float = 0.0
    ratio_max: float = 1e6
    noise_scale: float = 1.0
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.churn >= 0 and self.noise_scale >= 0, "churn and noise_scale of at least 0", self.churn)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        share = self._share(flow, start)
        if share == 0:
            return heun(flow, x, start, end)
        ratio = start.time / (1 - start.time)
        raised = (1 + share) * ratio
        churned = flow.between(raised / (1 + raised))
        x = (1 - churned.time) / (1 - start.time) * x
        added = (1 - churned.time) * math.sqrt(raised**2 - ratio**2)
        return heun(flow, _add(x, self.noise_scale * added, flow, start), churned, end)

    def _share(self, flow: Flow, start: Point) -> float:
        alpha, sigma = alpha_sigma(flow.process, 1.0)
        ratio = start.time / (1 - start.time) if start.time < 1 else math.inf
        if not self.ratio_min <= ratio <= self.ratio_max or start.level == 1:
            return 0.0
        noisiest = sigma / alpha if alpha else math.inf
        return min(self.churn / self.steps, math.sqrt(2) - 1, noisiest / ratio - 1)


@dataclass(frozen=True)
class LangevinSampler:
    """Predictor-corrector: Euler's step, then `corrections` of Langevin's at the level it led to (Song et al. 2021).

    A correction's size is 2 (strength sigma / alpha)^2; the paper takes |noise| / |score| for sigma / alpha, averaged
    over the batch. The unadjusted steps widen the distribution a little, at any number of them.
    """

    steps: int = 16
    corrections: int = 1
    strength: float = 0.16
    grid: Grid = UNIFORM
    __call__ = solve

    def __post_init__(self):
        check(self)
        require(self.corrections >= 0, "corrections of at least 0", self.corrections)
        require(0 < self.strength < 1, "strength between 0 and 1", self.strength)

    def step(self, flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
        """Returns `x [b c h w]` one interval on."""
        x = move(x, _clean(flow, x, start, end), start, end)
        for index in range(self.corrections if end.time > 0 else 0):
            pull = (1 - end.time) * flow.clean(x, end) - x
            drawn = flow.noise(1 + start.index * self.corrections + index)
            x = x + 2 * self.strength**2 * pull + 2 * self.strength * end.time * drawn
        return x


def _decay(start: Point, end: Point) -> float:
    """Returns exp(-h) of a step h in log(alpha / sigma)."""
    return (1 - start.time) * end.time / ((1 - end.time) * start.time)


def _clean(flow: Flow, x: Tensor, start: Point, end: Point) -> Tensor:
    """Returns the mean clean latent; in the last step a flow map's to clean, which is the same but for students."""
    return flow.clean(x, start, end if end.time == 0 else None)


def _add(mean: Tensor, spread: float, flow: Flow, start: Point) -> Tensor:
    """Adds the step's draw, times `spread`, to `mean [b c h w]`."""
    return mean + spread * flow.noise(1 + start.index) if spread else mean
