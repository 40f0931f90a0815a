"""`worldsim train`: recorded episodes in, a world out; run again with the same `out=` it resumes.

Here as the place where presets become objects; `worldsim.pipeline` does the work.
Leaves out measuring the result (`worldsim eval`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from worldsim.cli.data import open_data
from worldsim.data.soundness import check_data
from worldsim.models.latent_action import LatentActionConfig
from worldsim.pipeline import Preset, Run, train_world


def main(config: DictConfig) -> int:
    """Trains a world as `configs/train.yaml` says."""
    preset = instantiate(config.preset, _convert_="all")
    name = config.backbone or preset["backbone"]
    if name not in preset["backbones"]:
        raise ValueError(f"expected backbone to be one of {', '.join(preset['backbones'])}, found {name!r}")
    run = Run(
        store=open_data(config.data, mixed=config.actions == "mixed"),
        folder=Path(str(config.out)),
        preset=build_preset(preset, name, config),
        minutes=config.minutes,
        seed=config.seed,
        device=config.device,
        begin_from=config.begin_from,
        latent=_latent(config),
        labels=config.labels,
        batches=config.batches,
        rhythm=instantiate(config.rhythm),
        command=shlex.join(["worldsim", *sys.argv[1:]]),
    )
    if run.processes.first and not (run.folder / "run.json").exists():
        warnings = [] if run.store.mixed else check_data(run.store, quick=True).warnings
        for warning in warnings:
            print(f"! {warning} (worldsim check data=… says more)")
    world = train_world(run, config.stage)
    if world is not None and run.processes.first:
        print(f"wrote {run.folder / 'world'}; play it:  worldsim play world={run.folder / 'world'}")
    return 0


def _latent(config: DictConfig) -> Callable[..., Any] | None:
    """Returns the sizes of latent actions, where they are asked for."""
    if config.actions not in ("recorded", "latent", "mixed"):
        raise ValueError(f"expected actions=recorded, actions=latent or actions=mixed, found {config.actions}")
    if not isinstance(config.labels, int) or config.labels < 0:
        raise ValueError(f"expected labels= a whole number of steps, found labels={config.labels}")
    if config.labels and config.actions != "latent":
        raise ValueError(
            f"expected labels= with actions=latent, found actions={config.actions}, which takes all there are"
        )
    if config.actions == "recorded":
        return None
    return partial(LatentActionConfig, codes=config.codes, numbers=config.numbers)


def build_preset(preset: dict[str, Any], backbone: str, config: DictConfig) -> Preset:
    """Returns the preset with the chosen backbone, and the diffusion that the other groups say."""
    chosen = preset["backbones"][backbone]
    shared = {key: value for key, value in preset.items() if key not in ("backbone", "backbones")}
    own = {key: value for key, value in chosen.items() if key not in ("config", "denoising")}
    known = {field.name for field in fields(Preset)}
    if unknown := sorted((shared.keys() | own.keys()) - known):
        raise ValueError(f"expected settings of a preset among {', '.join(sorted(known))}, found {', '.join(unknown)}")
    return Preset(
        **shared,
        **own,
        backbone=chosen["config"],
        denoising=replace(chosen["denoising"], levels=instantiate(config.levels), weight=instantiate(config.weighting)),
        process=instantiate(config.process),
        prediction=instantiate(config.prediction),
    )
