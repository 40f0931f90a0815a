"""How much the squared error of the clean latent counts at each noise level.

Here so that every loss is written in clean-latent space, whatever is predicted: an error in the output's own units is
one of the clean latent divided by the square of the decoding's scale. With SNR = (alpha / sigma)^2, the squared error
of the noise is SNR that of the clean latent, that of v (1 + SNR), that of the velocity (1 + sqrt(SNR))^2.
Leaves out which levels are drawn (`levels`), which weighs as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.diffusion.prediction import Prediction
from worldsim.types import NoiseProcess

MAX_SNR = 400.0
"""A cleaner level counts like the one with sigma = 0.05 alpha, about where Li & He 2025 stop: so all stay finite, and a
few nearly clean draws do not outweigh all others where the clean latent itself is predicted."""

MAX_GAIN = 100.0  # other pairs have up to 46; noise and score under a weight that stays at pure noise have 134 and more


@dataclass(frozen=True)
class Uniform:
    """The squared error of the clean latent itself."""

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        """Returns the weight at `level [...]`; so do the others."""
        return torch.ones_like(level)


@dataclass(frozen=True)
class Ramp:
    """Weight rising linearly from `floor` at pure noise to 1 at clean (Hafner et al. 2025: 0.9 tau + 0.1)."""

    floor: float = 0.1

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        return 1 - (1 - self.floor) * level


@dataclass(frozen=True)
class Simple:
    """The squared error of the noise: L_simple (Ho et al. 2020), denoising score matching with their sigma^2."""

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        return snr(level, process)


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound, half the fall of the SNR with the level (Kingma et al. 2021), for uniform levels."""

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        with torch.enable_grad():
            level = not_too_clean(level, process).detach().requires_grad_()
            ratio = (process.alpha(level) / process.sigma(level)) ** 2  # not snr: its maximum halves the slope at a tie
            (slope,) = torch.autograd.grad(ratio.sum(), level)
        return -slope / 2


@dataclass(frozen=True)
class EDMWeight:
    """The squared error of F (Karras et al. 2022), for `sigma_data` 1 also that of v (Salimans & Ho 2022)."""

    sigma_data: float = 1.0

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        return snr(level, process) + 1 / self.sigma_data**2


@dataclass(frozen=True)
class MinSNR:
    """L_simple that stops rising at `gamma` (Hang et al. 2023)."""

    gamma: float = 5.0

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        return snr(level, process).clamp_max(self.gamma)


@dataclass(frozen=True)
class Sigmoid:
    """L_simple times sigmoid(bias - log SNR) (Kingma & Gao 2023; Hoogeboom et al. 2024)."""

    bias: float = 0.0

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        ratio = snr(level, process)
        return ratio / (1 + ratio * math.exp(-self.bias))


@dataclass(frozen=True)
class FlowWeight:
    """The squared error of the velocity of rectified flow (Liu et al. 2022; Lipman et al. 2022)."""

    def __call__(self, level: Tensor, process: NoiseProcess) -> Tensor:
        return (1 + snr(level, process).sqrt()) ** 2


def snr(level: Tensor, process: NoiseProcess) -> Tensor:
    """Returns the signal-to-noise ratio (alpha / sigma)^2 at `level [...]`, at most MAX_SNR."""
    level = not_too_clean(level, process)
    return (process.alpha(level) / process.sigma(level)) ** 2


def not_too_clean(level: Tensor, process: NoiseProcess) -> Tensor:
    """Returns levels `[...]` none of which has a higher signal-to-noise ratio than MAX_SNR."""
    return level.maximum(process.level_at(level.new_full((), math.log(MAX_SNR))))


def check_weight(weight, prediction: Prediction, process: NoiseProcess) -> None:
    """Raises ValueError, in one sentence, for a weighting that drowns the rest in what pure noise cannot tell.

    An error of the noise or the score is one of the clean latent many times as large there, which the weight must undo:
    on a toy such a pair learned next to nothing. Measured on an output of its own usual size.
    """
    level = torch.linspace(0.5, 1, 1000)
    (a, b), (_, scale) = prediction.coefficients(level, process), prediction.decoding(level, process)
    gain = (weight(level, process) * scale**2 * (a**2 + b**2)).mean()
    if not gain <= MAX_GAIN:
        found, name = type(weight).__name__, type(prediction).__name__
        raise ValueError(
            f"expected a weighting that falls towards pure noise for {name} under {type(process).__name__}, found "
            f"{found}; choose weighting=simple, min_snr, sigmoid or elbo, or prediction=v"
        )
