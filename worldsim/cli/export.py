"""`worldsim export`: a data folder becomes a Minari or LeRobot data set, or some of its episodes a film.

Here as the counterpart of `worldsim import`. Leaves out uploading (`minari upload`).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from worldsim.cli.data import open_data
from worldsim.data.episodes import EpisodeStore
from worldsim.data.lerobot_sets import export_lerobot
from worldsim.data.minari_sets import export_minari
from worldsim.messages import check_whole
from worldsim.play.video import FORMATS, VideoWriter


def main(config: DictConfig) -> int:
    """Exports as `configs/export.yaml` says."""
    store, out = open_data(config.data), str(config.out)
    check_whole("episodes", config.episodes, 1, optional=True)
    if Path(out).suffix in FORMATS:
        return _film(store, Path(out), min(config.episodes or 1, len(store)))
    if config.format not in (None, "lerobot"):
        raise ValueError(f"expected format=lerobot or none, found {config.format}; out= says the others")
    if config.episodes is not None:
        raise ValueError(f"expected episodes= for a film ({', '.join(FORMATS)}), found out={out}, which takes all")
    with tqdm(total=store.num_frames, desc="export", unit="frame", disable=None) as bar:
        update = lambda frames: bar.update(frames - bar.n)  # noqa: E731
        if config.format == "lerobot":
            folder = export_lerobot(store, Path(out), update)
        else:
            folder = export_minari(store, out, update)
    print(f"{out}: {len(store)} episodes, {store.num_frames} frames, in {folder}")
    return 0


def _film(store: EpisodeStore, out: Path, episodes: int) -> int:
    """Writes the first episodes, one after the other."""
    total = sum(record.num_observations for record in store.records[:episodes])
    with VideoWriter(out, store.info.fps) as film:
        for index in tqdm(range(episodes), desc="export", unit="episode", disable=None):
            for frame in store.observations(index):
                film.append(frame)
    print(f"{out}: {episodes} episodes, {total} frames")
    return 0
