"""LeRobot data sets, format v3, as data folders and back, by the optional extra `lerobot` (pyarrow).

Here because robot learning publishes so: tables in Parquet, a video for many episodes, and where each of them lies.
Leaves out the hub, depth, and every column that is neither action, reward nor end.

Row t of an episode holds frame t and the action that was taken then, which leads to frame t + 1, as in a data folder;
`next.reward` is that step's, `next.done` its end. The last row's action leads to a frame that nobody kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np

from worldsim.actions import leaf_shape, leaves
from worldsim.data.action_files import EPISODE, REWARD, TERMINATED, ActionFile
from worldsim.data.episodes import EpisodeStore
from worldsim.data.frame_files import Take, open_takes, read_picture
from worldsim.files import write_json

INFO = Path("meta/info.json")
VERSION = "v3.0"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO = f"data/{PLACE}.parquet", f"videos/{{video_key}}/{PLACE}.mp4"
CAMERA = "observation.images.screen"
WHOLE = ("key_", "choice_")  # what whole numbers are called that we write, beside axes as floating-point ones
TASK = "play"


@dataclass(frozen=True)
class Pictures(Take):
    """Frames that stand in the tables themselves, as the bytes of picture files."""

    column: str = ""
    tables: tuple[Path, ...] = ()

    def frames(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 `[H W 3]`."""
        for path in self.tables:
            for cell in _table(path, [self.column])[self.column]:
                yield self.cut(read_picture(path, cell["bytes"]))


def is_lerobot(source: Path) -> bool:
    """Returns whether a folder is a LeRobot data set."""
    return (source / INFO).is_file()


def read_lerobot(source: Path, camera: str | None) -> tuple[list[Take], list[ActionFile], float]:
    """Returns a data set's takes, one for each video or table, the rows of each, and the frame rate.

    Raises ValueError, in one sentence, for another version, several cameras where none is named, and what is damaged.
    """
    try:
        info = json.loads((source / INFO).read_text())
        version, fps, features = str(info["codebase_version"]), float(info["fps"]), info["features"]
        if not version.startswith("v3."):
            raise ValueError(f"it has format {version}; lerobot's own script makes v3.0 of it")
        camera = _camera(features, camera)
        episodes = sorted(_episodes(source), key=lambda row: row["episode_index"])
        read = _from_videos if features[camera]["dtype"] == "video" else _from_tables
        takes, files = zip(*read(source, info, camera, episodes), strict=True)
        return list(takes), list(files), fps
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"expected a whole LeRobot data set in {source}, found one that is not: {reason}") from error


def _camera(features: dict[str, Any], named: str | None) -> str:
    cameras = [name for name, feature in features.items() if feature["dtype"] in ("video", "image")]
    if named is None and len(cameras) == 1:
        return cameras[0]
    if named not in cameras:
        raise ValueError(f"give camera= one of {', '.join(cameras) or '(none)'}")
    return named


def _from_videos(source: Path, info: dict, camera: str, episodes: list[dict]) -> Iterator[tuple[Take, ActionFile]]:
    """Yields each video's take, and the rows of the episodes that it holds, in the order in which it shows them."""
    place = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    ordered = sorted(episodes, key=lambda row: [row[name] for name in place])
    for (chunk, file), group in groupby(ordered, key=lambda row: (row[place[0]], row[place[1]])):
        rows, expected = list(group), 0
        for row in rows:
            if round(row[place[2]] * info["fps"]) != expected:
                raise ValueError(
                    f"episode {row['episode_index']} begins at {row[place[2]]} s, not where the last ended"
                )
            expected += row["length"]
        path = source / info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        (take,) = open_takes([path], float(info["fps"]))
        if take.num_frames != expected:
            (take,) = open_takes([path], float(info["fps"]), decode=True)
        if take.num_frames != expected:
            raise ValueError(f"{path} has {take.num_frames} frames, its episodes {expected}")
        yield take, _rows(source, info, rows, path)


def _from_tables(source: Path, info: dict, camera: str, episodes: list[dict]) -> Iterator[tuple[Take, ActionFile]]:
    """Yields each table's pictures as a take, and its rows."""
    place = [f"data/{name}" for name in ("chunk_index", "file_index")]
    for (chunk, file), group in groupby(episodes, key=lambda row: (row[place[0]], row[place[1]])):
        rows = list(group)
        path = source / info["data_path"].format(chunk_index=chunk, file_index=file)
        count, fps = sum(row["length"] for row in rows), float(info["fps"])
        yield Pictures(path, np.arange(count), fps, fps, column=camera, tables=(path,)), _rows(source, info, rows, path)


