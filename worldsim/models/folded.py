"""The codec that loses nothing: pixels folded into channels, nothing to train and next to nothing to compute.

Here because what a learned codec blurs is lost before the dynamics begin; for small frames folding is enough.
Leaves out compression: frames of 128x128 and more want `ConvAutoencoder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim import pixels

CONTRAST = 0.44  # standard deviation of latents, where noise has 1
LEAST_CONTRAST = 0.01  # standard deviation of pixels in [-1, 1], below which nothing is made of less
DEADBAND = 16  # grey levels, at most
LOST = 0.05  # share of the positions that change in recordings, at most, whose change a deadband takes for none


@dataclass(frozen=True)
class FoldedPixelsConfig:
    """Sizes of a `FoldedPixels`; `fold` is the side of the square of pixels that becomes one position.

    A position of a dreamed frame stands still, exactly, where it and its eight neighbours would change by fewer grey
    levels than `deadband`: what a network says of what stands still is a little off, and would add up.
    """

    frame_shape: tuple[int, int, int] = (64, 64, 3)
    fold: int = 2
    scale: float | None = None  # of pixels in [-1, 1]; None: 1, or as `fitted` to recordings
    deadband: int | None = None  # None: 0, or up to what recordings allow, see `quieted`

    def __post_init__(self):
        height, width, channels = self.frame_shape
        if self.fold < 1 or height % self.fold or width % self.fold or channels != 3:
            raise ValueError(
                f"expected RGB frames whose sides are multiples of {self.fold}, found {height}x{width}x{channels}; "
                "record with another size"
            )
        if self.deadband is not None and self.deadband < 0:
            raise ValueError(f"expected a deadband of 0 grey levels or more, found {self.deadband}")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a folded frame."""
        height, width, channels = self.frame_shape
        return channels * self.fold**2, height // self.fold, width // self.fold

    def fitted(self, frames: Tensor) -> Self:
        """Returns these sizes with a scale: where none is given, one by which uint8 frames `[n H W 3]` get CONTRAST."""
        if self.scale is not None:
            return self
        return replace(self, scale=round(CONTRAST / max(pixels.to_float(frames).std().item(), LEAST_CONTRAST), 2))

    def quieted(self, pairs: Tensor) -> Self:
        """Returns these sizes with a deadband: where none is given, the widest that hides at most LOST of what changes.

        `pairs` are uint8 consecutive frames `[n 2 H W 3]`. What fades slowly and often keeps it narrow.
        """
        if self.deadband is not None:
            return self
        before, after = pairs.to(torch.int16).unbind(1)
        change = F.max_pool2d((after - before).abs().amax(-1)[:, None].float(), self.fold)
        around = F.max_pool2d(change, 3, 1, 1)[change > 0]
        if not len(around):
            return replace(self, deadband=0)
        return replace(self, deadband=min(DEADBAND, int(around.kthvalue(int(LOST * len(around)) + 1).values)))


class FoldedPixels(nn.Module):
    """`Autoencoder` of frames `[... H W 3]` uint8: latents `[... c h w]` are their pixels, scaled; h = H / fold."""

    bound: Tensor  # [2 c 1 1]

    def __init__(self, config: FoldedPixelsConfig):
        super().__init__()
        self.config = config
        self.latent_shape = config.latent_shape
        self.scale = 1.0 if config.scale is None else config.scale
        self.set_deadband(config.deadband or 0)
        bound = self.scale * torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
        self.register_buffer("bound", bound.repeat(1, self.latent_shape[0], 1, 1))

    def set_deadband(self, levels: int) -> None:
        """Sets what `settle` takes for no change, in grey levels; a bundle keeps it."""
        self.config, self.deadband = replace(self.config, deadband=levels), levels

    def encode(self, frames: Tensor) -> Tensor:
        """Folds uint8 frames `[... H W 3]` into latents `[... c h w]`, float32."""
        if tuple(frames.shape[-3:]) != tuple(self.config.frame_shape):
            raise ValueError(
                f"expected frames of {self.config.frame_shape}, found {tuple(frames.shape[-3:])}; resize them"
            )
        images = self.scale * pixels.to_float(frames.reshape(-1, *self.config.frame_shape))
        return F.pixel_unshuffle(images, self.config.fold).reshape(*frames.shape[:-3], *self.latent_shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Unfolds latents `[... c h w]` into uint8 frames `[... H W 3]`."""
        images = F.pixel_shuffle(latents.reshape(-1, *self.latent_shape), self.config.fold)
        return pixels.to_uint8(images / self.scale).reshape(*latents.shape[:-3], *self.config.frame_shape)

    def settle(self, latents: Tensor, before: Tensor) -> Tensor:
        """Returns latents `[b c h w]` whose pixels stand still where they hardly differ from the frame before."""
        if not self.deadband:
            return latents
        change = (latents - before).abs().amax(1, keepdim=True)
        stands = F.max_pool2d(change, 3, 1, 1) < self.deadband * self.scale / 127.5
        return torch.where(stands, before, latents)  # where a world broke, that shows
