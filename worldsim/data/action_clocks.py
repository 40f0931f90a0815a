"""Columns of an action file that are clocks: never an action, but what says at which frame a row stands.

Here because rows are matched with frames by their order alone only where nothing in the file says otherwise.
Leaves out reading (`action_files`) and frames (`frame_files`).

A clock never decreases within an episode and has more than two values. `timestamp` and `time` are seconds from the
video's first frame, and a row's action led from the frame shown at that time to the next one: where a video is of
variable rate, or has other than a row for each frame, rows follow them. An action holds until the next row; rewards,
ends and the mouse's movements count once, at the step to the next frame. Frame numbers must count the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldsim.data.frame_files import JITTER, Miscount, Take

SECONDS = ("timestamp", "time")
NUMBERS = ("frame", "frame number", "frame index", "frame id", "step", "index", "unnamed: 0", "")
CLOCKS = (*SECONDS, *NUMBERS, "t")
SUSPICIOUS = 32  # rows; what rises in each of them is hardly an action


def is_clock(path: Path, name: str, plain: str, values: np.ndarray, starts: Sequence[int]) -> bool:
    """Returns whether a column is a clock. Raises ValueError where its name and its numbers disagree."""
    rises = np.delete(
        np.diff(values.astype(np.float64)), np.array(starts[1:], int) - 1
    )  # none from an episode to the next
    if plain not in CLOCKS:
        if len(values) >= SUSPICIOUS and (rises > 0).all():
            raise ValueError(
                f"expected actions in column {name!r} of {path}, found a number that rises with every row; call it "
                "timestamp (seconds) or frame if it is a clock, or leave it out"
            )
        return False
    if (rises >= 0).all() and len(np.unique(values)) > 2:
        return True
    if np.isin(values, (0, 1)).all() and (plain == "t" or (rises < 0).any()):
        return False
    raise ValueError(
        f"expected column {name!r} of {path} to be a clock, which never decreases within an episode, or a key, which "
        "is 0 or 1, found neither; give it another name, or leave it out"
    )


def check_numbers(path: Path, clocks: dict[str, np.ndarray], starts: Sequence[int], frames: int) -> None:
    """Raises ValueError where a column of frame numbers does not count the rows, each episode's or all, from 0 or 1."""
    for name, values in clocks.items():
        first, rows = values[0], np.arange(float(len(values)))
        episode_rows = rows - np.repeat(starts, np.diff([*starts, len(values)]))
        counted = values.astype(np.float64) - first
        wrong = (counted != rows) & (counted != episode_rows)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"expected column {name!r} of {path} to count the rows one by one, found {values[row]} in row "
                f"{row + 1}; give a row for each frame, or leave the column out"
            )
        if first not in ((0, 1) if len(values) == frames else (0,)):
            raise Miscount(
                f"expected column {name!r} of {path} to count from 0, or from 1 with a row for each of "
                f"{frames} frames, found {first} in the first of {len(values)} rows; number them so, or leave it out"
            )


def follow_clock(
    path: Path, columns: dict[str, np.ndarray], sums: Sequence[str], seconds: np.ndarray, take: Take
) -> dict[str, np.ndarray]:
    """Returns the columns with a row for each frame. Raises ValueError where the clock is not the video's."""
    frames, rate = take.num_frames, take.rate
    assert rate is not None  # pictures alone have none, and their rows are matched by order
    times = np.arange(frames) / rate if take.times is None else take.times
    early = JITTER * np.diff(times, prepend=times[0])
    source = np.searchsorted(times - early, seconds, side="right") - 1  # the decoded frame shown when a row was written
    if (np.diff(seconds) < 0).any():
        raise ValueError(f"expected the seconds of {path} to go on from episode to episode, found a smaller one")
    if source[0] != 0 or source[-1] < len(times) - 2 or seconds[-1] > times[-1] + 1 / rate:
        raise ValueError(
            f"expected the seconds of {path} to go from 0, the first frame of {take.path.name}, to the last one at "
            f"{times[-1]:.3f}, found {seconds[0]:.3f} to {seconds[-1]:.3f}"
        )
    shown = np.searchsorted(take.slots, np.arange(frames), side="right") - 1  # the decoded frame that a frame is
    held = np.searchsorted(source, shown, side="right") - 1
    steps = np.maximum(np.searchsorted(shown, source, side="right") - 1, 0)  # the step to the first frame after that
    return {
        name: np.bincount(steps, values, frames) if name in sums else values[held] for name, values in columns.items()
    }
