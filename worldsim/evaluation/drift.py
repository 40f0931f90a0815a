"""What becomes of a dream that goes on for thousands of frames, whatever its outcome model says.

Here because figures of 32 steps do not show a world that dissolves after a hundred.
Leaves out the distance itself (`features`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.data.policies import StickyPolicy
from worldsim.evaluation.detail import haar_energy
from worldsim.evaluation.features import CHUNK, chunk_net, features, kernel_distance
from worldsim.evaluation.fidelity import Probe
from worldsim.evaluation.habits import Act, Script, scripted
from worldsim.evaluation.statistics import square_error
from worldsim.evaluation.subject import Subject, starts_of

ROWS, CHUNKS = 4, 8  # dreams at once, and chunks in a row that are looked at at every age
SPAN = CHUNK * CHUNKS
REFERENCE = 256  # real chunks that dreams are compared with
FAR = 3.0  # deviations that a feature counts at most: cubed, one rare chunk would be the whole distance
AGES = (0, 32, 100, 316, 1000, 3162, 10_000)  # frames; each is looked at for 128 frames, the last ones up to the end
STILL = (1 / 255) ** 2  # frames nearer than one grey level to the one before stand still
COLLAPSED = 0.5  # of the way from real chunks to a mean frame that stands still


class Reference:
    """What real recordings look like to a small network of the game's own, as a scale for dreams."""

    def __init__(self, store: EpisodeStore, episodes: list[int], training_steps: int = 400):
        """Trains the network on the episodes and takes chunks of them as what dreams are compared with.

        Raises ValueError where less than 4 are long enough for two chunks.
        """
        self.store, self.episodes = store, [i for i in episodes if store.records[i].num_observations >= 2 * CHUNK]
        if len(self.episodes) < 4:
            raise ValueError(
                f"expected 4 episodes of at least {2 * CHUNK} frames to see drift against, found {len(self.episodes)}"
            )
        self._net = chunk_net(store, self.episodes, training_steps)
        self.chunks, self._owners = _real_chunks(store, self.episodes, REFERENCE)
        raw = features(self._net, self.chunks)
        self._mean, self._std = raw.mean(0), raw.std(0) + 1e-6
        self._real, self._unit = self._features(self.chunks), 1.0
        still = np.broadcast_to(self.chunks.mean((0, 1)).astype(np.uint8), (2, *self.chunks.shape[1:])).copy()
        self._unit = self.distance(still)
        self.detail = float(haar_energy(self.chunks[:, 0]).mean())

    def _features(self, chunks: np.ndarray) -> np.ndarray:
        return ((features(self._net, chunks) - self._mean) / self._std).clip(-FAR, FAR)

    def distance(self, chunks: np.ndarray) -> float:
        """Returns how far chunks `[n 16 H W 3]` are from real ones, as a share of how far a still mean frame is."""
        return kernel_distance(self._features(chunks), self._real) / self._unit

    def floor(self, count: int, draws: int = 100) -> np.ndarray:
        """Returns distances of at most `count` real chunks to those of other episodes, for random halves `[draws]`."""
        rng, half, values = np.random.default_rng(0), len(self.episodes) // 2, []
        for _ in range(draws):
            ours = np.isin(self._owners, rng.permutation(self.episodes)[:half])
            picked = rng.permutation(np.flatnonzero(ours))[:count]
            if len(picked) > 1 < (~ours).sum():  # else a half is one long episode's
                values.append(kernel_distance(self._real[picked], self._real[~ours]))
        return np.array(values) / self._unit


