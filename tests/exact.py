"""Denoisers for which everything is known: a Gaussian mixture on a line, and affine ones followed without chance."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from worldsim.diffusion.grids import alpha_sigma, level_of_ratio
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear

PROCESSES = [RectifiedFlow(), RectifiedFlow(3.0), VPLinear(), VPCosine(), VarianceExploding()]


def column(values):
    """Numbers `[b]` as latents `[b 1 1 1]` in float64."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Mixture:
    """Clean latents from a mixture of Gaussians, each element by itself."""

    shares: tuple[float, ...] = (0.3, 0.5, 0.2)
    means: tuple[float, ...] = (-1.5, 0.2, 1.8)
    stds: tuple[float, ...] = (0.4, 0.3, 0.5)

    @cached_property
    def _columns(self):
        return [torch.tensor(v, dtype=torch.float64) for v in (self.shares, self.means, self.stds)]

    def shares_at(self, x, alpha, sigma):
        """The probability of each component given x, `[... n]`."""
        shares, means, stds = self._columns
        variance = (alpha * stds).square() + sigma**2
        return (shares.log() - variance.log() / 2 - (x[..., None] - alpha * means).square() / (2 * variance)).softmax(
            -1
        )

    def clean(self, x, alpha, sigma):
        """E[clean | x]."""
        _, means, stds = self._columns
        gain = alpha * stds.square() / ((alpha * stds).square() + sigma**2)
        return (self.shares_at(x, alpha, sigma) * (means + gain * (x[..., None] - alpha * means))).sum(-1)

    def denoiser(self, process):
        """`denoise`, for rows that are all at one level."""
        return lambda x, level, target_level: self.clean(x, process.alpha(level[0]), process.sigma(level[0]))

    @lru_cache  # noqa: B019
    def quantiles(self, alpha, sigma):
        """33 quantiles of x, by bisection. The probability flow on a line keeps every point's quantile."""
        shares, means, stds = self._columns
        goal = torch.linspace(0.02, 0.98, 33, dtype=torch.float64)
        low, high = torch.full_like(goal, -1e3), torch.full_like(goal, 1e3)
        for _ in range(70):
            middle = (low + high) / 2
            spread = ((alpha * stds).square() + sigma**2).sqrt()
            is_below = (shares * torch.special.ndtr((middle[:, None] - alpha * means) / spread)).sum(-1) < goal
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return middle


MIXTURE = Mixture()


@dataclass(frozen=True)
class CutGrid:
    """A stretch of Karras' grid, from one ratio sigma / alpha to another: neither pure noise nor clean."""

    high: float = 20.0
    low: float = 0.05
    rho: float = 7.0

    def levels(self, steps, process):
        top, bottom = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        return [level_of_ratio(process, (top + i / steps * (bottom - top)) ** self.rho) for i in range(steps + 1)]


def gaussian_denoiser(process, mean, std):
    return Mixture((1.0,), (mean,), (std,)).denoiser(process)


def ends(sampler, process):
    """alpha and sigma where a sampler starts and where it stops."""
    levels = sampler.grid.levels(sampler.steps, process)
    return alpha_sigma(process, levels[0]), alpha_sigma(process, levels[-1])


def propagate(sampler, process, denoise, mean, std, draws=1024):
    """Mean and variance of what an affine denoiser's sampler returns, exactly.

    Row 0 gets no noise and every other row one draw of 1: that tells the constant and each draw's weight. The start is
    N(alpha mean, alpha^2 std^2 + sigma^2), as it should be.
    """
    (alpha, sigma), _ = ends(sampler, process)
    rows = torch.arange(draws + 1)

    def noise(index):
        assert index < draws
        unit = column(rows == index + 1)
        return (alpha * mean + (alpha**2 * std**2 + sigma**2) ** 0.5 * unit) / sigma if index == 0 else unit

    out = sampler(denoise, process, (draws + 1, 1, 1, 1), noise).flatten()
    return out[0].item(), (out[1:] - out[0]).square().sum().item()
