"""Action files (CSV, JSONL, npy) as actions, rewards and ends of a video's frames, and the action space they imply.

Here because what a column means is decided once, over all files of an import, by its name and its numbers.
Leaves out the formats (`number_tables`), and frames: whether rows and frames fit is `importer`'s to say.

One row for each frame: the row's action led from that frame to the next one, so the last row's may be missing. Columns
`reward` (of that step), `terminated` (1 in an episode's last row) and `episode` (the frame's; a new value, a new
episode) are optional, and so are clocks (`action_clocks`). Every other column is a part of
the action: a key (0 or 1), a choice (whole numbers from 0), or
an axis (anything else; `mouse_x` and `mouse_y` always). A lone column without a name is a choice even of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np

from worldsim.data.action_clocks import NUMBERS, SECONDS, is_clock
from worldsim.data.frame_files import PICTURES
from worldsim.data.number_tables import UNNAMED, read_csv, read_jsonl, read_npy

SUFFIXES = (".csv", ".jsonl", ".npy")
REWARD, TERMINATED, EPISODE = "reward", "terminated", "episode"
MOST_CHOICES = 256  # a column with more is a frame number, or an axis in whole numbers
KEY, CHOICE, AXIS = "keys", "choices", "axes"
KINDS = (AXIS, CHOICE, KEY)  # the order of `gym.spaces.Dict`, which sorts
MOUSE = {"mouse x": "x", "mouse dx": "x", "mouse y": "y", "mouse dy": "y"}
KEY_ALIASES = {"shift": "left shift", "ctrl": "left ctrl", "alt": "left alt", "enter": "return"}
KEY_NAMES = {
    *("space", "return", "tab", "backspace", "left", "right", "up", "down"),
    *(f"{side} {key}" for side in ("left", "right") for key in ("shift", "ctrl", "alt")),
    *(f"mouse {button}" for button in ("left", "middle", "right")),
    *(f"f{number}" for number in range(1, 13)),
}
PAIRS = (("a", "d"), ("s", "w"), ("left", "right"), ("down", "up"), ("q", "e"), ("f", "g"))  # lower and raise an axis
FULL_DEFLECTION = 20  # pixels of mouse movement a frame, for an axis within -1 .. 1


@dataclass(frozen=True)
class ActionFile:
    """The columns of one file, numbers or booleans `[n]` each."""

    path: Path
    columns: dict[str, np.ndarray]
    clocks: dict[str, np.ndarray] = field(default_factory=dict)  # not among the columns

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> list[str]:
        """The columns that make up the action."""
        return [name for name in self.columns if name not in (REWARD, TERMINATED, EPISODE)]

    @property
    def starts(self) -> list[int]:
        """The first row of each episode."""
        numbers = self.columns.get(EPISODE, np.zeros(self.num_rows))
        return [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]

    @property
    def seconds(self) -> np.ndarray | None:
        """The clock in seconds, float64."""
        return next((values.astype(np.float64) for name, values in self.clocks.items() if plain(name) in SECONDS), None)

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """The columns that number the frames."""
        return {name: values for name, values in self.clocks.items() if plain(name) in NUMBERS}

    @property
    def sums(self) -> list[str]:
        """The columns that say what happened since the last row, rather than what holds until the next."""
        return [name for name in self.columns if name in (REWARD, TERMINATED) or plain(name) in MOUSE]


@dataclass(frozen=True)
class Column:
    """A number of the action: where it comes from, what it is, and how large it gets."""

    name: str
    kind: str
    highest: float


@dataclass(frozen=True)
class ActionLayout:
    """How columns make up an action: the space, and the columns in the order of a packed action."""

    space: gym.Space | None
    columns: list[Column]

    def pack(self, file: ActionFile) -> np.ndarray | None:
        """Returns a file's packed actions, float64 `[n k]`, axes rounded to the space's float32; None without any."""
        dtypes = {AXIS: np.float32, CHOICE: np.float64, KEY: np.float64}
        packed = [file.columns[column.name].astype(dtypes[column.kind]) for column in self.columns]
        return np.stack(packed, 1).astype(np.float64) if packed else None

    def keymap(self) -> dict | None:
        """Returns the keymap: keys and mouse by their columns' names; other columns get keys that are left."""
        if self.space is None:
            return None
        named = {i: key for i, c in enumerate(self.columns) if c.kind == KEY and (key := key_name(c.name))}
        pairs = iter([pair for pair in PAIRS if not {*pair} & {*named.values()}])
        digits = iter([digit for digit in "123456789" if digit not in named.values()])
        bindings, mouse = [], []
        for i, column in enumerate(self.columns):
            values: Iterable[float] = range(1, int(column.highest) + 1)
            keys: Iterable[str] = digits
            if i in named:
                keys = [named[i]]
            elif plain(column.name) in MOUSE:
                scale = 1.0 if column.highest > 1 else 1 / FULL_DEFLECTION  # beyond 1 it counts pixels
                mouse.append({"axis": MOUSE[plain(column.name)], "component": i, "scale": scale})
                values = ()
            elif column.kind == AXIS:
                keys, values = next(pairs, ()), (-column.highest, column.highest)
            # The values come first: zip asks them first, and takes no key where they have ended.
            bindings += [{"keys": [key], "set": {str(i): float(x)}} for x, key in zip(values, keys, strict=False)]
        return {"rest": [0.0] * len(self.columns), "bindings": bindings, "mouse": mouse}


