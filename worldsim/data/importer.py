"""Recordings of other programs as a data folder: a world of one's own game without an environment.

Here as the place where the frames of a take meet the rows of its action file, and where an import becomes whole.
Leaves out Minari (`minari_sets`), decoding (`frame_files`), what columns mean (`action_files`) and their clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim import pixels
from worldsim.data.action_clocks import check_numbers, follow_clock
from worldsim.data.action_files import (
    EPISODE,
    REWARD,
    TERMINATED,
    ActionFile,
    ActionLayout,
    find_action_files,
    make_layout,
    read_actions,
)
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore
from worldsim.data.frame_files import Miscount, Take, find_files, open_takes
from worldsim.data.hdf5_files import find_hdf5_files, read_hdf5
from worldsim.data.index import FACTS
from worldsim.data.lerobot_sets import read_lerobot
from worldsim.data.mcap_files import find_mcap_files, read_mcap
from worldsim.data.recorder import DEFAULT_FPS
from worldsim.data.thinning import check_crop, thin
from worldsim.data.whole_folder import write_import
from worldsim.messages import check_whole

RESIZED_AT_ONCE = 64  # frames; as floats they take four times their bytes


@dataclass(frozen=True)
class Shape:
    """What becomes of the frames of an import, whatever their format."""

    size: int | None = 64  # they become size x size, whatever their aspect ratio; None leaves them as they are
    max_episode_steps: int | None = 1000  # longer takes are cut, the frame at the cut kept on both sides
    frame_skip: int = 1  # of so many frames one is kept
    crop: Any = None  # [x, y, width, height] that is kept of a frame, before it is resized

    def __post_init__(self):
        check_whole("size", self.size, 8, optional=True)
        check_whole("max_episode_steps", self.max_episode_steps, 1, optional=True)
        check_whole("frame_skip", self.frame_skip, 1)


@dataclass(frozen=True)
class LabelledTake:
    """A take, what its action file says, and the first and last frame of each of its episodes."""

    take: Take
    spans: list[tuple[int, int]]  # a frame at which a long episode is cut belongs to both sides
    actions: np.ndarray | None = None  # float64 [n k], packed; row i led from frame i to frame i + 1
    rewards: np.ndarray | None = None  # float32 [n]
    ends: frozenset[int] = frozenset()  # frames that the game ended with


def import_frames(
    source: Path,
    out: Path,
    actions: Path | None = None,
    fps: float | None = None,
    progress: Callable[[int, int], Any] = lambda frames, total: None,
    say: Callable[[str], Any] = print,
    **shape: Any,
) -> int:
    """Imports a video, a folder of videos, or a folder of pictures; returns how many frames were new in `out`.

    `actions` is a file, or for a folder of videos a folder of files of the same names. `shape` are the fields of
    `Shape`. `progress` hears how many frames of how many are done.
    `say` hears in a line each what was decided: columns left out, a variable rate made constant. Raises ValueError
    (one sentence) for what is damaged or does not fit; then nothing was written.
    """
    wanted = Shape(**shape)
    given_fps = None if fps is None else check_fps(fps)
    paths = find_files(source)  # actions first: videos take longer
    files = [None] * len(paths) if actions is None else [*map(read_actions, find_action_files(actions, source, paths))]
    _say_left_out(files, say)

    def run(decode: bool) -> int:
        takes = open_takes(paths, given_fps, decode)
        matched = [match(take, file) for take, file in zip(takes, files, strict=False)]
        _say_aligned(takes, files, say)
        return _write_takes(source, out, takes, matched, given_fps, wanted, progress)

    # The container's word costs nothing, and is found out at the end; what is appended to a whole folder stays there.
    decode = (out / FACTS).exists()
    try:
        return run(decode)
    except Miscount:
        if decode:
            raise
        return run(decode=True)


def _write_takes(
    source: Path,
    out: Path,
    takes: Sequence[Take],
    files: Sequence[ActionFile | None],
    fps: float | None,
    shape: Shape,
    progress: Callable[[int, int], Any],
) -> int:
    """Writes takes and what their action files say of them; returns how many frames were new."""
    crop, skip, size = check_crop(shape.crop, takes), shape.frame_skip, shape.size
    cropped = [replace(take, crop=crop) for take in takes]
    finals = [
        _final_frames(file, take.num_frames) if file else frozenset() for take, file in zip(takes, files, strict=True)
    ]
    known = [file for file in files if file is not None]
    layout = make_layout(known) if any(file.names for file in known) else ActionLayout(None, [])
    kinds = {column.name: column.kind for column in layout.columns}
    pairs = [thin(*part, skip, kinds) for part in zip(cropped, files, finals, strict=True)]
    if layout.columns:
        layout = make_layout([file for _, file in pairs if file is not None], kinds)  # what adds up goes farther
    labelled = [label(take, file, layout, shape.max_episode_steps) for take, file in pairs]
    info = DatasetInfo(
        game=source.resolve().stem,
        observation_shape=next(cropped[0].frames()).shape if size is None else (size, size, 3),
        action_space=layout.space,
        fps=(fps or common_fps(takes)) / skip,
        keymap=layout.keymap(),
        has_rewards=labelled[0].rewards is not None,
    )
    total = sum(last - first + 1 for part in labelled for first, last in part.spans)
    episodes = (episode for part in labelled for episode in read_episodes(part, info, size))
    return write_import(out, info, episodes, lambda frames: progress(frames, total))


def import_hdf5(
    source: Path,
    out: Path,
    arrays: Mapping[str, str | None],
    fps: float | None = None,
    progress: Callable[[int, int], Any] = lambda frames, total: None,
    **shape: Any,
) -> int:
    """Imports an HDF5 file or a folder of them, see `hdf5_files`; returns how many frames were new in `out`.

    Raises ValueError (one sentence) for what is damaged or does not fit; then nothing was written.
    """
    wanted = Shape(**shape)
    given_fps = None if fps is None else check_fps(fps)
    pairs = [read_hdf5(path, arrays, given_fps) for path in find_hdf5_files(source)]
    takes, files = [take for take, _ in pairs], [file for _, file in pairs]
    rate = given_fps or takes[0].fps or DEFAULT_FPS
    return _write_takes(source, out, takes, files, rate, wanted, progress)


def import_lerobot(
    source: Path,
    out: Path,
    camera: str | None = None,
    progress: Callable[[int, int], Any] = lambda frames, total: None,
    **shape: Any,
) -> int:
    """Imports a LeRobot data set, see `lerobot_sets`; returns how many frames were new in `out`.

    Raises ValueError (one sentence) for what is damaged or does not fit; then nothing was written.
    """
    wanted = Shape(**shape)
    takes, files, fps = read_lerobot(source, camera)
    return _write_takes(source, out, takes, files, fps, wanted, progress)


def import_mcap(
    source: Path,
    out: Path,
    fps: float | None = None,
    progress: Callable[[int, int], Any] = lambda frames, total: None,
    say: Callable[[str], Any] = print,
    **shape: Any,
) -> int:
    """Imports a desktop recording (OWAMcap) or a folder of them, see `mcap_files`; returns how many frames were new.

    Raises ValueError (one sentence) for what is damaged or does not fit; then nothing was written.
    """
    wanted = Shape(**shape)
    given_fps = None if fps is None else check_fps(fps)
    takes, read = read_mcap(find_mcap_files(source), given_fps)
    files = [match(take, file) for take, file in zip(takes, read, strict=True)]
    _say_aligned(takes, read, say)
    return _write_takes(source, out, takes, files, given_fps, wanted, progress)


def import_shifted(
    source: Path, out: Path, shift: int, progress: Callable[[int, int], Any] = lambda frames, total: None
) -> int:
    """Imports a data folder whose actions come `shift` steps late (early: below 0); returns how many frames were new.

    Frames whose action was not recorded go, at the end of each episode (early: at its beginning), and with them how it
    ended. Raises ValueError where the recording has no actions or an episode is too short.
    """
    store = EpisodeStore(source)
    if store.info.action_space is None or not isinstance(shift, int) or not shift:
        raise ValueError(f"expected shift= a whole number other than 0, and actions in {source}, found shift={shift}")
    short = [record.id for record in store.records if record.total_steps <= abs(shift)]
    if short:
        raise ValueError(f"expected episodes of more than {abs(shift)} steps, found a shorter one, number {short[0]}")
    total = store.num_frames - abs(shift) * len(store)
    episodes = (_shifted(store, index, shift) for index in range(len(store)))
    return write_import(out, store.info, episodes, lambda frames: progress(frames, total))


def _shifted(store: EpisodeStore, index: int, shift: int) -> Episode:
    record, late = store.records[index], max(shift, 0)
    first, last = late - shift, record.total_steps - late  # of the frames that stay
    rewards = store.rewards(index, first, last)
    return Episode(
        store.observations(index, first, last + 1),
        store.actions(index, first + shift, last + shift),
        rewards,
        terminated=record.terminated and not late,
        truncated=record.truncated or late > 0,
        seed=None,
        policy=record.policy,
    )


def _say_left_out(files: Sequence[ActionFile | None], say: Callable[[str], Any]) -> None:
    for name in dict.fromkeys(name for file in files if file for name in file.clocks):
        say(f"column {name!r} is a clock and no action: left out")


def _say_aligned(takes: Sequence[Take], files: Sequence[ActionFile | None], say: Callable[[str], Any]) -> None:
    for take, file in zip(takes, files, strict=False):
        if take.is_resampled:
            counts = f"its {len(take.slots)} frames became {take.num_frames}"
            say(f"{take.path.name} has a variable rate: {counts}, at {take.fps:g} a second")
        if file and not _fits(take, file):
            say(f"{file.path.name}: {file.num_rows} rows follow their seconds onto {take.num_frames} frames")


def check_fps(value: Any) -> float:
    """Returns a frame rate. Raises ValueError where it is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"expected fps to be a number above 0, found {value}")
    return float(value)


