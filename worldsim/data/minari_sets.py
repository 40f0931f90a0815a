"""Minari data sets as data folders and back, by the optional extra `minari`.

Here as the bridge to everything that reads or writes Minari; an episode means the same on both sides.
Leaves out downloads (`minari download` does those) and observations other than RGB pictures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import default_keymap, pack, unpack_rows
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore
from worldsim.data.importer import check_fps, resize
from worldsim.data.recorder import DEFAULT_FPS
from worldsim.data.whole_folder import write_import
from worldsim.messages import check_whole

FACTS = "worldsim"  # the key of Minari's metadata under which an export keeps what a data folder says of its game
_ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AssertionError)  # what Minari and h5py raise on bad files


def is_minari_id(text: str) -> bool:
    """Returns whether a text has the form (namespace/)name-v0."""
    return _ID.fullmatch(text) is not None


def import_minari(
    dataset_id: str,
    out: Path,
    fps: float | None = None,
    size: int | None = 64,
    progress: Callable[[int, int], Any] = lambda frames, total: None,
) -> int:
    """Imports a local Minari data set of RGB pictures; returns how many frames were new in `out`.

    Seeds, rewards, ends and the game's spec are kept. Minari knows no frame rate: it is 15 unless given, or the
    recording's own where worldsim exported it. Raises ValueError (one sentence) for what is damaged or no RGB pictures.
    """
    check_whole("size", size, 8, optional=True)
    dataset = _load(dataset_id)
    space = dataset.observation_space
    if not (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)):
        raise ValueError(f"expected RGB pictures, uint8 [H W 3], as observations of {dataset_id}, found {space}")
    height, width, _ = space.shape
    info = replace(_facts(dataset, fps), observation_shape=(size or height, size or width, 3))
    total = dataset.total_steps + dataset.total_episodes
    return write_import(out, info, _read_episodes(dataset, info), lambda frames: progress(frames, total))


def _load(dataset_id: str) -> Any:
    path = _dataset_path(dataset_id)
    if not path.exists():
        raise ValueError(f"expected a Minari data set at {path}, found none; minari download {dataset_id} fetches one")
    import minari
    from minari.dataset.minari_storage import MinariStorage

    try:
        missing = {"observation_space", "action_space"} - MinariStorage.read_raw_metadata(path / "data").keys()
        if missing:  # Minari would make the game to ask it: reading data runs no code here
            raise ValueError(f"its metadata has no {' and no '.join(sorted(missing))}")
        return minari.load_dataset(dataset_id)
    except _DAMAGE as error:
        raise _unreadable(dataset_id, error) from error


def _dataset_path(dataset_id: str) -> Path:
    """Returns where Minari keeps a data set of this id. Raises ImportError naming the extra where it is missing."""
    if not is_minari_id(dataset_id):
        raise ValueError(f"expected a Minari id like (namespace/)name-v0, found {dataset_id!r}")
    try:
        from minari.storage import get_dataset_path
    except ImportError as error:
        raise ImportError("Minari data sets need the extra minari: pip install 'worldsim-rl[minari]'") from error
    return get_dataset_path(dataset_id)


def _unreadable(dataset_id: str, error: Exception) -> ValueError:
    return ValueError(f"cannot read the Minari data set {dataset_id}: {type(error).__name__}: {error}")


def _facts(dataset: Any, fps: float | None) -> DatasetInfo:
    """Returns what a data folder says of the game: as it was exported, or from the spaces and the spec."""
    metadata = dataset.storage.metadata
    if FACTS in metadata:
        info = DatasetInfo.from_json(metadata[FACTS])
        return info if fps is None else replace(info, fps=check_fps(fps))
    spec = json.loads(metadata["env_spec"]) if "env_spec" in metadata else None
    return DatasetInfo(
        game=dataset.id if spec is None else spec["id"],
        observation_shape=dataset.observation_space.shape,
        action_space=dataset.action_space,
        fps=DEFAULT_FPS if fps is None else check_fps(fps),
        keymap=default_keymap(dataset.action_space),
        env_spec=spec,
    )


def _read_episodes(dataset: Any, info: DatasetInfo) -> Iterator[Episode]:
    """Yields the episodes; each is in memory as a whole, as Minari reads it."""
    try:
        labels = dataset.storage.get_episode_metadata(dataset.episode_indices)
        for number, (found, label) in enumerate(zip(dataset, labels, strict=True)):
            yield _read_episode(found, label, info, f"{dataset.id}, episode {number}")
    except _DAMAGE as error:
        raise _unreadable(dataset.id, error) from error


def _read_episode(found: Any, label: dict, info: DatasetInfo, name: str) -> Episode:
    steps = len(found.rewards)
    if info.action_space is None:
        raise ValueError(f"expected an action space in the facts of {name}, found none")
    if found.observations.dtype != np.uint8 or len(found.observations) != steps + 1:
        raise ValueError(f"expected {steps + 1} uint8 pictures in {name}, found {len(found.observations)}")
    return Episode(
        observations=resize(found.observations, *info.observation_shape[:2]),
        actions=pack(info.action_space, found.actions, rows=steps),
        rewards=found.rewards.astype(np.float32) if info.has_rewards else None,
        terminated=bool(found.terminations[-1]),
        truncated=bool(found.truncations[-1]),
        seed=label.get("seed"),
        policy=str(label.get("policy", f"import:{name.partition(',')[0]}")),
    )


def export_minari(store: EpisodeStore, dataset_id: str, progress: Callable[[int], Any] = lambda frames: None) -> Path:
    """Writes a data folder as a local Minari data set, which appears when it is whole; returns its folder.

    Frames are kept exactly, not as JPEG, Minari's default. Rewards of a recording without are NaN. Frame rate, keymap
    and who played stand in the metadata, so that `import_minari` returns the same data folder. Raises ValueError where
    the id is taken, or the recording has no actions.
    """
    path = _dataset_path(dataset_id)
    if path.exists():
        raise ValueError(f"expected a new Minari id, found {path} there already; choose another name or version")
    if store.info.action_space is None:
        raise ValueError(f"expected a recording with actions, as Minari wants them, found none in {store.folders[0]}")
    from minari.namespace import create_namespace, list_local_namespaces

    partial = path.with_name(f".{path.name}.partial")  # hidden: Minari does not list it
    shutil.rmtree(partial, ignore_errors=True)
    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
    try:
        _write(store, dataset_id, partial / "data", progress)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _write(store: EpisodeStore, dataset_id: str, folder: Path, progress: Callable[[int], Any]) -> None:
    import minari
    from minari.dataset.minari_storage import MinariStorage

    info, policies = store.info, [record.policy for record in store.records]
    frames = gym.spaces.Box(0, 255, info.observation_shape, np.uint8)
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, frames, info.action_space, jpeg_encoding=False)
    spec = {} if info.env_spec is None else {"env_spec": json.dumps(info.env_spec)}
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "algorithm_name": ", ".join(sorted(set(policies))),
            "description": f"{info.game}, {info.fps:g} frames a second, recorded with worldsim",
            FACTS: info.to_json(),
            **spec,
        }
    )
    storage.update_episodes(_buffers(store, progress))
    storage.update_episode_metadata([{"policy": policy} for policy in policies])


def _buffers(store: EpisodeStore, progress: Callable[[int], Any]) -> Iterator[Any]:
    """Yields the episodes as Minari writes them."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    space, done = store.info.action_space, 0
    for index, record in enumerate(store.records):
        packed, rewards, steps = store.actions(index), store.rewards(index), record.total_steps
        assert space is not None and packed is not None  # `export_minari` has asked
        yield EpisodeBuffer(
            seed=record.seed,
            observations=np.array(store.observations(index)),
            actions=unpack_rows(space, packed),
            rewards=np.full(steps, np.nan, np.float32) if rewards is None else np.array(rewards),
            terminations=_only_last(steps, record.terminated),
            truncations=_only_last(steps, record.truncated),
        )
        done += record.num_observations
        progress(done)


def _only_last(steps: int, value: bool) -> np.ndarray:
    return np.arange(1, steps + 1) == (steps if value else 0)
