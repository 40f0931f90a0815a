"""`worldsim import`: what another program recorded becomes a data folder; one that is shifted becomes another.

Here as the place that tells them apart; its name has an underscore because `import` is a word of Python's.
Leaves out recording (`worldsim record`) and the way back to Minari (`worldsim export`).
"""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from worldsim.data.episodes import EpisodeStore
from worldsim.data.hdf5_files import find_hdf5_files
from worldsim.data.importer import import_frames, import_hdf5, import_lerobot, import_mcap, import_shifted
from worldsim.data.index import FACTS
from worldsim.data.lerobot_sets import is_lerobot
from worldsim.data.mcap_files import find_mcap_files
from worldsim.data.minari_sets import import_minari, is_minari_id

SIZE, LONGEST = 64, 1000  # what `size` and `max_episode_steps` are unless they are given


def main(config: DictConfig) -> int:
    """Imports as `configs/import.yaml` says."""
    source, out, began = str(config.source), Path(str(config.out)), time.perf_counter()
    with tqdm(desc="import", unit="frame", disable=None) as bar:

        def progress(frames: int, total: int) -> None:
            bar.total = total
            bar.update(frames - bar.n)

        new = _import(config, source, out, progress)
    store = EpisodeStore(out)
    rate = f"{new / (time.perf_counter() - began):.0f} frames/s" if new else "there already"
    print(f"{out}: {len(store)} episodes, {store.num_frames} frames of {store.info.game}, {rate}")
    return 0


def _import(config: DictConfig, source: str, out: Path, progress) -> int:
    path, actions = Path(source), None if config.actions is None else Path(str(config.actions))
    shape = {key: config[key] for key in ("size", "max_episode_steps", "frame_skip", "crop")}
    if (path / FACTS).exists():
        if config.shift == 0:
            raise ValueError(
                f"{path} is a data folder already; shift= moves its actions, and worldsim export writes it as a Minari "
                "data set"
            )
        others = (actions, config.fps, config.camera, *shape.values())
        if others != (None, None, None, SIZE, LONGEST, 1, None) or any(config.arrays.values()):
            raise ValueError(
                f"expected shift= alone with the data folder {source}, found actions=, fps=, size=, crop=, camera=, "
                "max_episode_steps=, frame_skip= or arrays. too"
            )
        return import_shifted(path, out, config.shift, progress)
    if config.shift != 0:
        raise ValueError(f"expected shift= with a data folder, found {source}; import it, then shift that")
    if path.is_dir() and is_lerobot(path):
        if actions is not None or config.fps is not None or any(config.arrays.values()):
            raise ValueError(f"expected no actions=, fps= or arrays. with the LeRobot data set {source}, found one")
        return import_lerobot(path, out, config.camera, progress, **shape)
    if config.camera is not None:
        raise ValueError(f"expected camera= with a LeRobot data set, found {source}")
    if path.exists() and find_hdf5_files(path):
        if actions is not None:
            raise ValueError(f"expected arrays.actions= instead of actions= for the HDF5 files of {source}")
        return import_hdf5(path, out, config.arrays, config.fps, progress, **shape)
    if any(config.arrays.values()):
        raise ValueError(f"expected arrays. with HDF5 files, found {source}")
    if path.exists() and find_mcap_files(path):
        if actions is not None:
            raise ValueError(f"expected no actions= for the desktop recordings of {source}, which have their own")
        return import_mcap(path, out, config.fps, progress, tqdm.write, **shape)
    if path.exists():
        return import_frames(path, out, actions, config.fps, progress, tqdm.write, **shape)
    if not is_minari_id(source):
        raise ValueError(
            f"expected source= to be a video, a folder or a Minari id (name-v0), found nothing at {source}"
        )
    if config.crop is not None or config.frame_skip != 1 or config.max_episode_steps != LONGEST:
        raise ValueError(
            f"expected crop=, frame_skip= and max_episode_steps= with videos, pictures and recordings, found {source}"
        )
    if actions is not None:
        raise ValueError(f"expected no actions= for the Minari data set {source}, which has its own, found {actions}")
    return import_minari(source, out, config.fps, config.size, progress)