def _rows(source: Path, info: dict, episodes: list[dict], path: Path) -> ActionFile:
    """Returns what was done in so many episodes, one after the other."""
    features = info["features"]
    wanted = [name for name in ("action", "next.reward", "next.done") if name in features]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*wanted, "episode_index")}

    @lru_cache(maxsize=1)  # many episodes lie in one
    def read(place: Path) -> dict[str, np.ndarray]:
        return {name: np.asarray(values) for name, values in _table(place, [*wanted, "episode_index"]).items()}

    for row in episodes:
        place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        table = read(source / info["data_path"].format(**place))
        mine = table["episode_index"].ravel() == row["episode_index"]
        if mine.sum() != row["length"]:
            raise ValueError(f"episode {row['episode_index']} has {mine.sum()} rows, not {row['length']}")
        for name, found in parts.items():
            found.append(table[name][mine])
    columns: dict[str, np.ndarray] = {}
    if wanted and "action" in wanted:
        actions = np.concatenate(parts["action"])
        actions = actions.reshape(len(actions), -1)
        columns = dict(zip(_names(features["action"], actions.shape[1]), actions.T, strict=True))
        for name, values in columns.items():
            if name.startswith(WHOLE) and (values == values.round()).all():
                columns[name] = values.astype(np.int64)
    if "next.reward" in wanted:
        columns[REWARD] = np.concatenate(parts["next.reward"]).astype(np.float32).ravel()
    if "next.done" in wanted:
        columns[TERMINATED] = np.concatenate(parts["next.done"]).astype(np.int64).ravel()
    columns[EPISODE] = np.concatenate(parts["episode_index"]).astype(np.int64).ravel()
    return ActionFile(path, columns)


def _names(feature: dict, count: int) -> list[str]:
    """Returns what the numbers of an action are called."""
    names = feature.get("names")
    if isinstance(names, dict):  # {"motors": [...]}, as older sets have it
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [part])]
    if isinstance(names, list) and len({str(name) for name in names}) == count:
        return [str(name) for name in names]
    return ["action"] if count == 1 else [f"action_{i}" for i in range(count)]


