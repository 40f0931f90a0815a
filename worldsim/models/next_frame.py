"""The next frame by regression in pixels: what must happen is told there, and diffusion tells what is open.

Here because a thing of a few pixels moves and grows by another code at every place of a patch's latent, which networks
over latents learn slowly; in pixels it moves everywhere alike.
Leaves out chance: where the next frame may be this or that, it is their mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.models.stack import Stack
from worldsim.models.unet import UNet, UNetConfig, UNetContext
from worldsim.types import Autoencoder, Forecast, Stream, map_rows

DOWNSAMPLING = 8  # pixels to a latent position's side


@dataclass(frozen=True)
class NextFrameConfig:
    """Sizes of a `NextFrame`: a U-Net over folded pixels, see `UNetConfig` and `FoldedPixelsConfig`."""

    latent_shape: tuple[int, int, int]
    action_width: int
    window: int = 4
    widths: tuple[int, ...] = (32, 64, 128)
    fold: int = 2
    scale: float | None = None

    def __post_init__(self):
        if self.fold < 1 or DOWNSAMPLING % self.fold:
            raise ValueError(f"expected fold to divide {DOWNSAMPLING}, found {self.fold}")

    @property
    def folded(self) -> FoldedPixelsConfig:
        """The folding of its pictures."""
        _, h, w = self.latent_shape
        return FoldedPixelsConfig((h * DOWNSAMPLING, w * DOWNSAMPLING, 3), self.fold, self.scale)

    def fitted(self, frames: Tensor) -> Self:
        """Returns these sizes with a scale that suits uint8 frames `[n H W 3]`."""
        return replace(self, scale=self.folded.fitted(frames).scale)


class NextFrame(nn.Module):
    """`Forecaster` that sees the last frames as pictures, and expects what a U-Net makes of them.

    Its mean is also told to the backbone. The codec it sees through is the world's, and no part of it.
    """

    followed = 1.0

    def __init__(self, config: NextFrameConfig):
        super().__init__()
        self.config, self.told = config, config.latent_shape[0]
        self.folded = FoldedPixels(config.folded)
        self.unet = UNet(
            UNetConfig(
                self.folded.latent_shape, config.action_width, config.window, config.widths, moved=config.fold
            )
        )  # fmt: skip
        self._codec: list[Autoencoder] = []  # a list, so that its weights are not counted as these

    def see_through(self, codec: Autoencoder) -> Self:
        """Keeps the world's codec, which makes pictures of latents and latents of pictures; returns itself."""
        self._codec = [codec]
        return self

    @property
    def codec(self) -> Autoencoder:
        """The world's codec."""
        return self._codec[0]

    def start(self, like: Tensor) -> UNetContext:
        """Returns the memory of rows that have seen nothing, for latents like `[b c h w]`."""
        return self.unet.start(len(like))

    @torch.no_grad()
    def expect(self, action: Tensor, memory: UNetContext) -> Forecast:
        """Returns the frame expected after actions `[b a]`, as a latent `[b c h w]`; zeros where nothing was seen."""
        latent = self.codec.encode(self.folded.decode(self.picture(action, memory)))
        mean = (latent * memory.stack.valid[:, 0, None, None, None]).to(action.dtype)
        return Forecast(mean, told=mean)

    @torch.no_grad()
    def append(self, x: Tensor, level: Tensor, action: Tensor, memory: UNetContext, clean: Tensor) -> UNetContext:
        """Returns the memory after one more frame; it is seen without its noise."""
        return self.unet.append(self.folded_picture(self.look(clean)), torch.zeros_like(level), action, memory)

    @torch.no_grad()
    def foresee(self, history: Stream, action: Tensor) -> Forecast:
        """Returns what is expected of frames with actions `[b n a]` at the history's end."""
        n = action.shape[1]
        reach = self.config.window + n - 1
        frames = history.frames
        if frames is None:
            frames = self.look((history.latents if history.clean is None else history.clean)[:, -reach:])
        pictures = self.folded_picture(frames[:, -reach:])
        memory = self.after(pictures, history.action[:, -reach:], history.valid[:, -reach:], n)
        forecast = self.expect(rearrange(action, "b n a -> (n b) a"), memory)
        return map_rows(lambda x: rearrange(x, "(n b) ... -> b n ...", n=n), forecast)

    def size(self, change: Tensor) -> Tensor:
        """Returns the mean square of a change of latents `[... c h w]`, `[...]`."""
        return change.square().mean((-3, -2, -1))

    def picture(self, action: Tensor, memory: UNetContext) -> Tensor:
        """Returns the picture expected after actions `[b a]`, folded `[b c' h' w']`."""
        newest = memory.stack.newest()
        one = newest.new_ones(len(action))
        change, _ = self.unet.read(torch.zeros_like(newest), one, torch.zeros_like(one), action, memory)
        return newest + change.to(newest.dtype)

    def after(self, pictures: Tensor, action: Tensor, valid: Tensor, n: int = 1) -> UNetContext:
        """Returns the memory before each of n frames that follow pictures `[b t c' h' w']`, `[(n b) ...]`.

        `action [b t a]` led to the pictures; those that are not `valid` bool `[b t]` were not seen.
        """
        level = torch.zeros_like(valid, dtype=pictures.dtype)
        return self.unet.remember(Stack.before(Stream(pictures, level, action, valid), n, self.config.window))

    def look(self, latents: Tensor) -> Tensor:
        """Returns the uint8 frames `[... H W 3]` that latents `[... c h w]` show."""
        return self.codec.decode(latents.to(self.codec.bound.dtype))

    def folded_picture(self, frames: Tensor) -> Tensor:
        """Returns uint8 frames `[... H W 3]` as the U-Net sees them, `[... c' h' w']`."""
        return self.folded.encode(frames).to(self.unet.stem.weight.dtype)
