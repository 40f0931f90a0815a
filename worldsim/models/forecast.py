"""Forecasters: what is expected of the next frame before any noise, so that diffusion tells only the rest.

Here apart from backbones, any of which goes with any of these: the last frame kept, or the last frame moved by a flow
that the past and the action tell, with keyframes of the recordings for what comes into view.
Leaves out the geometry of moving (`warp`), the search among keyframes (`recall`) and losses (`objectives.denoising`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.recall import Recall
from worldsim.models.stack import Stack
from worldsim.models.warp import PATCH, Warp, WarpConfig
from worldsim.types import Forecast, Rows, Stream, map_rows

SEEN = 2  # pixels along the side of a position, by which keyframes are compared
RECALLED = 0.5  # of unit scale: how far what is recalled may be from what is there


@dataclass(frozen=True)
class LastFrame:
    """`Forecaster` that expects the newest past latent, as it entered the history; it remembers that alone."""

    told = 0
    followed = 1.0

    def start(self, like: Tensor) -> Tensor:
        """Returns the memory of rows that have seen nothing, zeros `[b c h w]`."""
        return torch.zeros_like(like)

    def expect(self, action: Tensor, memory: Tensor) -> Forecast:
        """Returns the newest past latent `[b c h w]`, zeros where there is none."""
        return Forecast(memory)

    def append(self, x: Tensor, level: Tensor, action: Tensor, memory: Tensor, clean: Tensor) -> Tensor:
        """Returns the memory after one more frame."""
        return x

    def foresee(self, history: Stream, action: Tensor) -> Forecast:
        """Returns the newest latent `[b n c h w]` before each of n frames at the history's end."""
        n = action.shape[1]
        latents = F.pad(history.latents * history.valid[..., None, None, None], (0, 0) * 3 + (1, 0))
        return Forecast(latents[:, latents.shape[1] - n :])

    def size(self, change: Tensor) -> Tensor:
        """Returns the mean square of a change of latents `[... c h w]`, `[...]`."""
        return change.square().mean((-3, -2, -1))


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of a `Motion`; `window` is the number of past frames it sees."""

    latent_shape: tuple[int, int, int]
    action_width: int
    window: int = 4
    width: int = 64
    condition_width: int = 256
    keyframes: int = 0  # of the recordings, that tell what stands where the moved frame tells nothing
    renewed: float = 0.3  # mean freshness below which one takes its place as a whole, so that nothing is moved for long
    followed: float = 0.2  # of what diffusion adds, the share that a dream takes: more of it grains what was right


@dataclass(frozen=True)
class MotionMemory(Rows):
    """What a `Motion` knows of the past."""

    past: Stack
    newest: Tensor  # [b c h w], the last frame without its noise; zeros where there is none
    view: Tensor  # [b 4 H W'], what is remembered beside that frame: see `Warp.blank`


class Motion(nn.Module):
    """`Forecaster` that moves the newest frame; with keyframes, one of them tells what comes into view."""

    told: int
    followed: float

    def __init__(self, config: MotionConfig):
        super().__init__()
        self.config = config
        c, h, w = config.latent_shape
        d = config.condition_width
        self.warp = Warp(WarpConfig(config.latent_shape, config.window * c, d, config.width))
        self.action = nn.Linear(config.action_width, d)
        self.past = nn.Linear(config.window * (config.action_width + 2), d)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(d, d), nn.SiLU())
        self.recall = Recall((h * PATCH, w * PATCH), (h * SEEN, w * SEEN)) if config.keyframes else None
        self.told, self.followed = c + 1, config.followed

    def start(self, like: Tensor) -> MotionMemory:
        """Returns the memory of rows that have seen nothing, for latents like `[b c h w]`."""
        stack = Stack.empty(like, self.config.window, self.config.action_width)
        return MotionMemory(stack, torch.zeros_like(like), self.warp.blank(len(like)))

    def expect(self, action: Tensor, memory: MotionMemory) -> Forecast:
        """Returns the newest past latent `[b c h w]`, moved as the action and the past say.

        Where a keyframe tells what is open, the mean is that. Of a frame that was moved too often before, nothing is
        open: the keyframe in its place is a frame of the game.
        """
        forecast, fresh = self.warp.forecast(memory.newest, self._view(memory), *self._flow(action, memory))
        if self.recall is None or not len(self.recall.frames):
            return forecast
        assert forecast.spread is not None and forecast.open is not None  # a warp tells both
        worn = (fresh.mean((-2, -1), keepdim=True) < self.config.renewed) & memory.past.valid[:, 0, None, None, None]
        with torch.autocast(action.device.type, enabled=False):
            moved, seen = self.warp.picture(forecast.mean), fresh > 0
            told = self.warp.latent(torch.where(seen & ~worn, moved, self.recall(moved, seen)))
        mean = torch.where(worn | forecast.open, told, forecast.mean)
        return Forecast(mean, torch.where(forecast.open, RECALLED, forecast.spread), forecast.open & ~worn)

    def append(self, x: Tensor, level: Tensor, action: Tensor, memory: MotionMemory, clean: Tensor) -> MotionMemory:
        """Returns the memory after one more frame; `clean` is that before noise, which is what the next one moves."""
        view = self.warp.remember(memory.newest, self._view(memory), self._flow(action, memory)[0], clean)
        return MotionMemory(memory.past.push(x, level, action), clean, view)

    def foresee(self, history: Stream, action: Tensor) -> Forecast:
        """Returns what is expected of frames with actions `[b n a]` at the history's end.

        Nothing is remembered beside the newest frame, and all of that is fresh: clips are too short for a view to leave
        and come back often enough to pay for it. That a keyframe takes a whole frame's place is not seen in training.
        """
        n = action.shape[1]
        clean = history.latents if history.clean is None else history.clean
        newest = LastFrame().foresee(Stream(clean, history.level, history.action, history.valid), action).mean
        newest = rearrange(newest, "b n ... -> (n b) ...")
        memory = MotionMemory(Stack.before(history, n, self.config.window), newest, self.warp.blank(len(newest)))
        forecast = self.expect(rearrange(action, "b n a -> (n b) a"), memory)
        return map_rows(lambda x: rearrange(x, "(n b) ... -> b n ...", n=n), forecast)

    def size(self, change: Tensor) -> Tensor:
        """Returns the mean square of a change of latents `[... c h w]`, `[...]`, half of it as pictures show it."""
        return (change.square().mean((-3, -2, -1)) + self.warp.seen(change)) / 2

    def _flow(self, action: Tensor, memory: MotionMemory) -> tuple[Tensor, Tensor]:
        """Returns the warp's flow and spread for the frame to which actions `[b a]` lead."""
        past, facts = memory.past.seen()
        return self.warp(past, self.condition(self.action(action) + self.past(facts)))

    def _view(self, memory: MotionMemory) -> Tensor:
        return self.warp.view(memory.view, memory.newest, memory.past.valid[:, 0])
