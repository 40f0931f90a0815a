"""The last frames of every row as a stack that shifts, the newest first: the history of networks that read a window.

Here apart from them, so that a backbone and a forecaster see the past alike.
Leaves out what they make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.types import Rows, Stream, map_rows


@dataclass(frozen=True)
class Stack(Rows):
    """Frames as they entered the history, with a row's own validity."""

    latents: Tensor  # [b window c h w]
    level: Tensor  # [b window]
    action: Tensor  # [b window a]
    valid: Tensor  # [b window] bool

    @classmethod
    def empty(cls, like: Tensor, window: int, action_width: int) -> Self:
        """Returns a history of no frames, for as many rows and latents of such a kind as `like [b c h w]`."""
        rows = len(like)
        return cls(
            like.new_zeros(rows, window, *like.shape[1:]),
            like.new_zeros(rows, window),
            like.new_zeros(rows, window, action_width),
            torch.zeros(rows, window, dtype=torch.bool, device=like.device),
        )

    @classmethod
    def before(cls, history: Stream, n: int, window: int) -> Self:
        """Returns the pasts of n target frames at the history's end, one frame after the other `[(n b) ...]`."""
        m = history.latents.shape[1]
        parts = (history.latents, history.level, history.action, history.valid)
        stacks = [cls(*(_window(x, m - n + 1 + i, window) for x in parts)) for i in range(n)]
        return map_rows(lambda *rows: torch.cat(rows), *stacks)

    def push(self, x: Tensor, level: Tensor, action: Tensor) -> Self:
        """Returns the history with one more frame `x [b c h w]` and the oldest gone."""
        new = (x, level, action, torch.ones_like(self.valid[:, 0]))
        old = (self.latents, self.level, self.action, self.valid)
        return type(self)(*(torch.cat((a[:, None], b[:, :-1]), 1) for a, b in zip(new, old, strict=True)))

    def newest(self) -> Tensor:
        """Returns the newest frame `[b c h w]`, zeros where there is none."""
        return self.latents[:, 0] * self.valid[:, 0, None, None, None].to(self.latents.dtype)

    def seen(self, ages: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Returns past latents `[b n*c h w]`, zeros for missing ones, and facts `[b n*(2+a)]`.

        `ages` are those of the n frames to see, growing from 1 (None: all); an action is then the mean of those since
        the next newer of them.
        """
        latents, level, valid = self.latents, self.level, self.valid
        action = self.action * valid[..., None].to(self.action.dtype)
        if ages is not None and len(ages) < valid.shape[1]:
            action = torch.stack([action[:, a:b].mean(1) for a, b in pairwise((0, *ages))], 1)
            latents, level, valid = (torch.stack([x[:, age - 1] for age in ages], 1) for x in (latents, level, valid))
        weight = valid.to(latents.dtype)
        level = torch.where(valid, level, torch.ones_like(level))
        facts = torch.cat((level[..., None], weight[..., None], action), -1)
        return (latents * weight[:, :, None, None, None]).flatten(1, 2), facts.flatten(1)


def _window(x: Tensor, position: int, window: int) -> Tensor:
    """Returns what stands before `position` in `x [b m ...]`, the newest first; zeros where there is nothing."""
    start = max(position - window, 0)
    newest_first = x[:, start:position].flip(1)
    return F.pad(newest_first, (0, 0) * (x.dim() - 2) + (0, window - (position - start)))
