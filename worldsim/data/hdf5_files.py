"""HDF5 files as streams of frames with their actions: arrays named by the user, and the Counter-Strike layout.

Here because large sets of gameplay are published so. Leaves out what columns mean (`action_files`) and writing
(`importer`). Reading needs h5py, which the extra `hdf5` brings.

The Counter-Strike layout (Pearce and Zhu 2022; DIAMOND trains on it) has four arrays a frame, i from 0: `frame_i_x` the
picture, uint8 `[H W 3]`, blue first as OpenCV has it; `frame_i_y` `[51]` what was done then: 11 keys, two buttons, and
where among 23 and 15 values the mouse moved; `frame_i_helperarr` whether somebody was killed or the player died since
the frame before; `frame_i_xaux`, which repeats the past.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.data.action_files import EPISODE, REWARD, TERMINATED, ActionFile
from worldsim.data.frame_files import Take, natural
from worldsim.data.number_tables import UNNAMED

SUFFIXES = (".hdf5", ".h5")
AT_ONCE = 64  # frames read together
COUNTER_STRIKE_FPS = 16.0
KEYS = ("w", "a", "s", "d", "space", "ctrl", "shift", "1", "2", "3", "r", "mouse left", "mouse right")
_X, _Y = (2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000), (2, 4, 10, 20, 50, 100, 200)
MOUSE = {name: (*(-x for x in reversed(way)), 0, *way) for name, way in (("mouse_x", _X), ("mouse_y", _Y))}
WIDTH = len(KEYS) + sum(map(len, MOUSE.values()))  # of `frame_i_y`


@dataclass(frozen=True)
class Hdf5Take(Take):
    """A file's frames: one array, or one for each frame, blue first."""

    array: str | None = None

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 `[H W 3]`."""
        with _open(self.path) as file:
            for start in range(0, self.num_frames, AT_ONCE):
                stop = min(start + AT_ONCE, self.num_frames)
                if self.array is not None:
                    yield from map(self.cut, file[self.array][start:stop])
                else:
                    yield from (self.cut(file[f"frame_{i}_x"][:][..., ::-1]) for i in range(start, stop))


def find_hdf5_files(source: Path) -> list[Path]:
    """Returns an HDF5 file, or those of a folder in natural order; none where there are none."""
    if source.is_file():
        return [source] if source.suffix.lower() in SUFFIXES else []
    found = [path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    return sorted(found, key=natural)


def read_hdf5(path: Path, arrays: Mapping[str, str | None], fps: float | None) -> tuple[Hdf5Take, ActionFile | None]:
    """Returns a file's frames and the rows of their actions.

    `arrays` names those of `frames`, `actions`, `rewards` and `ends` (1 in the row of an episode's last frame); without
    any the file has to be in the Counter-Strike layout. Raises ValueError, naming file and array, for what is not so.
    """
    with _open(path) as file:
        try:
            if any(arrays.values()):
                return _read_named(path, file, arrays, fps)
            return _read_counter_strike(path, file, fps)
        except (KeyError, OSError, RuntimeError) as error:  # what h5py raises for what is missing or damaged
            raise ValueError(f"expected a whole HDF5 file, found {path} damaged ({str(error).strip()})") from error


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py: pip install "worldsim-rl[hdf5]"') from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"expected an HDF5 file, found {path}, which is none or is damaged ({error})") from error


def _read_named(path: Path, file: Any, arrays: Mapping[str, str | None], fps: float | None) -> tuple:
    found = {role: _array(path, file, role, name) for role, name in arrays.items() if name}
    if "frames" not in found:
        raise ValueError(f"expected arrays.frames=, the name of the frames in {path}, among {_names(file)}; found none")
    frames = found.pop("frames")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[0] < 2:
        raise ValueError(f"expected frames uint8 [n H W 3] at {arrays['frames']!r} in {path}, found {_kind(frames)}")
    take = Hdf5Take(path, np.arange(len(frames)), fps, array=arrays["frames"])
    columns: dict[str, np.ndarray] = {}
    for role, array in found.items():
        fits = array.ndim == 1 or (array.ndim == 2 and role == "actions")
        if array.dtype.kind not in "biuf" or not fits or len(array) not in (len(frames), len(frames) - 1):
            wanted = "[n] or [n k]" if role == "actions" else "[n]"
            raise ValueError(
                f"expected numbers {wanted} for {len(frames)} frames, or one row fewer, at {arrays[role]!r} in {path}, "
                f"found {_kind(array)}"
            )
        values = np.asarray(array[:])
        if not np.isfinite(values).all() or (role == "ends" and not np.isin(values, (0, 1)).all()):
            wanted = "0 or 1" if role == "ends" else "finite numbers"
            raise ValueError(f"expected {wanted} at {arrays[role]!r} in {path}, found others")
        values = values.astype(np.int64) if values.dtype.kind == "u" or role == "ends" else values
        if role == "actions":
            columns |= {UNNAMED: values} if values.ndim == 1 else {f"column {i}": x for i, x in enumerate(values.T)}
        else:
            columns[REWARD if role == "rewards" else TERMINATED] = values
    if not columns:
        return take, None
    rows = min(map(len, columns.values()))
    if len(columns.get(TERMINATED, ())) > rows:  # an end in the last frame's row is one in the row of the step to it
        columns[TERMINATED][rows - 1] |= columns[TERMINATED][rows]
    return take, _in_episodes(path, {name: values[:rows] for name, values in columns.items()})


def _read_counter_strike(path: Path, file: Any, fps: float | None) -> tuple:
    count = sum(name.endswith("_x") for name in file)
    if count < 2:
        raise ValueError(
            f"expected the Counter-Strike layout (frame_0_x, frame_0_y, ...) in {path}, found {_names(file)}; name its "
            "arrays: arrays.frames=... arrays.actions=..."
        )
    for i in range(count):
        _array(path, file, "frames", f"frame_{i}_x")
    done = np.stack([_array(path, file, "actions", f"frame_{i}_y")[:] for i in range(count)])
    told = np.stack([_array(path, file, "kills and deaths", f"frame_{i}_helperarr")[:] for i in range(count)])
    if done.shape[1:] != (WIDTH,) or told.shape[1:] != (2,) or not np.isin(done, (0, 1)).all():
        raise ValueError(f"expected frame_i_y of {WIDTH} zeros and ones and frame_i_helperarr of 2 numbers in {path}")
    columns = {name: done[:, i].astype(np.int64) for i, name in enumerate(KEYS)}
    start = len(KEYS)
    for name, values in MOUSE.items():
        hot = done[:, start : start + len(values)]
        if not (hot.sum(1) == 1).all():
            raise ValueError(f"expected one {name} in each frame_i_y of {path}, found none or several")
        columns[name] = np.array(values, np.float64)[hot.argmax(1)]
        start += len(values)
    columns[REWARD] = np.append(told[1:, 0], 0).astype(np.float64)  # a kill shows in the frame that a step led to
    died = told[:, 1] > 0
    died[1:] &= ~died[:-1]
    died[[0, -2]] = False  # an episode has two frames or more
    columns[TERMINATED] = died.astype(np.int64)
    take = Hdf5Take(path, np.arange(count), fps or COUNTER_STRIKE_FPS)
    return take, _in_episodes(path, columns)


def _in_episodes(path: Path, columns: dict[str, np.ndarray]) -> ActionFile:
    """Returns the columns as a file whose episodes end where they say so."""
    if (ends := columns.get(TERMINATED)) is not None:
        columns[EPISODE] = np.r_[0, np.cumsum(ends[:-1].astype(np.int64))]
    return ActionFile(path, columns)


def _array(path: Path, file: Any, role: str, name: str) -> Any:
    if name not in file or not hasattr(file[name], "dtype"):
        raise ValueError(f"expected the array {name!r} ({role}) in {path}, found {_names(file)}")
    return file[name]


def _names(file: Any) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") and len(names) < 9 else None)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no arrays"


def _kind(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"
