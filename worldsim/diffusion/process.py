"""Noise processes: how a clean latent becomes noise as its level goes from 0 to 1.

Here as frozen values without parameters, so that a sampler and a loss can share one.
Leaves out DDPM, VP and VE, which come with the diffusion core.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def expand(level: Tensor, like: Tensor) -> Tensor:
    """Appends dimensions to `level [...]` until it broadcasts against `like [... c h w]`."""
    return level.reshape(*level.shape, *(1,) * (like.dim() - level.dim()))


@dataclass(frozen=True)
class RectifiedFlow:
    """x = (1 - level) clean + level noise: straight lines (Liu et al. 2022; Lipman et al. 2022)."""

    def alpha(self, level: Tensor) -> Tensor:
        """Returns the weight of the clean latent."""
        return 1 - level

    def sigma(self, level: Tensor) -> Tensor:
        """Returns the weight of the noise."""
        return level


def add_noise(process, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Returns `clean [... c h w]` noised to `level [...]`, in float32."""
    level = expand(level, clean)
    return process.alpha(level) * clean + process.sigma(level) * noise