def common_fps(takes: Sequence[Take]) -> float:
    """Returns the videos' frame rate; pictures have none and get the recorder's default."""
    rates = {take.fps for take in takes}
    if len(rates) > 1 or (None in rates and not takes[0].pictures):
        found = ", ".join(f"{take.path.name} {take.fps or 'none'}" for take in takes)
        raise ValueError(f"expected videos of one frame rate, found {found}; give fps=")
    return rates.pop() or DEFAULT_FPS


def _fits(take: Take, file: ActionFile) -> bool:
    return file.num_rows in (take.num_frames, take.num_frames - 1) and not take.is_resampled


def match(take: Take, file: ActionFile | None) -> ActionFile | None:
    """Returns an action file with a row for each frame, if by its clock; the last frame's row may be missing.

    Raises ValueError where its clock does not fit, and Miscount, naming both numbers, where rows without one do not.
    """
    if file is None:
        return None
    if file.seconds is not None and take.rate and not _fits(take, file):
        columns = dict(file.columns)
        if TERMINATED in columns:  # in the last row even where the one before it says so
            columns[TERMINATED] = np.isin(np.arange(file.num_rows), [*_final_frames(file, file.num_rows)]).astype(int)
        columns = follow_clock(file.path, columns, file.sums, file.seconds, take)
        return replace(file, columns=columns, clocks={})
    if take.is_resampled:
        raise ValueError(
            f"expected a column 'timestamp' or 'time' in {file.path}, seconds from the first frame of "
            f"{take.path.name}, whose rate is variable, found none; add one, or give a video of constant rate"
        )
    check_numbers(file.path, file.numbers, file.starts, take.num_frames)
    if not _fits(take, file):
        frames = take.num_frames
        raise Miscount(
            f"expected {frames} rows (one for each frame) or {frames - 1} (none for the last frame) in {file.path}, "
            f"for the {frames} frames of {take.path.name}, found {file.num_rows}"
        )
    return file


