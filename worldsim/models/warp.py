"""Motion compensation: the newest frame, moved by a flow that the past and the action tell, as a first guess.

Here because a turn moves a whole picture, by an amount that differs with angle and place: for a patch's latent that is
another matrix every time, which convolutions learn slowly and a sampling grid says at once.
What leaves the frame at its sides is remembered there, and comes back when the view turns back.
Leaves out noise: what the flow cannot know is the denoiser's.
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
MARGIN = 64  # pixels remembered beyond the left and the right edge
REACH = 16  # pixels of these that one frame may bring back
BEYOND = 1 / 8  # of a position's pixels from where nothing was seen: with more, the moved frame tells nothing there
WORN = 1 / 2  # of its freshness that a pixel keeps when it is moved
OLDEST = 2.0**-16  # freshness that is left of whatever was seen
STOOD = 1e-3  # of unit scale, up to which a latent is still the one that was moved
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

    unfold: Tensor  # [3*8*8 c]
    fold: Tensor  # [c 3*8*8]
    background: Tensor  # [3 8h 8w]
    finer_rows: Tensor  # as `_finer` says, of a view with its margins
    finer_columns: Tensor

    def __init__(self, config: WarpConfig):
        super().__init__()
        self.config = config
        (c, h, w), width = config.latent_shape, config.width
        self.register_buffer("unfold", torch.zeros(3 * PATCH**2, c))
        self.register_buffer("fold", torch.zeros(c, 3 * PATCH**2))
        self.register_buffer("background", torch.zeros(3, h * PATCH, w * PATCH))
        self.register_buffer("finer_rows", _finer(w * PATCH + 2 * MARGIN), persistent=False)
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

    def forward(self, past: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Returns flow `[b 2 4h 4w]` and spread `[b c h w]`, float32, from past latents `[b inputs h w]` and `[b d]`.

        The flow (x, y) says how far beside a place its pixel comes from, in latent positions.
        """
        h = self.stem(past) + self.position
        for block in self.blocks:
            h = block(h, condition)
        h = F.silu(self.norm(h))
        flow, spread = F.pixel_shuffle(self.head(h), FLOWS), self.spread(h.detach())
        like = self.unfold.dtype
        return _smooth(flow.to(like)), LEAST_SPREAD + spread.to(like).sigmoid()

    def forecast(self, newest: Tensor, view: Tensor, flow: Tensor, spread: Tensor) -> tuple[Forecast, Tensor]:
        """Returns what is expected of the frame to which the flow moves the newest latent `[b c h w]` in its view, and
        how fresh its pixels are, `[b 1 H W]`."""
        with torch.autocast(newest.device.type, enabled=False):
            near = view[..., MARGIN - REACH : REACH - MARGIN]
            before, after = (x[..., REACH:-REACH] for x in (near, self.move(near, flow)))
            unsure = spread.square().mean(1, keepdim=True) > UNSURE**2
            beyond = F.avg_pool2d((after[:, 3:] == 0).to(after.dtype), PATCH) > BEYOND
            forecast = Forecast(self._moved(newest, before, after), spread, unsure | beyond)
            return forecast, after[:, 3:]

    def error(self, forecast: Forecast, clean: Tensor) -> Tensor:
        """Returns the mean's squared error in the picture, `[...]`, plus how unlikely a Gaussian of that spread makes
        the latents `[... c h w]`."""
        change, spread = clean - forecast.mean, forecast.spread
        assert spread is not None  # a warp's forecasts have one
        unlikely = (change.detach() / spread).square() / 2 + spread.log()
        return self.seen(change) + unlikely.mean((-3, -2, -1))

    def seen(self, change: Tensor) -> Tensor:
        """Returns the mean square `[...]` of a change of latents `[... c h w]` in the picture, in units of what latents
        that are off by one at random make."""
        with torch.autocast(change.device.type, enabled=False):
            pixels = torch.einsum("kc,...chw->...khw", self.unfold, change)
        return pixels.square().sum(-3).mean((-2, -1)) / self.unfold.square().sum()

    def blank(self, rows: int) -> Tensor:
        """Returns a view `[rows 4 H W']` of nothing: a frame and its margins in colours, and how fresh these are: 1 as
        they were seen, half of that with every step that they were moved since, and 0 where nothing was seen."""
        _, height, width = self.background.shape
        return self.unfold.new_zeros(rows, 4, height, width + 2 * MARGIN)

    def view(self, remembered: Tensor, newest: Tensor, known: Tensor) -> Tensor:
        """Returns the view `[b 4 H W']` with the newest latent's picture, where that is `known` bool `[b]`, between
        remembered margins; beyond what was seen stands what stands at the picture's edge."""
        with torch.autocast(newest.device.type, enabled=False):
            picture = F.pad(self.picture(newest), (MARGIN, MARGIN, 0, 0), mode="replicate")
            colours, fresh = remembered.split((3, 1), 1)
            margins = torch.ones_like(fresh)
            margins[..., MARGIN:-MARGIN] = 0
            inside = (1 - margins) * known.to(fresh.dtype)[:, None, None, None]
            colours = torch.where(margins * fresh > 0, colours, picture)
            return torch.cat((colours, margins * fresh + inside * torch.where(fresh > 0, fresh, 1)), 1)

    def remember(self, newest: Tensor, view: Tensor, flow: Tensor, clean: Tensor) -> Tensor:
        """Returns what is to be remembered of the newest latent's view when the next is `clean [b c h w]`.

        Where that is what the flow moves there, it is as old as that; else it is fresh.
        """
        with torch.autocast(newest.device.type, enabled=False):
            moved = self.move(view, flow)
            worn = (moved[:, 3:] * WORN).clamp_min(OLDEST) * (moved[:, 3:] > 0)
            before, after = (x[..., MARGIN:-MARGIN] for x in (view, moved))
            change = (clean - self._moved(newest, before, after)).abs().amax(1, keepdim=True)
            stood = F.interpolate((change < STOOD).to(worn.dtype), scale_factor=PATCH)
            inside = worn[..., MARGIN:-MARGIN]
            worn[..., MARGIN:-MARGIN] = torch.where(stood * inside > 0, inside, 1)
            return torch.cat((moved[:, :3], worn), 1)

    def move(self, view: Tensor, flow: Tensor) -> Tensor:
        """Returns the view `[b 4 H W']` whose every pixel comes from where the flow `[b 2 h' w']` of the frame points.

        W' is the frame's width and two margins of up to `MARGIN` pixels, which move as the frame does at its sides.
        What comes from beyond the view was not seen.
        """
        height, width = view.shape[-2:]
        margin = (width - self.background.shape[-1]) // 2
        flow = F.interpolate(flow, (height, width - 2 * margin), mode="bilinear", align_corners=False) * PATCH
        flow = F.pad(flow, (margin, margin, 0, 0), mode="replicate")
        x, y = (torch.arange(n, device=view.device, dtype=view.dtype) for n in (width, height))
        x, y = x + flow[:, 0], y[:, None] + flow[:, 1]
        cut = MARGIN - margin
        rows = self.finer_rows[cut : cut + width, 2 * cut : 2 * (cut + width)]
        finer = self.finer_columns.mT.to(view.dtype) @ (view[:, :3] @ rows.to(view.dtype))
        grid = torch.stack(((x + 0.25) * (2 / width) - 1, (y + 0.25) * (2 / height) - 1), -1)
        colours = F.grid_sample(finer, grid, mode="bicubic", padding_mode="border", align_corners=False)
        grid = torch.stack(((x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1), -1)
        seen = F.grid_sample(view[:, 3:], grid.detach(), mode="nearest", align_corners=False)
        return torch.cat((colours, seen), 1)

    def picture(self, latent: Tensor) -> Tensor:
        """Returns the picture `[b 3 8h 8w]`, values around [-1, 1], that the linear map makes of a latent."""
        patches = torch.einsum("kc,bchw->bkhw", self.unfold.to(latent.dtype), latent)
        return F.pixel_shuffle(patches, PATCH) + self.background.to(latent.dtype)

    def latent(self, picture: Tensor) -> Tensor:
        """Returns the latent `[b c h w]` that the linear map makes of a picture `[b 3 8h 8w]`."""
        return self._folded(picture - self.background.to(picture.dtype))

    def _moved(self, newest: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return newest + self._folded((after - before)[:, :3])

    def _folded(self, change: Tensor) -> Tensor:
        return torch.einsum("ck,bkhw->bchw", self.fold.to(change.dtype), _patches(change))


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


def _smooth(flow: Tensor) -> Tensor:
    """Returns the median of every 3x3 vectors of a flow `[b 2 h w]`: edges stay, strays do not tear beads off them."""
    near = F.pad(flow, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    return near.flatten(4).median(-1).values


def _patches(images: Tensor) -> Tensor:
    return F.pixel_unshuffle(images, PATCH)  # [n 3 H W] -> [n 192 h w]


def _regress(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Returns the matrix `[out in]` that takes inputs `[n in]` to outputs `[n out]` with the least squared error."""
    gram = inputs.mT @ inputs / len(inputs)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, inputs.mT @ outputs / len(inputs)).mT
