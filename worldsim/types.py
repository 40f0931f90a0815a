"""The shape legend, the values that cross module borders, and the protocols of the five parts.

Here so that every other module can speak of them without importing one another.
Leaves out everything that computes, but for copying and selecting rows of a state.

Shape legend: `b` rows (parallel worlds), `t` frames, `H W` pixels, `c h w` latent, `a` action vector, `d` features.
Frames are uint8, channels last, `[b t H W 3]`; latents are float, channels first, unit scale, `[b t c h w]`.
One action produces one frame: `action[:, i]` led to `latents[:, i]`. `level` is 0 for clean and 1 for pure noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, Self

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`denoise(x [b c h w], level [b], target_level [b]) -> clean [b c h w]`: the waist between samplers and networks."""

Noise = Callable[[int], Tensor]
"""`noise(i) -> [b c h w]`: the i-th standard normal draw of one sampler call; i = 0 is where sampling starts."""


def map_rows(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Applies `function` to every tensor of equally built dataclasses (or bare tensors); row dimension first."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if is_dataclass(first) and not isinstance(first, type):
        parts = {f.name: map_rows(function, *(getattr(tree, f.name) for tree in trees)) for f in fields(first)}
        return replace(first, **parts)
    if isinstance(first, tuple):
        return tuple(map_rows(function, *items) for items in zip(*trees, strict=True))
    return first


class Rows:
    """Mixin for dataclasses of tensors with a leading row dimension: a state is a value, never shared by accident."""

    def clone(self) -> Self:
        """Copies every tensor; the way to branch."""
        return map_rows(torch.clone, self)

    def select(self, rows: Tensor) -> Self:
        """Returns the given rows (a LongTensor, repeats allowed) as new storage."""
        return map_rows(lambda x: x.index_select(0, rows), self)

    def to(self, device: torch.device | str) -> Self:
        """Moves every tensor to a device."""
        return map_rows(lambda x: x.to(device), self)

    def put(self, rows: Tensor, other: Self) -> Self:
        """Returns this state with `rows` replaced by `other`, which has `len(rows)` rows; the rest is bit-identical."""
        return map_rows(lambda x, y: x.index_copy(0, rows, y), self, other)

    def where(self, mask: Tensor, other: Self) -> Self:
        """Returns this state with the rows of `mask` (bool `[b]`) as in `other`, of as many rows; waits for nothing."""
        return map_rows(lambda x, y: torch.where(mask.view(-1, *[1] * (x.dim() - 1)), y, x), self, other)


@dataclass(frozen=True)
class Stream(Rows):
    """Frames of a clip as one network input: noisy latents, each with its own level and the action that led to it."""

    latents: Tensor  # [b t c h w], already noised to `level`
    level: Tensor  # [b t]
    action: Tensor  # [b t a]
    valid: Tensor  # [b t] bool; False where there is no frame (before an episode's start, dropped history)
    target_level: Tensor | None = None  # [b t]; where the sampler steps to; None (history) means 0
    clean: Tensor | None = None  # [b t c h w], the latents before noise; None: they had none
    frames: Tensor | None = None  # uint8 [b t H W 3], what these show; None: what the codec decodes
    draft: Tensor | None = None  # [b t c h w], what an evaluation before made of these, NaN where none did


@dataclass(frozen=True)
class Clip(Rows):
    """Consecutive steps of one episode. Where a frame, an action or an outcome is unknown its mask says so."""

    latents: Tensor  # [b t c h w]
    action: Tensor  # [b t a]; the codec's null where no action led to the frame
    valid: Tensor  # [b t] bool; False before the episode's first frame
    reward: Tensor  # [b t] float32; reward of the transition into the frame
    terminated: Tensor  # [b t] bool
    known: Tensor  # [b t] bool; True where reward and terminated were recorded
    frames: Tensor | None = None  # uint8 [b t H W 3], where a forecaster looks at pictures
    varies: Tensor | None = None  # bool [b t h w], where the episode's frames differ, alike in all t; None: anywhere


@dataclass(frozen=True)
class Outcome(Rows):
    """What one step brought beside the frame."""

    reward: Tensor  # [b] float32
    terminated: Tensor  # [b] bool


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and detached scalars worth logging beside it."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class WorldInfo:
    """The facts of a world that are not weights: plain data, saved as they are in the bundle."""

    name: str
    game: str
    fps: float
    action_space: gym.Space | None
    frame_shape: tuple[int, int, int]
    keymap: dict | None = None
    discrete_table: np.ndarray | None = None  # [n k] packed actions
    provenance: dict = field(default_factory=dict)  # training episodes' hashes, command, commit, minutes, machine
    metrics: dict = field(default_factory=dict)


class Autoencoder(Protocol):
    """Frames to unit-scale latents and back, one frame at a time."""

    config: Any
    latent_shape: tuple[int, int, int]

    @property
    def bound(self) -> Tensor: ...  # [2 c 1 1]: the lowest and highest value each latent channel can take
    def encode(self, frames: Tensor) -> Tensor: ...  # [... H W 3] uint8 -> [... c h w]
    def decode(self, latents: Tensor) -> Tensor: ...  # [... c h w] -> [... H W 3] uint8
    def settle(self, latents: Tensor, before: Tensor) -> Tensor: ...  # [b c h w]; what stands still, as it was before
    def state_dict(self) -> dict[str, Any]: ...  # what a bundle keeps


class NoiseProcess(Protocol):
    """x = alpha(level) clean + sigma(level) noise, with level 0 clean and level 1 pure noise."""

    def alpha(self, level: Tensor) -> Tensor: ...
    def sigma(self, level: Tensor) -> Tensor: ...
    def log_snr(self, level: Tensor) -> Tensor: ...  # 2 log(alpha / sigma); infinite where one of them is 0
    def level_at(self, log_snr: Tensor) -> Tensor: ...  # its inverse, clamped to [0, 1]


class Grid(Protocol):
    """The levels a sampler stops at: a frozen value."""

    def levels(self, steps: int, process: NoiseProcess) -> list[float]: ...  # steps + 1 falling ones, 1 first, 0 last


@dataclass(frozen=True)
class Forecast(Rows):
    """What is expected of the next latents before any noise, and so what is left for diffusion to tell.

    With a spread that is the residual, (latent - mean) / spread (Yang et al. 2022), where the frame is open; elsewhere
    the mean stands. Without, it is the latent itself, and the mean is what a network that says nothing repeats.
    """

    mean: Tensor  # [... c h w]
    spread: Tensor | None = None  # [... c h w], above 0
    open: Tensor | None = None  # bool [... 1 h w], where the mean may be wrong altogether; None: everywhere
    told: Tensor | None = None  # [... d h w], for a network to see; with a spread, mean and spread are

    def residual(self, latent: Tensor) -> Tensor:
        """Returns what diffusion is about, for a latent `[... c h w]`; zeros where the mean stands."""
        if self.spread is None:
            return latent
        return self._where_open((latent - self.mean) / self.spread)

    def latent(self, residual: Tensor, followed: float = 1.0) -> Tensor:
        """Returns the latent of a residual `[... c h w]`; of what that adds to a mean, the share `followed`."""
        if self.spread is None:
            return residual
        return self.mean + followed * self._where_open(self.spread * residual)

    def beside(self, x: Tensor) -> Tensor:
        """Returns a network's input: x `[... c h w]` and what it is told; with a spread, mean and average spread."""
        if self.spread is None:
            return x if self.told is None else torch.cat((x, self.told.to(x.dtype)), -3)
        return torch.cat((x, self.mean.to(x.dtype), self.spread.mean(-3, keepdim=True).to(x.dtype)), -3)

    def _where_open(self, x: Tensor) -> Tensor:
        return x if self.open is None else x * self.open


class Forecaster(Protocol):
    """What is expected of the next frame, in two forms that agree: whole clips and one frame at a time.

    They differ only by what is remembered beside the last frames, which the second form builds up.
    """

    told: int  # channels that its forecasts add beside x, see `Forecast.beside`
    followed: float  # of what diffusion adds to a forecast's mean, the share that a dream takes

    def start(self, like: Tensor) -> Any: ...  # zeros [b c h w] -> an empty memory (tensors, rows first)
    def expect(self, action: Tensor, memory: Any) -> Forecast: ...  # of the next frame, [b c h w]
    def append(self, x: Tensor, level: Tensor, action: Tensor, memory: Any, clean: Tensor) -> Any: ...

    # one frame x, noised to `level` from `clean`, enters; returns the new memory, leaves the old one intact

    def foresee(self, history: Stream, action: Tensor) -> Forecast: ...

    # -> of the frames [b n c h w] at the history's end, given the actions [b n a] that lead to them

    def size(self, change: Tensor) -> Tensor: ...  # of a change of latents [... c h w], the loss [...]


class Backbone(Protocol):
    """A network over a history of frames, in two forms that compute the same: whole clips and one frame at a time.

    The history's frames stand before the target's last one: with `m` history frames and `n <= m + 1` target frames,
    target frame i stands at position m - n + 1 + i of the clip and sees history frames strictly before its position
    (as far as the window reaches), its own noisy latent, and its own action. History is never seen by itself in the
    future, and targets never see one another. Beside a target's latents may stand what a forecaster says of it. One
    whose config has `drafts` is told a target's draft, too.
    """

    config: Any
    feature_width: int

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor]: ...

    # target latents [b n c+told h w] -> out [b n c h w], features [b n d h w]

    def start(self, rows: int) -> Any: ...  # an empty context (a dataclass of tensors, rows first)

    def read(
        self, x: Tensor, level: Tensor, target_level: Tensor, action: Tensor, context: Any
    ) -> tuple[Tensor, Tensor]: ...

    # x [b c+told h w], level and target_level [b], action [b a] -> out [b c h w], features [b d h w]; writes nothing

    def append(self, x: Tensor, level: Tensor, action: Tensor, context: Any) -> Any: ...

    # one frame [b c h w] enters the history, at the level it really has; returns the new context, leaves the old intact

    def with_draft(self, context: Any, draft: Tensor) -> Any: ...

    # of a config with `drafts`: the context that knows a draft of the frame to tell [b c h w], NaN where there is none


class Sampler(Protocol):
    """Turns noise into a clean sample by calling `denoise`; remembers nothing."""

    def __call__(self, denoise: Denoise, process: NoiseProcess, shape: tuple[int, ...], noise: Noise) -> Tensor: ...
