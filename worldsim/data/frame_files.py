"""Videos and folders of pictures as streams of frames.

Here so that import never holds a video in memory, decodes it once, and knows when each of its frames is shown.
Leaves out actions (`action_files`), their clocks (`action_clocks`), and episodes (`importer`).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
PICTURES = (".png", ".jpg", ".jpeg")
FASTEST = 240  # frames a second; browsers write webm files that claim 1000, for lack of knowing
JITTER = 0.25  # of a frame: as far a time stamp may be off its place; half a tick of webm at 240 frames/s is 0.12
SCALE = "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"  # antialiased like `pixels.resize`
_CUT = re.compile(rb"F=0x[0-9A-Fa-f]*[4-7C-Fc-f]\b")  # ffmpeg's flag of a frame that a trimmed video still holds
MISSING = -(2**63)  # ffmpeg's time stamp of a frame without one


class Miscount(ValueError):
    """A video has another number of frames than expected, which may be the container's fault: decoding tells."""


@dataclass(frozen=True)
class Take:
    """An uninterrupted run of frames at a constant rate: a video, or the pictures of a folder."""

    path: Path
    slots: np.ndarray  # int64 [n]: from which frame on each decoded one is shown; of a constant rate 0, 1, 2 ...
    fps: float | None  # None where nobody says
    rate: float | None = None  # the same, exactly as the time stamps have it: 29.97003 where fps is 29.97
    times: np.ndarray | None = None  # seconds [n] of the decoded frames; None where they are constant
    pictures: tuple[Path, ...] = ()
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height of what is kept of a frame

    @property
    def is_resampled(self) -> bool:
        return self.times is not None

    @property
    def num_frames(self) -> int:
        return int(self.slots[-1]) + 1

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yields `num_frames` frames, uint8 `[H W 3]` of one size, and of a video no side larger than `size`.

        Raises ValueError naming a damaged file, and Miscount at the end of a video that has other than `slots`.
        """
        decoded: Iterator[np.ndarray]
        if self.pictures:
            decoded = map(self.cut, _read_pictures(self.pictures))
        else:
            decoded = _read_video(self.path, len(self.slots), size, self.crop)
        repeats = np.diff(self.slots, append=self.num_frames).tolist()  # 0 where the next one is shown as early
        return (frame for frame, count in zip(decoded, repeats, strict=True) for _ in range(count))

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """Returns what is kept of a frame `[H W 3]`."""
        if self.crop is None:
            return frame
        x, y, width, height = self.crop
        return frame[y : y + height, x : x + width]


def find_files(source: Path) -> list[Path]:
    """Returns a video, a folder's videos, or a folder's pictures, in natural order: frame 10 after frame 9.

    Raises ValueError where there are none.
    """
    if source.is_file():
        if source.suffix.lower() not in VIDEOS:
            raise ValueError(f"expected a video ({', '.join(VIDEOS)}) or a folder, found {source}")
        return [source]
    files = sorted((path for path in source.iterdir() if path.name[0] != "."), key=natural)
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if bool(videos) == bool(pictures):
        found = "both" if videos else "neither"
        raise ValueError(f"expected pictures ({', '.join(PICTURES)}) or videos in {source}, found {found}")
    return videos or pictures


def open_takes(files: list[Path], fps: float | None = None, decode: bool = False) -> list[Take]:
    """Returns a take for each video, or one for all pictures; `fps` is for videos of variable rate.

    Frames are counted by the container's word, in no time, or by decoding them. Raises ValueError for what is no video.
    """
    if files[0].suffix.lower() in PICTURES:
        return [Take(files[0].parent, np.arange(len(files)), None, pictures=tuple(files))]
    return [_open_video(path, fps, decode) for path in files]


def natural(path: Path) -> list[tuple[int, str]]:
    """Returns what to sort files by, so that 10 comes after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]


def _open_video(path: Path, fps: float | None, decode: bool) -> Take:
    times = _read_times(path, decode)
    stated, steps = _stated_rate(path), len(times) - 1
    measured = steps / times[-1] if times[-1] else 0.0
    if np.ptp(times * measured - np.arange(steps + 1)) <= 2 * JITTER:  # every frame within JITTER of an even grid
        agree = abs(stated / measured - 1) <= 0.005 + 0.5 / steps
        rate = stated if agree else round(measured, 2)
        return Take(path, np.arange(steps + 1), rate if 0 < rate <= FASTEST else None, measured)
    rate = fps or (stated if 0 < stated <= FASTEST else None)
    if rate is None:
        raise ValueError(f"expected the rate of {path}, whose frames are unequally long, found none in it; give fps=")
    slots = np.floor(times * rate + JITTER).astype(np.int64)  # a little early is in time
    return Take(path, slots, rate, rate, times)


