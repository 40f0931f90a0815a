"""The episode store: append-only shards of uint8 frames, read through memory maps, beside an index of what is finished.

Here as what recorder, training and evaluation mean by recorded data; a killed process loses only unfinished episodes.
Leaves out sampling of training clips, compression, and other formats.

An episode keeps Minari's convention: of T steps it has T + 1 observations and T actions. A data folder holds

    dataset.json                    the game's facts (`DatasetInfo`) and the format version
    episodes.jsonl                  one line per finished episode (`EpisodeRecord`); a torn last line does not count
    shards/000000/observations.npy  uint8 [N H W 3]; where recorded, actions.npy float64 [M k], rewards.npy float32 [M]
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from worldsim.actions import packed_width
from worldsim.data.index import (
    FACTS,
    INDEX,
    SHARDS,
    DatasetInfo,
    EpisodeRecord,
    check_continues,
    check_joins,
    read_index,
    read_info,
    write_info,
)
from worldsim.data.shards import Column, acquire_lock, check_rows, sync_names, write_rows

SHARD_OBSERVATIONS = 16384  # 200 MB of 64x64 frames: few files, and each still copies in seconds
_OPEN_MAPS = 256  # each map holds a file descriptor; the usual limit is 1024


@dataclass
class Episode:
    """One episode in memory."""

    observations: np.ndarray  # uint8 [T+1 H W 3]
    actions: np.ndarray | None  # float64 [T k], packed
    rewards: np.ndarray | None  # float32 [T]
    terminated: bool
    truncated: bool
    seed: int | None
    policy: str

    @property
    def total_reward(self) -> float | None:
        return None if self.rewards is None else float(np.sum(self.rewards, dtype=np.float64))


def hash_episode(episode: Episode) -> str:
    """Returns 16 hex digits of SHA-256 over frames and actions: the name under which bundles remember training data."""
    digest = hashlib.sha256(np.ascontiguousarray(episode.observations).data)
    if episode.actions is not None:
        digest.update(np.ascontiguousarray(episode.actions, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


class EpisodeStore:
    """Reads data folders through memory maps: a window of frames costs what the window holds, wherever it lies.

    Several folders of one kind are read as one, their episodes one folder after the other; the facts are the first's.
    Where they are `mixed`, all but the first may be recorded without actions or rewards.
    Raises ValueError (one sentence) where a folder is missing, empty, damaged, of a newer format or of another kind.
    """

    def __init__(self, folder: str | os.PathLike, *others: str | os.PathLike, mixed: bool = False):
        self.folders = [Path(folder), *map(Path, others)]
        self.info = read_info(self.folders[0])
        self.records: list[EpisodeRecord] = []
        self._shards: list[tuple[Path, int]] = []  # where each shard lies: its folder, and its number there
        self._present: list[set[str]] = []  # the columns of each shard
        self.mixed = mixed
        for path in self.folders:
            self._append(path)
        self._sizes = _shard_sizes(self.records)
        self._map = lru_cache(maxsize=_OPEN_MAPS)(self._open)
        self._given: list[np.ndarray] | None = None  # actions that stand for the recorded ones

    def _append(self, folder: Path) -> None:
        """Takes in a folder's episodes behind those that are there."""
        info, (records, _) = read_info(folder), read_index(folder)
        if not records:
            raise ValueError(f"expected recorded episodes in {folder}, found none finished; record some first")
        _check_shards(folder, info, records)
        columns = set(_columns(info))
        check_joins(self.folders[0], self.info, self.records, folder, self._taken_in(info), records)
        first_id, first_shard = len(self.records), len(self._shards)
        self.records += [replace(r, id=r.id + first_id, shard=r.shard + first_shard) for r in records]
        self._shards += [(folder, shard) for shard in range(records[-1].shard + 1)]
        self._present += [columns] * (records[-1].shard + 1)

    def _taken_in(self, info: DatasetInfo) -> DatasetInfo:
        """Returns a folder's facts, and where folders are mixed the first one's of what was not recorded in it."""
        mine: DatasetInfo = self.info
        lacking: dict[str, Any] = {}
        if self.mixed and info.action_space is None:
            lacking |= {name: getattr(mine, name) for name in ("action_space", "discrete_table", "keymap")}
        if self.mixed and not info.has_rewards:
            lacking["has_rewards"] = mine.has_rewards
        return replace(info, **lacking)

    def __reduce__(self):
        # Another process opens the files itself: nobody sends their bytes.
        if self._given is None and not self.mixed:
            return EpisodeStore, tuple(self.folders)
        return _reopened, (tuple(self.folders), self.info, self._given, self.mixed)

    def with_actions(self, info: DatasetInfo, actions: list[np.ndarray]) -> EpisodeStore:
        """Returns the same episodes with other actions, each `[T k]`, packed in the space that `info` says."""
        lengths = [record.total_steps for record in self.records]
        if [len(part) for part in actions] != lengths:
            raise ValueError("expected an action for every step of every episode, found other numbers of them")
        return _reopened(tuple(self.folders), info, actions, self.mixed)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_frames(self) -> int:
        return sum(record.num_observations for record in self.records)

    @property
    def num_steps(self) -> int:
        return sum(record.total_steps for record in self.records)

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def observations(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns frames `[start, stop)` of an episode, uint8 `[n H W 3]`: a read-only view of the memory map."""
        record = self.records[index]
        rows = _rows(record.observation_start, record.num_observations, start, stop)
        return self._map(record.shard, "observations")[rows]

    def actions(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """Returns packed actions `[start, stop)`, float64 `[n k]`, or None where the recording has none."""
        record = self.records[index]
        if self._given is not None:
            return self._given[index][_rows(0, record.total_steps, start, stop)]
        rows = _rows(record.action_start, record.total_steps, start, stop)
        return self._map(record.shard, "actions")[rows] if "actions" in self._present[record.shard] else None

    def rewards(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """Returns rewards `[start, stop)`, float32 `[n]`, or None where the recording has none."""
        record = self.records[index]
        rows = _rows(record.action_start, record.total_steps, start, stop)
        return self._map(record.shard, "rewards")[rows] if "rewards" in self._present[record.shard] else None

    def shard_observations(self, shard: int) -> np.ndarray:
        """Returns all frames of a shard that belong to finished episodes, uint8 `[N H W 3]`, as a memory map."""
        return self._map(shard, "observations")

    def _open(self, shard: int, name: str) -> np.ndarray:
        column = _columns(self.info)[name]
        rows = self._sizes[shard][column.counts_observations]
        shape = (rows, *column.shape)
        path = _shard_file(*self._shards[shard], name)
        if 0 in shape:
            return np.empty(shape, column.dtype)
        return np.memmap(path, column.dtype, mode="r", offset=len(column.header(0)), shape=shape)


def _reopened(
    folders: tuple[Path, ...], info: DatasetInfo, given: list[np.ndarray] | None, mixed: bool
) -> EpisodeStore:
    store = EpisodeStore(*folders, mixed=mixed)
    store.info, store._given = info, given
    return store


class EpisodeWriter:
    """Appends finished episodes to a data folder; continues a folder whose facts are equal.

    One writer at a time. `append` returns when the episode would survive a crash of the machine; until its index line
    is complete nobody sees it. Frames are written as ordinary files, so that a full disk raises OSError.
    """

    def __init__(self, folder: str | os.PathLike, info: DatasetInfo):
        self.folder, self.info = Path(folder), info
        check_continues(self.folder, info)
        (self.folder / SHARDS).mkdir(parents=True, exist_ok=True)
        self._lock = acquire_lock(self.folder)
        try:
            check_continues(self.folder, info)  # again, now that nobody else can write
            if not (self.folder / FACTS).exists():
                write_info(self.folder, info)
            self.records, self._index_size = read_index(self.folder)
            _check_shards(self.folder, info, self.records)
            self._index = open(self.folder / INDEX, "ab", buffering=0)  # noqa: SIM115 (lives as long as the writer)
            sync_names(self.folder)  # its name, too, survives a crash
            self._index.truncate(self._index_size)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write here. What was appended is already on disk."""
        self._index.close()
        self._lock.close()

    @property
    def num_frames(self) -> int:
        return sum(record.num_observations for record in self.records)

    def append(self, episode: Episode) -> EpisodeRecord:
        """Writes one finished episode, returns its index record. Raises ValueError where it does not fit the info."""
        _check_episode(episode, self.info)
        record = self._place(episode)
        folder = _shard_file(self.folder, record.shard, "").parent
        new = not folder.exists()
        folder.mkdir(exist_ok=True)
        for name, column in _columns(self.info).items():
            start = record.observation_start if column.counts_observations else record.action_start
            write_rows(_shard_file(self.folder, record.shard, name), column, start, getattr(episode, name))
        if new:
            sync_names(folder)
            sync_names(folder.parent)
        self._append_line(json.dumps(asdict(record)).encode() + b"\n")
        self.records.append(record)
        return record

    def _place(self, episode: Episode) -> EpisodeRecord:
        """Returns the record of an episode that follows the last indexed one."""
        shard = self.records[-1].shard if self.records else 0
        observation_start, action_start = self.records[-1].ends if self.records else (0, 0)
        if observation_start >= SHARD_OBSERVATIONS:
            shard, observation_start, action_start = shard + 1, 0, 0
        return EpisodeRecord(
            id=len(self.records),
            shard=shard,
            observation_start=observation_start,
            action_start=action_start,
            total_steps=len(episode.observations) - 1,
            seed=None if episode.seed is None else int(episode.seed),
            policy=episode.policy,
            terminated=bool(episode.terminated),
            truncated=bool(episode.truncated),
            total_reward=episode.total_reward,
            hash=hash_episode(episode),
        )

    def _append_line(self, line: bytes) -> None:
        """Appends to the index by one write, which either reaches the disk as a whole or is taken back."""
        try:
            if self._index.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / INDEX))
            os.fsync(self._index.fileno())
        except OSError:
            self._index.truncate(self._index_size)
            raise
        self._index_size += len(line)


