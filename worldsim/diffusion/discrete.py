"""The discrete variance-preserving diffusion of DDPM: tables of steps, the posterior, and a learned variance.

Here apart from `process`, which has the same diffusions at any level: level is step / steps, exact at the steps.
Leaves out sampling (`stochastic`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worldsim.diffusion.process import expand


@dataclass(frozen=True)
class DiscreteVP:
    """`steps` steps x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise (Ho et al. 2020), x_0 being clean.

    `schedule` linear: 1e-4 to 0.02, as with 1000 steps (Ho et al. 2020). cosine: Nichol & Dhariwal 2021, with their
    offset 0.008 and clip at 0.999. `zero_terminal_snr` rescales the table so that x_T is pure noise (Lin et al. 2024).
    Between two steps the angle arctan(sigma / alpha) is linear in the level: finite and invertible at both ends.
    """

    schedule: str = "linear"
    steps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"expected schedule to be linear or cosine, found {self.schedule!r}")
        if not isinstance(self.steps, int) or self.steps < 20:
            raise ValueError(f"expected at least 20 steps, found {self.steps!r}")

    @cached_property
    def betas(self) -> Tensor:
        """beta_1 ... beta_T `[T]`, float64."""
        betas = linear_betas(self.steps) if self.schedule == "linear" else cosine_betas(self.steps)
        return zero_terminal_betas(betas) if self.zero_terminal_snr else betas

    @cached_property
    def angles(self) -> Tensor:
        """arctan(sigma / alpha) of step 0 (clean) to T, `[T + 1]`, float64."""
        log_signal = torch.log1p(-self.betas).cumsum(0)  # of alpha^2
        angles = torch.atan2((-torch.expm1(log_signal)).sqrt(), (log_signal / 2).exp())
        return torch.cat((angles.new_zeros(1), angles))

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent."""
        return self._interpolate(math.pi / 2 - self.angles, level).sin()

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise."""
        return self._interpolate(self.angles, level).sin()

    def log_snr(self, level: Tensor) -> Tensor:
        """Returns 2 log(alpha / sigma), +inf at level 0."""
        return 2 * (self.alpha(level) / self.sigma(level)).log()

    def level_at(self, log_snr: Tensor) -> Tensor:
        """Returns the level of a log-SNR, 1 for those below the table's range."""
        angles = self.angles.to(log_snr.device)
        angle = torch.atan2(torch.sigmoid(-log_snr.double()).sqrt(), torch.sigmoid(log_snr.double()).sqrt())
        after = torch.searchsorted(angles, angle).clamp(1, self.steps)
        part = (angle - angles[after - 1]) / (angles[after] - angles[after - 1])
        return ((after - 1 + part) / self.steps).clamp(0, 1).to(log_snr.dtype)

    def beta(self, level: Tensor) -> Tensor:
        """Returns beta of the step that leads to `level [...]`, rounded to a step, at least to step 1."""
        step = (level * self.steps).round().long().clamp(1, self.steps)
        return self.betas.to(level.device)[step - 1].to(level.dtype)

    def _interpolate(self, table: Tensor, level: Tensor) -> Tensor:
        """Reads a table `[T + 1]` over the steps at `level [...]`, linear between them."""
        table, place = table.to(level.device), level.double() * self.steps
        before = place.detach().floor().long().clamp(0, self.steps - 1)
        return torch.lerp(table[before], table[before + 1], place - before).to(level.dtype)


def linear_betas(steps: int) -> Tensor:
    """Returns 1e-4 to 0.02 in equal steps `[T]`, divided by steps / 1000 for as much noise in all (Ho et al. 2020)."""
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)


def cosine_betas(steps: int, s: float = 0.008, largest: float = 0.999) -> Tensor:
    """Returns the table `[T]` whose alpha^2 is cos^2((t / T + s) / (1 + s) pi / 2) (Nichol & Dhariwal 2021)."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    signal = ((1 - time) / (1 + s) * math.pi / 2).sin() ** 2
    return (1 - signal[1:] / signal[:-1]).clamp_max(largest)


def zero_terminal_betas(betas: Tensor) -> Tensor:
    """Returns the table `[T]` whose alpha is shifted and scaled to end at 0, unchanged at step 1 (Lin et al. 2024)."""
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    signal = torch.cat((alpha.new_ones(1), alpha**2))
    return 1 - signal[1:] / signal[:-1]


def posterior(process: DiscreteVP, x: Tensor, clean: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean `[b c h w]` and variance `[b]` of x one step cleaner than `level [b]`, given x and clean.

    The conditional q(x_{t-1} | x_t, x_0) of Ho et al. 2020, whose variance they call beta-tilde: 0 at step 1.
    """
    beta, before = process.beta(level), (level - 1 / process.steps).clamp_min(0)
    alpha, sigma, variance = process.alpha(before), process.sigma(before), process.sigma(level) ** 2
    from_clean, from_x = alpha * beta / variance, (1 - beta).sqrt() * sigma**2 / variance
    return expand(from_clean, x) * clean + expand(from_x, x) * x, beta * sigma**2 / variance


def learned_variance(process: DiscreteVP, output: Tensor, level: Tensor) -> Tensor:
    """Returns the variance `[b c h w]` of x one step cleaner than `level [b]` that a second output stands for.

    From the posterior's at -1 to beta at 1, even in the logarithm (Nichol & Dhariwal 2021). At step 1, where the
    posterior's is 0, that of step 2 stands in for it, as with them.
    """
    _, least = posterior(process, output, output, level.clamp_min(2 / process.steps))
    low, high = expand(least.log(), output), expand(process.beta(level).log(), output)
    return torch.lerp(low, high, (output + 1) / 2).exp()


def hybrid_loss(
    process: DiscreteVP, x: Tensor, clean: Tensor, guess: Tensor, output: Tensor, level: Tensor, share: float = 1e-3
) -> Tensor:
    """Returns L_simple + share L_vlb `[b]`, a dimension's, for steps drawn uniformly (Nichol & Dhariwal 2021).

    `guess` and `output`, both `[b c h w]`, are the network's clean latent and variance; the bound, in nats, trains the
    variance only. At step 1 it is the likelihood of a continuous latent, not of a pixel's bin.
    """
    learned = learned_variance(process, output, level)
    (mean, variance), (guessed, _) = (posterior(process, x, end, level) for end in (clean, guess.detach()))
    variance, distance = expand(variance, x), (mean - guessed) ** 2
    divergence = (learned.log() - variance.log() + (variance + distance) / learned - 1) / 2
    likelihood = ((2 * math.pi * learned).log() + distance / learned) / 2
    bound = torch.where(variance > 0, divergence, likelihood)
    simple = expand((process.alpha(level) / process.sigma(level)) ** 2, x) * (clean - guess) ** 2
    return (simple + share * process.steps * bound).mean((-3, -2, -1))
