"""Guidance: wrappers around a denoiser that push its clean latents away from what it would say knowing less.

Here as arithmetic on clean latents: weights that sum to 1 do the same to noise, velocity and score.
Leaves out training with dropped conditions, which the objective does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.diffusion.grids import require
from worldsim.diffusion.process import expand
from worldsim.types import Denoise, NoiseProcess

DROPS = ("action", "history")


@dataclass(frozen=True)
class Guidance:
    """clean = less + scale (more - less): **scale 1 is the conditional denoiser itself**, 0 the one that knows less.

    Called with two denoisers it is classifier-free guidance (Ho & Salimans 2022) where one of them lacks the condition,
    and autoguidance where it is a worse model (Karras et al. 2024). In a world `drops` says what the lesser one lacks:
    the current frame's `action` alone, so that both share one context, or the `history` (Song et al. 2025).
    Beyond the levels of `interval` the scale is 1 (Kynkäänniemi et al. 2024). `rescale`, 0 to 1, is how far each row's
    spread goes back to the conditional one's (Lin et al. 2024, there phi).
    """

    scale: float = 1.0
    drops: str = "action"
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self):
        is_number = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool)
        require(is_number and math.isfinite(self.scale), "guidance's scale to be a number", self.scale)
        require(self.drops in DROPS, f"drops to be one of {', '.join(DROPS)}", self.drops)
        low, high = self.interval
        require(0 <= low <= high <= 1, "an interval of levels, 0 <= low <= high <= 1", self.interval)
        require(0 <= self.rescale <= 1, "rescale from 0 to 1", self.rescale)

    def __call__(self, more: Denoise, less: Denoise) -> Denoise:
        """Returns the guided denoiser; in each evaluation `more` is called last."""
        if self.scale == 1:
            return more

        def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
            lesser = less(x, level, target_level)
            clean = more(x, level, target_level)
            is_inside = (level >= self.interval[0]) & (level <= self.interval[1])
            extra = torch.where(is_inside, self.scale - 1, 0.0).to(clean.dtype)
            guided = clean + expand(extra, clean) * (clean - lesser)
            return guided * self._factor(guided, clean) if self.rescale else guided

        return denoise

    def _factor(self, guided: Tensor, clean: Tensor) -> Tensor:
        """Returns what each row's guided latent is multiplied by, `[b 1 1 1]`."""
        spread, goal = (x.std((1, 2, 3), correction=0, keepdim=True) for x in (guided, clean))
        return 1 + self.rescale * (torch.where(spread > 0, goal / spread, 1.0) - 1)


def history_guidance(without: Denoise, histories: Sequence[tuple[float, Denoise]]) -> Denoise:
    """Returns without + sum of scale (history - without), over (scale, denoiser) pairs (Song et al. 2025).

    `without` sees no history, or a noisier one; each of the others a part of it, or all of it at some level of noise.
    """

    def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
        least = without(x, level, target_level)
        return least + sum(scale * (known(x, level, target_level) - least) for scale, known in histories)

    return denoise


def classifier_guided(
    denoise: Denoise, process: NoiseProcess, log_prob_grad: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0
) -> Denoise:
    """Adds scale sigma^2 / alpha times the gradient in x of log p(condition | x) (Dhariwal & Nichol 2021).

    `log_prob_grad(x [b c h w], level [b])` is the gradient `[b c h w]`. Where alpha is 0 x says nothing about the
    condition, and nothing is added.
    """

    def guided(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
        alpha, sigma = process.alpha(level), process.sigma(level)
        shift = torch.where(alpha > 0, scale * sigma**2 / alpha, 0.0)
        return denoise(x, level, target_level) + expand(shift, x) * log_prob_grad(x, level)

    return guided
