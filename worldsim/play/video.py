"""A video file that is there whole or not at all, written frame by frame in constant memory.

Here so that play without a display leaves something to look at. Leaves out sound and reading.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np

SMALLEST_SIDE = 256  # pixels; players blur what they have to enlarge
# A macro block of 1 keeps imageio from resizing; `enlarge` makes the sides even, as the codecs want.
_FFMPEG: dict[str, Any] = {"macro_block_size": 1, "ffmpeg_log_level": "quiet"}
_VP9 = ["-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "4"]
FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": _FFMPEG | {"quality": 8},
    ".webm": _FFMPEG | {"codec": "libvpx-vp9", "quality": None, "output_params": _VP9},
    ".gif": {"loop": 0},  # for ever
}


class VideoWriter:
    """Writes uint8 frames `[H W 3]` to an mp4, webm or gif, enlarged by a whole number; a context manager."""

    def __init__(self, path: str | Path, fps: float):
        self.path, self._fps = Path(path), fps
        if self.path.suffix not in FORMATS:
            raise ValueError(f"expected out= to end in {', '.join(FORMATS)}, found {path}")
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._num_frames = 0
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rate: dict[str, Any] = {"duration": 1000 / self._fps} if self.path.suffix == ".gif" else {"fps": self._fps}
        self._writer = imageio.get_writer(self._partial, mode="I", **rate, **FORMATS[self.path.suffix])
        return self

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame."""
        self._num_frames += 1
        try:
            self._writer.append_data(enlarge(frame))
        except OSError as error:
            raise self._failure() from error

    def __exit__(self, kind: Any, *exception: Any) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._check_whole()
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        """Counts the frames in the file: what goes wrong at its end, as on a full disk, nobody else reports."""
        try:
            is_whole = imageio_ffmpeg.count_frames_and_secs(str(self._partial))[0] == self._num_frames
        except RuntimeError as error:
            raise self._failure() from error
        if not is_whole:
            raise self._failure()

    def _failure(self) -> OSError:
        free = shutil.disk_usage(self.path.parent).free // 1024
        return OSError(f"cannot write all of {self.path} ({free} KiB are free); free some space or choose another out=")


def enlarge(frame: np.ndarray) -> np.ndarray:
    """Repeats pixels until both sides have at least 256; a last odd row or column is doubled."""
    factor = -(-SMALLEST_SIDE // min(frame.shape[:2]))
    large = frame.repeat(factor, 0).repeat(factor, 1)
    return np.pad(large, ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)), mode="edge")
