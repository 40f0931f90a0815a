"""Latent actions: what happened between two frames, named for videos that nobody labelled, or of which a little is.

Here as an inverse model, which tells it in a few numbers, and a forward model, which must make the next frame of them:
what the frames before already tell need not be told. Codes are clusters of such numbers, or the game's own actions.
Leaves out the world, whose dynamics take numbers or codes as its actions.

Sources: Bruce et al. 2024 (latent actions in video), Schmidt and Jiang 2024 (inverse and forward model), Gao et al.
2025 (continuous ones, and their clusters as codes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.models.unet import UNet, UNetConfig
from worldsim.types import Stream

SIDE = 32  # positions a side that frames are folded to, or a little more
WINDOW = 2  # past frames that the forward model sees: where things are and where they are going
REACH = 3.0  # of a latent number, which has a standard deviation of 1
CODES, NUMBERS = range(2, 65), range(1, 33)


@dataclass(frozen=True)
class LatentActionConfig:
    """Sizes of `LatentActions`: so many `numbers`, and so many `codes` for them; 0: the numbers themselves."""

    frame_shape: tuple[int, int, int]
    codes: int = 8
    numbers: int = 4
    width: int = 32
    completes: bool = False  # codes are the game's own actions, for recordings that lack some of them
    taught: int = 0  # of the game's own actions, which labels teach; 0: none

    def __post_init__(self):
        if (self.codes and self.codes not in CODES) or self.numbers not in NUMBERS:
            raise ValueError(
                f"expected codes from {CODES[0]} to {CODES[-1]} or 0, and numbers from 1 to {NUMBERS[-1]}, found "
                f"codes={self.codes} and numbers={self.numbers}"
            )

    @property
    def space(self) -> gym.Space:
        """The action space of a world that takes them."""
        if self.codes:
            return gym.spaces.Discrete(self.codes)
        return gym.spaces.Box(-REACH, REACH, (self.numbers,), np.float32)

    @property
    def fold(self) -> int:
        """The side of the square of pixels that becomes one position."""
        height, width, _ = self.frame_shape
        most = max(1, min(height, width) // SIDE)
        return next(fold for fold in range(most, 0, -1) if height % fold == 0 and width % fold == 0)


class LatentActions(nn.Module):
    """The inverse and the forward model, and the codes that stand for what the first one tells."""

    codes: Tensor  # [codes numbers], the centres of clusters

    def __init__(self, config: LatentActionConfig):
        super().__init__()
        self.config = config
        self.pixels = FoldedPixels(FoldedPixelsConfig(config.frame_shape, config.fold))
        c, h, w = self.pixels.latent_shape
        width = config.width
        sizes = (2 * c, width, 2 * width, 4 * width)
        self.trunk = nn.Sequential(
            *(x for a, b in pairwise(sizes) for x in (nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU()))
        )
        self.head = nn.Linear(2 * sizes[-1], 2 * config.numbers)
        self.own = nn.Linear(config.numbers, config.taught) if config.taught else None  # the game's action, of numbers
        levels = 3 if h % 4 == 0 and w % 4 == 0 else 1
        widths = (width, 2 * width, 3 * width)[:levels]
        self.unet = UNet(UNetConfig((c, h, w), config.numbers, WINDOW, widths, attention=False, condition_width=128))
        self.register_buffer("codes", torch.zeros(config.codes, config.numbers))

    def infer(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns the numbers' means and log variances `[b 2n]` for folded frames `[b c h w]`."""
        h = self.trunk(torch.cat((before, after - before), 1))
        return self.head(torch.cat((h.mean((2, 3)), h.amax((2, 3))), 1))

    def following(self, past: Tensor, action: Tensor) -> Tensor:
        """Returns the next folded frame `[b c h w]` after `past [b 2 c h w]` and an action's numbers `[b a]`."""
        b, n = past.shape[:2]
        zero = past.new_zeros(b, n)
        valid = torch.ones(b, n, dtype=torch.bool, device=past.device)
        history = Stream(past, zero, past.new_zeros(b, n, action.shape[-1]), valid)
        target = Stream(torch.zeros_like(past[:, :1]), zero[:, :1] + 1, action[:, None], valid[:, :1], zero[:, :1])
        return past[:, -1] + self.unet(history, target)[0][:, 0]

    def label(self, frames: Tensor) -> Tensor:
        """Returns the packed latent action `[n - 1 k]` between each of frames `[n H W 3]` and the next, float64."""
        return self.packed(self.tell(frames))

    def packed(self, told: Tensor) -> Tensor:
        """Returns the packed latent actions `[n k]` of numbers `[n numbers]`: codes, the nearest, or the numbers."""
        if self.config.completes and self.own is not None:
            return self.own(told).argmax(-1)[:, None].double()
        return torch.cdist(told, self.codes).argmin(-1)[:, None].double() if self.config.codes else told.double()

    @torch.no_grad()
    def tell(self, frames: Tensor) -> Tensor:
        """Returns the numbers `[n - 1 k]` between each of frames `[n H W 3]` and the next."""
        folded = self.pixels.encode(frames)
        return self.infer(folded[:-1], folded[1:]).float().chunk(2, -1)[0].clamp(-REACH, REACH)


def clusters(x: Tensor, count: int, generator: torch.Generator, tries: int = 8, rounds: int = 50) -> Tensor:
    """Returns the centres `[count k]` of clusters of points `[n k]`: k-means, begun as by Arthur and Vassilvitskii."""
    best, least = x[:count], math.inf
    for _ in range(tries):
        centres = x[torch.randint(len(x), (1,), generator=generator)]
        while len(centres) < count:
            away = torch.cdist(x, centres).amin(-1).square() + 1e-12
            centres = torch.cat((centres, x[torch.multinomial(away, 1, generator=generator)]))
        for _ in range(rounds):
            nearest = F.one_hot(torch.cdist(x, centres).argmin(-1), count).to(x.dtype)
            sizes = nearest.sum(0)[:, None]
            centres = torch.where(sizes > 0, nearest.T @ x / sizes.clamp_min(1), centres)
        if (spread := float(torch.cdist(x, centres).amin(-1).square().sum())) < least:
            best, least = centres, spread
    return best


def perplexity(shares: Tensor) -> float:
    """Returns how many codes are in use, for the share that each has `[codes]`: e to the power of their entropy."""
    used = shares[shares > 0]
    return math.exp(-float((used * used.log()).sum()))
