"""Attention over the tokens of frames: within a frame, across a clip, and against a ring of committed frames.

Here so that the two forms of time attention, which must compute the same, stand side by side.
Leaves out what the tokens are, how they are conditioned, and when the ring is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldsim.types import Rows

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`mix(query [b t s (g r) e], key [b t s g e], value [b t s g e]) -> [b t s (g r) e]`; s tokens a frame."""

TIME_BASE = 100.0  # the slowest rotation takes about 600 frames, several windows


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype for angles and latents beside a network of the given one: never less than float32."""
    return torch.promote_types(dtype, torch.float32)


def normalise(x: Tensor) -> Tensor:
    """Scales the last dimension to a root mean square of one, with the same eps in every dtype."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def time_angles(position: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Rotary angles of integer positions, [... t] -> [... t 1 1 e/2]."""
    ramp = torch.arange(head_dim // 2, device=position.device, dtype=dtype) / (head_dim // 2)
    return (
        position[..., None, None, None].to(dtype) * (-math.log(TIME_BASE) * ramp).exp()
    )  # a power would wait for CUDA


def space_angles(height: int, width: int, others: int, head_dim: int, like: Tensor) -> Tensor:
    """Axial rotary angles [s 1 e/2] of a grid of tokens and of `others` tokens that are not rotated.

    Half of the pairs turn with the row, half with the column, between 0.8 of Nyquist and half a turn over the grid.
    """
    like = like.new_empty(0, dtype=precise(like.dtype))
    ramp = torch.linspace(0, 1, head_dim // 4, device=like.device, dtype=like.dtype)
    frequency = 0.8 * math.pi * (-math.log(0.8 * max(height, width)) * ramp).exp()
    row, column = (torch.arange(n).to(like)[:, None] * frequency for n in (height, width))
    grid = torch.cat([repeat(row, "y f -> (y x) f", x=width), repeat(column, "x f -> (y x) f", y=height)], dim=-1)
    return F.pad(grid, (0, 0, 0, others))[:, None]


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turns the pairs (i, i + e/2) of x [... e] by angle [... e/2], at the angle's precision."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


@dataclass(frozen=True)
class Space:
    """Every token of a frame sees every token of that frame."""

    angle: Tensor  # [s 1 e/2]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        frames, tokens, groups = query.shape[1], query.shape[2], key.shape[3]
        query = rearrange(rotate(query, self.angle), "b t s (g r) e -> (b t) g (r s) e", g=groups)
        key, value = (rearrange(x, "b t s g e -> (b t) g s e") for x in (rotate(key, self.angle), value))
        out = F.scaled_dot_product_attention(query, key, value)
        return rearrange(out, "(b t) g (r s) e -> b t s (g r) e", t=frames, s=tokens)


def _attend_time(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Each token position by itself: query [b t s (g r) e], key and value [b k s g e], mask [b t k] True where seen."""
    tokens, groups, frames = query.shape[2], key.shape[3], query.shape[1]
    query = rearrange(query, "b t s (g r) e -> b (s g) (r t) e", g=groups)
    key, value = (rearrange(x, "b k s g e -> b (s g) k e") for x in (key, value))
    mask = repeat(mask, "b t k -> b 1 (r t) k", r=query.shape[2] // frames)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return rearrange(out, "b (s g) (r t) e -> b t s (g r) e", s=tokens, t=frames)


@dataclass(frozen=True)
class Band:
    """A token sees its own position in the frames that the mask allows."""

    angle: Tensor  # [t 1 1 e/2]
    mask: Tensor  # [b t t]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _attend_time(rotate(query, self.angle), rotate(key, self.angle), value, self.mask)


@dataclass(frozen=True)
class Ring:
    """The tokens of one frame (t = 1) see their own positions in the ring's frames, and themselves.

    Keys are stored un-rotated and turned back by their age here: exact however long the rollout has been.
    """

    key: Tensor  # [b w s g e]
    value: Tensor  # [b w s g e]
    angle: Tensor  # [b w 1 1 e/2], of minus the age
    mask: Tensor  # [b 1 w+1]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key = torch.cat([rotate(self.key, self.angle), key], dim=1)
        return _attend_time(query, key, torch.cat([self.value, value], dim=1), self.mask)


def band_mask(position: Tensor, valid: Tensor, window: int) -> Tensor:
    """Who sees whom, [b m+n m+n]: itself, and valid history (the first m) less than a window before it."""
    past = position[:, None] - position
    history = F.pad(valid, (0, len(position) - valid.shape[1]), value=False)
    itself = torch.eye(len(position), dtype=torch.bool, device=position.device)
    return itself | ((past > 0) & (past < window) & history[:, None])


@dataclass(frozen=True)
class Context(Rows):
    """A ring of the keys and values of the last window - 1 frames: the frame appended i-th lies in slot i mod (W - 1).

    Hence `count` alone says where a row writes next, which slots hold a frame, and how old each frame is.
    """

    keys: tuple[Tensor, ...]  # one a time layer, [b w s g e], normalised and not rotated
    values: tuple[Tensor, ...]  # one a time layer, [b w s g e]
    last: Tensor  # [b c h w], the latent appended last; zeros before the first
    last_level: Tensor  # [b], its level; 1 before the first
    count: Tensor  # [b] int64, frames appended so far

    @property
    def age(self) -> Tensor:
        """How many frames before the current one each slot was written, [b w]; 1 to W - 1."""
        slots = self.keys[0].shape[1]
        return (self.count[:, None] - 1 - torch.arange(slots, device=self.count.device)) % slots + 1

    @property
    def valid(self) -> Tensor:
        """Which slots hold a frame, [b w]."""
        return self.age <= self.count[:, None]

    def push(self, latent: Tensor, level: Tensor, fresh: Sequence[tuple[Tensor, Tensor]]) -> Context:
        """Returns a context with one more frame, written over the oldest; fresh: [b 1 s g e], a pair a time layer."""
        slot = self.count % self.keys[0].shape[1]
        keys, values = zip(*fresh, strict=True)
        return Context(
            keys=tuple(_write(ring, key, slot) for ring, key in zip(self.keys, keys, strict=True)),
            values=tuple(_write(ring, value, slot) for ring, value in zip(self.values, values, strict=True)),
            last=latent.to(self.last.dtype, copy=True),
            last_level=level.to(self.last_level.dtype, copy=True),
            count=self.count + 1,
        )


def _write(ring: Tensor, frame: Tensor, slot: Tensor) -> Tensor:
    """Returns a copy of ring [b w s g e] with frame [b 1 s g e] in each row's slot [b]."""
    rows = torch.arange(len(slot), device=slot.device)
    return ring.index_put((rows, slot), frame.squeeze(1).to(ring.dtype))


def rings(context: Context) -> list[Mix]:
    """Returns each time layer's view of the context."""
    angle = time_angles(-context.age, context.keys[0].shape[-1], context.last.dtype)
    mask = F.pad(context.valid, (0, 1), value=True).unsqueeze(1)
    return [Ring(key, value, angle, mask) for key, value in zip(context.keys, context.values, strict=True)]


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys; which tokens meet is the caller's `mix`."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        head_dim = width // heads
        self.sizes = (heads, kv_heads, kv_heads)
        self.project = nn.Linear(width, sum(self.sizes) * head_dim, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_dim))
        self.key_scale = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mixed tokens [b t s d] and what a ring would keep: un-rotated keys and values [b t s g e]."""
        heads = rearrange(self.project(x), "b t s (h e) -> b t s h e", h=sum(self.sizes))
        query, key, value = heads.split(self.sizes, dim=3)
        query, key = normalise(query) * self.query_scale, normalise(key) * self.key_scale
        mixed = mix(query, key, value)
        return self.out(rearrange(mixed, "b t s h e -> b t s (h e)")), key, value