def _episodes(source: Path) -> Iterable[dict]:
    paths = sorted((source / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise ValueError("no meta/episodes/*/*.parquet")
    pq = _parquet()
    for path in paths:
        names = [name for name in pq.ParquetFile(path).schema_arrow.names if not name.startswith("stats/")]
        yield from pq.read_table(path, columns=names).to_pylist()


def _table(path: Path, columns: list[str]) -> dict[str, list]:
    return _parquet().read_table(path, columns=columns).to_pydict()


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError('LeRobot data sets need pyarrow: pip install "worldsim-rl[lerobot]"') from error
    return pq


def export_lerobot(store: EpisodeStore, out: Path, progress: Callable[[int], Any] = lambda frames: None) -> Path:
    """Writes a data folder as a LeRobot v3 data set, which appears when it is whole; returns its folder.

    Frames become one H.264 video, which loses a little; the last row of an episode repeats the action before it.
    """
    if out.exists():
        raise ValueError(f"expected a new folder, found {out} there already; choose another out=")
    if store.info.action_space is None:
        raise ValueError(f"expected a recording with actions, found none in {store.folders[0]}")
    if any(side % 2 for side in store.info.observation_shape[:2]):
        raise ValueError(f"expected frames with even sides, as H.264 wants them, found {store.info.observation_shape}")
    _parquet()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(store, partial, progress)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write(store: EpisodeStore, folder: Path, progress: Callable[[int], Any]) -> None:
    import pyarrow as pa

    first = {"chunk_index": 0, "file_index": 0}
    video = folder / VIDEO.format(video_key=CAMERA, **first)
    video.parent.mkdir(parents=True)
    height, width, _ = store.info.observation_shape
    writer = imageio_ffmpeg.write_frames(
        str(video), (width, height), fps=store.info.fps, quality=9, macro_block_size=1, ffmpeg_log_level="quiet"
    )
    writer.send(None)
    rows: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    for index, record in enumerate(store.records):
        start = len(rows)
        for frame in store.observations(index):
            writer.send(np.ascontiguousarray(frame))
        rows += _frames(store, index, start)
        episodes.append(_episode(store.info.fps, index, start, record.num_observations))
        progress(len(rows))
    writer.close()
    if imageio_ffmpeg.count_frames_and_secs(str(video))[0] != len(rows):  # a full disk at its end nobody else reports
        raise OSError(f"cannot write all of {video}; free some space or choose another out=")
    pq = _parquet()
    features = _features(store)
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    schema = pa.schema(
        (name, pa.list_(kinds[f["dtype"]]) if name == "action" else kinds[f["dtype"]])
        for name, f in features.items()
        if f["dtype"] != "video"
    )
    for path, table in (
        (folder / DATA.format(**first), pa.Table.from_pylist(rows, schema)),
        (folder / "meta" / "episodes" / f"{PLACE.format(**first)}.parquet", pa.Table.from_pylist(episodes)),
        (folder / "meta" / "tasks.parquet", pa.table({"task_index": pa.array([0], pa.int64()), "task": [TASK]})),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    write_json(folder / "meta" / "stats.json", _stats(rows))
    write_json(folder / INFO, _info(store, features, len(rows)))


def _frames(store: EpisodeStore, index: int, start: int) -> list[dict[str, Any]]:
    record, rewards = store.records[index], store.rewards(index)
    packed = store.actions(index)
    assert packed is not None  # `export_lerobot` has asked
    last = record.total_steps - 1
    rows = []
    for t in range(record.num_observations):
        row = {
            "action": np.asarray(packed[min(t, last)], _number(store)).tolist(),
            "next.done": record.terminated and t >= last,
            "timestamp": t / store.info.fps,
            "frame_index": t,
            "episode_index": index,
            "index": start + t,
            "task_index": 0,
        }
        if rewards is not None:
            row["next.reward"] = float(rewards[t]) if t <= last else 0.0
        rows.append(row)
    return rows


def _number(store: EpisodeStore) -> type:
    """Returns what the numbers of an action are: whole ones stay whole, so that choices and keys stay what they are."""
    assert store.info.action_space is not None  # `export_lerobot` has asked
    axes = any(isinstance(leaf, gym.spaces.Box) for leaf in leaves(store.info.action_space))
    return np.float32 if axes else np.int64


def _episode(fps: float, index: int, start: int, length: int) -> dict[str, Any]:
    return {
        "episode_index": index,
        "tasks": [TASK],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": start,
        "dataset_to_index": start + length,
        f"videos/{CAMERA}/chunk_index": 0,
        f"videos/{CAMERA}/file_index": 0,
        f"videos/{CAMERA}/from_timestamp": start / fps,
        f"videos/{CAMERA}/to_timestamp": (start + length) / fps,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _features(store: EpisodeStore) -> dict[str, dict[str, Any]]:
    info = store.info
    assert info.action_space is not None  # `export_lerobot` has asked
    kinds = {gym.spaces.Box: "axis", gym.spaces.MultiBinary: "key"}  # and choices: see `WHOLE`
    names = [
        f"{kinds.get(type(leaf), 'choice')}_{i}"
        for i, leaf in enumerate(x for x in leaves(info.action_space) for _ in range(int(np.prod(leaf_shape(x)))))
    ]
    names = ["action"] if names == ["choice_0"] else names
    one: dict[str, Any] = {"shape": [1], "names": None}
    features: dict[str, dict[str, Any]] = {
        CAMERA: {
            "dtype": "video", "shape": list(info.observation_shape), "names": ["height", "width", "channels"],
        },
        "action": {"dtype": np.dtype(_number(store)).name, "shape": [len(names)], "names": names},
        "next.done": {"dtype": "bool", **one},
        "timestamp": {"dtype": "float32", **one},
        **{name: {"dtype": "int64", **one} for name in ("frame_index", "episode_index", "index", "task_index")},
    }  # fmt: skip
    return features | ({"next.reward": {"dtype": "float32", **one}} if info.has_rewards else {})


def _stats(rows: list[dict[str, Any]]) -> dict[str, Any]:
    stats = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], np.float64).reshape(len(rows), -1)
        stats[name] = {
            "min": values.min(0).tolist(),
            "max": values.max(0).tolist(),
            "mean": values.mean(0).tolist(),
            "std": values.std(0).tolist(),
            "count": [len(rows)],
        }
    return stats


def _info(store: EpisodeStore, features: dict[str, Any], frames: int) -> dict[str, Any]:
    return {
        "codebase_version": VERSION,
        "robot_type": store.info.game,
        "total_episodes": len(store),
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(store.info.fps) if store.info.fps.is_integer() else store.info.fps,
        "splits": {"train": f"0:{len(store)}"},
        "data_path": DATA,
        "video_path": VIDEO,
        "features": features,
    }