def _rows(first: int, count: int, start: int, stop: int | None) -> slice:
    """Returns the rows of a shard for `[start, stop)` of an episode; a window never reaches into the next episode."""
    stop = count if stop is None else stop
    if not 0 <= start <= stop <= count:
        raise IndexError(f"expected a window within 0..{count}, found {start}..{stop}")
    return slice(first + start, first + stop)


def _shard_file(folder: Path, shard: int, name: str) -> Path:
    return folder / SHARDS / f"{shard:06d}" / f"{name}.npy"


def _columns(info: DatasetInfo) -> dict[str, Column]:
    columns = {"observations": Column("|u1", tuple(info.observation_shape), counts_observations=True)}
    if info.action_space is not None:
        columns["actions"] = Column("<f8", (packed_width(info.action_space),), counts_observations=False)
    if info.has_rewards:
        columns["rewards"] = Column("<f4", (), counts_observations=False)
    return columns


def _shard_sizes(records: list[EpisodeRecord]) -> dict[int, dict[bool, int]]:
    """Returns, for each shard, how many rows are indexed: `[shard][counts_observations]`."""
    last = {record.shard: record for record in records}  # later episodes lie further back
    return {shard: {True: record.ends[0], False: record.ends[1]} for shard, record in last.items()}


def _check_shards(folder: Path, info: DatasetInfo, records: list[EpisodeRecord]) -> None:
    """Raises ValueError where a shard's file is missing, another one, or shorter than the index says."""
    for shard, sizes in _shard_sizes(records).items():
        for name, column in _columns(info).items():
            check_rows(_shard_file(folder, shard, name), column, sizes[column.counts_observations])


def _check_episode(episode: Episode, info: DatasetInfo) -> None:
    """Raises ValueError where an episode's arrays do not fit each other or the data folder."""
    frames, steps = episode.observations, len(episode.observations) - 1
    if frames.dtype != np.uint8 or frames.shape[1:] != tuple(info.observation_shape) or steps < 1:
        shape = "x".join(map(str, info.observation_shape))
        raise ValueError(f"expected 2 or more uint8 frames of {shape}, found {frames.dtype} {list(frames.shape)}")
    columns = _columns(info)
    for name in ("actions", "rewards"):
        expected = [steps, *columns[name].shape] if name in columns else None
        array = getattr(episode, name)
        found = None if array is None else list(array.shape)
        if found != expected:
            raise ValueError(f"expected {name} of shape {expected} beside {steps + 1} frames, found {found}")
        if array is not None and not np.isfinite(array).all():
            raise ValueError(f"expected finite {name}, found NaN or infinity; nothing was written")
