"""Desktop recordings in OWAMcap (open-world-agents) as takes with the keys and the mouse of each frame.

Here because large sets of gameplay are published so. An mcap file holds what happened when, as JSON; the frames are in
a video beside it. Leaves out frames that stand in the file itself, wheels and windows. Reading needs the package mcap,
which the extra `mcap` brings.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.action_files import ActionFile
from worldsim.data.frame_files import Take, natural, open_takes

SUFFIX = ".mcap"
KEYS = {  # Windows' numbers of keys to the names of our columns
    **{code: chr(code).lower() for code in (*range(48, 58), *range(65, 91))},
    **{112 + i: f"f{i + 1}" for i in range(12)},
    **dict(zip(range(37, 41), ("left", "up", "right", "down"), strict=True)),
    **{8: "backspace", 9: "tab", 13: "return", 16: "left_shift", 17: "left_ctrl", 18: "left_alt", 32: "space"},
    **{160: "left_shift", 161: "right_shift", 162: "left_ctrl", 163: "right_ctrl", 164: "left_alt", 165: "right_alt"},
}
BUTTONS = {  # Windows' flags of a raw mouse
    1 << (2 * i + (not down)): (name, down) for i, name in enumerate(("left", "right", "middle")) for down in (1, 0)
}
ABSOLUTE = 0x1  # a raw mouse that says where it is, not where it went


@dataclass
class Recording:
    """What an mcap file tells, in the order of time (nanoseconds)."""

    path: Path
    video: Path
    shown: np.ndarray  # int64 [n], when each frame was
    presented: np.ndarray  # int64 [n], where in the video
    pressed: list[tuple[int, str, int]] = field(default_factory=list)  # time, key or button, 1 down and 0 up
    moved: list[tuple[int, float, float]] = field(default_factory=list)  # time, pixels right and down


def find_mcap_files(source: Path) -> list[Path]:
    """Returns an mcap file, or those of a folder in natural order; none where there are none."""
    if source.is_file():
        return [source] if source.suffix.lower() == SUFFIX else []
    return sorted((path for path in source.iterdir() if path.suffix.lower() == SUFFIX), key=natural)


def read_mcap(paths: Sequence[Path], fps: float | None) -> tuple[list[Take], list[ActionFile | None]]:
    """Returns the take of each file, and a row for each of its frames; keys that nobody pressed are left out.

    None for rows where nobody touched keyboard or mouse in any file.

    Raises ValueError, in one sentence, naming the file that is damaged or has no video beside it.
    """
    recordings = [_read(path) for path in paths]
    names = sorted({name for recording in recordings for _, name, _ in recording.pressed})
    moves = any(recording.moved for recording in recordings)
    takes = [open_takes([recording.video], fps)[0] for recording in recordings]
    told = bool(names) or moves
    return takes, [_rows(recording, names, moves) if told else None for recording in recordings]


def _read(path: Path) -> Recording:
    frames: list[tuple[int, int, str]] = []
    pressed: list[tuple[int, str, int]] = []
    raw: list[tuple[int, float, float]] = []
    places: list[tuple[int, float, float]] = []
    try:
        for kind, time, message in _messages(path):
            if kind == "ScreenCaptured":
                media = message["media_ref"]
                frames.append((time, int(media["pts_ns"]), str(media["uri"])))
            elif kind == "KeyboardEvent" and (key := KEYS.get(int(message["vk"]))):
                pressed.append((time, key, int(message["event_type"] == "press")))
            elif kind == "RawMouseEvent":
                if not int(message.get("us_flags", 0)) & ABSOLUTE and (message["last_x"] or message["last_y"]):
                    raw.append((time, float(message["last_x"]), float(message["last_y"])))
                flags = int(message.get("button_flags", 0))
                pressed += [(time, f"mouse_{name}", down) for bit, (name, down) in BUTTONS.items() if flags & bit]
            elif kind == "MouseEvent":
                places.append((time, float(message["x"]), float(message["y"])))
                if message["event_type"] == "click" and message["button"] in ("left", "right", "middle"):
                    pressed.append((time, f"mouse_{message['button']}", int(bool(message["pressed"]))))
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"expected a desktop recording (OWAMcap) in {path}, found one that is not: {reason}"
        ) from error
    videos = {uri for *_, uri in frames}
    if len(videos) != 1 or (video := path.parent / videos.pop()).suffix.lower() not in (".mkv", ".mp4", ".webm"):
        raise ValueError(f"expected the frames of {path} in one video beside it, found {len(frames)} in {len(videos)}")
    if not video.is_file():
        raise ValueError(f"expected {path.name}'s video at {video}, found nothing there")
    shown, presented = np.array(sorted((time, pts) for time, pts, _ in frames), np.int64).T
    moved = raw or [(b[0], b[1] - a[1], b[2] - a[2]) for a, b in pairwise(places) if a[1:] != b[1:]]
    return Recording(path, video, shown, presented, sorted(pressed), moved)


def _messages(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields each message's kind, time and content."""
    try:
        from mcap.exceptions import McapError
        from mcap.reader import make_reader
    except ImportError as error:
        raise ImportError('mcap files need the package mcap: pip install "worldsim-rl[mcap]"') from error
    with open(path, "rb") as file:
        try:
            for schema, _, message in make_reader(file).iter_messages():
                kind = schema.name.rpartition("/")[2] if schema else ""
                yield kind, message.log_time, json.loads(message.data)
        except (McapError, struct.error) as error:  # the second is what the reader raises where a file is too short
            raise ValueError(f"it is damaged ({error})") from error


def _rows(recording: Recording, names: list[str], moves: bool) -> ActionFile:
    """Returns what was held and moved while each frame was the newest; a key tapped between two frames counts."""
    count = len(recording.shown)
    columns: dict[str, np.ndarray] = {name: np.zeros(count, np.int64) for name in names}
    held: dict[str, int] = {}  # the row since which a key is held
    for time, name, down in [*recording.pressed, *((recording.shown[-1] + 1, name, 0) for name in names)]:
        row = max(0, int(np.searchsorted(recording.shown, time, side="right")) - 1)
        if down:
            held.setdefault(name, row)
        elif name in held:
            first = held.pop(name)
            if time >= recording.shown[0]:  # what was over before led to no frame
                columns[name][first : row + 1] = 1
    if moves:
        for index, name in enumerate(("mouse_x", "mouse_y"), start=1):
            columns[name] = np.zeros(count)
            for step in recording.moved:
                row = int(np.searchsorted(recording.shown, step[0], side="right")) - 1
                if row >= 0:
                    columns[name][row] += step[index]
    seconds = (recording.presented - recording.presented[0]) * 1e-9
    return ActionFile(recording.path, columns, {"timestamp": seconds})
