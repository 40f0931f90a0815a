"""The causal space-time transformer: a backbone that sees frames as tokens and the past through time attention.

Here is the network in its two forms, whole clips and one frame at a time, which compute the same.
Leaves out attention and the ring of keys and values (attention.py), noise, and what the output means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldsim.models.attention import (
    Attention,
    Band,
    Context,
    Mix,
    Space,
    band_mask,
    normalise,
    precise,
    rings,
    space_angles,
    time_angles,
)
from worldsim.models.layers import level_features, zero_init
from worldsim.types import Stream

LEVEL_FEATURES = 32


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the network. A frame is (h/patch)(w/patch) spatial tokens, the registers and one action token."""

    latent_shape: tuple[int, int, int]  # c h w
    action_width: int
    width: int = 512
    depth: int = 10
    heads: int = 8
    kv_heads: int = 4
    time_layers: tuple[int, ...] = (2, 5, 8)  # the blocks that attend across time; the others attend within a frame
    window: int = 64  # frames a time layer sees, the current one included
    patch: int = 1
    registers: int = 4
    told: int = 0  # channels beside the latents, of what a forecaster says

    def __post_init__(self) -> None:
        for name in ("latent_shape", "time_layers"):  # lists, when they come from JSON or YAML
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_counts()
        self._check_heads()
        self._check_layers()

    def _check_counts(self) -> None:
        least = {"registers": 0, "window": 2, "told": 0}
        for name in ("action_width", "width", "depth", "heads", "kv_heads", "window", "patch", "registers", "told"):
            value, low = getattr(self, name), least.get(name, 1)
            _require(value >= low, f"{name} must be at least {low}, found {value}; raise it.")
        shape = self.latent_shape
        _require(
            len(shape) == 3 and min(shape) > 0, f"latent_shape must be (c, h, w), found {shape}; give three sizes."
        )
        fits = shape[1] % self.patch == 0 and shape[2] % self.patch == 0
        _require(fits, f"patch must divide the latent's {shape[1:]}, found {self.patch}; choose a divisor.")

    def _check_heads(self) -> None:
        fits = self.width % (4 * self.heads) == 0
        _require(fits, f"width must be a multiple of 4 * heads = {4 * self.heads}, found {self.width}; change one.")
        fits = self.heads % self.kv_heads == 0
        _require(fits, f"kv_heads must divide heads = {self.heads}, found {self.kv_heads}; choose a divisor.")

    def _check_layers(self) -> None:
        layers = self.time_layers
        known = len(layers) > 0 and set(layers) <= set(range(self.depth)) and list(layers) == sorted(set(layers))
        expected = f"time_layers must be increasing block indices below depth = {self.depth}"
        _require(known, f"{expected}, found {layers}; list at least one such block.")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        return self.latent_shape[1] // self.patch, self.latent_shape[2] // self.patch

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) + self.registers + 1


@dataclass(frozen=True)
class _Frames:
    """What the network is told about each frame, [b t ...], with the latent before it."""

    latents: Tensor
    level: Tensor
    target_level: Tensor
    action: Tensor
    last: Tensor
    last_level: Tensor


