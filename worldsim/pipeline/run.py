"""What a training run is made of: sizes (`Preset`), and data, folder and budget (`Run`).

Here apart from the stages, so that what a run has promised (its arguments, its minutes) is kept in one place.
Leaves out what the stages do (`stages`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldsim.actions import ActionCodec
from worldsim.data.episodes import EpisodeStore
from worldsim.diffusion.prediction import CleanPrediction
from worldsim.diffusion.process import RectifiedFlow
from worldsim.objectives.denoising import DenoisingConfig
from worldsim.training.loop import Budget, Rhythm

HOLD_OUT = 20  # one episode in so many is kept for contact sheets and `worldsim eval`


@dataclass(frozen=True)
class StageSizes:
    """Batch size and learning rate of one stage."""

    batch: int
    learning_rate: float


@dataclass(frozen=True)
class Preset:
    """Sizes of a world and of its training; the partial configs still need frame shape, latent shape and actions."""

    name: str
    autoencoder: Callable[..., Any]
    backbone: Callable[..., Any]
    codec: StageSizes
    dynamics: StageSizes
    outcome: StageSizes
    clip_length: int
    steps: int = 4
    context_level: float = 0.1
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    process: Any = field(default_factory=RectifiedFlow)
    prediction: Any = field(default_factory=CleanPrediction)


@dataclass(frozen=True)
class Run:
    """One training run: its data, its folder and its budget. Begun once, then resumed by the same arguments."""

    store: EpisodeStore
    folder: Path
    preset: Preset
    minutes: float
    seed: int = 0
    device: str | None = None
    rhythm: Rhythm = field(default_factory=Rhythm)
    command: str = ""

    def __post_init__(self):
        if not self.minutes > 0:
            raise ValueError(f"expected minutes above 0, found {self.minutes}; give the training some time")

    def claim_folder(self) -> None:
        """Writes down what the run is made of, or checks it against what the folder was begun with.

        Raises ValueError, in one sentence, where the folder holds another run.
        """
        mine = {
            "preset": self.preset.name,
            "backbone": _type_name(self.preset.backbone),
            "minutes": self.minutes,
            "seed": self.seed,
            "episodes": [record.hash for record in self.store.records],
        }
        path = self.folder / "run.json"
        if not path.exists():
            return _write_json(path, mine | {"began": time.strftime("%Y-%m-%d")})
        theirs = json.loads(path.read_text())
        for key, value in mine.items():
            if theirs[key] != value:
                found = f"{len(theirs[key])} other {key}" if key == "episodes" else f"{key}={theirs[key]}"
                raise ValueError(
                    f"expected out={self.folder} to hold a run with the same {key}, found {found}; use another out="
                )

    @property
    def training_episodes(self) -> list[int]:
        """Indices of the episodes that train; the rest is held out."""
        held_out = set(self.held_out_episodes)
        return [i for i in range(len(self.store)) if i not in held_out]

    @property
    def held_out_episodes(self) -> list[int]:
        """Indices of the episodes kept apart: every twentieth, none of fewer than ten."""
        return list(range(0, len(self.store), HOLD_OUT)) if len(self.store) >= 10 else []

    @property
    def torch_device(self) -> torch.device:
        """Where the run trains."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def action_codec(self) -> ActionCodec:
        """The codec of the data's actions."""
        return ActionCodec(self.store.info.action_space, self.store.info.discrete_table)

    def spend(self, name: str, share: Callable[[float], float]) -> Budget:
        """Returns a stage's budget, fixed the first time it is asked for: a share of the minutes that are left."""
        path = self.folder / "budget.json"
        plan = json.loads(path.read_text()) if path.exists() else {}
        if name not in plan:
            plan[name] = round(max(share(60 * self.minutes - sum(plan.values())), 1.0), 1)
            _write_json(path, plan)
        return Budget(seconds=plan[name])


def _type_name(partial: Callable) -> str:
    return getattr(partial, "func", partial).__name__


def _write_json(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        file.write(json.dumps(data, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
