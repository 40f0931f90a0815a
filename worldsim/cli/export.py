"""`worldsim export`: a data folder becomes a Minari data set, under the id that Minari's own tools know it by.

Here as the counterpart of `worldsim import`. Leaves out uploading it (`minari upload`).
"""

from __future__ import annotations

from omegaconf import DictConfig
from tqdm import tqdm

from worldsim.cli.data import open_data
from worldsim.data.minari_sets import export_minari


def main(config: DictConfig) -> int:
    """Exports as `configs/export.yaml` says."""
    store = open_data(config.data)
    with tqdm(total=store.num_frames, desc="export", unit="frame", disable=None) as bar:
        folder = export_minari(store, str(config.out), lambda frames: bar.update(frames - bar.n))
    print(f"{config.out}: {len(store)} episodes, {store.num_frames} frames, in {folder}")
    return 0
