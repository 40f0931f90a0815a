"""Latent actions: what happened between two frames, named for videos that nobody labelled, or of which a little is.

Here as an inverse model, which tells it in a few numbers, and a forward model, which must make the next frame of them:
what the frames before already tell need not be told. Codes are clusters of such numbers, or the game's own actions.
Leaves out the world, whose dynamics take numbers or codes as its actions.

Sources: Bruce et al. 2024 (latent actions in video), Schmidt and Jiang 2024 (inverse and forward model), Gao et al.
2025 (continuous ones, and their clusters as codes), Sun et al. 2018 (how alike two frames are under every shift).
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
REACH = 3.0  # of a latent number
FAR, SURE = 3, 20.0  # pixels that things are followed for; how much likelier the likest way is
CODES, NUMBERS = range(2, 65), range(1, 33)


@dataclass(frozen=True)
class LatentActionConfig:
    """Sizes of `LatentActions`: so many `numbers`, and so many `codes` for them; 0: the numbers themselves."""

    frame_shape: tuple[int, int, int]
    codes: int = 8
    numbers: int = 8
    width: int = 32
    completes: bool = False  # codes are the game's own actions, which labels teach

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
    """The inverse and the forward model, and the codes that stand for what the first one tells.

    The inverse model is shown where everything went (`went`): to learn that as well it would need many labels.
    """

    codes: Tensor  # [codes numbers], the centres of clusters

    def __init__(self, config: LatentActionConfig):
        super().__init__()
        self.config = config
        self.pixels = FoldedPixels(FoldedPixelsConfig(config.frame_shape, config.fold))
        c, h, w = self.pixels.latent_shape
        width = config.width
        sizes = (2 * c + (2 * FAR + 1) ** 2, width, width, width)
        self.trunk = nn.Sequential(
            *(x for a, b in pairwise(sizes) for x in (nn.Conv2d(a, b, 3, 1, 1), nn.GroupNorm(8, b), nn.SiLU()))
        )
        self.head = nn.Linear(2 * width, config.numbers)
        self.own = nn.Linear(2 * width, config.codes) if config.completes else None  # which of the game's own actions
        levels = 3 if h % 4 == 0 and w % 4 == 0 else 1
        widths = (width, 2 * width, 3 * width)[:levels]
        self.unet = UNet(UNetConfig((c, h, w), config.numbers, WINDOW, widths, attention=False, condition_width=128))
        self.register_buffer("codes", torch.zeros(0 if config.completes else config.codes, config.numbers))

    def see(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns what is seen to happen between folded frames `[b c h w]`, wherever it does: features `[b f]`."""
        h = self.trunk(torch.cat((before, after - before, self.went(before, after)), 1))
        return torch.cat((h.mean((2, 3)), h.amax((2, 3))), 1)

    def numbers(self, seen: Tensor) -> Tensor:
        """Returns the numbers `[b n]` that tell what was seen, within REACH of 0."""
        return REACH * torch.tanh(self.head(seen).float() / REACH)

    @torch.no_grad()
    def went(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns how likely it is that what stood at a position moved by up to FAR pixels, `[b ways h w]`.

        By how alike are the pixels around; in large frames, means of fold / 2 pixels a side.
        """
        fold = self.config.fold
        coarse = fold // 2 if fold % 2 == 0 else 1
        first, second = (F.avg_pool2d(F.pixel_shuffle(x, fold).bfloat16(), coarse) for x in (before, after))
        (h, w), around = first.shape[2:], fold // coarse
        second = F.pad(second, (FAR,) * 4, mode="replicate")
        ways = [second[:, :, i : i + h, j : j + w] for i in range(2 * FAR + 1) for j in range(2 * FAR + 1)]
        unlike = torch.stack([(x - first).abs().mean(1) for x in ways], 1)
        return (-SURE * F.avg_pool2d(unlike, 2 * around + 1, around, around).float()).softmax(1)

    def following(self, past: Tensor, action: Tensor) -> Tensor:
        """Returns the next folded frame `[b c h w]` after `past [b 2 c h w]` and an action's numbers `[b a]`."""
        b, n = past.shape[:2]
        zero = past.new_zeros(b, n)
        valid = torch.ones(b, n, dtype=torch.bool, device=past.device)
        history = Stream(past, zero, past.new_zeros(b, n, action.shape[-1]), valid)
        target = Stream(torch.zeros_like(past[:, :1]), zero[:, :1] + 1, action[:, None], valid[:, :1], zero[:, :1])
        return past[:, -1] + self.unet(history, target)[0][:, 0]

    @torch.no_grad()
    def label(self, frames: Tensor) -> Tensor:
        """Returns the packed latent action `[n - 1 k]` between each of frames `[n H W 3]` and the next, float64.

        Codes are the number of the game's own action, or of the nearest centre.
        """
        if self.own is None:
            told = self.tell(frames)
            return torch.cdist(told, self.codes).argmin(-1)[:, None].double() if self.config.codes else told.double()
        folded = self.pixels.encode(frames)
        return self.own(self.see(folded[:-1], folded[1:])).argmax(-1)[:, None].double()

    @torch.no_grad()
    def tell(self, frames: Tensor) -> Tensor:
        """Returns the numbers `[n - 1 k]` between each of frames `[n H W 3]` and the next."""
        folded = self.pixels.encode(frames)
        return self.numbers(self.see(folded[:-1], folded[1:]))


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
