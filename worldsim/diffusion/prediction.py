"""What a network's output stands for, and how it becomes a clean latent.

Every prediction is y = a clean + b noise for two numbers that depend on the level; x = alpha clean + sigma noise is the
second equation, and `decoding` its solution for clean, written so that it holds at both ends of the levels.
Here as frozen values beside the processes; leaves out the learned variance of discrete steps (`discrete`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worldsim.diffusion.process import expand, unit_variance
from worldsim.types import NoiseProcess


class Prediction(Protocol):
    """The meaning of an output y at a level `[...]` of a process; all numbers returned are `[...]`."""

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]: ...

    # -> a, b: y = a clean + b noise

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]: ...

    # -> skip, scale: clean = skip x + scale y


@dataclass(frozen=True)
class CleanPrediction:
    """y = clean (x-prediction; Salimans & Ho 2022, Li & He 2025)."""

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level), torch.zeros_like(level)

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level), torch.ones_like(level)


@dataclass(frozen=True)
class NoisePrediction:
    """y = noise (epsilon-prediction; Ho et al. 2020). Says nothing of the clean latent where alpha is 0."""

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level), torch.ones_like(level)

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        alpha = process.alpha(level)
        return 1 / alpha, -process.sigma(level) / alpha


@dataclass(frozen=True)
class VPrediction:
    """y = alpha noise - sigma clean (Salimans & Ho 2022), of the process rescaled to alpha^2 + sigma^2 = 1."""

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        unit = unit_variance(process, level)
        return -unit * process.sigma(level), unit * process.alpha(level)

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        unit = unit_variance(process, level)
        return unit**2 * process.alpha(level), -unit * process.sigma(level)


@dataclass(frozen=True)
class VelocityPrediction:
    """y = noise - clean, the velocity of rectified flow (Liu et al. 2022; Lipman et al. 2022).

    Under another process, that of the straight line through the same noise-to-clean ratio: x / (alpha + sigma).
    """

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(level), torch.ones_like(level)

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        total = process.alpha(level) + process.sigma(level)
        return 1 / total, -process.sigma(level) / total


@dataclass(frozen=True)
class ScorePrediction:
    """y = -noise / sigma, on average the gradient of log p(x) (Vincent 2011; Song & Ermon 2019).

    Infinite at level 0, where its decoding nevertheless holds.
    """

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level), -1 / process.sigma(level)

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        alpha = process.alpha(level)
        return 1 / alpha, process.sigma(level) ** 2 / alpha


@dataclass(frozen=True)
class PreconditionedPrediction:
    """y = F of clean = c_skip x + c_out F for data of deviation `sigma_data` (Karras et al. 2022).

    Their coefficients at sigma / alpha, for x / alpha: it is -v where `sigma_data` is 1.
    """

    sigma_data: float = 1.0

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"expected sigma_data above 0, found {self.sigma_data}")

    def coefficients(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        s, deviation = self.sigma_data, self._deviation(level, process)
        return process.sigma(level) / (s * deviation), -s * process.alpha(level) / deviation

    def decoding(self, level: Tensor, process: NoiseProcess) -> tuple[Tensor, Tensor]:
        s, deviation = self.sigma_data, self._deviation(level, process)
        return s**2 * process.alpha(level) / deviation**2, s * process.sigma(level) / deviation

    def _deviation(self, level: Tensor, process: NoiseProcess) -> Tensor:
        """Returns the standard deviation of x."""
        return ((self.sigma_data * process.alpha(level)) ** 2 + process.sigma(level) ** 2).sqrt()


def to_clean(prediction: Prediction, output: Tensor, x: Tensor, level: Tensor, process: NoiseProcess) -> Tensor:
    """Returns the clean latent `[... c h w]` meant by an output for the input `x` at `level [...]`; as precise as x."""
    skip, scale = prediction.decoding(level, process)
    return expand(skip, x) * x + expand(scale, x) * output


def to_noise(prediction: Prediction, output: Tensor, x: Tensor, level: Tensor, process: NoiseProcess) -> Tensor:
    """Returns the noise `[... c h w]` meant by an output; NaN where there is none to be known (clean at level 0)."""
    a, b = prediction.coefficients(level, process)
    alpha = process.alpha(level)
    determinant = alpha * b - process.sigma(level) * a
    return expand(alpha / determinant, x) * output - expand(a / determinant, x) * x


def encode(prediction: Prediction, clean: Tensor, noise: Tensor, level: Tensor, process: NoiseProcess) -> Tensor:
    """Returns the output `[... c h w]` that means this clean latent and this noise."""
    a, b = prediction.coefficients(level, process)
    return expand(a, clean) * clean + expand(b, clean) * noise


def check(prediction: Prediction, process: NoiseProcess) -> None:
    """Raises ValueError, in one sentence, for a prediction that a process does not suit.

    Those from which pure noise cannot be denoised, and those by which the network would have to hand its input back,
    exact to a hundredth of its noise, at a quarter of the levels: the clean latent under `VarianceExploding`, which on
    a toy stayed 4 to 20 times as far from the data as others.
    """
    skip, scale = prediction.decoding(torch.ones(()), process)
    kind, name = type(process).__name__, type(prediction).__name__
    if not (skip.isfinite() and scale.isfinite()):
        raise ValueError(
            f"expected a prediction that {kind} can start from, found {name}, which says nothing of the clean latent "
            "at pure noise; choose prediction=v, clean, velocity or edm, or process=vp_linear or edm"
        )
    level = torch.tensor(0.25)
    if prediction.decoding(level, process)[1] > 100 * process.sigma(level):
        raise ValueError(
            f"expected a prediction that fades with the noise under {kind}, found {name}, which would have to repeat "
            "its nearly clean inputs exactly; choose prediction=edm, v or velocity, or another process"
        )
