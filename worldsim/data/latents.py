"""A data set encoded once: one fp16 latent per recorded frame, in shards beside the training run.

Here because dynamics training reads every frame many times, and encoding costs more than reading.
Leaves out windows and actions (see `clips`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldsim.data.episodes import EpisodeStore
from worldsim.files import write_json
from worldsim.types import Autoencoder

BATCH = 256


class LatentStore:
    """Latents of every frame of an `EpisodeStore`, kept through memory maps: `read` makes floats of what is kept."""

    def __init__(self, store: EpisodeStore, shards: Sequence[np.ndarray], read: Callable[[Tensor], Tensor]):
        self.store, self.read, self.shards = store, read, shards

    def stored(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns what is kept of frames `start:stop` of episode `index`."""
        record = self.store.records[index]
        stop = record.num_observations if stop is None else stop
        return self.shards[record.shard][record.observation_start + start : record.observation_start + stop]


def folded_dataset(store: EpisodeStore, encode: Callable[[Tensor], Tensor]) -> LatentStore:
    """Returns the recorded frames themselves, folded when they are read: nothing is encoded or written."""
    return LatentStore(store, [store.shard_observations(i) for i in range(store.num_shards)], encode)


def encode_dataset(store: EpisodeStore, autoencoder: Autoencoder, folder: Path, fingerprint: str) -> LatentStore:
    """Encodes every shard that `folder` does not hold yet; a shard appears whole or not at all.

    `fingerprint` names the codec's weights: latents of another codec are encoded again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp, mine = folder / "codec.json", {"fingerprint": fingerprint}
    if not stamp.exists() or json.loads(stamp.read_text()) != mine:
        for old in folder.glob("*.npy"):
            old.unlink()
        write_json(stamp, mine)
    for shard in tqdm(range(store.num_shards), desc="encode", unit="shard"):
        frames, path = store.shard_observations(shard), _shard_path(folder, shard)
        if not path.exists() or len(np.load(path, mmap_mode="r")) != len(frames):
            _encode_shard(frames, autoencoder, path)
    shards = [np.load(_shard_path(folder, shard), mmap_mode="r") for shard in range(store.num_shards)]
    return LatentStore(store, shards, Tensor.float)


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.npy"


@torch.no_grad()
def _encode_shard(frames: np.ndarray, autoencoder: Autoencoder, path: Path) -> None:
    device = autoencoder.bound.device
    latents = np.empty((len(frames), *autoencoder.latent_shape), np.float16)
    for start in range(0, len(frames), BATCH):
        batch = torch.from_numpy(np.array(frames[start : start + BATCH])).to(device)
        latents[start : start + BATCH] = autoencoder.encode(batch).cpu().numpy()
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.save(file, latents)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