def label(take: Take, file: ActionFile | None, layout: ActionLayout, max_episode_steps: int | None) -> LabelledTake:
    """Returns a take with the episodes, actions and rewards of its action file."""
    if file is None:
        return LabelledTake(take, episode_spans([0], take.num_frames, max_episode_steps, take.path))
    rewards = file.columns[REWARD].astype(np.float32) if REWARD in file.columns else None
    spans = episode_spans(file.starts, take.num_frames, max_episode_steps, file.path)
    return LabelledTake(take, spans, layout.pack(file), rewards, _final_frames(file, take.num_frames))


def _final_frames(file: ActionFile, frames: int) -> frozenset[int]:
    """Returns the last frames of episodes that say `terminated`, in the row of that frame or of the step to it."""
    rows, found = file.num_rows, set()
    lasts = np.array([*file.starts[1:], frames]) - 1
    for row in np.flatnonzero(file.columns.get(TERMINATED, np.zeros(rows))).tolist():
        last = int(lasts[np.searchsorted(lasts, row)])
        if row < last - 1:
            raise ValueError(
                f"expected {TERMINATED!r} in an episode's last row only, found it in row {row + 1} of {file.path}, "
                f"whose episode goes on to row {min(last + 1, rows)}; a column {EPISODE!r} tells episodes apart"
            )
        found.add(last)
    return frozenset(found)


def episode_spans(starts: list[int], num_frames: int, longest: int | None, path: Path) -> list[tuple[int, int]]:
    """Returns first and last frame of each episode; those of more than `longest` steps are cut into equal parts."""
    spans: list[tuple[int, int]] = []
    for start, stop in pairwise([*starts, num_frames]):
        steps = stop - 1 - start
        if steps < 1:
            raise ValueError(
                f"expected episodes of 2 or more frames in {path}, found one frame alone, number {start + 1}"
            )
        parts = 1 if longest is None else -(-steps // longest)
        spans += pairwise((start + steps * part // parts) for part in range(parts + 1))
    return spans


def read_episodes(part: LabelledTake, info: DatasetInfo, size: int | None) -> Iterator[Episode]:
    """Yields a take's episodes; no more than one of them is in memory."""
    frames, height, width = part.take.frames(size), *info.observation_shape[:2]
    kept: dict[int, np.ndarray] = {}  # the last frame so far, by its number: the next episode may begin with it
    for first, last in part.spans:
        head = [kept[first]] if first in kept else []
        tail = [resize(frame[None], height, width) for frame in islice(frames, last + 1 - first - len(head))]
        if last == part.take.num_frames - 1:
            next(
                frames, None
            )  # a video that ends otherwise than it said is found out before its last episode is written
        observations = np.concatenate([*head, *tail])
        kept = {last: observations[-1:]}
        yield Episode(
            observations=observations,
            actions=None if part.actions is None else part.actions[first:last],
            rewards=None if part.rewards is None else part.rewards[first:last],
            terminated=last in part.ends,
            truncated=last not in part.ends,
            seed=None,
            policy=f"import:{part.take.path.name}",
        )


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes frames, uint8 `[n H W 3]`, some at a time, whatever their aspect ratio."""
    parts = [
        torch.from_numpy(np.array(frames[i : i + RESIZED_AT_ONCE])) for i in range(0, len(frames), RESIZED_AT_ONCE)
    ]
    return np.concatenate([pixels.resize(part, height, width).numpy() for part in parts])