class SwiGLU(nn.Module):
    """Gated MLP; hidden width 8/3 of the width, to the nearest 32: what a plain MLP of four times the width costs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(round(width * 8 / 3 / 32), 1) * 32
        self.wide = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.wide(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """Attention and MLP, both modulated: shared modulation plus this block's table (PixArt-alpha's adaLN-single)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads, config.kv_heads)
        self.mlp = SwiGLU(config.width)
        self.table = nn.Parameter(torch.zeros(6, config.width))

    def forward(self, x: Tensor, modulation: Tensor, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
        """Takes x [b t s d] and modulation [b t 6 d]; returns x and the keys and values of its attention."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + self.table).unsqueeze(3).unbind(2)
        mixed, key, value = self.attention(_modulate(x, shift, scale), mix)
        x = x + gate * mixed
        return x + mlp_gate * self.mlp(_modulate(x, mlp_shift, mlp_scale)), key, value


class Transformer(nn.Module):
    """The space-time transformer as a `Backbone` (types.py): at first its output is zero."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.feature_width = config, config.width
        width, values = config.width, config.latent_shape[0] * config.patch**2
        self.patch_in = nn.Linear(2 * values + config.told * config.patch**2, width)
        self.token_table = nn.Parameter(torch.randn(config.tokens, width) * 0.02)  # positions, registers, action token
        self.action_token = nn.Linear(config.action_width, width, bias=False)
        self.action_condition = nn.Linear(config.action_width, width, bias=False)
        self.level_condition = nn.Sequential(nn.Linear(4 * LEVEL_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = zero_init(nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = zero_init(nn.Linear(width, 2 * width))
        self.head = zero_init(nn.Linear(width, values))
        self.copy_gate = zero_init(nn.Linear(width, config.latent_shape[0]))

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor]:
        """Computes every target frame at once. -> out [b n c h w], features [b n d h w]"""
        self._check_streams(history, target)
        known = history.latents.shape[1]
        frames, position = _side_by_side(history, target, self.config.told)
        x, condition = self._embed(frames)
        mask = band_mask(position, history.valid, self.config.window)
        band = Band(time_angles(position, self.config.head_dim, precise(x.dtype)), mask)
        mixes = self._mixes([band] * len(self.config.time_layers))
        modulation = self._modulation(condition)
        split = self.config.time_layers[-1] + 1  # from here on nothing reads the history's tokens
        x, _ = self._run(range(split), x, modulation, mixes)
        x, modulation = x[:, known:], modulation[:, known:]
        x, _ = self._run(range(split, self.config.depth), x, modulation, mixes)
        return self._decode(x, condition[:, known:], frames.last[:, known:])

    def start(self, rows: int) -> Context:
        """Returns the context of rows that have seen no frame yet."""
        config, like = self.config, self.token_table
        shape = (rows, config.window - 1, config.tokens, config.kv_heads, config.head_dim)
        return Context(
            keys=tuple(like.new_zeros(shape) for _ in config.time_layers),
            values=tuple(like.new_zeros(shape) for _ in config.time_layers),
            last=like.new_zeros(rows, *config.latent_shape, dtype=precise(like.dtype)),
            last_level=like.new_ones(rows, dtype=precise(like.dtype)),
            count=torch.zeros(rows, dtype=torch.int64, device=like.device),
        )

    def read(
        self, x: Tensor, level: Tensor, target_level: Tensor, action: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Computes one frame after the context. -> out [b c h w], features [b d h w]"""
        frames = _one_frame(x, level, target_level, action, context)
        x, condition = self._embed(frames)
        mixes = self._mixes(rings(context))
        x, _ = self._run(range(self.config.depth), x, self._modulation(condition), mixes)
        out, features = self._decode(x, condition, frames.last)
        return out[:, 0], features[:, 0]

    def append(self, x: Tensor, level: Tensor, action: Tensor, context: Context) -> Context:
        """Returns a new context in which the frame x, noised to `level`, is the last; the old one stays as it is."""
        frames = _one_frame(_widen(x, self.config.told), level, torch.zeros_like(level), action, context)
        tokens, condition = self._embed(frames)
        layers = self.config.time_layers
        _, kept = self._run(range(layers[-1] + 1), tokens, self._modulation(condition), self._mixes(rings(context)))
        return context.push(x, level, [kept[i] for i in layers])

    def _check_streams(self, history: Stream, target: Stream) -> None:
        c, h, w = self.config.latent_shape
        for name, stream, told in (("history", history, 0), ("target", target, self.config.told)):
            sizes = (*stream.latents.shape[2:], stream.action.shape[-1])
            expected = (c + told, h, w, self.config.action_width)
            message = f"{name} must have latent sizes and action width {expected}, found {sizes}; check the config."
            _require(sizes == expected, message)
        known, wanted = history.latents.shape[1], target.latents.shape[1]
        found = f"found {wanted} and {known}; drop targets or add history"
        _require(1 <= wanted <= known + 1, f"target must have 1 to len(history) + 1 frames, {found}.")

    def _embed(self, frames: _Frames) -> tuple[Tensor, Tensor]:
        """Returns tokens [b t s d] and condition [b t d]."""
        dtype, patch = self.token_table.dtype, self.config.patch
        pixels = torch.cat([frames.latents, frames.last], dim=2).to(dtype)
        pixels = rearrange(pixels, "b t c (h p) (w q) -> b t (h w) (c p q)", p=patch, q=patch)
        action = frames.action.to(dtype)
        space = self.patch_in(pixels)
        registers = space.new_zeros(*space.shape[:2], self.config.registers, self.config.width)
        tokens = torch.cat([space, registers, self.action_token(action).unsqueeze(2)], dim=2) + self.token_table
        levels = (frames.level, frames.target_level, frames.level - frames.target_level, frames.last_level)
        features = torch.cat([level_features(level) for level in levels], dim=-1).to(dtype)
        return tokens, self.level_condition(features) + self.action_condition(action)

    def _modulation(self, condition: Tensor) -> Tensor:
        return rearrange(self.modulation(F.silu(condition)), "b t (k d) -> b t k d", k=6)

    def _mixes(self, times: Sequence[Mix]) -> list[Mix]:
        """Which tokens meet, block by block."""
        config, like = self.config, self.token_table
        space = Space(space_angles(*config.grid, config.registers + 1, config.head_dim, like))
        by_layer = dict(zip(config.time_layers, times, strict=True))
        return [by_layer.get(i, space) for i in range(config.depth)]

    def _run(
        self, layers: range, x: Tensor, modulation: Tensor, mixes: Sequence[Mix]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Runs some blocks; returns the tokens and each block's keys and values."""
        kept = []
        for i in layers:
            x, key, value = self.blocks[i](x, modulation, mixes[i])
            kept.append((key, value))
        return x, kept

    def _decode(self, x: Tensor, condition: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Reads the spatial tokens. -> out [b t c h w], which may draw on the last latent; features [b t d h w]"""
        (height, width), patch = self.config.grid, self.config.patch
        x = x[:, :, : height * width]
        features = repeat(normalise(x), "b t (h w) d -> b t d (h p) (w q)", h=height, p=patch, q=patch)
        condition = F.silu(condition)
        shift, scale = self.head_modulation(condition).unsqueeze(2).chunk(2, dim=-1)
        change = self.head(_modulate(x, shift, scale))
        change = rearrange(change, "b t (h w) (c p q) -> b t c (h p) (w q)", h=height, p=patch, q=patch)
        copied = self.copy_gate(condition).to(last.dtype)  # beyond what the denoiser keeps: noise is not worth it
        return change + copied[..., None, None] * last, features


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalise(x) * (1 + scale) + shift


def _side_by_side(history: Stream, target: Stream, told: int) -> tuple[_Frames, Tensor]:
    """Joins history [b m ...] and target [b n ...] in time; returns the frames and their positions [m+n]."""
    known, wanted = history.latents.shape[1], target.latents.shape[1]
    order = torch.arange(known + 1, device=history.latents.device)
    position = torch.cat([order[:known], order[known + 1 - wanted :]])
    before, before_level = _before(history)
    target_level = torch.zeros_like(target.level) if target.target_level is None else target.target_level
    frames = _Frames(
        latents=torch.cat([_widen(before[:, 1:], told), target.latents], dim=1),
        level=torch.cat([history.level, target.level], dim=1),
        target_level=torch.cat([torch.zeros_like(history.level), target_level], dim=1),
        action=torch.cat([history.action, target.action], dim=1),
        last=before[:, position],
        last_level=before_level[:, position],
    )
    return frames, position


def _widen(latents: Tensor, told: int) -> Tensor:
    """Returns latents [... c h w] with zeros where a target has what a forecaster says."""
    return F.pad(latents, (0, 0, 0, 0, 0, told))


def _before(history: Stream) -> tuple[Tensor, Tensor]:
    """Returns the frame ahead of each position [b m+1 c h w] and its level [b m+1]; none reads as zeros at level 1."""
    latents = torch.where(history.valid[:, :, None, None, None], history.latents, 0)
    level = torch.where(history.valid, history.level, 1)
    return F.pad(latents, (0, 0, 0, 0, 0, 0, 1, 0)), F.pad(level, (1, 0), value=1)


def _one_frame(x: Tensor, level: Tensor, target_level: Tensor, action: Tensor, context: Context) -> _Frames:
    parts = (x, level, target_level, action, context.last, context.last_level)
    return _Frames(*(part.unsqueeze(1) for part in parts))
