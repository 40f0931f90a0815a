"""What becomes of a dream that goes on for thousands of frames, whatever its outcome model says.

Here because figures of 32 steps do not show a world that dissolves after a hundred.
Leaves out the distance itself (`features`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.data.policies import StickyPolicy
from worldsim.evaluation.detail import haar_energy
from worldsim.evaluation.features import CHUNK, ChunkNet, chunk_net, features, kernel_distance
from worldsim.evaluation.fidelity import Probe
from worldsim.evaluation.statistics import square_error
from worldsim.evaluation.subject import Subject, starts_of

ROWS, CHUNKS = 8, 4  # dreams at once, and chunks in a row that are looked at at every age
REFERENCE = 256  # real chunks that dreams are compared with
AGES = (0, 32, 100, 316, 1000, 3162, 10_000)  # frames; each is looked at for 64 frames, the last ones up to the end
STILL = (1 / 255) ** 2  # frames nearer than one grey level to the one before stand still
COLLAPSED = 0.5  # of the way from real chunks to a mean frame that stands still


def drift(
    subject: Subject,
    store: EpisodeStore,
    episodes: list[int],
    length: int = 10_000,
    probe: Probe | None = None,
    training_steps: int = 400,
) -> dict[str, Any] | None:
    """Returns, by age, what 8 dreams of `length` frames by a sticky policy look like beside real recordings.

    `distance` is the kernel distance to real chunks as a share of a still mean frame's: 0 is real, 1 as bad as that;
    `floor` is what real chunks of other episodes reach, the mean and the 95th percentile of as many. `detail` is fine
    detail as a share of the real, `stall` the share of frames that stand still (beside the real `stall_floor`), `valid`
    the share of frames in which the probe finds what it finds in real ones. `collapse` is the first age whose distance
    is above a half, or where less than half of the frames are valid; None: none. None without 4 long enough episodes.
    """
    usable = [i for i in episodes if store.records[i].num_observations >= max(2 * CHUNK, subject.window + 1)]
    if len(usable) < 4:
        return None
    net = chunk_net(store, usable[::2], training_steps)
    real = _real_chunks(store, usable[1::2], REFERENCE)
    scale = _Scale(net, real)
    ages = [age for age in AGES if age + CHUNK * CHUNKS <= length] + [length - CHUNK * CHUNKS]
    known = _signature(probe, real[:, 0])
    figures: dict[str, Any] = {}
    for age, chunks, moments in _dreamed(subject, store, usable, sorted(set(ages))):
        frames = chunks.reshape(-1, *chunks.shape[2:])
        figures[str(age)] = {
            "distance": round(scale(chunks), 4),
            "detail": round(float(haar_energy(frames).mean() / scale.detail), 4) if scale.detail > 0 else None,
            "stall": _stall(chunks),
            **({"valid": round(float(np.mean([_found(probe(f)) == known for f in frames])), 4)} if probe else {}),
            **moments,
        }
    collapsed = [int(age) for age, f in figures.items() if f["distance"] > COLLAPSED or f.get("valid", 1) < 0.5]
    floor = scale.floor(ROWS * CHUNKS)
    return {
        "ages": figures,
        "floor": {"mean": round(float(floor.mean()), 4), "p95": round(float(np.quantile(floor, 0.95)), 4)},
        "stall_floor": _stall(real),
        "collapse": min(collapsed, default=None),
        "length": length,
    }


class _Scale:
    """The distance of chunks to real ones, as a share of how far a still mean frame is."""

    def __init__(self, net: ChunkNet, real: np.ndarray):
        raw = features(net, real)
        self._net, self._mean, self._std = net, raw.mean(0), raw.std(0) + 1e-6
        self._real = (raw - self._mean) / self._std
        still = np.broadcast_to(real.mean((0, 1)).astype(np.uint8), (2, *real.shape[1:])).copy()
        self._unit = kernel_distance(self._features(still), self._real)
        self.detail = float(haar_energy(real[:, 0]).mean())

    def _features(self, chunks: np.ndarray) -> np.ndarray:
        return (features(self._net, chunks) - self._mean) / self._std

    def __call__(self, chunks: np.ndarray) -> float:
        return kernel_distance(self._features(chunks), self._real) / self._unit

    def floor(self, count: int, draws: int = 100) -> np.ndarray:
        """Returns the distances of `count` real chunks to the others, for random ones."""
        rng, n = np.random.default_rng(0), len(self._real)
        count = min(count, n // 2)
        orders = (rng.permutation(n) for _ in range(draws))
        return np.array([kernel_distance(self._real[o[:count]], self._real[o[count:]]) for o in orders]) / self._unit


def _real_chunks(store: EpisodeStore, episodes: list[int], count: int) -> np.ndarray:
    rng, shares = np.random.default_rng(1), np.array([store.records[i].num_observations for i in episodes], float)
    picks = [
        (i, int(rng.integers(store.records[i].num_observations - CHUNK + 1)))
        for i in rng.choice(episodes, count, p=shares / shares.sum())
    ]
    return np.stack([store.observations(i, s, s + CHUNK) for i, s in picks])


def _dreamed(subject: Subject, store: EpisodeStore, episodes: list[int], ages: list[int]):
    """Yields, for rising ages, chunks `[8 * 4, 16, H, W, 3]` of dreams, and their latents' moments where it has any."""
    picks = [episodes[i % len(episodes)] for i in range(ROWS)]
    firsts = [min(store.records[i].total_steps, subject.window + 8 * (n // len(episodes))) for n, i in enumerate(picks)]
    subject.reset([starts_of(store, i, [p], subject.window)[0] for i, p in zip(picks, firsts, strict=True)])
    policy, started = StickyPolicy(store.info.action_space, np.random.default_rng(0)), np.ones(ROWS, bool)
    span, frames, latents, coming = CHUNK * CHUNKS, [], [], list(ages)
    for step in range(ages[-1] + span):
        look = step >= coming[0]
        result = subject.step(policy(np.zeros(ROWS), started), look)
        started = np.zeros(ROWS, bool)
        if look:
            frames.append(result.frames)
            latents.append(_latent(subject))
        if len(frames) == span:
            chunks = np.stack(frames, 1).reshape(ROWS * CHUNKS, CHUNK, *frames[0].shape[1:])
            yield coming.pop(0), chunks, _moments(latents)
            frames, latents = [], []


def _latent(subject: Subject) -> np.ndarray | None:
    state = getattr(subject, "state", None)
    return None if state is None else state.latent.cpu().numpy().astype(np.float64)


def _moments(latents: list[np.ndarray | None]) -> dict[str, float]:
    if latents[0] is None:
        return {}
    x = np.stack(latents)
    mean, std = x.mean(), x.std()
    kurtosis = float(np.mean(((x - mean) / max(std, 1e-9)) ** 4))
    return {f"latent_{name}": round(float(v), 4) for name, v in (("mean", mean), ("std", std), ("kurtosis", kurtosis))}


def _stall(chunks: np.ndarray) -> float:
    return round(float((square_error(chunks[:, 1:], chunks[:, :-1]) <= STILL).mean()), 4)


def _found(things: dict[str, Any]) -> tuple:
    return tuple(len(v) if isinstance(v, list) else v is not None for v in things.values())


def _signature(probe: Probe | None, frames: np.ndarray) -> tuple | None:
    """Returns what a probe finds in most real frames."""
    return Counter(_found(probe(f)) for f in frames).most_common(1)[0][0] if probe else None
