"""What a data folder says in JSON: the game's facts, and one line for every finished episode.

Here because an episode exists if and only if its complete line stands in the index; these are the rules of that index.
Leaves out the arrays: those are `shards` and `episodes`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np

from worldsim.actions import space_from_json, space_to_json
from worldsim.data.shards import LOCK, sync_names
from worldsim.files import write_json

FORMAT_VERSION = 1
FACTS, INDEX, SHARDS = "dataset.json", "episodes.jsonl", "shards"


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What all episodes of a data folder share. `action_space` None: a recording without actions."""

    game: str
    observation_shape: tuple[int, int, int]
    action_space: gym.Space | None
    fps: float
    keymap: dict | None = None
    discrete_table: np.ndarray | None = None  # [n k] packed actions
    env_spec: dict | None = None
    has_rewards: bool = True

    def to_json(self) -> dict:
        """Returns the facts as plain data."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["observation_shape"] = list(self.observation_shape)
        if self.action_space is not None:
            plain["action_space"] = space_to_json(self.action_space)
        if self.discrete_table is not None:
            plain["discrete_table"] = np.asarray(self.discrete_table, dtype=np.float64).tolist()
        return json.loads(json.dumps(plain))

    @classmethod
    def from_json(cls, plain: dict) -> Self:
        """Returns the facts that `to_json` wrote."""
        space, table = plain["action_space"], plain["discrete_table"]
        return cls(
            **plain
            | {
                "observation_shape": tuple(plain["observation_shape"]),
                "action_space": None if space is None else space_from_json(space),
                "discrete_table": None if table is None else np.array(table, dtype=np.float64),
            }
        )


@dataclass(frozen=True)
class EpisodeRecord:
    """One line of the index: where a finished episode lies and what is known of it."""

    id: int
    shard: int
    observation_start: int
    action_start: int
    total_steps: int
    seed: int | None
    policy: str
    terminated: bool
    truncated: bool
    total_reward: float | None
    hash: str

    @property
    def num_observations(self) -> int:
        return self.total_steps + 1

    @property
    def ends(self) -> tuple[int, int]:
        """The first observation row and the first action row behind the episode."""
        return self.observation_start + self.num_observations, self.action_start + self.total_steps


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Writes the facts so that the file is there as a whole or not at all."""
    write_json(folder / FACTS, {"format_version": FORMAT_VERSION, **info.to_json()})
    sync_names(folder)


def read_info(folder: Path) -> DatasetInfo:
    """Returns the facts. Raises ValueError where they are missing, unreadable or of a newer format."""
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"expected a data folder at {folder}, found no {FACTS}; make one with worldsim record")
    try:
        plain = json.loads(path.read_bytes())
        version = plain.pop("format_version")
        if version > FORMAT_VERSION:
            raise ValueError(f"it has format {version}, this worldsim reads up to {FORMAT_VERSION}; update worldsim")
        return DatasetInfo.from_json(plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def read_index(folder: Path) -> tuple[list[EpisodeRecord], int]:
    """Returns the finished episodes and the bytes of the index they take; what follows is a torn line."""
    path = folder / INDEX
    text = path.read_bytes() if path.exists() else b""
    size = text.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(text[:size].splitlines(), start=1):
        try:
            records.append(EpisodeRecord(**json.loads(line)))
        except (ValueError, TypeError):
            raise ValueError(
                f"expected an episode in line {number} of {path}, found {line[:40]!r}; restore it"
            ) from None
    return records, size


def check_continues(folder: Path, info: DatasetInfo) -> None:
    """Raises ValueError where a folder exists that episodes with these facts may not be appended to."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder at {folder}, found a file; choose another out=")
    if not (folder / FACTS).exists():
        own = {f"{FACTS}.tmp", LOCK, SHARDS}  # left by a process killed before it had begun
        foreign = [path.name for path in folder.iterdir() if path.name not in own] if folder.exists() else []
        if foreign:
            raise ValueError(f"expected a data folder at {folder}, found {min(foreign)}; choose another out=")
        return
    found, expected = read_info(folder).to_json(), info.to_json()
    for name, value in expected.items():
        if found[name] != value:
            old, new = _shorten(found[name]), _shorten(value)
            raise ValueError(f"{folder} was recorded with {name} {old}, this recording has {new}; choose another out=")


def check_joins(
    first: Path,
    info: DatasetInfo,
    there: list[EpisodeRecord],
    folder: Path,
    new: DatasetInfo,
    more: list[EpisodeRecord],
) -> None:
    """Raises ValueError where a folder's episodes are of another kind than those there, or half of them the same.

    A few alike are no mistake: short episodes of a game with little chance in it repeat. `held_out` knows them by hash.
    The name of the game may differ where either was imported: a film's is the name of its file.
    """
    expected, found = info.to_json(), new.to_json()
    imported = any(record.policy.startswith("import:") for records in (there, more) for record in records[:1])
    for name in ("observation_shape", "action_space", "discrete_table", "keymap", "fps", "has_rewards", "game"):
        if expected[name] != found[name] and not (name == "game" and imported):
            mine, other = _shorten(expected[name]), _shorten(found[name])
            raise ValueError(f"expected {name} {mine} in {folder}, as in {first}, found {other}; train on one of them")
    known = {record.hash for record in there}
    twice = [record for record in more if record.hash in known]
    if 2 * len(twice) >= len(more):
        raise ValueError(
            f"expected episodes in {folder} that are in no folder before it, found {len(twice)} of the same; name a "
            "folder once, and record with another seed"
        )


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."
