"""Samplers: small frozen callables that turn noise into a clean latent by calling `denoise(x, level, target_level)`.

Here so that a teacher, a student and a fake are sampled by the same lines.
Leaves out higher-order and stochastic solvers, which come with the diffusion core.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from worldsim.diffusion.process import expand
from worldsim.types import Denoise, Noise, NoiseProcess


@dataclass(frozen=True)
class EulerSampler:
    """`steps` equal Euler steps from pure noise to clean, each told where it steps to.

    With a shortcut-trained network this is its flow-map sampler (Frans et al. 2024); with any other plain DDIM/Euler,
    written as x' = alpha' clean + (sigma' / sigma) (x - alpha clean), exact at alpha = 0 (Song et al. 2021, eq. 12).
    """

    steps: int = 4

    def __post_init__(self):
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"expected steps to be a whole number of at least 1, found {self.steps!r}")

    def __call__(self, denoise: Denoise, process: NoiseProcess, shape: tuple[int, ...], noise: Noise) -> Tensor:
        """Returns a clean sample of `shape` = (b, c, h, w)."""
        x = noise(0)
        levels = torch.linspace(1, 0, self.steps + 1, device=x.device)
        clean = x
        for level, target in pairwise(levels):
            level, target = level.expand(shape[0]), target.expand(shape[0])
            clean = denoise(x, level, target)
            x = euler_step(process, x, clean, level, target)
        return clean


def euler_step(process: NoiseProcess, x: Tensor, clean: Tensor, level: Tensor, target: Tensor) -> Tensor:
    """Moves `x [b c h w]` from `level [b]` to `target [b]` along the direction that `clean` implies."""
    level, target = expand(level, x), expand(target, x)
    ratio = process.sigma(target) / process.sigma(level)
    return process.alpha(target) * clean + ratio * (x - process.alpha(level) * clean)
