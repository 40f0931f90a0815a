"""Videos and folders of pictures as streams of frames.

Here so that import never holds a video in memory, and finds a damaged one before it writes anything.
Leaves out actions (`action_files`), sizes and episodes (`importer`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from tqdm import tqdm

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi")
PICTURES = (".png", ".jpg", ".jpeg")
FASTEST = 240  # frames a second; browsers write webm files that claim 1000, for lack of knowing


@dataclass(frozen=True)
class Take:
    """An uninterrupted run of frames: a video, or the pictures of a folder."""

    path: Path
    num_frames: int
    fps: float | None  # None where nobody says
    pictures: tuple[Path, ...] = ()

    def frames(self) -> Iterator[np.ndarray]:
        """Yields `num_frames` frames, uint8 `[H W 3]` of one size. Raises ValueError naming a damaged file."""
        return _read_pictures(self.pictures) if self.pictures else _read_video(self.path, self.num_frames)


def find_files(source: Path) -> list[Path]:
    """Returns a video, a folder's videos, or a folder's pictures, in natural order: frame 10 after frame 9.

    Raises ValueError where there are none.
    """
    if source.is_file():
        if source.suffix.lower() not in VIDEOS:
            raise ValueError(f"expected a video ({', '.join(VIDEOS)}) or a folder, found {source}")
        return [source]
    files = sorted((path for path in source.iterdir() if path.name[0] != "."), key=_natural)
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if bool(videos) == bool(pictures):
        found = "both" if videos else "neither"
        raise ValueError(f"expected pictures ({', '.join(PICTURES)}) or videos in {source}, found {found}")
    return videos or pictures


def open_takes(files: list[Path]) -> list[Take]:
    """Returns a take for each video, or one for all pictures.

    Raises ValueError where a video is damaged: to know, and to count its frames, each is decoded once.
    """
    if files[0].suffix.lower() in PICTURES:
        return [Take(files[0].parent, len(files), None, tuple(files))]
    return [_open_video(path) for path in files]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]


def _ffmpeg(path: Path, *output: str, stderr: int) -> subprocess.Popen:
    """Returns ffmpeg decoding a video's every frame once, whatever its time stamps, and ending at the first error."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}"]
    command += ["-map", "0:v:0", "-fps_mode", "passthrough", "-vf", "settb=1,setpts=N", "-enc_time_base", "1:1"]
    return subprocess.Popen(
        [*command, *output, "pipe:1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
    )


def _open_video(path: Path) -> Take:
    num_frames = 0
    with tqdm(desc=f"check {path.name}", unit="frame", leave=False, disable=None) as bar:
        process = _ffmpeg(path, "-f", "null", "-nostats", "-progress", "pipe:1", stderr=subprocess.PIPE)
        with process:
            for line in process.stdout:
                if line.startswith(b"frame="):
                    num_frames = int(line[6:])
                    bar.update(num_frames - bar.n)
            errors = process.stderr.read().decode(errors="replace").splitlines()
    if errors or process.returncode:
        reason = re.sub(r"^\[.*?\] ", "", errors[0]) if errors else f"ffmpeg ended with {process.returncode}"
        raise ValueError(f"{path} is damaged or no video after {num_frames} frames: {reason}")
    if num_frames < 2:
        raise ValueError(f"expected 2 or more frames in {path}, found {num_frames}")
    fps = float(iio.immeta(path, plugin="FFMPEG").get("fps") or 0)
    return Take(path, num_frames, fps if 0 < fps <= FASTEST else None)


def _read_video(path: Path, num_frames: int) -> Iterator[np.ndarray]:
    # PPM pictures say their own size, so that a rotated video needs no thought.
    process = _ffmpeg(path, "-f", "image2pipe", "-c:v", "ppm", stderr=subprocess.DEVNULL)
    try:
        for index in range(num_frames):
            magic, sides = process.stdout.readline(), process.stdout.readline().split()
            process.stdout.readline()
            width, height = map(int, sides) if magic == b"P6\n" else (0, 0)
            pixels = process.stdout.read(width * height * 3)
            if not width or len(pixels) < width * height * 3:
                raise ValueError(f"{path} had {num_frames} frames a moment ago, now it ends after {index}")
            yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    finally:
        process.kill()
        process.communicate()


def _read_pictures(paths: tuple[Path, ...]) -> Iterator[np.ndarray]:
    first = None
    for path in paths:
        try:
            frame = iio.imread(path)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow says SyntaxError of a broken PNG
            raise ValueError(f"cannot read {path} as a picture: {str(error).splitlines()[0]}") from None
        frame = np.stack([frame] * 3, -1) if frame.ndim == 2 else frame[..., :3]  # grey to RGB; transparency goes
        if frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            raise ValueError(f"expected 8-bit RGB or grey in {path}, found {frame.dtype} {list(frame.shape)}")
        first = frame.shape if first is None else first
        if frame.shape != first:
            sides = [f"{shape[1]}x{shape[0]}" for shape in (first, frame.shape)]
            raise ValueError(f"expected {path} to have {sides[0]} pixels like {paths[0].name}, found {sides[1]}")
        yield frame
