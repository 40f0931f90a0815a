"""How near dreamed frames are to real ones: codec, one step, and open loop, beside copying and the mean frame.

Here as numbers that say what they are: teacher-forced, open-loop and codec figures are never mixed.
Leaves out whether actions matter (`controllability`) and what becomes of long dreams (`drift`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.detail import haar_energy
from worldsim.evaluation.statistics import interval, psnr, square_error
from worldsim.evaluation.subject import Subject, actions_of, starts_of

HORIZONS = (1, 2, 4, 8, 16, 32)
CODEC_FRAMES = 128
Probe = Callable[[np.ndarray], dict[str, Any]]
"""Reads positions out of a frame `[H W 3]`: name to (x, y), or None where the thing is not there."""
Comparison = Callable[[np.ndarray, np.ndarray], dict[str, float | None]]
"""Tells how many pixels off things stand in a second frame: name to pixels, or None where the thing is not there."""


@dataclass
class _Episode:
    """Squared errors of one episode, by what they belong to: means over pixels, one for each frame compared."""

    errors: dict[str, list[float]] = field(default_factory=dict)
    distances: dict[str, list[float]] = field(default_factory=dict)  # pixels, by thing and horizon
    energies: dict[str, list[float]] = field(default_factory=dict)  # of fine detail; "real/…" for the frames beside

    def add(self, name: str, real: np.ndarray, other: np.ndarray) -> None:
        """Takes in frames `[n H W 3]`, uint8 or float on the same scale."""
        self.errors.setdefault(name, []).extend(square_error(real, other).tolist())

    def add_detail(self, name: str, real: np.ndarray, other: np.ndarray) -> None:
        """Takes in how much fine detail frames `[n H W 3]` have, and the real ones beside them."""
        self.energies.setdefault(name, []).extend(haar_energy(other).tolist())
        self.energies.setdefault(f"real/{name}", []).extend(haar_energy(real).tolist())

    def add_shifts(self, horizon: int, real: np.ndarray, dreamed: np.ndarray, compare: Comparison) -> None:
        """Takes in by how much things are off in frames `[n H W 3]`; a thing lost in the dream is infinitely far."""
        for a, b in zip(real, dreamed, strict=True):
            for name, shift in compare(a, b).items():
                away = np.inf if shift is None else abs(shift)
                self.distances.setdefault(f"{name}/{horizon}", []).append(away)

    def add_positions(self, horizon: int | str, real: np.ndarray, dreamed: np.ndarray, probe: Probe) -> None:
        """Takes in how far apart things stand in frames `[n H W 3]`; a thing lost in the dream is infinitely far."""
        for a, b in zip(map(probe, real), map(probe, dreamed), strict=True):
            for name, place in a.items():
                if place is not None and np.shape(place) == (2,):
                    away = np.inf if b[name] is None else float(np.abs(np.subtract(place, b[name])).max())
                    self.distances.setdefault(f"{name}/{horizon}", []).append(away)


def fidelity(
    subject: Subject,
    store: EpisodeStore,
    episodes: list[int],
    starts: int = 16,
    probe: Probe | None = None,
    compare: Comparison | None = None,
) -> dict[str, Any]:
    """Measures a subject on held-out episodes; returns the first part of `metrics.json`.

    In every episode, `starts` dreams begin from real frames and follow the recorded actions for 32 steps; the first of
    these steps is the one-step figure. `copy_last` shows the last real frame for ever, `dataset_mean` the mean frame of
    the very episodes that are measured. An episode counts at the horizons it is long enough for. `detail` is the energy
    of fine detail in dreamed (or reconstructed) frames as a share of the real frames'.
    """
    if not (isinstance(starts, int) and starts >= 1):
        raise ValueError(f"expected at least 1 start in an episode, found {starts}")
    mean = np.mean([store.observations(i).mean(0, dtype=np.float64) for i in episodes], 0)
    measured = [_measure(subject, store, index, starts, mean, probe, compare) for index in episodes]
    decibel = {name: decibels([e.errors[name] for e in measured if name in e.errors]) for name in _names(measured)}
    result: dict[str, Any] = {
        "codec": {"psnr": decibel["codec"], "detail": _detail(measured, "codec")} if "codec" in decibel else None,
        "one_step": {"psnr": decibel["open_loop/1"], "detail": _detail(measured, "open_loop/1")},
        "open_loop": {
            str(h): {"psnr": decibel[f"open_loop/{h}"], "detail": _detail(measured, f"open_loop/{h}")}
            for h in HORIZONS
            if f"open_loop/{h}" in decibel
        },
        "copy_last": {str(h): {"psnr": decibel[f"copy_last/{h}"]} for h in HORIZONS if f"copy_last/{h}" in decibel},
        "dataset_mean": {"psnr": decibel["dataset_mean"]},
        "episodes": len(episodes),
        "starts": sum(len(e.errors["open_loop/1"]) for e in measured),
    }
    if probe is not None or compare is not None:
        result["positions"] = _positions(measured)
    return result


def _names(measured: list[_Episode]) -> list[str]:
    return sorted({name for episode in measured for name in episode.errors})


def _positions(measured: list[_Episode]) -> dict[str, dict[str, float | None]]:
    """Returns, by thing and horizon, the share of frames where it is within a pixel or two, and the median in px."""
    joined: dict[str, list[float]] = {}
    for episode in measured:
        for name, values in episode.distances.items():
            joined.setdefault(name, []).extend(values)
    return {
        name: {
            "within_1px": float(np.mean(np.array(values) <= 1)),
            "within_2px": float(np.mean(np.array(values) <= 2)),
            "median_px": _finite(float(np.median(values))),
        }
        for name, values in sorted(joined.items())
    }


def _finite(value: float) -> float | None:
    """Returns a number that JSON has, or None: a thing that is lost more often than not has no median distance."""
    return value if np.isfinite(value) else None


def decibels(errors: Sequence[Sequence[float] | np.ndarray]) -> dict[str, float] | None:
    """Returns PSNR in dB: of each episode's mean squared error, then the mean over episodes with its interval."""
    return interval([psnr(float(np.mean(e))) for e in errors])