def plain(name: str) -> str:
    """Returns a column's name as pygame writes names of keys."""
    return name.lower().replace("_", " ").replace("-", " ") if len(name) > 1 else name.lower()


def key_name(name: str) -> str | None:
    """Returns pygame's name of the key that a column is called after, or None."""
    key = KEY_ALIASES.get(plain(name), plain(name))
    return key if len(key) == 1 or key in KEY_NAMES else None


def make_layout(files: Sequence[ActionFile], kinds: Mapping[str, str] | None = None) -> ActionLayout:
    """Returns the action space that holds all rows of all files; `kinds` says what columns are, where that is known.

    Raises ValueError where their columns differ.
    """
    first = files[0]
    for file in files[1:]:
        if list(file.columns) != list(first.columns):
            raise ValueError(
                f"expected {file.path} to have the columns of {first.path.name} ({', '.join(first.columns)}), "
                f"found {', '.join(file.columns)}"
            )
    columns = []
    for name in first.names:
        values = np.concatenate([file.columns[name] for file in files])
        kind = _kind(first.path, name, values) if kinds is None else kinds[name]
        highest = float(np.abs(values.astype(np.float32 if kind == AXIS else np.float64)).max())
        columns.append(Column(name, kind, max(1.0, highest) if kind == AXIS else highest))
    columns.sort(key=lambda column: KINDS.index(column.kind))
    groups = {kind: [c.highest for c in columns if c.kind == kind] for kind in KINDS}
    parts = [(kind, _space(kind, highest)) for kind, highest in groups.items() if highest]
    return ActionLayout(parts[0][1] if len(parts) == 1 else gym.spaces.Dict(parts) if parts else None, columns)


def _kind(path: Path, name: str, values: np.ndarray) -> str:
    if values.dtype.kind == "f" or values.min() < 0 or plain(name) in MOUSE:
        return AXIS
    if values.dtype.kind == "b" or (values.max() <= 1 and name != UNNAMED):
        return KEY
    if values.max() >= MOST_CHOICES:
        raise ValueError(
            f"expected fewer than {MOST_CHOICES} choices in column {name!r} of {path}, found {values.max()}; leave the "
            "column out if it is no action, or write it with a decimal point if it is an axis"
        )
    return CHOICE


def _space(kind: str, highest: list[float]) -> gym.Space:
    if kind == KEY:
        return gym.spaces.MultiBinary(len(highest))
    if kind == CHOICE:
        sizes = [int(value) + 1 for value in highest]
        return gym.spaces.Discrete(sizes[0]) if len(sizes) == 1 else gym.spaces.MultiDiscrete(sizes)
    bound = np.array(highest, np.float32)
    return gym.spaces.Box(-bound, bound, dtype=np.float32)


def find_action_files(actions: Path, source: Path, paths: Sequence[Path]) -> list[Path]:
    """Returns the action file of each video, or of all pictures."""
    if not actions.exists():
        raise ValueError(f"expected a file of actions at {actions}, found nothing")
    videos = [source] if paths[0].suffix.lower() in PICTURES else paths
    if not actions.is_dir():
        if len(videos) > 1:
            raise ValueError(
                f"expected actions= to be a folder with a file for each of {len(videos)} videos, found {actions}"
            )
        return [actions]
    found = []
    for video in videos:
        candidates = [path for suffix in SUFFIXES if (path := actions / f"{video.stem}{suffix}").exists()]
        if len(candidates) != 1:
            names = ", ".join(path.name for path in candidates) or "none"
            raise ValueError(f"expected one of {video.stem}{{{','.join(SUFFIXES)}}} in {actions}, found {names}")
        found += candidates
    return found


def read_actions(path: Path) -> ActionFile:
    """Returns a file's columns. Raises ValueError, which names file and line, for anything that is no number."""
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".npy": read_npy}
    if path.suffix.lower() not in readers:
        raise ValueError(f"expected actions= to be one of {', '.join(SUFFIXES)}, found {path}")
    columns = readers[path.suffix.lower()](path)
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"expected a row for each frame in {path}, found none")
    for name, values in columns.items():
        if values.dtype.kind not in "bif" or not np.isfinite(values).all():
            raise ValueError(
                f"expected numbers in column {name!r} of {path}, found NaN, infinity or whole ones too large"
            )
    ends = columns.get(TERMINATED, np.zeros(1))
    if not np.isin(ends, (0, 1)).all():
        raise ValueError(f"expected 0 or 1 in column {TERMINATED!r} of {path}, found {ends[~np.isin(ends, (0, 1))][0]}")
    return _part_clocks(ActionFile(path, columns))


def _part_clocks(file: ActionFile) -> ActionFile:
    starts = file.starts
    clocks = [name for name in file.names if is_clock(file.path, name, plain(name), file.columns[name], starts)]
    columns = {name: values for name, values in file.columns.items() if name not in clocks}
    if not columns:
        raise ValueError(f"expected actions or rewards beside the clock {clocks[0]!r} in {file.path}, found none")
    return ActionFile(file.path, columns, {name: file.columns[name] for name in clocks})
