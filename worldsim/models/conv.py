"""The stacked-latent convolutional backbone: a residual network over the last frames' latents, all at one resolution.

Here as the default on two cores: it learns textured motion in minutes where a small transformer does not.
Leaves out memory beyond the frames it sees, down- and upsampling (latents are 8x8 already) and attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.layers import ResidualBlock, level_features, zero_init
from worldsim.models.stack import Stack
from worldsim.types import Stream

LEVEL_FEATURES = 32


@dataclass(frozen=True)
class ConvBackboneConfig:
    """Sizes of a `ConvBackbone`, which sees the last `window` frames, and of those before the ones of ages `older`."""

    latent_shape: tuple[int, int, int]
    action_width: int
    window: int = 4
    width: int = 128
    depth: int = 6
    condition_width: int = 256
    told: int = 0  # channels beside the latents, of what a forecaster says
    older: tuple[int, ...] = ()  # the frame before has age 1

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"expected a window of at least 1 past frame, found {self.window}")
        if any(older <= newer for newer, older in pairwise((self.window, *self.older))):
            raise ValueError(f"expected older= frames of growing ages above window={self.window}, found {self.older}")

    @property
    def ages(self) -> tuple[int, ...]:
        """The ages of all frames that it sees, the newest first."""
        return (*range(1, self.window + 1), *self.older)


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
        self.embed_past = nn.Linear(len(config.ages) * (config.action_width + 2), config.condition_width)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(config.condition_width, config.condition_width), nn.SiLU())
        size = 1 if config.told > c else 3  # a frame that was moved, told with what it leaves open, is in place already
        inputs = (len(config.ages) + 1) * c + config.told
        self.stem = nn.Conv2d(inputs, config.width, size, padding=size // 2)
        # Where a position is: latents need not say, as the codec keeps what never changes to itself.
        self.position = nn.Parameter(torch.zeros(config.width, h, w))
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.condition_width) for _ in range(config.depth))
        self.norm = nn.GroupNorm(8, config.width)
        self.head = zero_init(nn.Conv2d(config.width, c, 3, padding=1))
        self.feature_width = config.width

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor]:
        """Computes every target frame `[b n c h w]` from the history frames before it; see `types.Backbone`."""
        n = target.latents.shape[1]
        goal = torch.zeros_like(target.level) if target.target_level is None else target.target_level
        parts = (target.latents, target.level, goal, target.action)
        x, level, goal, action = (rearrange(part, "b n ... -> (n b) ...") for part in parts)
        out, features = self.read(x, level, goal, action, Stack.before(history, n, self.config.ages[-1]))
        return rearrange(out, "(n b) ... -> b n ...", n=n), rearrange(features, "(n b) ... -> b n ...", n=n)

    def start(self, rows: int) -> Stack:
        """Returns an empty history for `rows` rows."""
        like = self.stem.weight.new_zeros(rows, *self.config.latent_shape)
        return Stack.empty(like, self.config.ages[-1], self.config.action_width)

    def read(
        self, x: Tensor, level: Tensor, target_level: Tensor, action: Tensor, context: Stack
    ) -> tuple[Tensor, Tensor]:
        """Returns the output `[b c h w]` and features `[b d h w]` for one frame; see `types.Backbone`."""
        past, facts = context.seen(self.config.ages)
        levels = torch.cat((level_features(level), level_features(target_level)), -1).to(x.dtype)
        condition = self.condition(self.embed_action(action) + self.embed_levels(levels) + self.embed_past(facts))
        h = self.stem(torch.cat((x, past), 1)) + self.position
        for block in self.blocks:
            h = block(h, condition)
        features = F.silu(self.norm(h))
        return self.head(features), features

    def append(self, x: Tensor, level: Tensor, action: Tensor, context: Stack) -> Stack:
        """Returns the history with one more frame and the oldest gone."""
        return context.push(x, level, action)
