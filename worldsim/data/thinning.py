"""Takes with fewer frames, and less of each: what `frame_skip=` and `crop=` of an import do.

Here so that all formats share them. Leaves out resizing, which follows (`importer`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from worldsim.data.action_files import AXIS, CHOICE, EPISODE, KEY, REWARD, TERMINATED, ActionFile
from worldsim.data.frame_files import Take


@dataclass(frozen=True)
class Thinned(Take):
    """Some of a take's frames, in its order."""

    whole: Take | None = None
    kept: tuple[int, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.kept)

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yields the kept frames, uint8 `[H W 3]`."""
        assert self.whole is not None
        wanted = iter([*self.kept, None])
        following = next(wanted)
        for index, frame in enumerate(self.whole.frames(size)):
            if index == following:
                yield frame
                following = next(wanted)


def thin(
    take: Take, file: ActionFile | None, finals: Collection[int], skip: int, kinds: Mapping[str, str]
) -> tuple[Take, ActionFile | None]:
    """Returns every `skip`-th frame of each episode, and one row for the steps that became one.

    `kinds` says what each column is. A key pressed in any of them is pressed, what adds up (rewards, mouse) is summed,
    an axis is their mean, a choice the first. Where the game ended (`finals`), an episode's last frame stays; else what
    is left at its end goes, and an episode of a single frame with it.
    """
    if skip == 1:
        return take, file
    starts = file.starts if file else [0]
    kept: list[int] = []
    for start, stop in pairwise([*starts, take.num_frames]):
        frames = list(range(start, stop, skip))
        if stop - 1 in finals and frames[-1] != stop - 1:
            frames.append(stop - 1)
        kept += frames if len(frames) > 1 else []
    places = np.arange(len(kept))
    fewer = Thinned(take.path, places, take.fps, take.rate, pictures=take.pictures, whole=take, kept=tuple(kept))
    return fewer, None if file is None else _joined(file, np.array(kept), finals, kinds)


def _joined(file: ActionFile, kept: np.ndarray, finals: Collection[int], kinds: Mapping[str, str]) -> ActionFile:
    rows, starts = file.num_rows, np.array([*file.starts, 1 << 60])
    last_of = np.searchsorted(starts, kept, side="right")  # the episode of each kept frame, from 1
    following = np.append(kept[1:], 1 << 60)
    ends = np.where(
        np.append(last_of[1:] == last_of[:-1], False), following, kept + 1
    )  # an episode's last: its own row
    spans = [(min(a, rows - 1), max(min(b, rows), min(a, rows - 1) + 1)) for a, b in zip(kept, ends, strict=True)]
    columns = {name: _column(file, name, values, spans, kinds.get(name)) for name, values in file.columns.items()}
    if EPISODE in columns:
        columns[EPISODE] = last_of  # of two alike the one between them may be gone
    if TERMINATED in columns:
        columns[TERMINATED] = np.isin(kept, [*finals]).astype(np.int64)
    return replace(file, columns=columns, clocks={})


def _column(
    file: ActionFile, name: str, values: np.ndarray, spans: Sequence[tuple[int, int]], kind: str | None
) -> np.ndarray:
    join: Any = np.mean
    if name == REWARD or name in file.sums:
        join = np.sum
    elif kind == KEY:
        join = np.max
    elif name == EPISODE or kind == CHOICE:
        join = lambda part: part[0]  # noqa: E731
    joined = np.array([join(values[a:b]) for a, b in spans])
    # Whole numbers have a mean between them, and a sum beyond them.
    return joined if kind == AXIS or join is np.sum else joined.astype(values.dtype)


def check_crop(crop: Any, takes: Sequence[Take]) -> tuple[int, int, int, int] | None:
    """Returns x, y, width and height of what is kept of a frame. Raises ValueError where that is not all in view."""
    if crop is None:
        return None
    height, width = next(takes[0].frames()).shape[:2]
    try:
        numbers = list(crop) if not isinstance(crop, str) else crop.split(",")
        x, y, w, h = (int(str(number)) for number in numbers)
        if min(x, y) < 0 or min(w, h) < 8 or x + w > width or y + h > height:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"expected crop=[x,y,width,height], whole pixels within {width}x{height} and sides of at least 8, found "
            f"{crop}"
        ) from None
    return x, y, w, h
