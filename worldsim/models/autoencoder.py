"""The codec: a per-frame convolutional autoencoder whose latents are bounded by tanh and made robust by noise.

Here so that dynamics are learned where a frame is 64 or 256 positions instead of 4096 pixels.
Leaves out KL, vector quantisation and perceptual networks: no pretrained weights are used anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from worldsim import pixels
from worldsim.models.layers import ResidualBlock, zero_init

UNSHUFFLED = 4  # pixels to a side that become channels at once; each further width halves the sides
MAP_STD = 0.1  # of latents at the start, where tanh is nearly linear


@dataclass(frozen=True)
class ConvAutoencoderConfig:
    """Sizes of a `ConvAutoencoder`."""

    frame_shape: tuple[int, int, int] = (64, 64, 3)
    latent_channels: int = 16
    widths: tuple[int, ...] = (64, 128)  # channels at 1/4 of the frame's size, 1/8, ...
    blocks: tuple[int, ...] = (1, 2)  # of each

    def __post_init__(self):
        if not len(self.widths) == len(self.blocks) >= 1:
            raise ValueError(f"expected as many blocks as widths, one at least, found {self.blocks} and {self.widths}")
        (height, width, channels), side = self.frame_shape, self.downsampling
        if height % side or width % side or channels != 3:
            raise ValueError(
                f"expected RGB frames whose sides are multiples of {side}, found {height}x{width}x{channels}; "
                "record with another size"
            )
        if not 1 <= self.latent_channels <= 3 * side**2:
            raise ValueError(
                f"expected latent_channels from 1 to {3 * side**2}, the numbers in a patch, found "
                f"{self.latent_channels}"
            )

    @property
    def downsampling(self) -> int:
        """Pixels to a latent position's side: 4 with one width, 8 with two."""
        return UNSHUFFLED * 2 ** (len(self.widths) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame's latent."""
        height, width, _ = self.frame_shape
        return self.latent_channels, height // self.downsampling, width // self.downsampling


class ConvAutoencoder(nn.Module):
    """Frames `[... H W 3]` uint8 to latents `[... c h w]` and back, h = H / 8 with two widths, H / 4 with one.

    The encoder ends in tanh (Hafner et al. 2025); training corrupts latents before decoding (l-DeTok, Yang et al.
    2025). Networks and linear maps of patches add up on both ways; `start_from` sets the maps to the principal
    components of training frames, so that the networks begin where a linear codec ends, and keeps their mean frame,
    which costs neither latents nor training. After training `set_statistics` makes every channel zero mean and unit
    scale.
    """

    background: Tensor  # [3 H W], the mean frame
    mean: Tensor  # [c 1 1], of raw latents, as is std
    std: Tensor

    def __init__(self, config: ConvAutoencoderConfig):
        super().__init__()
        self.config = config
        c, widths, side = config.latent_channels, config.widths, config.downsampling
        height, width, _ = config.frame_shape
        self.latent_shape = config.latent_shape
        stages = _stages(config)
        down: list[nn.Module] = [nn.PixelUnshuffle(UNSHUFFLED), nn.Conv2d(3 * UNSHUFFLED**2, widths[0], 3, padding=1)]
        down += stages[0]
        for outer, inner, blocks in zip(widths, widths[1:], stages[1:], strict=False):
            down += [nn.Conv2d(outer, inner, 2, stride=2), *blocks]
        self.encoder = nn.Sequential(*down, zero_init(nn.Conv2d(widths[-1], c, 1)))
        self.encoder_map = nn.Conv2d(3, c, side, side, bias=False)
        self.decoder_map = nn.ConvTranspose2d(c, 3, side, side, bias=False)
        stages = _stages(config)
        up: list[nn.Module] = [nn.Conv2d(c, widths[-1], 3, padding=1), *stages[-1]]
        for outer, inner, blocks in reversed(list(zip(widths, widths[1:], stages, strict=False))):
            up += [nn.Conv2d(inner, 4 * outer, 1), nn.PixelShuffle(2), *blocks]
        last = zero_init(nn.Conv2d(widths[0], 3 * UNSHUFFLED**2, 3, padding=1))
        self.decoder = nn.Sequential(*up, last, nn.PixelShuffle(UNSHUFFLED))
        self.register_buffer("background", torch.zeros(3, height, width))
        self.register_buffer("mean", torch.zeros(c, 1, 1))
        self.register_buffer("std", torch.ones(c, 1, 1))

    @property
    def bound(self) -> Tensor:
        """The lowest and highest value of each latent channel, `[2 c 1 1]`."""
        return torch.stack((-1 - self.mean, 1 - self.mean)) / self.std

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Keeps the mean of uint8 training frames `[n H W 3]`, and starts the maps as their patches' components.

        A component counts in the latents with the root of its standard deviation, between all alike and as in pixels; a
        rotation spreads them over the channels.
        """
        images, c = pixels.to_float(frames), self.config.latent_channels
        self.background.copy_(images.mean(0))
        grid = {"p": self.config.downsampling, "q": self.config.downsampling}
        patches = rearrange(images - self.background, "n k (h p) (w q) -> (n h w) (k p q)", **grid).double()
        variance, components = torch.linalg.eigh(patches.mT @ patches / len(patches))
        variance = variance[-c:].clamp_min(1e-6)
        scale = variance.pow(0.25)
        gain = (variance / scale.square()).mean().sqrt() / MAP_STD
        rotation = torch.linalg.qr(torch.randn(c, c, dtype=torch.float64)).Q
        encode = rotation @ (components[:, -c:] / scale).mT / gain
        decode = rotation @ (components[:, -c:] * scale).mT * gain
        shape = {"k": 3, **grid}
        self.encoder_map.weight.copy_(rearrange(encode, "c (k p q) -> c k p q", **shape))
        self.decoder_map.weight.copy_(rearrange(decode, "c (k p q) -> c k p q", **shape))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Keeps the per-channel mean and standard deviation `[c]` of raw latents, measured on training frames."""
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.reshape(self.std.shape).clamp_min(1e-3))

    def forward(self, images: Tensor, corrupt) -> Tensor:
        """Reconstructs images `[b 3 H W]` in [-1, 1] through `corrupt(raw latents) -> raw latents`; for training."""
        return self._decode(corrupt(self._encode(images)))

    def _encode(self, images: Tensor) -> Tensor:
        change = images - self.background
        return torch.tanh(self.encoder_map(change) + self.encoder(change))

    def _decode(self, raw: Tensor) -> Tensor:
        return self.decoder_map(raw) + self.decoder(raw) + self.background

    def encode(self, frames: Tensor) -> Tensor:
        """Encodes uint8 frames `[... H W 3]` as unit-scale latents `[... c h w]`, float32."""
        if tuple(frames.shape[-3:]) != tuple(self.config.frame_shape):
            raise ValueError(
                f"expected frames of {self.config.frame_shape}, found {tuple(frames.shape[-3:])}; resize them"
            )
        raw = self._encode(pixels.to_float(frames.reshape(-1, *self.config.frame_shape))).float()
        return ((raw - self.mean) / self.std).reshape(*frames.shape[:-3], *self.latent_shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes unit-scale latents `[... c h w]` to uint8 frames `[... H W 3]`."""
        raw = latents.reshape(-1, *self.latent_shape) * self.std + self.mean
        return pixels.to_uint8(self._decode(raw)).reshape(*latents.shape[:-3], *self.config.frame_shape)

    def settle(self, latents: Tensor, before: Tensor) -> Tensor:
        """Returns latents as they are: no pixel of theirs is known to stand still."""
        return latents


def _stages(config: ConvAutoencoderConfig) -> list[list[ResidualBlock]]:
    """Returns the residual blocks of every width."""
    return [[ResidualBlock(w) for _ in range(n)] for w, n in zip(config.widths, config.blocks, strict=True)]
