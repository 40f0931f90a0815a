"""Motion compensation: the newest frame, moved by a flow that the past and the action tell, as a first guess.

Here because a turn moves a whole picture, by an amount that differs with angle and place: for a patch's latent that is
another matrix every time, which convolutions learn slowly and a sampling grid says at once.
Leaves out older frames and noise: what the flow cannot know is the denoiser's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.layers import ResidualBlock, zero_init
from worldsim.types import Forecast

PATCH = 8  # pixels along the side of a latent's position
FLOWS = 4  # flow vectors along the same side
TAPS = 16  # pixels that tell what stands between the middle two
BEYOND = 1 / 8  # of a position's pixels from beyond the frame's edge: with more, the moved frame tells nothing there
UNSURE = 0.9  # of unit scale: with a wider spread, neither does it
LEAST_SPREAD = 0.05  # of unit scale, by which nothing is ever quite sure
RIDGE = 1e-3  # of the mean variance, where linear maps are fitted


@dataclass(frozen=True)
class WarpConfig:
    """Sizes of a `Warp`: `inputs` channels of past latents, and a condition."""

    latent_shape: tuple[int, int, int]
    inputs: int
    condition_width: int
    width: int
    depth: int = 3


class Warp(nn.Module):
    """Past latents and a condition to the expected next latent `[b c h w]`; untrained, that is the newest one.

    A latent is unfolded into a picture by a linear map, the picture is sampled where the flow points (Jaderberg et al.
    2015), and what that changes is folded back. `start_from` fits both maps to frames; training leaves them alone.
    """

    def __init__(self, config: WarpConfig):
        super().__init__()
        self.config = config
        (c, h, w), width = config.latent_shape, config.width
        self.register_buffer("unfold", torch.zeros(3 * PATCH**2, c))
        self.register_buffer("fold", torch.zeros(c, 3 * PATCH**2))
        self.register_buffer("background", torch.zeros(3, h * PATCH, w * PATCH))
        self.register_buffer("finer_rows", _finer(w * PATCH), persistent=False)
        self.register_buffer("finer_columns", _finer(h * PATCH), persistent=False)
        self.stem = nn.Conv2d(config.inputs, width, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(width, h, w))
        self.blocks = nn.ModuleList(ResidualBlock(width, config.condition_width) for _ in range(config.depth))
        self.norm = nn.GroupNorm(8, width)
        self.head = zero_init(nn.Conv2d(width, 2 * FLOWS**2, 3, padding=1))
        self.spread = zero_init(nn.Conv2d(width, c, 3, padding=1))

    @torch.no_grad()
    def start_from(self, images: Tensor, latents: Tensor) -> None:
        """Fits the linear maps between patches of images `[n 3 H W]` and their latents `[n c h w]` of zero mean."""
        images = F.interpolate(images, self.background.shape[1:], mode="area")
        self.background.copy_(images.mean(0))
        patches = rearrange(_patches(images - self.background), "n k h w -> (n h w) k").double()
        codes = rearrange(latents, "n c h w -> (n h w) c").double()
        self.unfold.copy_(_regress(codes, patches))
        self.fold.copy_(_regress(patches, codes))

    def forward(self, past: Tensor, newest: Tensor, condition: Tensor) -> Forecast:
        """Returns what is expected, from past latents `[b inputs h w]`, the newest `[b c h w]` and `[b d]`."""
        h = self.stem(past) + self.position
        for block in self.blocks:
            h = block(h, condition)
        h = F.silu(self.norm(h))
        flow, spread = F.pixel_shuffle(self.head(h), FLOWS), self.spread(h.detach())
        with torch.autocast(newest.device.type, enabled=False):
            spread = LEAST_SPREAD + spread.to(newest.dtype).sigmoid()
            mean, beyond = self.move(newest, flow.to(newest.dtype))
            unsure = spread.square().mean(1, keepdim=True) > UNSURE**2
            return Forecast(mean, spread, unsure | (beyond > BEYOND))

    def error(self, forecast: Forecast, clean: Tensor) -> Tensor:
        """Returns the mean's squared error in the picture, `[...]`, plus how unlikely a Gaussian of that spread makes
        the latents `[... c h w]`."""
        change = clean - forecast.mean
        unlikely = (change.detach() / forecast.spread).square() / 2 + forecast.spread.log()
        return self.seen(change) + unlikely.mean((-3, -2, -1))

    def seen(self, change: Tensor) -> Tensor:
        """Returns the mean square `[...]` of a change of latents `[... c h w]` in the picture, in units of what latents
        that are off by one at random make."""
        pixels = torch.einsum("kc,...chw->...khw", self.unfold, change)
        return pixels.square().sum(-3).mean((-2, -1)) / self.unfold.square().sum()

    def move(self, latent: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the latent `[b c h w]` of the picture whose every pixel comes from `flow` (x, y) beside its place,
        and the share of a position's pixels that come from beyond the picture's edge, `[b 1 h w]`.

        `flow [b 2 h' w']` counts latent positions. What comes from beyond the edge is what stands there.
        """
        picture = self.picture(latent)
        height, width = picture.shape[-2:]
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False) * PATCH
        x, y = (torch.arange(n, device=latent.device, dtype=latent.dtype) + 0.25 for n in (width, height))
        grid = torch.stack(((x + flow[:, 0]) * (2 / width) - 1, (y[:, None] + flow[:, 1]) * (2 / height) - 1), -1)
        finer = self.finer_columns.mT.to(picture.dtype) @ picture @ self.finer_rows.to(picture.dtype)
        moved = F.grid_sample(finer, grid, mode="bicubic", padding_mode="border", align_corners=False)
        beyond = (grid.abs() > 1).any(-1, keepdim=True).to(latent.dtype).movedim(-1, 1)
        change = torch.einsum("ck,bkhw->bchw", self.fold.to(latent.dtype), _patches(moved - picture))
        return latent + change, F.avg_pool2d(beyond, PATCH)

    def picture(self, latent: Tensor) -> Tensor:
        """Returns the picture `[b 3 8h 8w]`, values around [-1, 1], that the linear map makes of a latent."""
        patches = torch.einsum("kc,bchw->bkhw", self.unfold.to(latent.dtype), latent)
        return F.pixel_shuffle(patches, PATCH) + self.background.to(latent.dtype)


def _finer(n: int) -> Tensor:
    """Returns the matrix `[n 2n]` by which n pixels in a row become twice as many, the even ones as they are.

    A picture so refined blurs little when it is sampled; bicubic sampling alone takes half of the finest detail's
    energy at a step, and a dream has many. What stands between two pixels is Lanczos' windowed sinc of TAPS of them.
    """
    places = torch.arange(TAPS) - (TAPS - 1) / 2
    weights = torch.sinc(places) * torch.sinc(places / (TAPS / 2))
    rows = F.pad(torch.eye(n)[None], (TAPS // 2 - 1, TAPS // 2), mode="replicate")
    between = F.conv1d(rows[0][:, None], (weights / weights.sum())[None, None])[:, 0]
    return torch.stack((torch.eye(n), between), -1).flatten(-2)


def _patches(images: Tensor) -> Tensor:
    return F.pixel_unshuffle(images, PATCH)  # [n 3 H W] -> [n 192 h w]


def _regress(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Returns the matrix `[out in]` that takes inputs `[n in]` to outputs `[n out]` with the least squared error."""
    gram = inputs.mT @ inputs / len(inputs)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, inputs.mT @ outputs / len(inputs)).mT