def _detail(measured: list[_Episode], name: str) -> dict[str, float] | None:
    """Returns the energy of fine detail as a share of the real frames', episode by episode; None without any."""
    pairs = [(sum(e.energies[name]), sum(e.energies[f"real/{name}"])) for e in measured if name in e.energies]
    shares = [dreamed / real for dreamed, real in pairs if real > 0]
    return interval(shares)


def _measure(
    subject: Subject,
    store: EpisodeStore,
    index: int,
    starts: int,
    mean: np.ndarray,
    probe: Probe | None,
    compare: Comparison | None,
) -> _Episode:
    result, real = _Episode(), np.array(store.observations(index))
    result.add("dataset_mean", real, mean)
    if hasattr(subject, "reconstruct"):
        some = real[np.unique(np.linspace(0, len(real) - 1, CODEC_FRAMES).astype(int))]
        rebuilt = subject.reconstruct(some)
        result.add("codec", some, rebuilt)
        result.add_detail("codec", some, rebuilt)
        if probe is not None:
            result.add_positions("codec", some, rebuilt, probe)
    first = positions(len(real), subject.window, starts)
    for step, frames in open_loop(subject, store, index, first):
        goal = real[first + step - 1]
        result.add(f"open_loop/{step}", goal, frames)
        result.add_detail(f"open_loop/{step}", goal, frames)
        result.add(f"copy_last/{step}", goal, real[first - 1])
        if probe is not None:
            result.add_positions(step, goal, frames, probe)
        if compare is not None:
            result.add_shifts(step, goal, frames, compare)
    return result


def positions(num_frames: int, window: int, starts: int, reach: int = HORIZONS[-1]) -> np.ndarray:
    """Returns where in an episode dreams of `reach` steps (fewer in a short one) begin, evenly spread."""
    reach = min(reach, num_frames - window)
    return np.unique(np.linspace(window, num_frames - reach, starts).astype(int))


def open_loop(
    subject: Subject, store: EpisodeStore, index: int, first: np.ndarray, seed: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields, for dreams that begin at positions `first` and follow the recorded actions, horizon and frames."""
    actions = actions_of(store, index)
    subject.reset(starts_of(store, index, first, subject.window), seed)
    for step in range(1, min(HORIZONS[-1], len(actions) - int(first.max())) + 1):
        result = subject.step(actions[first + step - 1], look=step in HORIZONS)
        if step in HORIZONS:
            yield step, result.seen
