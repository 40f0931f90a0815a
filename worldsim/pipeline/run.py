"""What a training run is made of: sizes (`Preset`), and data, folder and budget (`Run`).

Here apart from the stages, so that what a run has promised (its arguments, its minutes) is kept in one place.
Leaves out what the stages do (`stages`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from worldsim import bundle
from worldsim.actions import ActionCodec
from worldsim.data.episodes import EpisodeStore
from worldsim.diffusion.prediction import CleanPrediction, check
from worldsim.diffusion.process import RectifiedFlow
from worldsim.diffusion.samplers import EulerSampler
from worldsim.diffusion.weighting import check_weight
from worldsim.files import write_json
from worldsim.objectives.denoising import DenoisingConfig
from worldsim.training.loop import Budget, M, Rhythm, Stage, train
from worldsim.training.processes import Processes
from worldsim.world_model import WorldModel

HOLD_OUT = 20  # one episode in so many is kept for contact sheets and `worldsim eval`


@dataclass(frozen=True)
class StageSizes:
    """Batch size and learning rate of one stage."""

    batch: int
    learning_rate: float

    def __post_init__(self):
        if not (
            isinstance(self.batch, int)
            and self.batch >= 2
            and isinstance(self.learning_rate, (int, float))
            and self.learning_rate > 0
        ):
            raise ValueError(f"expected a batch of at least 2 and a learning rate above 0, found {self}")


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
    forecaster: Callable[..., Any] | None = None  # one that learns, before the backbone does; None keeps the last frame
    forecast: StageSizes | None = None  # goes with a forecaster
    forecast_share: float = 0.35  # of what codec and encoding leave, that its training gets
    steps: int = 4
    temperature: float = 1.0  # of the world, of the frames that outcomes are learned from, and of students
    context_level: float = 0.1
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    process: Any = field(default_factory=RectifiedFlow)
    prediction: Any = field(default_factory=CleanPrediction)

    def __post_init__(self):
        check(self.prediction, self.process)  # before the codec is trained, not after
        check_weight(self.denoising.weight, self.prediction, self.process)
        EulerSampler(self.steps)  # says what is wrong with them
        bundle.read_temperature(self.temperature)
        shares = (self.context_level, self.forecast_share)
        if not (all(isinstance(x, (int, float)) for x in shares) and 0 <= shares[0] < 1 and 0 < shares[1] < 1):
            raise ValueError(
                "expected context_level of 0 to below 1 and forecast_share between 0 and 1, found "
                f"{self.context_level} and {self.forecast_share}"
            )
        if (self.forecaster is None) != (self.forecast is None):
            raise ValueError("expected a forecaster and the sizes of its training (forecast) together, found one alone")


@dataclass(frozen=True)
class Run:
    """One training run: its data, its folder and its budget. Begun once, then resumed by the same arguments."""

    store: EpisodeStore
    folder: Path
    preset: Preset
    minutes: float
    seed: int = 0
    device: str | None = None
    begin_from: str | None = None  # a world of the same sizes, whose weights the dynamics begin from
    latent: Callable[..., Any] | None = None  # sizes of latent actions, which stand for the recorded ones
    labels: int = 0  # of latent actions, recorded steps that teach the game's own
    batches: int | None = None  # of a step, which processes share; None takes the folder's, or one for each of them
    rhythm: Rhythm = field(default_factory=Rhythm)
    command: str = ""

    def __post_init__(self):
        if not (isinstance(self.minutes, (int, float)) and 0 < self.minutes < math.inf):
            raise ValueError(f"expected minutes above 0, found {self.minutes}; give the training some time")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**31):
            raise ValueError(f"expected a seed from 0 to 2**31 - 1, found {self.seed!r}")
        if not (self.batches is None or (isinstance(self.batches, int) and self.batches >= 1)):
            raise ValueError(f"expected batches of at least 1, found {self.batches!r}")
        if self.torch_device.type not in ("cpu", "cuda"):
            raise ValueError(f"expected device= cpu or cuda, found {self.device}")

    @cached_property
    def begun(self) -> WorldModel | None:
        """The world to begin from."""
        return None if self.begin_from is None else bundle.load(self.begin_from)

    def claim_folder(self) -> None:
        """Writes down what the run is made of, or checks it against what the folder was begun with.

        Raises ValueError, in one sentence, where the folder holds another run.
        """
        preset = {f"preset.{f.name}": _plain(getattr(self.preset, f.name)) for f in fields(self.preset)}
        path = self.folder / "run.json"
        theirs = {"batches": 1, "preset.temperature": 1.0} | json.loads(path.read_text()) if path.exists() else {}
        batches = self.batches or theirs.get("batches") or self.processes.count
        if batches < self.processes.count:
            raise ValueError(
                f"expected at most {batches} processes for as many batches a step, found {self.processes.count}"
            )
        facts = {
            "batches": batches,
            "minutes": self.minutes,
            "seed": self.seed,
            "begin_from": self.begin_from,
            "latent": None if self.latent is None else [_plain(self.latent), self.labels],
            "episodes": [r.hash for r in self.store.records],
        }
        mine = json.loads(json.dumps(preset | facts))
        if not theirs:
            return write_json(path, mine)
        silent = {f"preset.{f.name}": _defaults(getattr(self.preset, f.name)) for f in fields(self.preset)}
        for key, value in mine.items():
            found, known = theirs.get(key), silent.get(key, {})
            ours, past = (known | part if isinstance(part, dict) else part for part in (value, found))
            if ours != past:
                found = f"{len(found or [])} other {key}" if key == "episodes" else f"{key}={found}"
                raise ValueError(
                    f"expected out={self.folder} to hold a run with the same {key}, found {found}; use another out="
                )

    @property
    def processes(self) -> Processes:
        """The processes that train this run together."""
        return Processes.found(self.torch_device)

    @property
    def batches_a_step(self) -> int:
        """How many batches a step is the mean of, as the claimed folder says."""
        return json.loads((self.folder / "run.json").read_text()).get("batches", 1)

    @property
    def training_episodes(self) -> list[int]:
        """Indices of the episodes that train; the rest is held out."""
        held_out = set(self.held_out_episodes)
        return [i for i in range(len(self.store)) if i not in held_out]

    @property
    def held_out_episodes(self) -> list[int]:
        """Indices of the episodes kept apart: the tenth, and every twentieth after it. (Few labels come first.)"""
        return list(range(HOLD_OUT // 2 - 1, len(self.store), HOLD_OUT))

    @property
    def prompt_length(self) -> int:
        """How many frames a prompt has: as many as a clip gives, fewer where no training episode is so long."""
        longest = max(self.store.records[i].total_steps for i in self.training_episodes)
        return min(self.preset.clip_length - 1 - self.preset.denoising.resampled_frames, longest)

    @property
    def torch_device(self) -> torch.device:
        """Where the run trains."""
        return bundle.read_device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def action_codec(self) -> ActionCodec:
        """The codec of the data's actions."""
        return ActionCodec(self.store.info.action_space, self.store.info.discrete_table)

    def spend(self, name: str, share: Callable[[float], float]) -> Budget:
        """Returns a stage's budget, fixed the first time it is asked for: a share of the seconds that are left.

        Raises ValueError where nothing is left, because the stages before took longer than the minutes allow.
        """
        path = self.folder / "budget.json"
        with self.processes.first_first():
            plan = json.loads(path.read_text()) if path.exists() else {}
            if name not in plan:
                left = 60 * self.minutes - sum(plan.values())
                seconds = share(left)
                if left <= 0 or seconds <= 0:
                    raise ValueError(
                        f"expected minutes to last for {name}, found none left of {self.minutes}; give more, in a new "
                        "out="
                    )
                plan[name] = round(seconds, 1)
                write_json(path, plan)
        return Budget(seconds=max(plan[name], 1.0))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialises modules from a seed, and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: that is what comes back
        yield


def trained(run: Run, stage: Stage[M], budget: Budget, seed: int) -> M:
    """Returns the stage's model, trained in its own folder of the run's."""
    return train(stage, budget, run.folder / stage.name, seed, run.rhythm, run.torch_device, run.batches_a_step)


def _defaults(part: Any) -> dict[str, Any]:
    """Returns what a part of a preset means where it is silent, as JSON has it: an older run may not know a key."""
    kind = part.func if isinstance(part, partial) else part if isinstance(part, type) else type(part)
    if not is_dataclass(kind):
        return {}
    known = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(kind)}
    return json.loads(json.dumps({name: _plain(value) for name, value in known.items() if value is not MISSING}))


def _plain(value: Any) -> Any:
    """Returns a preset's part as JSON has it: what it is made of, and its name."""
    if isinstance(value, partial):
        return {"type": value.func.__name__, **value.keywords}
    parts = {f.name: _plain(getattr(value, f.name)) for f in fields(value)} if is_dataclass(value) else None
    return value if parts is None else {"type": type(value).__name__, **parts}
