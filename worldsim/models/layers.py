"""The few layers that more than one network uses: residual convolution blocks, FiLM, embeddings of noise levels.

Here so that the codec, the backbones and the warp are written in the same words.
Leaves out attention, of which transformer and U-Net each have their own.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", nn.Linear, nn.Conv2d)


def zero_init(module: M) -> M:
    """Sets weight and bias to zero, so that a residual branch or a gate starts as nothing; returns the module."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResidualBlock(nn.Module):
    """x + conv(silu(film(conv(silu(norm(x)))))): two 3x3 convolutions; FiLM where a condition is given."""

    def __init__(self, width: int, condition_width: int = 0):
        super().__init__()
        self.norm = nn.GroupNorm(min(8, width), width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.film = zero_init(nn.Linear(condition_width, 2 * width)) if condition_width else None
        self.conv2 = zero_init(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps `x [b width h w]`, condition `[b condition_width]` to `[b width h w]`."""
        y = self.conv1(F.silu(self.norm(x)))
        if self.film is not None:
            scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
            y = y * (1 + scale) + shift
        return x + self.conv2(F.silu(y))


def level_features(level: Tensor, count: int = 16) -> Tensor:
    """Returns Fourier features `[... 2 count]` of levels in [0, 1], a quarter to `count / 4` periods, in float32."""
    frequencies = torch.arange(1, count + 1, device=level.device, dtype=torch.float32) * (math.pi / 2)
    angles = level.float().unsqueeze(-1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1)
