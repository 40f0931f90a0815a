"""The whole measurement of a subject on held-out recordings, as one dictionary that is `metrics.json`.

Here as the list of what is measured, in the order it is reported. Leaves out how (the modules beside it), pictures
(`report`), and what a command line says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation import events, floors
from worldsim.evaluation.control import control
from worldsim.evaluation.controllability import action_effect, retrieval
from worldsim.evaluation.drift import CHUNK, Reference, drift
from worldsim.evaluation.few_steps import few_steps
from worldsim.evaluation.fidelity import CODEC_FRAMES, Comparison, Probe, fidelity
from worldsim.evaluation.habits import Places, Script, habits
from worldsim.evaluation.latent import Played, latent_actions
from worldsim.evaluation.memory import revisits
from worldsim.evaluation.rare import rare
from worldsim.evaluation.returns import returns
from worldsim.evaluation.statistics import interval
from worldsim.evaluation.subject import Dream, Subject
from worldsim.evaluation.uncertainty import uncertainty
from worldsim.world_model import WorldModel

QUICK_LENGTH, LENGTH = 500, 10_000  # frames of the dreams whose drift is measured
Keep = Callable[[str, Callable[[], Any]], Any]
"""`keep(name, make)` returns what `make()` returns, or what it returned in a run that was killed (`parts`)."""
MULTISCALE = (0.0448, 0.2856, 0.3001)  # of Wang et al. 2003 the scales that 64 pixels have, before they sum to 1


@dataclass(frozen=True)
class Knowledge:
    """What is known of a game beside its recordings; whatever needs what is missing is left out."""

    make: Callable[[], gym.Env] | None = None  # the real game: seed and actions lead to the recorded frames
    probe: Probe | None = None
    compare: Comparison | None = None
    excursion: tuple[np.ndarray, np.ndarray] | None = None  # packed actions that lead away, and back
    places: Places | None = None
    scripts: Mapping[str, Script] = field(default_factory=dict)  # policies that play on purpose, by name
    survivor: Script | None = None  # one that lives long: leads the dreams whose drift is measured
    own: EpisodeStore | None = None  # where actions are latent, the recordings with the game's own
    played: Played | None = None  # where what is played stands in a frame


def measure(
    subject: Subject,
    store: EpisodeStore,
    episodes: list[int],
    knowledge: Knowledge,
    starts: int = 16,
    quick: bool = False,
    keep: Keep = lambda name, make: make(),
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns `metrics.json`'s content, and milliseconds by K, which no two runs share.

    A part that cannot be measured (no real game, no rewards, too few or too short episodes) is None.
    """
    world = subject.world if isinstance(subject, Dream) else None
    enough = sum(store.records[i].num_observations >= 2 * CHUNK for i in episodes) >= 4
    reference = cache(lambda: Reference(store, episodes, 100 if quick else 400) if enough else None)
    times: dict[str, float] = {}
    with ExitStack() as stack:
        game = cache(lambda: knowledge.make and stack.enter_context(closing(knowledge.make())))
        metrics = dict(keep("fidelity", lambda: _fidelity(subject, store, episodes, knowledge, starts)))
        if make := knowledge.make:
            known, rows, steps = (knowledge.places, knowledge.scripts), 8 if quick else 16, 100 if quick else 300
            metrics["habits"] = keep("habits", lambda: habits(subject, store, episodes, make, *known, rows, steps))
        metrics["rare"] = keep("small things", lambda: rare(subject, store, episodes, 8 if quick else 16))
        metrics |= {"quick": quick, "steps": world and world.steps, "dtype": world and world.dtype_name}
        metrics |= {"temperature": world and world.temperature, "fingerprint": world and world.fingerprint}
        metrics["regression"] = world and keep("regression", lambda: floors.regression(world, store, episodes, starts))
        metrics |= keep("ends and rewards", lambda: _events(subject, store, episodes, 2 * starts))
        metrics["uncertainty"] = world and keep("uncertainty", lambda: uncertainty(world, store, episodes, starts))
        judging = (16, 200) if quick else (32, 600)
        metrics["controllability"] = {
            "judged": keep("control", lambda: control(subject, store, episodes, *judging)),
            "shuffled": keep("actions", lambda: action_effect(subject, store, episodes, starts)),
            "retrieval": keep(
                "retrieval", lambda: (real := game()) and retrieval(subject, store, episodes, real, 1 if quick else 2)
            ),
        }
        if (own := knowledge.own) and world is not None:
            metrics["latent_actions"] = keep(
                "latent actions",
                lambda: latent_actions(subject, partial(_named, world), store, own, episodes, starts, knowledge.played),
            )
        if away := knowledge.excursion:
            metrics["memory"] = keep(
                "memory", lambda: (real := game()) and revisits(subject, store, episodes, real, *away)
            )
        length = QUICK_LENGTH if quick else LENGTH
        metrics["drift"] = keep(
            "drift", lambda: (to := reference()) and drift(subject, to, length, knowledge.probe, knowledge.survivor)
        )
        if not quick:
            fewer = max(starts // 4, 1)
            metrics["best_of_8"] = keep("best of 8", lambda: floors.tries(subject, store, episodes, fewer))
            if play := knowledge.make:
                metrics["returns"] = keep("returns", lambda: returns(subject, store, episodes, play, knowledge.scripts))
            if world is not None:
                metrics["few_steps"], times = few_steps(
                    world, store, episodes, game, reference, keep, knowledge.survivor
                )
    return metrics, times


def _named(world: WorldModel, frames: np.ndarray) -> np.ndarray:
    assert world.latent is not None  # a world with latent actions names them
    return world.latent.label(torch.from_numpy(frames).to(world.device)).cpu().numpy()


def _fidelity(subject: Subject, store: EpisodeStore, episodes: list[int], known: Knowledge, starts: int) -> dict:
    figures = fidelity(subject, store, episodes, starts, known.probe, known.compare)
    if figures["codec"] is not None:
        figures["codec"] |= similarity(subject, store, episodes)
    return figures


def _events(subject: Subject, store: EpisodeStore, episodes: list[int], starts: int) -> dict[str, Any]:
    foreseen = events.foresee(subject, store, episodes, starts)
    return {"termination": events.termination(foreseen), "reward": events.reward(foreseen)}


def similarity(subject: Any, store: EpisodeStore, episodes: list[int]) -> dict[str, Any]:
    """Returns SSIM and multi-scale SSIM (as many of its five scales as the frames have) of the codec's frames.

    Empty without torchmetrics, which the extra `report` brings.
    """
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure as multiscale,
        )
        from torchmetrics.functional.image import structural_similarity_index_measure as plain
    except ImportError:
        return {}
    betas = tuple(b / sum(MULTISCALE) for b in MULTISCALE)
    values: dict[str, list[float]] = {"ssim": [], "ms_ssim": []}
    for index in episodes:
        real = np.array(store.observations(index))
        some = real[np.unique(np.linspace(0, len(real) - 1, CODEC_FRAMES).astype(int))]
        a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).float() for x in (subject.reconstruct(some), some))
        score: Any = plain(a, b, data_range=255.0)
        values["ssim"].append(float(score))
        if min(a.shape[2:]) >= 48:
            values["ms_ssim"].append(float(multiscale(a, b, data_range=255.0, betas=betas)))
    return {name: interval(v) for name, v in values.items() if v}