def _stated_rate(path: Path) -> float:
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        return float(next(reader)["fps"])
    finally:
        reader.close()


def _read_times(path: Path, decode: bool) -> np.ndarray:
    """Returns the seconds from the first frame at which each is shown, ascending."""
    how = ["-vf", "scale=16:16", "-enc_time_base", "demux"] if decode else ["-c:v", "copy"]
    with tempfile.TemporaryFile() as errors:
        command = _ffmpeg(path, *how, "-f", "framecrc")
        text = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        bases = re.findall(rb"#tb 0: (\S+)", text.stdout)
        shown = [line for line in text.stdout.splitlines() if line[:2] == b"0," and not _CUT.search(line)]
        rows = np.array([line.split(b",")[1:3] for line in shown]).astype(np.int64).reshape(-1, 2)
        _check_ended(path, text.returncode, errors, len(rows) if decode else 0)
    if len(rows) < 2:
        raise ValueError(f"expected 2 or more frames in {path}, found {len(rows)}")
    dts, pts = rows.T
    ticks = np.sort(dts if (pts == MISSING).any() else pts)  # avi keeps no times, only the order
    return (ticks - ticks[0]) * float(Fraction(bases[0].decode()))


def _ffmpeg(path: Path, *output: str) -> list[str]:
    """Returns the command that passes a video's every frame once, whatever its time stamps, up to the first error."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}"]
    return [*command, "-map", "0:v:0", "-fps_mode", "passthrough", *output, "pipe:1"]


def _check_ended(path: Path, code: int, errors: IO[bytes], num_frames: int) -> None:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    if lines or code:
        reason = re.sub(r"^\[.*?\] ", "", lines[0]) if lines else f"ffmpeg ended with {code}"
        raise ValueError(f"{path} is damaged or no video after {num_frames} frames: {reason}")


def _read_video(
    path: Path, num_frames: int, size: int | None, crop: tuple[int, int, int, int] | None = None
) -> Iterator[np.ndarray]:
    """Yields frames that ffmpeg has cropped, made RGB of 8 bits, and smaller where they are larger than `size`."""
    sides = "" if size is None else f"w='min(iw,{size})':h='min(ih,{size})':"
    cut = "" if crop is None else "crop={2}:{3}:{0}:{1}:exact=1,".format(*crop)
    filters = ["-vf", f"{cut}scale={sides}{SCALE},format=rgb24,settb=1,setpts=N", "-enc_time_base", "1:1"]
    command, count = _ffmpeg(path, *filters, "-f", "image2pipe", "-c:v", "ppm"), 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None  # it is a pipe
        try:
            while (frame := _read_ppm(process.stdout)) is not None and count < num_frames:
                yield frame
                count += 1
            if frame is None:
                _check_ended(path, process.wait(), errors, count)
        finally:
            process.kill()
    if frame is not None or count < num_frames:
        raise Miscount(
            f"expected {num_frames} frames in {path}, as it says, found {'more' if frame is not None else count}"
        )


def _read_ppm(stream: IO[bytes]) -> np.ndarray | None:
    """Returns the next picture, whose sides it says itself, so that a rotated video needs no thought."""
    magic, sides, _ = stream.readline(), stream.readline().split(), stream.readline()
    width, height = map(int, sides) if magic == b"P6\n" and len(sides) == 2 else (0, 0)
    pixels = stream.read(width * height * 3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3) if 0 < len(pixels) == width * height * 3 else None


MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # Pillow's, of up to 8 bits a channel


def read_picture(path: Path, data: bytes | None = None) -> np.ndarray:
    """Returns a picture, uint8 `[H W 3]`, as a viewer turns it: grey to RGB, transparency goes; `data` in its place.

    Raises ValueError (one sentence) for what is no picture, and for more than 8 bits or several pictures.
    """
    try:
        with Image.open(path if data is None else BytesIO(data)) as picture:
            count = getattr(picture, "n_frames", 1)
            if picture.mode not in MODES or count != 1:
                raise ValueError(f"expected one of 8-bit RGB or grey, found {count} of mode {picture.mode}")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow says SyntaxError of a broken PNG
        raise ValueError(f"cannot read {path} as a picture: {str(error).splitlines()[0]}") from None


def _read_pictures(paths: tuple[Path, ...]) -> Iterator[np.ndarray]:
    first = None
    for path in paths:
        frame = read_picture(path)
        first = frame.shape if first is None else first
        if frame.shape != first:
            sides = [f"{shape[1]}x{shape[0]}" for shape in (first, frame.shape)]
            raise ValueError(f"expected {path} to have {sides[0]} pixels like {paths[0].name}, found {sides[1]}")
        yield frame