def drift(
    subject: Subject,
    reference: Reference,
    length: int = 10_000,
    probe: Probe | None = None,
    script: Script | None = None,
) -> dict[str, Any] | None:
    """Returns, by age, what 4 dreams of `length` frames look like beside real recordings.

    They are led by a script that lives long, where there is one, so that nothing is asked of a dream behind its end;
    else by a sticky policy.

    `distance` is the kernel distance to real chunks: 0 is real, 1 as far off as a still mean frame; `floor` is what
    as many real chunks of other episodes reach, their mean and 95th percentile. `detail` is fine detail as a share of
    the real, `stall` the share of frames that stand still (beside the real `stall_floor`), `valid` the share of frames
    in which the probe finds what it finds in real ones. `collapse` is the first age whose distance is above a half (and
    above all of the floor, or above 1), where less than half of the frames are valid, or where more than half stand
    still that do not in real ones; None: none. `tells` is whether distance says anything: not where real chunks of
    other episodes are often as far apart as that. None in all where nearly all real chunks are of one long episode.
    """
    if length < SPAN:
        raise ValueError(f"expected dreams of at least {SPAN} frames, found {length}")
    floor = reference.floor(ROWS * CHUNKS)
    if not len(floor):
        return None
    usual = float(np.quantile(floor, 0.95))
    limit = max(COLLAPSED, min(float(floor.max()), 1)) if usual <= COLLAPSED else np.inf
    ages = [age for age in AGES if age + SPAN <= length] + [length - SPAN]
    known = _signature(probe, reference.chunks[:, 0])
    figures: dict[str, Any] = {}
    for age, chunks, moments in _dreamed(subject, reference, sorted(set(ages)), script):
        frames = chunks.reshape(-1, *chunks.shape[2:])
        detail = float(haar_energy(frames).mean())
        figures[str(age)] = {
            "distance": round(reference.distance(chunks), 4),
            "detail": round(detail / reference.detail, 4) if reference.detail > 0 else None,
            "stall": _stall(chunks),
            **({"valid": round(float(np.mean([_found(probe(f)) == known for f in frames])), 4)} if probe else {}),
            **moments,
        }
    stall_floor = _stall(reference.chunks)
    collapsed = [
        int(age)
        for age, f in figures.items()
        if f["distance"] > limit or f.get("valid", 1) < 0.5 or f["stall"] > (1 + stall_floor) / 2
    ]
    return {
        "ages": figures,
        "floor": {"mean": round(float(floor.mean()), 4), "p95": round(usual, 4)},
        "stall_floor": stall_floor,
        "collapse": min(collapsed, default=None),
        "tells": usual <= COLLAPSED,
        "length": length,
    }


def _real_chunks(store: EpisodeStore, episodes: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns chunks `[count 16 H W 3]` from anywhere in the episodes, and which episode each is from."""
    rng, shares = np.random.default_rng(1), np.array([store.records[i].num_observations for i in episodes], float)
    picks = [
        (i, int(rng.integers(store.records[i].num_observations - CHUNK + 1)))
        for i in rng.choice(episodes, count, p=shares / shares.sum())
    ]
    chunks = np.stack([store.observations(i, s, s + CHUNK) for i, s in picks])
    return chunks, np.array([i for i, _ in picks])


def _dreamed(
    subject: Subject, reference: Reference, ages: list[int], script: Script | None
) -> Iterator[tuple[int, np.ndarray, dict[str, float]]]:
    """Yields, for rising ages, chunks `[32 16 H W 3]` of dreams, and their latents' moments if it has any."""
    store, episodes = reference.store, reference.episodes
    places = [(episodes[n % len(episodes)], subject.window + n // len(episodes)) for n in range(ROWS)]
    starts = [start for i, p in places for start in starts_of(store, i, [p], subject.window)]
    subject.reset(starts)
    act = _policy(store, script)
    now = np.stack([start.frames[-1] for start in starts])
    frames, latents = deque[np.ndarray](maxlen=SPAN), deque[Any](maxlen=SPAN)  # of the last steps looked at
    for step in range(ages[-1] + SPAN):
        look = any(age <= step < age + SPAN for age in ages)
        result = subject.step(act(now, step), look or script is not None)
        now = now if result.frames is None else result.frames
        if look:
            frames.append(result.seen)
            latents.append(_latent(subject))
        if (age := step + 1 - SPAN) in ages:
            chunks = np.stack(frames, 1).reshape(ROWS * CHUNKS, CHUNK, *frames[0].shape[1:])
            yield age, chunks, _moments(latents)


def _policy(store: EpisodeStore, script: Script | None) -> Act:
    space = store.info.action_space
    if space is None:
        return lambda frames, step: np.zeros((len(frames), 0))
    if script is not None:
        return scripted(script, space)
    sticky = StickyPolicy(space, np.random.default_rng(0), longest=8)
    return lambda frames, step: sticky(frames, np.full(len(frames), step == 0))


def _latent(subject: Subject) -> np.ndarray | None:
    state = getattr(subject, "state", None)
    return None if state is None else state.latent.cpu().numpy().astype(np.float64)


def _moments(latents: Sequence[np.ndarray | None]) -> dict[str, float]:
    if latents[0] is None:
        return {}
    x = np.stack([latent for latent in latents if latent is not None])
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
