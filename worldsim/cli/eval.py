"""`worldsim eval`: measures a world on episodes it was not trained on.

Here as the place that knows what is known of which game (`PROBES`, `EXCURSIONS`), and how to find it.
Leaves out the measuring itself (`worldsim.evaluation`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import gymnasium as gym
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import worldsim
from worldsim import bundle
from worldsim.cli.agents import check_game
from worldsim.cli.data import open_data
from worldsim.data.episodes import EpisodeStore
from worldsim.dream.registration import ARENA, MAZE, REAL_GAMES, TAKE_COVER, endless
from worldsim.envs import arena, doom, doom_things
from worldsim.evaluation.held_out import held_out, spread
from worldsim.evaluation.measure import Knowledge, measure
from worldsim.evaluation.parts import Parts
from worldsim.evaluation.replay import filmed
from worldsim.evaluation.report import report
from worldsim.evaluation.subject import Dream, Subject
from worldsim.evaluation.verdict import verdicts
from worldsim.files import write_json, write_text
from worldsim.pipeline.latent_actions import labelled
from worldsim.world_model import WorldModel

FILMS, FRAMES = 3, 64  # in the report
PROBES = {ARENA: arena.decode}
PLACES = {ARENA: arena.things, TAKE_COVER: doom_things.things}
PLAYED = {ARENA: lambda frame: arena.decode(frame)["agent"]}  # where what is played stands in a frame
SCRIPTS = {ARENA: {"collect": arena.collect, "careful": arena.careful}}
SURVIVORS = {ARENA: arena.careful}
COMPARISONS = {TAKE_COVER: doom.wall_shift}
EXCURSIONS = {  # packed actions that lead away, and back
    ARENA: ([0, 0, 1, 0], [0, 0, 0, 1]),
    TAKE_COVER: ([1], [2]),
    MAZE: ([0, 0, 0, 0, 1], [0, 0, 0, 0, -1]),
}


def main(config: DictConfig) -> int:
    """Writes `metrics.json`, `times.json` and `report.html`, and prints the verdicts."""
    if not isinstance(config.quick, bool):
        raise ValueError(f"expected quick=true or quick=false, found {config.quick}")
    bundle.read_dtype(config.dtype)  # which a foreign model has no use for
    native = open_data(config.data)
    name, subject, store, episodes = _subject(config, native)
    say = lambda text: print(f"eval: {text}", file=sys.stderr, flush=True)  # noqa: E731
    out = Path(str(config.out))
    parts = Parts(out / "parts.json", _facts(config, subject, store, episodes), say)
    known = _knowledge(config, store, native)
    metrics, times = measure(subject, store, episodes, known, config.starts, config.quick, parts)
    films = [filmed(subject, store, index, FRAMES) for index in episodes[:FILMS]]
    write_json(out / "metrics.json", metrics)
    write_json(out / "times.json", {"milliseconds": times, "seconds": parts.seconds})
    write_text(out / "report.html", report(name, metrics, films, store.info.fps))
    parts.forget()
    for verdict in verdicts(metrics):
        print(f"{verdict.word:5} {verdict.question} {verdict.figure}")
    print(f"{len(episodes)} held-out episodes; wrote {out / 'report.html'}")
    return 0


def _subject(config: DictConfig, store: EpisodeStore) -> tuple[str, Subject, EpisodeStore, list[int]]:
    """Returns the name of what is measured, it, the recordings with its actions, and the episodes among them."""
    name, count = str(config.world), config.episodes
    if count is None:
        count = 6 if config.quick else 20
    if ":" not in name:
        world = bundle.load(name, config.device, config.steps, dtype=config.dtype, temperature=config.temperature)
        store = _named(world, store)
        return world.info.name, Dream(world), store, held_out(world, store, count)
    module, _, attribute = name.partition(":")
    try:
        make = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected world={name} to name what makes a subject, found: {error}") from error
    subject = make()
    missing = [part for part in ("window", "reset", "step") if not hasattr(subject, part)]
    if missing:
        raise ValueError(
            f"expected {name} to return something with window, reset and step (worldsim.evaluation.subject.Subject), "
            f"found no {missing[0]}"
        )
    return name, subject, store, spread(store, list(range(len(store))), subject.window, count)


def _facts(config: DictConfig, subject: Subject, store: EpisodeStore, episodes: list[int]) -> dict[str, Any]:
    """Returns what the figures depend on, by which an evaluation that was killed knows its own parts again."""
    plain: Any = OmegaConf.to_object(config)
    return {
        "version": worldsim.__version__,
        "world": settings(subject.world) if isinstance(subject, Dream) else [str(config.world), _foreign(subject)],
        "episodes": [store.records[i].hash for i in episodes],
        **{key: plain.get(key) for key in ("starts", "quick", "steps", "device", "game")},
    }


def _foreign(subject: Subject) -> str:
    """Returns a model's own fingerprint; of one without, a name for this run alone, as another may be another model."""
    return str(getattr(subject, "fingerprint", None) or uuid4().hex)


def settings(world: WorldModel) -> list[str]:
    """Returns what a world's figures depend on beside the data."""
    parts = [world.sampler, world.guidance, world.context_level, world.autoencoder.config]
    if world.dtype != torch.float32:  # the usual one goes without saying, in evaluations that are half done too
        parts.append(world.dtype)
    if world.temperature != 1:
        parts.append(world.temperature)
    return [world.fingerprint, *map(repr, parts)]


def _named(world: WorldModel, store: EpisodeStore) -> EpisodeStore:
    """Returns recordings with the actions that a world takes: where these are latent, as it names them."""
    if world.latent is None or not world.takes_latent_actions:
        return store
    return labelled(store, world.latent)


def _knowledge(config: DictConfig, store: EpisodeStore, native: EpisodeStore) -> Knowledge:
    """Returns what is known of a game; of one that is played by latent actions only what frames show."""
    game = store.info.game
    if store is not native:
        if config.get("game") is not None:
            raise ValueError(f"expected no game= with {config.world}, whose actions are latent; leave it out")
        return Knowledge(None, PROBES.get(game), COMPARISONS.get(game), own=native, played=PLAYED.get(game))
    away = EXCURSIONS.get(game)
    excursion = (np.array(away[0], np.float64), np.array(away[1], np.float64)) if away else None
    return Knowledge(
        _game(config, store), PROBES.get(game), COMPARISONS.get(game), excursion, PLACES.get(game),
        SCRIPTS.get(game, {}), SURVIVORS.get(game),
    )  # fmt: skip


def _game(config: DictConfig, store: EpisodeStore) -> Callable[[], gym.Env] | None:
    """Returns what makes the real game: the one that `game=` names, or one that comes with the library."""
    if config.get("game") is not None:
        check_game(config.game)
        return lambda: instantiate(config.game, _convert_="all")
    return real_game(store)


def real_game(store: EpisodeStore) -> Callable[[], gym.Env] | None:
    """Returns what makes the game of recordings that can be led to again; None where the library does not have it."""
    game: Any = store.info.game
    if game not in REAL_GAMES or any(record.seed is None for record in store.records):
        return None
    return partial(endless, game)
