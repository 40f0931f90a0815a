"""Contact sheets: many frames in one picture.

Here because a number that looks fine over frames that look wrong is wrong.
Leaves out plots, which the report draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def contact_sheet(frames: Sequence[np.ndarray], columns: int, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Lays uint8 frames `[H W 3]` out row by row, `columns` a row, on white; returns one uint8 image."""
    big = [np.repeat(np.repeat(frame, scale, 0), scale, 1) for frame in frames]
    height, width, _ = big[0].shape
    rows = -(-len(big) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(big):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = frame
    return sheet
