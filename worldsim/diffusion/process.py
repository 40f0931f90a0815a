"""Noise processes: how a clean latent becomes noise as its level goes from 0 to 1.

Here as frozen values without parameters: `alpha` and `sigma` say what x is made of, `log_snr` and its inverse
`level_at` are the clock they share: by it `translate` lets a network trained under one be sampled under another.
Leaves out the tables of discrete steps (`discrete`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.diffusion.grids import require
from worldsim.types import Denoise, NoiseProcess


@dataclass(frozen=True)
class RectifiedFlow:
    """x = (1 - n) clean + n noise: straight lines, the conditional-OT flow (Liu et al. 2022; Lipman et al. 2022).

    n = level where `shift` is 1; a larger one spends more of the levels near pure noise (Esser et al. 2024).
    """

    shift: float = 1.0

    def __post_init__(self):
        require(self.shift > 0, "shift above 0", self.shift)

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent."""
        return (1 - level) / (1 + (self.shift - 1) * level)

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise."""
        return self.shift * level / (1 + (self.shift - 1) * level)

    def log_snr(self, level: Tensor) -> Tensor:
        """Returns 2 log(alpha / sigma), +inf at level 0 and -inf at level 1."""
        return 2 * ((1 - level) / (self.shift * level)).log()

    def level_at(self, log_snr: Tensor) -> Tensor:
        """Returns the level of a log-SNR."""
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift))


@dataclass(frozen=True)
class VPLinear:
    """The variance-preserving diffusion whose rate beta rises linearly (Song et al. 2021).

    The defaults are 1000 times the table 1e-4 to 0.02 of DDPM (Ho et al. 2020). At level 1 a trace of the clean latent
    is left: alpha = 0.0066.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        require(0 < self.beta_min <= self.beta_max, "0 < beta_min <= beta_max", (self.beta_min, self.beta_max))

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent."""
        return (-self._integral(level) / 2).exp()

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise."""
        return (-torch.expm1(-self._integral(level))).sqrt()

    def log_snr(self, level: Tensor) -> Tensor:
        """Returns 2 log(alpha / sigma), +inf at level 0."""
        return -torch.expm1(self._integral(level)).log()

    def level_at(self, log_snr: Tensor) -> Tensor:
        """Returns the level of a log-SNR, 1 for those below its range."""
        integral = (-F.logsigmoid(log_snr)).clamp_max((self.beta_min + self.beta_max) / 2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return (2 * integral / (self.beta_min + root)).clamp(0, 1)

    def _integral(self, level: Tensor) -> Tensor:
        """Returns the integral of beta from 0 to the level."""
        return level * (self.beta_min + (self.beta_max - self.beta_min) / 2 * level)


@dataclass(frozen=True)
class VPCosine:
    """alpha^2 = cos^2((level + s) / (1 + s) pi / 2), divided by its value at level 0 (Nichol & Dhariwal 2021).

    As a continuous process, without their clip at beta = 0.999: alpha is exactly 0 at level 1. Written in sines of
    small angles, so that nothing cancels at either end.
    """

    s: float = 0.008

    def __post_init__(self):
        require(self.s >= 0, "s of at least 0", self.s)

    @property
    def _first(self) -> float:
        """The angle at level 0."""
        return math.pi / 2 * self.s / (1 + self.s)

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent."""
        return (math.pi / 2 * (1 - level) / (1 + self.s)).sin() / math.cos(self._first)

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise: 1 - alpha^2 is a product of sines."""
        angle = math.pi / 2 * level / (1 + self.s)  # beyond the first
        return (angle.sin() * (angle + 2 * self._first).sin()).sqrt() / math.cos(self._first)

    def log_snr(self, level: Tensor) -> Tensor:
        """Returns 2 log(alpha / sigma), +inf at level 0 and -inf at level 1."""
        return 2 * (self.alpha(level) / self.sigma(level)).log()

    def level_at(self, log_snr: Tensor) -> Tensor:
        """Returns the level of a log-SNR."""
        sine0, cosine0 = math.sin(self._first), math.cos(self._first)
        cosine = torch.sigmoid(log_snr).sqrt() * cosine0
        added = torch.sigmoid(-log_snr) * cosine0**2  # sin^2 of the angle, less that of the first
        sine = (sine0**2 + added).sqrt()
        sine_sum = sine * cosine0 + cosine * sine0  # of the angle and the first; sin(beyond) = added / sine_sum
        beyond = torch.atan2(added, sine_sum * (cosine * cosine0 + sine * sine0))
        return (beyond * (1 + self.s) * 2 / math.pi).clamp(0, 1)


@dataclass(frozen=True)
class VarianceExploding:
    """x = clean + sigma noise with sigma = sigma_max level^rho (Song et al. 2021; Karras et al. 2022).

    Equal steps in level are Karras' time grid for a smallest sigma of 0, so that level 0 is exactly clean.
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        require(self.sigma_max > 0 and self.rho > 0, "sigma_max and rho above 0", (self.sigma_max, self.rho))

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent, 1."""
        return torch.ones_like(level)

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise."""
        return self.sigma_max * level**self.rho

    def log_snr(self, level: Tensor) -> Tensor:
        """Returns 2 log(alpha / sigma), +inf at level 0."""
        return -2 * (math.log(self.sigma_max) + self.rho * level.log())

    def level_at(self, log_snr: Tensor) -> Tensor:
        """Returns the level of a log-SNR, 1 for those below its range."""
        return ((-log_snr / 2 - math.log(self.sigma_max)) / self.rho).exp().clamp(0, 1)


def expand(level: Tensor, like: Tensor) -> Tensor:
    """Appends dimensions to `level [...]` until it broadcasts against `like [... c h w]`."""
    return level.reshape(*level.shape, *(1,) * (like.dim() - level.dim()))


def add_noise(process: NoiseProcess, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Returns `clean [... c h w]` noised to `level [...]`, in at least float32."""
    level = expand(level, clean)
    return process.alpha(level) * clean + process.sigma(level) * noise


def start(process: NoiseProcess, noise: Tensor) -> Tensor:
    """Returns where sampling starts: standard normal `noise [b c h w]` at the scale of level 1.

    Exact where alpha is 0 there; elsewhere it leaves out the little of the clean latent that level 1 still shows.
    """
    return process.sigma(noise.new_ones(())) * noise


def unit_variance(process: NoiseProcess, level: Tensor) -> Tensor:
    """Returns the factor `[...]` that gives x unit variance at `level [...]` where clean latents have it."""
    return torch.rsqrt(process.alpha(level) ** 2 + process.sigma(level) ** 2)


def translate(denoise: Denoise, trained: NoiseProcess, sampled: NoiseProcess) -> Denoise:
    """Returns a denoiser trained under one process as one for another: same log-SNR, x rescaled.

    Diffusion and flow matching with Gaussian noise differ by no more (Kingma et al. 2021; Gao et al. 2024). Levels
    noisier than the `trained` process knows are shown to it as its noisiest.
    """

    def own(level: Tensor) -> Tensor:
        return trained.level_at(sampled.log_snr(level))

    def translated(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
        scale = unit_variance(sampled, level) / unit_variance(trained, own(level))
        return denoise(expand(scale, x) * x, own(level), own(target_level))

    return translated
