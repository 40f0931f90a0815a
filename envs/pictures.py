"""What an array of a game is as a picture: which of its values are black and white, and where its colours lie.

Here because a wrong guess makes black frames without a word: what is not certain is refused in one sentence.
Leaves out resizing (`worldsim.pixels`) and where arrays come from (`generic`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

SMALLEST = 32  # pixels a side; smaller arrays are maps of cells (MiniGrid: 7x7), not pictures


@dataclass(frozen=True)
class Layout:
    """Where colours lie: `HWC` or `CHW` of 3 colours or 1, or `HW`."""

    order: str

    def rgb(self, array: np.ndarray) -> np.ndarray:
        """Returns an array as `[H W 3]`."""
        array = np.moveaxis(array, 0, -1) if self.order == "CHW" else array
        array = array[..., None] if self.order == "HW" else array
        return np.broadcast_to(array, (*array.shape[:2], 3))


def layout_of(shape: tuple[int, ...], smallest: int = SMALLEST) -> Layout | None:
    """Returns where colours lie in an array of this shape, or None where it is no picture, or a stack of several."""
    if len(shape) == 2 and min(shape) >= smallest:
        return Layout("HW")
    if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= smallest:
        return Layout("HWC")
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= smallest:
        return Layout("CHW")
    return None


def range_of(space: gym.spaces.Box) -> tuple[float, float] | None:
    """Returns a space's darkest and brightest value, or None where its bounds do not say: infinite, or not alike."""
    low, high = np.unique(space.low), np.unique(space.high)
    if space.dtype == np.uint8:  # bounds within bytes are often those of what was seen
        return (0.0, 1.0) if high.max() == 1 else (0.0, 255.0)
    if len(low) != 1 or len(high) != 1 or not np.isfinite([low[0], high[0]]).all():
        return None
    return float(low[0]), float(high[0])


def range_of_values(array: np.ndarray) -> tuple[float, float] | None:
    """Returns the darkest and brightest value that a picture's values tell for certain, or None."""
    if array.dtype == np.uint8:
        return 0.0, 255.0
    if array.dtype == bool:
        return 0.0, 1.0
    low, high = float(array.min()), float(array.max())
    if low < 0:
        return (-1.0, 1.0) if low >= -1 and high <= 1 else None
    if np.issubdtype(array.dtype, np.floating) and high <= 1:  # all 0 or 1 may also be the darkest of 0 to 255
        return (0.0, 1.0) if ((array > 0) & (array < 1)).any() else None
    if array.dtype == np.uint16:  # may be of 255 or of 65535
        return (0.0, 65535.0) if high > 255 else None
    return (0.0, 255.0) if 1 < high <= 255 else None


def to_bytes(array: np.ndarray, values: tuple[float, float], game: str) -> np.ndarray:
    """Returns values between the darkest and the brightest as uint8, rounded. Raises ValueError for others."""
    if array.dtype == np.uint8 and values == (0.0, 255.0):
        return array
    low, high = values
    found = array.min(), array.max()
    if not (np.isfinite(found).all() and low - 1e-6 <= found[0] and found[1] <= high + 1e-6):
        raise ValueError(
            f"expected {game}'s pictures to have values from {low:g} to {high:g}, found {found[0]:g} to {found[1]:g}; "
            "give game.range=[darkest,brightest]"
        )
    return np.rint((array.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def read_range(given: Any) -> tuple[float, float] | None:
    """Returns `game.range`. Raises ValueError where it is no pair of rising numbers."""
    if given is None:
        return None
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"expected game.range=[darkest,brightest], two rising numbers, found {given}")
    return low, high
