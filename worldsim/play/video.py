"""A video file that is there whole or not at all, written frame by frame in constant memory.

Here so that play without a display leaves something to look at. Leaves out sound and reading.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

SMALLEST_SIDE = 256  # pixels; players blur what they have to enlarge


class VideoWriter:
    """Writes uint8 frames `[H W 3]` to an mp4, enlarged by a whole number; a context manager."""

    def __init__(self, path: str | Path, fps: float):
        self.path, self._fps = Path(path), fps
        if self.path.suffix != ".mp4":
            raise ValueError(f"expected out= to end in .mp4, found {path}")
        self._partial = self.path.with_name(f".{self.path.stem}.partial.mp4")
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A macro block of 1 keeps imageio from resizing; `enlarge` makes the sides even, as the codec wants.
        self._writer = imageio.get_writer(
            self._partial, fps=self._fps, quality=8, macro_block_size=1, ffmpeg_log_level="error"
        )
        return self

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame."""
        try:
            self._writer.append_data(enlarge(frame))
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {' '.join(str(error).split())[-160:]}") from error

    def __exit__(self, kind: Any, *exception: Any) -> None:
        try:
            self._writer.close()
            if kind is None:
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def enlarge(frame: np.ndarray) -> np.ndarray:
    """Repeats pixels until both sides have at least 256; a last odd row or column is doubled."""
    factor = -(-SMALLEST_SIDE // min(frame.shape[:2]))
    large = frame.repeat(factor, 0).repeat(factor, 1)
    return np.pad(large, ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)), mode="edge")
