"""uint8 pixels to floats in [-1, 1] and back, and resizing.

Here because the two representations may meet in one place only, so that rounding is right everywhere.
Leaves out colour spaces and video files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """Maps uint8 frames `[... H W 3]` to float32 images `[... 3 H W]` in [-1, 1]."""
    return rearrange(frames, "... H W rgb -> ... rgb H W").float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Maps images `[... 3 H W]` to uint8 frames `[... H W 3]`, rounding; values beyond [-1, 1] are clipped."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(levels, "... rgb H W -> ... H W rgb").contiguous()


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Resizes uint8 frames `[... H W 3]`, antialiased bilinear; frames of that size come back as they are.

    By torch's own kernel for bytes, a dozen times as fast as by way of floats, and within one level of that.
    """
    if tuple(frames.shape[-3:-1]) == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2)
    small = F.interpolate(flat, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return small.permute(0, 2, 3, 1).reshape(*frames.shape[:-3], height, width, 3)
