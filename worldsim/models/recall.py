"""Keyframes of the recordings: what stands where past frames do not tell, or told too long ago, as it was once seen.

Here because a game's places are many and their number of pictures small: to store some is quicker than to learn all
(retrieval-augmented diffusion, Blattmann et al. 2022). The denoiser mends how they fit.
Leaves out an index: some ten thousand keyframes are compared in one product.
"""

from __future__ import annotations

import math

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim import pixels

QUALITY = 75  # of WebP: 0.4 kB a frame of Doom, 35 dB, 0.85 of its fine detail
SIDE, PIXELS = 16383, 89_478_485  # of a WebP sheet at most; of a picture that Pillow opens without a word
NEAREST = 4  # keyframes of which the sharpest is taken: the very nearest to what is blurred is mostly a plain wall
UNKNOWN = 0.3  # weight in a comparison of what is not known, but guessed: what stands at the edge goes on


class Recall(nn.Module):
    """A bank of keyframes, and the sharpest of the few that fit best what is known of a frame.

    They are kept and saved as one WebP sheet, which `start_from` and loading decode. What is compared are small
    pictures of frames, of `size (h, w)` pixels.
    """

    def __init__(self, frame_size: tuple[int, int], size: tuple[int, int]):
        super().__init__()
        self.frame_size, self.size = frame_size, size
        self.sheet = torch.zeros(0, dtype=torch.uint8)  # no buffer: averaging copies those at every step
        self.frames = torch.zeros(0, *frame_size, 3, dtype=torch.uint8)
        self._seen, self._norms = torch.zeros(0, 3 * size[0] * size[1]), torch.zeros(0, size[0] * size[1])
        self._detail = torch.zeros(0)  # of every keyframe: the mean square of what 2x2 pixels hold beside their means

    def start_from(self, frames: Tensor) -> None:
        """Stores frames, uint8 `[n H W 3]`, n at least 1."""
        frames = pixels.resize(frames, *self.frame_size)
        height, width = self.frame_size
        most = min((SIDE // height) * (SIDE // width), PIXELS // (height * width))
        frames = frames[:: math.ceil(len(frames) / most)]
        columns = max(math.ceil(math.sqrt(len(frames))), math.ceil(len(frames) / (SIDE // height)))
        columns = min(columns, SIDE // width)
        rows = math.ceil(len(frames) / columns)
        tiles = frames[torch.arange(rows * columns).clamp_max(len(frames) - 1)]
        sheet = rearrange(tiles, "(r c) h w d -> (r h) (c w) d", r=rows).numpy()
        encoded = iio.imwrite("<bytes>", sheet, extension=".webp", quality=QUALITY)
        self.set_extra_state(torch.frombuffer(bytearray(encoded), dtype=torch.uint8))

    def get_extra_state(self) -> Tensor:
        """Returns the sheet's bytes, which are saved beside the weights."""
        return self.sheet

    def set_extra_state(self, state: Tensor) -> None:
        """Takes over a sheet's bytes and decodes them."""
        if torch.equal(state.cpu(), self.sheet):
            return
        height, width = self.frame_size
        sheet = torch.from_numpy(np.array(iio.imread(state.cpu().numpy().tobytes(), extension=".webp")))
        self.sheet = state.cpu()
        self.frames = rearrange(sheet, "(r h) (c w) d -> (r c) h w d", h=height, w=width).contiguous()
        pictures = map(pixels.to_float, self.frames.split(1024))  # one after the other: all at once take 1 GB
        parts = [(self._small(part), _detail(part)) for part in pictures]
        small, self._detail = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        self._seen, self._norms = small.flatten(1), small.square().sum(1).flatten(1)

    @torch.no_grad()
    def forward(self, picture: Tensor, known: Tensor) -> Tensor:
        """Returns the sharpest of the `NEAREST` keyframes `[b 3 H W]` to a picture `[b 3 H W]`, values around [-1, 1].

        Where that is not `known`, bool `[b 1 H W]`, it counts less.
        """
        self._to(picture.device)
        weight = self._small(known.float()).clamp_min(UNKNOWN)
        query = (weight * self._small(picture.float())).flatten(1)
        distance = weight.flatten(1) @ self._norms.mT - 2 * query @ self._seen.mT
        near = distance.topk(min(NEAREST, len(self.frames)), largest=False).indices
        sharpest = near.gather(1, self._detail[near].argmax(1, keepdim=True))[:, 0]
        return pixels.to_float(self.frames[sharpest]).to(picture.dtype)

    def _small(self, pictures: Tensor) -> Tensor:
        return F.interpolate(pictures, self.size, mode="area")

    def _to(self, device: torch.device) -> None:
        if self.frames.device != device:
            parts = (self.frames, self._seen, self._norms, self._detail)
            self.frames, self._seen, self._norms, self._detail = (x.to(device) for x in parts)


def _detail(pictures: Tensor) -> Tensor:
    """Returns the energy of the finest Haar detail of pictures `[n 3 H W]` (even H and W), `[n]`."""
    return (pictures - F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2)).square().mean((1, 2, 3))
