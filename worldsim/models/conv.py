"""The stacked-latent convolutional backbone: a residual network over the last frames' latents, all at one resolution.

Here as the default on two cores: it learns textured motion in minutes where a small transformer does not.
Leaves out memory beyond its window, down- and upsampling (latents are 8x8 already) and attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.layers import ResidualBlock, level_features, zero_init
from worldsim.models.recall import Recall
from worldsim.models.warp import PATCH, Warp, WarpConfig
from worldsim.types import Forecast, Rows, Stream, map_rows

LEVEL_FEATURES = 32
SEEN = 2  # pixels along the side of a position, by which keyframes are compared
RECALLED = 0.5  # of unit scale: how far what is recalled may be from what is there


@dataclass(frozen=True)
class ConvBackboneConfig:
    """Sizes of a `ConvBackbone`; `window` is the number of past frames it sees."""

    latent_shape: tuple[int, int, int]
    action_width: int
    window: int = 4
    width: int = 128
    depth: int = 6
    condition_width: int = 256
    warp_width: int = 0  # of the network that moves the newest frame to where it is expected; 0: it stays
    keyframes: int = 0  # of the recordings, that tell what stands where the moved frame tells nothing
    renewed: float = 0.3  # mean freshness below which one takes its place as a whole, so that nothing is moved for long
    followed: float = 0.2  # of what diffusion adds to what a warp expects, in a dream: more of it grains what was right

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"expected a window of at least 1 past frame, found {self.window}")
        if self.keyframes and not self.warp_width:
            raise ValueError(f"expected a warp_width above 0 beside keyframes={self.keyframes}, found 0")


@dataclass(frozen=True)
class StackContext(Rows):
    """The last frames as they entered the history, newest first: a stack that shifts, with a row's own validity."""

    latents: Tensor  # [b window c h w]
    level: Tensor  # [b window]
    action: Tensor  # [b window a]
    valid: Tensor  # [b window] bool
    newest: Tensor  # [b c h w], the last frame without its noise, for a warp to move; zeros where there is none
    view: Tensor  # [b 4 H W'], what a warp remembers beside that frame; without a warp no rows of pixels


