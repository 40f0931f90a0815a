"""How near dreamed frames are to real ones: codec, one step, and open loop, beside copying and the mean frame.

Here as numbers that say what they are: teacher-forced, open-loop and codec figures are never mixed.
Leaves out controllability, drift, memory, reward and return fidelity, which come with the measuring instrument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.detail import haar_energy
from worldsim.evaluation.replay import addresses, prompt_of, recorded_actions
from worldsim.world_model import WorldModel

HORIZONS = (1, 2, 4, 8, 16, 32)
CODEC_FRAMES = 128
RESAMPLES = 2000
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
        difference = (real.astype(np.float32) - other.astype(np.float32)) / 255
        self.errors.setdefault(name, []).extend(np.square(difference).mean((-3, -2, -1)).tolist())

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

    def add_positions(self, horizon: int, real: np.ndarray, dreamed: np.ndarray, probe: Probe) -> None:
        """Takes in how far apart things stand in frames `[n H W 3]`; a thing lost in the dream is infinitely far."""
        for a, b in zip(map(probe, real), map(probe, dreamed), strict=True):
            for name, place in a.items():
                if place is not None and np.shape(place) == (2,):
                    away = np.inf if b[name] is None else float(np.abs(np.subtract(place, b[name])).max())
                    self.distances.setdefault(f"{name}/{horizon}", []).append(away)


def held_out(world: WorldModel, store: EpisodeStore, count: int) -> list[int]:
    """Returns up to `count` episodes that the world was not trained on, spread over the store.

    Raises ValueError, in one sentence, where the data is another game's or holds training episodes only.
    """
    info = world.info
    mine, theirs = (info.game, info.action_space, tuple(info.frame_shape)), facts_of(store)
    if mine != theirs:
        raise ValueError(f"expected episodes of {mine}, found {theirs}; give data of {info.game}")
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"expected at least 1 episode to measure on, found {count}")
    trained = set(info.provenance.get("training_episodes", []))
    window = world.prompts.latents.shape[1]
    free = [i for i, record in enumerate(store.records) if record.hash not in trained]
    if not free:
        raise ValueError(
            f"expected episodes that {info.name} was not trained on, found {len(store)} that it was; record others"
        )
    usable = [i for i in free if store.records[i].total_steps >= window]
    if not usable:
        raise ValueError(f"expected an episode of at least {window} steps, found none; record longer ones")
    return [usable[i] for i in np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]


def facts_of(store: EpisodeStore) -> tuple:
    """Returns the game, action space and frame shape of a data set."""
    return store.info.game, store.info.action_space, tuple(store.info.observation_shape)


def fidelity(
    world: WorldModel,
    store: EpisodeStore,
    episodes: list[int],
    starts: int = 16,
    probe: Probe | None = None,
    compare: Comparison | None = None,
) -> dict[str, Any]:
    """Measures a world on held-out episodes; returns `metrics.json`'s content.

    In every episode, `starts` dreams begin from real frames and follow the recorded actions for 32 steps; the first of
    these steps is the one-step figure. `copy_last` shows the last real frame for ever, `dataset_mean` the mean frame of
    the very episodes that are measured. An episode counts at the horizons it is long enough for. `detail` is the energy
    of fine detail in dreamed (or reconstructed) frames as a share of the real frames'.
    """
    if not (isinstance(starts, int) and starts >= 1):
        raise ValueError(f"expected at least 1 start in an episode, found {starts}")
    mean = np.mean([store.observations(i).mean(0, dtype=np.float64) for i in episodes], 0)
    measured = [_measure(world, store, index, starts, mean, probe, compare) for index in episodes]
    psnr = {name: interval([e.errors[name] for e in measured if name in e.errors]) for name in _names(measured)}
    result: dict[str, Any] = {
        "codec": {"psnr": psnr["codec"], "detail": _detail(measured, "codec")},
        "one_step": {"psnr": psnr["open_loop/1"], "detail": _detail(measured, "open_loop/1")},
        "open_loop": {
            str(h): {"psnr": psnr[f"open_loop/{h}"], "detail": _detail(measured, f"open_loop/{h}")}
            for h in HORIZONS
            if f"open_loop/{h}" in psnr
        },
        "copy_last": {str(h): {"psnr": psnr[f"copy_last/{h}"]} for h in HORIZONS if f"copy_last/{h}" in psnr},
        "dataset_mean": {"psnr": psnr["dataset_mean"]},
        "episodes": len(episodes),
        "starts": sum(len(e.errors["open_loop/1"]) for e in measured),
        "steps": world.steps,
    }
    if probe is not None or compare is not None:
        result["positions"] = _positions(measured)
    return result


def _names(measured: list[_Episode]) -> list[str]:
    return sorted({name for episode in measured for name in episode.errors})


def _positions(measured: list[_Episode]) -> dict[str, dict[str, float]]:
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


def interval(errors: list[list[float]]) -> dict[str, float]:
    """Returns mean, low and high of PSNR in dB: each episode's mean squared error, then the mean over episodes.

    The 95 % interval is a bootstrap over episodes, with a fixed generator.
    """
    return _interval(np.array([-10 * np.log10(max(float(np.mean(e)), 1e-10)) for e in errors]))


def _interval(values: np.ndarray) -> dict[str, float]:
    """Returns mean, low and high of one value for each episode."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return {"mean": round(float(values.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _detail(measured: list[_Episode], name: str) -> dict[str, float] | None:
    """Returns the energy of fine detail as a share of the real frames', episode by episode; None without any."""
    pairs = [(sum(e.energies[name]), sum(e.energies[f"real/{name}"])) for e in measured if name in e.energies]
    shares = [dreamed / real for dreamed, real in pairs if real > 0]
    return _interval(np.array(shares)) if shares else None


def _measure(
    world: WorldModel,
    store: EpisodeStore,
    index: int,
    starts: int,
    mean: np.ndarray,
    probe: Probe | None,
    compare: Comparison | None,
) -> _Episode:
    result, real = _Episode(), np.array(store.observations(index))
    latents = torch.cat([world.encode(torch.from_numpy(part)) for part in np.array_split(real, len(real) // 256 + 1)])
    some = np.unique(np.linspace(0, len(real) - 1, CODEC_FRAMES).astype(int))
    rebuilt = world.autoencoder.decode(latents[some]).cpu().numpy()
    result.add("codec", real[some], rebuilt)
    result.add_detail("codec", real[some], rebuilt)
    result.add("dataset_mean", real[some], mean)
    window, last = world.prompts.latents.shape[1], len(real) - 1
    reach = min(HORIZONS[-1], last - window + 1)
    first = np.unique(np.linspace(window, last - reach + 1, starts).astype(int))  # the first dreamed position
    actions = recorded_actions(world, store, index)
    rows = np.stack([np.arange(p - window, p) for p in first])
    state = world.initial(prompt_of(latents[rows], actions[rows]), addresses(world, first, index))
    for step in range(1, reach + 1):
        state, _ = world.step(state, actions[first + step - 1])
        if step in HORIZONS:
            frames, goal = world.observe(state).cpu().numpy(), real[first + step - 1]
            result.add(f"open_loop/{step}", goal, frames)
            result.add_detail(f"open_loop/{step}", goal, frames)
            result.add(f"copy_last/{step}", goal, real[first - 1])
            if probe is not None:
                result.add_positions(step, goal, frames, probe)
            if compare is not None:
                result.add_shifts(step, goal, frames, compare)
    return result
