"""A data folder that appears whole or not at all: what an import that was killed goes on with.

Here because every import ends so, whatever its format. Leaves out what the episodes are read from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from worldsim.data.episodes import DatasetInfo, Episode, EpisodeWriter, hash_episode
from worldsim.data.index import FACTS, EpisodeRecord, check_continues
from worldsim.data.shards import acquire_lock, sync_names


class _OtherImport(ValueError):
    """What is there is not of this import."""


def write_import(
    out: Path, info: DatasetInfo, episodes: Iterable[Episode], progress: Callable[[int], Any] = lambda frames: None
) -> int:
    """Writes the data folder `out`, which appears when it is whole; returns how many frames were new.

    Until then episodes are kept in `<out>.partial`, where an import that was killed goes on. Episodes that are there
    are compared and not written again. Raises ValueError where others are there.
    """
    check_continues(out, info)
    folder = out if (out / FACTS).exists() else out.with_name(f"{out.name}.partial")
    if folder != out:
        try:
            check_continues(folder, info)
        except ValueError:
            if not (folder / FACTS).exists():
                raise
            with acquire_lock(folder):  # of another import, which was killed
                shutil.rmtree(folder)
    with EpisodeWriter(folder, info) as writer:
        try:
            new = _append_missing(writer, episodes, progress)
        except ValueError as error:
            if folder != out:
                shutil.rmtree(folder)
                if isinstance(error, _OtherImport):
                    raise ValueError(f"{folder} was another import's and is removed; run this again") from error
            raise
        if folder != out:
            if out.exists():  # left by a process killed before it had begun
                with acquire_lock(out):
                    shutil.rmtree(out)
            os.replace(folder, out)
            sync_names(out.parent)
    return new


def _append_missing(writer: EpisodeWriter, episodes: Iterable[Episode], progress: Callable[[int], Any]) -> int:
    there, count, done, new = list(writer.records), 0, 0, 0
    for count, episode in enumerate(episodes, start=1):
        if count > len(there):
            new += writer.append(episode).num_observations
        elif not _is_same(there[count - 1], episode):
            raise _OtherImport(
                f"expected this import in {writer.folder}, found another episode {count}; choose another out="
            )
        done += len(episode.observations)
        progress(done)
    if count < len(there):
        raise _OtherImport(f"expected {count} episodes in {writer.folder}, found {len(there)}; choose another out=")
    return new


def _is_same(record: EpisodeRecord, episode: Episode) -> bool:
    found = hash_episode(episode), episode.terminated, episode.truncated, episode.total_reward
    return found == (record.hash, record.terminated, record.truncated, record.total_reward)