class ConvBackbone(nn.Module):
    """`Backbone` over a stack of the last frames' latents, concatenated with the noisy target at the input.

    Levels and actions of all frames enter by FiLM. Missing history reads as zeros at level 1.
    """

    def __init__(self, config: ConvBackboneConfig):
        super().__init__()
        self.config = config
        c, h, w = config.latent_shape
        # One projection each: among a hundred inputs of one linear layer, the action's few would be learned last.
        self.embed_action = nn.Linear(config.action_width, config.condition_width)
        self.embed_levels = nn.Linear(2 * LEVEL_FEATURES, config.condition_width)
        self.embed_past = nn.Linear(config.window * (config.action_width + 2), config.condition_width)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(config.condition_width, config.condition_width), nn.SiLU())
        warp = WarpConfig(config.latent_shape, config.window * c, config.condition_width, config.warp_width)
        self.warp = Warp(warp) if config.warp_width else None
        if self.warp is not None:  # told apart from the rest, which goes on learning when the forecast stands
            self.warp_action = nn.Linear(config.action_width, config.condition_width)
            self.warp_past = nn.Linear(config.window * (config.action_width + 2), config.condition_width)
            self.warp_condition = nn.Sequential(
                nn.SiLU(), nn.Linear(config.condition_width, config.condition_width), nn.SiLU()
            )
        forecast = c + 1 if config.warp_width else 0  # its mean, and how unsure it is
        self.num_keyframes = config.keyframes
        self.followed = config.followed
        self.recall = Recall((h * PATCH, w * PATCH), (h * SEEN, w * SEEN)) if config.keyframes else None
        size = 1 if config.warp_width else 3  # what a warp moved is in place already
        self.stem = nn.Conv2d((config.window + 1) * c + forecast, config.width, size, padding=size // 2)
        # Where a position is: latents need not say, as the codec keeps what never changes to itself.
        self.position = nn.Parameter(torch.zeros(config.width, h, w))
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.condition_width) for _ in range(config.depth))
        self.norm = nn.GroupNorm(8, config.width)
        self.head = zero_init(nn.Conv2d(config.width, c, 3, padding=1))
        self.feature_width = config.width

    def start_from(self, images: Tensor, latents: Tensor) -> None:
        """Tells the warp what latents `[n c h w]` look like, by their images `[n 3 H W]`."""
        if self.warp is not None:
            self.warp.start_from(images, latents)

    def remember(self, frames: Tensor) -> None:
        """Stores keyframes, uint8 `[n H W 3]`."""
        self.recall.start_from(frames)

    def settle(self) -> None:
        """Ends the warp's learning: what it expects stands while the rest learns."""
        for module in (self.warp, self.warp_action, self.warp_past, self.warp_condition):
            module.requires_grad_(False)

    def foresee(self, history: Stream, action: Tensor, recall: bool = True) -> Forecast:
        """Returns what is expected of frames with actions `[b n a]` at the history's end; see `types.Backbone`."""
        n = action.shape[1]
        forecast = self.expect(rearrange(action, "b n a -> (n b) a"), self._contexts(history, n), recall)
        return map_rows(lambda x: rearrange(x, "(n b) ... -> b n ...", n=n), forecast)

    def error(self, forecast: Forecast, clean: Tensor) -> Tensor:
        """Returns how wrong a forecast is about clean latents `[... c h w]`, `[...]`; see `types.Backbone`."""
        return clean.new_zeros(clean.shape[:-3]) if self.warp is None else self.warp.error(forecast, clean)

    def size(self, change: Tensor) -> Tensor:
        """Returns the mean square of a change of latents `[... c h w]`, `[...]`; see `types.Backbone`."""
        square = change.square().mean((-3, -2, -1))
        return square if self.warp is None else (square + self.warp.seen(change)) / 2

    def forward(self, history: Stream, target: Stream, forecast: Forecast | None = None) -> tuple[Tensor, Tensor]:
        """Computes every target frame `[b n c h w]` from the history frames before it; see `types.Backbone`."""
        n = target.latents.shape[1]
        context = self._contexts(history, n)
        goal = torch.zeros_like(target.level) if target.target_level is None else target.target_level
        flat = [rearrange(x, "b n ... -> (n b) ...") for x in (target.latents, target.level, goal)]
        action = rearrange(target.action, "b n a -> (n b) a")
        forecast = self.foresee(history, target.action) if forecast is None else forecast
        forecast = map_rows(lambda x: rearrange(x, "b n ... -> (n b) ..."), forecast)
        out, features = self.read(*flat, action, context, forecast)
        return tuple(rearrange(x, "(n b) ... -> b n ...", n=n) for x in (out, features))

    def _contexts(self, history: Stream, n: int) -> StackContext:
        """Returns the contexts of n target frames, one frame after the other `[(n b) ...]`; a warp remembers nothing.

        Clips are too short for a view to leave and come back often enough to pay for moving every frame's margins. All
        their frames are fresh: that a keyframe takes a whole frame's place is not seen in training.
        """
        m = history.latents.shape[1]
        contexts = [self._window(history, m - n + 1 + i) for i in range(n)]
        return map_rows(lambda *parts: torch.cat(parts), *contexts)

    def _window(self, history: Stream, position: int) -> StackContext:
        """Returns the context of the frame at `position`, nothing remembered: the frames before it, newest first."""
        start = max(position - self.config.window, 0)
        missing = self.config.window - (position - start)

        def stack(x: Tensor) -> Tensor:
            newest_first = x[:, start:position].flip(1)
            return F.pad(newest_first, (0, 0) * (x.dim() - 2) + (0, missing))

        clean = history.latents if history.clean is None else history.clean
        clean = clean * history.valid[..., None, None, None]
        parts = (stack(x) for x in (history.latents, history.level, history.action, history.valid))
        return StackContext(*parts, stack(clean)[:, 0], self._blank(len(clean)))

    def _blank(self, rows: int) -> Tensor:
        return self.stem.weight.new_zeros(rows, 4, 0, 0) if self.warp is None else self.warp.blank(rows)

    def start(self, rows: int) -> StackContext:
        """Returns an empty history for `rows` rows."""
        w, like = self.config.window, self.stem.weight
        return StackContext(
            like.new_zeros(rows, w, *self.config.latent_shape),
            like.new_zeros(rows, w),
            like.new_zeros(rows, w, self.config.action_width),
            torch.zeros(rows, w, dtype=torch.bool, device=like.device),
            like.new_zeros(rows, *self.config.latent_shape),
            self._blank(rows),
        )

    def expect(self, action: Tensor, context: StackContext, recall: bool = True) -> Forecast:
        """Returns the newest past latent `[b c h w]`, moved as the action and the past say; see `types.Backbone`.

        Of a frame that was moved too often before, nothing is open: the keyframe in its place is a frame of the game.
        """
        if self.warp is None:
            return Forecast(context.latents[:, 0] * context.valid[:, 0, None, None, None])
        forecast, fresh = self.warp.forecast(context.newest, self._view(context), *self._flow(action, context))
        if self.recall is None or not recall:
            return forecast
        worn = (fresh.mean((-2, -1), keepdim=True) < self.config.renewed) & context.valid[:, 0, None, None, None]
        with torch.autocast(action.device.type, enabled=False):
            moved, seen = self.warp.picture(forecast.mean), fresh > 0
            told = self.warp.latent(torch.where(seen & ~worn, moved, self.recall(moved, seen)))
        mean = torch.where(worn | forecast.open, told, forecast.mean)
        return Forecast(mean, torch.where(forecast.open, RECALLED, forecast.spread), forecast.open & ~worn)

    def _flow(self, action: Tensor, context: StackContext) -> tuple[Tensor, Tensor]:
        """Returns the warp's flow and spread for the frame to which actions `[b a]` lead."""
        past, facts = _seen(context)
        return self.warp(past, self.warp_condition(self.warp_action(action) + self.warp_past(facts)))

    def _view(self, context: StackContext) -> Tensor:
        return self.warp.view(context.view, context.newest, context.valid[:, 0])

    def read(
        self,
        x: Tensor,
        level: Tensor,
        target_level: Tensor,
        action: Tensor,
        context: StackContext,
        forecast: Forecast,
    ) -> tuple[Tensor, Tensor]:
        """Returns the output `[b c h w]` and features `[b d h w]` for one frame; see `types.Backbone`."""
        past, facts = _seen(context)
        seen = [x, past]
        if self.warp is not None:
            seen += [forecast.mean.to(x.dtype), forecast.spread.mean(1, keepdim=True).to(x.dtype)]
        levels = torch.cat((level_features(level), level_features(target_level)), -1).to(x.dtype)
        condition = self.condition(self.embed_action(action) + self.embed_levels(levels) + self.embed_past(facts))
        h = self.stem(torch.cat(seen, 1)) + self.position
        for block in self.blocks:
            h = block(h, condition)
        features = F.silu(self.norm(h))
        return self.head(features), features

    def append(
        self, x: Tensor, level: Tensor, action: Tensor, context: StackContext, clean: Tensor | None = None
    ) -> StackContext:
        """Returns the history with one more frame and the oldest gone."""
        valid = torch.ones_like(context.valid[:, 0])
        shifted = (
            torch.cat((new[:, None], old[:, :-1]), 1)
            for new, old in zip((x, level, action, valid), _parts(context), strict=True)
        )
        clean, view = x if clean is None else clean, context.view
        if self.warp is not None:
            view = self.warp.remember(context.newest, self._view(context), self._flow(action, context)[0], clean)
        return StackContext(*shifted, clean, view)


def _parts(context: StackContext) -> tuple[Tensor, ...]:
    return context.latents, context.level, context.action, context.valid


def _seen(context: StackContext) -> tuple[Tensor, Tensor]:
    """Returns past latents `[b window*c h w]` and facts about them `[b window*(2+a)]`; zeros where there is none."""
    valid = context.valid.to(context.latents.dtype)
    past = context.latents * valid[:, :, None, None, None]
    level = torch.where(context.valid, context.level, torch.ones_like(context.level))
    history = torch.cat((level[..., None], valid[..., None], context.action * valid[..., None]), -1)
    return past.flatten(1, 2), history.flatten(1)
