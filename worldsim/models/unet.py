"""The U-Net backbone: fine resolution where things are small, width where it is cheap, over a stack of the last frames.

Here because a coin's way across a patch is another linear code at every pixel, which a network over 8x8 patches loses.
Leaves out memory beyond its window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.layers import ResidualBlock, level_features, zero_init
from worldsim.models.stack import Stack
from worldsim.models.words import VisualWords
from worldsim.types import Rows, Stream

LEVEL_FEATURES = 32
HEAD = 32  # channels of a head of attention
FLOWS = 2  # flow vectors along the side of a position of the level that tells them


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a `UNet`: a level for each of `widths`, the finest first, each half the size of the one before."""

    latent_shape: tuple[int, int, int]
    action_width: int
    window: int = 4
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1  # a level and side
    attention: bool = True  # among the positions of the coarsest level
    condition_width: int = 256
    words: int = 0  # kinds of patches counted in the newest past frame, see `words.VisualWords`
    drafts: bool = False  # whether they are counted in what the evaluation before made of the frame, too
    told: int = 0  # channels beside the latents, of what a forecaster says
    moved: int = 0  # side of a position's square of pixels, where a flow moves the newest frame; 0: none does

    def __post_init__(self):
        _, height, width = self.latent_shape
        if self.window < 1 or self.blocks < 1 or not self.widths:
            raise ValueError(f"expected a window, blocks and levels of at least 1, found {self}")
        if height % 2 ** (len(self.widths) - 1) or width % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"expected latents whose sides halve {len(self.widths) - 1} times, found {height}x{width}; "
                "take fewer widths or another size"
            )
        if self.attention and self.widths[-1] % max(1, self.widths[-1] // HEAD):
            raise ValueError(f"expected a last width that is a multiple of {HEAD}, found {self.widths[-1]}")
        if self.drafts and not self.words:
            raise ValueError("expected words to count in drafts, found words=0; set drafts=false")
        if self.moved < 0 or (self.moved and self.latent_shape[0] != 3 * self.moved**2):
            raise ValueError(
                f"expected latents that are squares of {self.moved}x{self.moved} RGB pixels, found "
                f"{self.latent_shape[0]} channels; set moved to the fold of folded pixels, or to 0"
            )


@dataclass(frozen=True)
class UNetContext(Rows):
    """The past of every row, and what every evaluation of a frame needs of it."""

    stack: Stack
    share: Tensor  # [b width h w], of the first convolution
    known: Tensor  # [b condition_width], of the condition


class UNet(nn.Module):
    """`Backbone` that goes down and up again with skips; levels and actions of all frames enter by FiLM.

    Skips add up (a 1x1 convolution before the upsampling fits the widths), so that no level pays for two. Missing
    history reads as zeros at level 1. Features are every level's, the finer ones as the largest of each position.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        c, h, w = config.latent_shape
        widths, condition = config.widths, config.condition_width
        self.embed_action = nn.Linear(config.action_width, condition)
        self.embed_levels = nn.Linear(2 * LEVEL_FEATURES, condition)
        self.embed_past = nn.Linear(config.window * (config.action_width + 2), condition)
        self.words = None
        if config.words:
            self.words = VisualWords(config.words, c)
            self.embed_words = nn.Sequential(
                nn.Linear(config.words, condition), nn.SiLU(), nn.Linear(condition, condition)
            )
            if config.drafts:
                self.embed_draft = nn.Sequential(
                    nn.Linear(config.words, condition),
                    nn.SiLU(),
                    zero_init(nn.Linear(condition, condition, bias=False)),
                )
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(condition, condition), nn.SiLU())
        self.stem = nn.Conv2d(c + config.told, widths[0], 3, padding=1)
        self.stem_past = nn.Conv2d(config.window * c, widths[0], 3, padding=1, bias=False)
        self.position = nn.Parameter(torch.zeros(widths[0], h, w))
        self.down = nn.ModuleList(_blocks(config, width) for width in widths)
        self.smaller = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.mix = Attention(widths[-1]) if config.attention else nn.Identity()
        self.up = nn.ModuleList(_blocks(config, width) for width in widths)
        self.larger = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths)
        self.head = zero_init(nn.Conv2d(widths[0], c, 3, padding=1))
        self.flow_level = min(1, len(widths) - 1)  # whose features see far enough, and tell things apart
        self.mover = Mover(widths[self.flow_level], config.moved) if config.moved else None
        self.feature_width = sum(widths)

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor]:
        """Computes every target frame `[b n c h w]` from the history frames before it; see `types.Backbone`."""
        n = target.latents.shape[1]
        goal = torch.zeros_like(target.level) if target.target_level is None else target.target_level
        parts = (target.latents, target.level, goal, target.action)
        x, level, goal, action = (rearrange(part, "b n ... -> (n b) ...") for part in parts)
        context = self.remember(Stack.before(history, n, self.config.window))
        if target.draft is not None:
            context = self.with_draft(context, rearrange(target.draft, "b n ... -> (n b) ..."))
        out, features = self.read(x, level, goal, action, context)
        return rearrange(out, "(n b) ... -> b n ...", n=n), rearrange(features, "(n b) ... -> b n ...", n=n)

    def start_from(self, latents: Tensor) -> None:
        """Finds the visual words of recorded `latents [n c h w]`, where they are counted."""
        if self.words is not None:
            self.words.start_from(latents)

    def start(self, rows: int) -> UNetContext:
        """Returns an empty history for `rows` rows."""
        like = self.stem.weight.new_zeros(rows, *self.config.latent_shape)
        return self.remember(Stack.empty(like, self.config.window, self.config.action_width))

    def read(
        self, x: Tensor, level: Tensor, target_level: Tensor, action: Tensor, context: UNetContext
    ) -> tuple[Tensor, Tensor]:
        """Returns the output `[b c h w]` and features `[b d h' w']` for one frame; see `types.Backbone`."""
        levels = torch.cat((level_features(level), level_features(target_level)), -1).to(x.dtype)
        condition = self.condition(self.embed_action(action) + self.embed_levels(levels) + context.known)
        h = self.stem(x) + context.share + self.position
        skips = []
        for i, blocks in enumerate(self.down):
            h = self.smaller[i - 1](h) if i else h
            h = _through(blocks, h, condition)
            skips.append(h)
        h, features, moved = self.mix(h), [], 0
        for i in reversed(range(len(self.up))):
            if i < len(self.larger):
                h = skips[i] + F.interpolate(self.larger[i](h), scale_factor=2.0, mode="nearest")
            h = _through(self.up[i], h, condition)
            told = F.silu(self.norms[i](h))
            features.append(F.max_pool2d(told, 2 ** (len(self.larger) - i)))
            if self.mover is not None and i == self.flow_level:
                moved = self.mover(told, context.stack.newest())
        return self.head(told) + moved, torch.cat(features, 1)

    def with_draft(self, context: UNetContext, draft: Tensor) -> UNetContext:
        """Returns the context with what a clean draft of the frame to tell `[b c h w]` counts, nothing where it is NaN.

        So places that decide alone learn what all of them have decided so far (self-conditioning, Chen et al. 2022).
        """
        assert self.words is not None  # a config with drafts has words
        told = draft.isfinite().flatten(1).all(1, keepdim=True)
        counted = self.embed_draft(self.words(draft.nan_to_num()))
        return replace(context, known=context.known + counted * told)

    def append(self, x: Tensor, level: Tensor, action: Tensor, context: UNetContext) -> UNetContext:
        """Returns the history with one more frame and the oldest gone."""
        return self.remember(context.stack.push(x, level, action))

    def remember(self, stack: Stack) -> UNetContext:
        """Returns the context whose past a stack is."""
        past, facts = stack.seen()
        known = self.embed_past(facts)
        if self.words is not None:
            known = known + self.embed_words(self.words(stack.latents[:, 0]) * stack.valid[:, :1])
        return UNetContext(stack, self.stem_past(past), known)


class Mover(nn.Module):
    """What a flow changes in a frame: how things move and grow is said by where their pixels come from.

    Sampled where the flow points (Jaderberg et al. 2015), bicubic; untrained, nothing moves.
    """

    def __init__(self, width: int, fold: int):
        super().__init__()
        self.fold = fold
        self.flow = zero_init(nn.Conv2d(width, 2 * FLOWS**2, 3, padding=1))

    def forward(self, features: Tensor, newest: Tensor) -> Tensor:
        """Returns by how much the newest frame's latent `[b c h w]` changes, as features `[b width h' w']` tell."""
        flow = F.pixel_shuffle(self.flow(features), FLOWS).to(newest.dtype)  # in pixels, x and y
        image = F.pixel_shuffle(newest, self.fold)
        height, width = image.shape[-2:]
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        x, y = (torch.arange(n, device=image.device, dtype=image.dtype) + 0.5 for n in (width, height))
        grid = torch.stack(((x + flow[:, 0]) * (2 / width) - 1, (y[:, None] + flow[:, 1]) * (2 / height) - 1), -1)
        with torch.autocast(image.device.type, enabled=False):
            moved = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
        return F.pixel_unshuffle(moved - image, self.fold)


class Attention(nn.Module):
    """x + attention among all positions of a frame: what is missing in one place may be told by all others."""

    def __init__(self, width: int, head_width: int = HEAD):
        super().__init__()
        self.heads = max(1, width // head_width)
        self.norm = nn.GroupNorm(8, width)
        self.project = nn.Conv2d(width, 3 * width, 1)
        self.out = zero_init(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x [b width h w]` to the same shape."""
        h = x.shape[-2]
        q, k, v = rearrange(self.project(self.norm(x)), "b (n g e) h w -> n b g (h w) e", n=3, g=self.heads)
        # So few positions are five times faster so than by the library's kernel (bf16 on a CPU, with gradient).
        mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return x + self.out(rearrange(mixed, "b g (h w) e -> b (g e) h w", h=h))


def _blocks(config: UNetConfig, width: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(width, config.condition_width) for _ in range(config.blocks))


def _through(blocks: nn.Module, h: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        h = block(h, condition)
    return h
