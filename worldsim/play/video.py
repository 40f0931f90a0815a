"""A video file that is there whole or not at all, written frame by frame in constant memory.

Here so that play without a display leaves something to look at. Leaves out sound and reading.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

SMALLEST_SIDE = 256  # pixels; players blur what they have to enlarge
VP9 = ["-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "4"]
PALETTES = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"  # a frame's own colours
FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": {"quality": 8},
    ".webm": {"codec": "libvpx-vp9", "quality": None, "output_params": VP9},
    ".gif": {"codec": "gif", "quality": None, "pix_fmt_out": "pal8", "output_params": ["-filter_complex", PALETTES]},
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
        return self

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame."""
        large = np.ascontiguousarray(enlarge(frame))
        try:
            if self._writer is None:
                self._writer = self._open(large.shape[1::-1])
            self._num_frames += 1
            self._writer.send(large)
        except OSError as error:
            raise self._failure() from error

    def _open(self, size: tuple[int, int]) -> Any:
        # A macro block of 1 keeps the sides, which `enlarge` made even, as the codecs want them.
        options = FORMATS[self.path.suffix] | {"macro_block_size": 1, "ffmpeg_log_level": "quiet"}
        writer = imageio_ffmpeg.write_frames(str(self._partial), size, fps=self._fps, **options)
        writer.send(None)
        return writer

    def __exit__(self, kind: Any, *exception: Any) -> None:
        try:
            if self._writer is not None:
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
