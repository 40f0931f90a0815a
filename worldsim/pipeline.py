"""From recorded episodes to a world: codec, encode once, dynamics, outcome, bundle, within a number of minutes.

Here as plain functions over a `Run`, so that Python users need no command line.
Leaves out sizes and learning rates, which are presets (`configs/preset`), and measuring, which is `evaluation`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from torch import nn

from worldsim import bundle
from worldsim.actions import ActionCodec
from worldsim.data.clips import WindowSampler, clip_batch, frame_batch
from worldsim.data.episodes import EpisodeStore
from worldsim.data.latents import LatentStore, encode_dataset
from worldsim.diffusion.prediction import CleanPrediction
from worldsim.diffusion.process import RectifiedFlow
from worldsim.diffusion.samplers import EulerSampler
from worldsim.evaluation.replay import dream_along
from worldsim.evaluation.sheet import contact_sheet
from worldsim.models.autoencoder import ConvAutoencoder
from worldsim.models.denoiser import Denoiser
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.objectives.denoising import DenoisingConfig, denoising_loss
from worldsim.objectives.outcome import outcome_loss
from worldsim.objectives.reconstruction import reconstruction_loss
from worldsim.training.loop import Budget, Rhythm, Stage, train
from worldsim.types import Clip, WorldInfo
from worldsim.world_model import WorldModel

STAGES = ("codec", "encode", "dynamics", "outcome", "bundle")
CODEC_SHARE, OUTCOME_SHARE = 0.15, 0.07  # of the minutes; dynamics gets what codec, encoding and outcome leave
SHORTCUTS_FROM = 0.15  # shortcut rows need an average that already predicts something
HOLD_OUT = 20  # one episode in so many is kept for contact sheets and `worldsim eval`
NUM_PROMPTS = 16
STATISTICS_FRAMES = 2_000


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
    process: Any = RectifiedFlow()
    prediction: Any = CleanPrediction()


@dataclass(frozen=True)
class Run:
    """One training run: its data, its folder and its budget. Begun once, then resumed by the same arguments."""

    store: EpisodeStore
    folder: Path
    preset: Preset
    minutes: float
    seed: int = 0
    device: str | None = None
    rhythm: Rhythm = Rhythm()
    command: str = ""

    def __post_init__(self):
        if not self.minutes > 0:
            raise ValueError(f"expected minutes above 0, found {self.minutes}; give the training some time")
        self._claim_folder()

    def _claim_folder(self) -> None:
        """Writes down what the run is made of, or checks it against what the folder was begun with."""
        mine = {
            "preset": self.preset.name,
            "backbone": _type_name(self.preset.backbone),
            "minutes": self.minutes,
            "seed": self.seed,
            "episodes": [record.hash for record in self.store.records],
        }
        path = self.folder / "run.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return _write_json(path, mine | {"began": time.strftime("%Y-%m-%d")})
        theirs = json.loads(path.read_text())
        for key, value in mine.items():
            if theirs[key] != value:
                found = f"{len(theirs[key])} other {key}" if key == "episodes" else f"{key}={theirs[key]}"
                raise ValueError(f"expected out={self.folder} to hold a run with the same {key}, found {found}; use another out=")

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


def train_world(run: Run, stage: str | None = None) -> WorldModel | None:
    """Runs all stages, or one by name whose forerunners are done, and returns the world once it is whole."""
    if stage is not None and stage not in STAGES:
        raise ValueError(f"expected stage to be one of {', '.join(STAGES)}, found {stage!r}")
    if stage == "codec":
        return train_codec(run) and None
    for needed in STAGES[: STAGES.index(stage or "codec")]:
        if needed in ("codec", "dynamics", "outcome") and not (run.folder / needed / "final.safetensors").exists():
            raise ValueError(f"expected a finished {needed} stage in {run.folder} before {stage}; run stage={needed} first")
    autoencoder = train_codec(run)
    latents = encode(run, autoencoder)
    if stage == "encode":
        return None
    denoiser = train_dynamics(run, autoencoder, latents)
    if stage == "dynamics":
        return None
    outcome = train_outcome(run, denoiser, latents)
    return None if stage == "outcome" else write_bundle(run, autoencoder, denoiser, outcome, latents)


def train_codec(run: Run) -> nn.Module:
    """Trains the autoencoder on pairs of consecutive frames and measures its latents' statistics."""
    sizes, store = run.preset.codec, run.store
    model = ConvAutoencoder(run.preset.autoencoder(frame_shape=tuple(store.info.observation_shape)))
    model.set_background(_statistics_frames(run))
    sampler = WindowSampler(store, run.training_episodes, 2, run.seed)
    device = _device(run)

    def objective(model, average, frames, progress, generator):
        return reconstruction_loss(model, frames.to(device), generator=generator)

    def preview(average: nn.Module, step: int) -> None:
        frames = _preview_frames(run)
        set_statistics(average, run, device)
        with torch.no_grad():
            rebuilt = average.decode(average.encode(frames.to(device))).cpu()
        _write_sheet(run, "codec", [*frames.numpy(), *rebuilt.numpy()], step)

    stage = Stage(
        "codec", model, lambda step: frame_batch(store, sampler.windows(step, sizes.batch // 2), 2), objective,
        sizes.batch, sizes.learning_rate, preview,
    )  # fmt: skip
    budget = run.spend("codec", lambda left: CODEC_SHARE * left)
    average = train(stage, budget, run.folder / "codec", run.seed, run.rhythm, run.device)
    return set_statistics(average, run, device).eval()


@torch.no_grad()
def set_statistics(autoencoder: nn.Module, run: Run, device: torch.device) -> nn.Module:
    """Sets the codec's latent statistics from training frames, and returns it."""
    autoencoder.to(device)
    autoencoder.set_statistics(torch.zeros_like(autoencoder.mean), torch.ones_like(autoencoder.std))
    raw = torch.cat([autoencoder.encode(part.to(device)) for part in _statistics_frames(run).split(256)])
    autoencoder.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    return autoencoder


def _statistics_frames(run: Run) -> torch.Tensor:
    """Returns uint8 frames `[n H W 3]` spread over the training episodes."""
    sampler = WindowSampler(run.store, run.training_episodes, 1, run.seed)
    return frame_batch(run.store, sampler.windows(0, min(STATISTICS_FRAMES, run.store.num_steps)), 1)[:, 0]


def encode(run: Run, autoencoder: nn.Module) -> LatentStore:
    """Encodes every frame once; the time it takes comes off what dynamics and outcome have."""
    start = time.monotonic()
    fingerprint = hashlib.sha256((run.folder / "codec" / "final.safetensors").read_bytes()).hexdigest()
    latents = encode_dataset(run.store, autoencoder, run.folder / "latents", fingerprint)
    run.spend("encode", lambda left: time.monotonic() - start)
    return latents


def train_dynamics(run: Run, autoencoder: nn.Module, latents: LatentStore) -> Denoiser:
    """Trains the denoiser, ordinary and shortcut rows in the same batches."""
    preset, codec, device = run.preset, run.action_codec, _device(run)
    sizes, length = preset.dynamics, preset.clip_length
    backbone = bundle.module_of(preset.backbone(latent_shape=autoencoder.latent_shape, action_width=codec.width))
    model = Denoiser(backbone, autoencoder.bound.cpu(), preset.process, preset.prediction)
    null, sampler = codec.null.to(device), WindowSampler(run.store, run.training_episodes, length, run.seed)

    def objective(model, average, clip, progress, generator):
        shortcuts, clip = progress > SHORTCUTS_FROM, clip.to(device)
        return denoising_loss(model, average, clip, null, preset.denoising, shortcuts=shortcuts, generator=generator)

    def preview(average: nn.Module, step: int) -> None:
        untrained = OutcomeModel(OutcomeConfig(backbone.feature_width, codec.width)).to(device)
        world = assemble(run, autoencoder, average, untrained, latents)
        _write_sheet(run, "dynamics", dream_along(world, run.store, _preview_episode(run)), step)

    stage = Stage(
        "dynamics", model, lambda step: clip_batch(latents, codec, sampler.windows(step, sizes.batch), length), objective,
        sizes.batch * preset.denoising.num_targets, sizes.learning_rate, preview,
    )  # fmt: skip
    budget = run.spend("dynamics", lambda left: left - OUTCOME_SHARE * 60 * run.minutes)
    return train(stage, budget, run.folder / "dynamics", run.seed + 1, run.rhythm, run.device).eval()


def train_outcome(run: Run, denoiser: Denoiser, latents: LatentStore) -> OutcomeModel:
    """Trains reward and termination on the finished denoiser's features."""
    preset, codec, device = run.preset, run.action_codec, _device(run)
    model = OutcomeModel(OutcomeConfig(denoiser.backbone.feature_width, codec.width))
    sampler = WindowSampler(run.store, run.training_episodes, preset.clip_length, run.seed + 2)

    def objective(model, average, clip, progress, generator):
        return outcome_loss(model, denoiser, clip.to(device), preset.denoising, generator=generator)

    stage = Stage(
        "outcome", model, lambda step: clip_batch(latents, codec, sampler.windows(step, preset.outcome.batch), preset.clip_length),
        objective, preset.outcome.batch, preset.outcome.learning_rate,
    )  # fmt: skip
    budget = run.spend("outcome", lambda left: left)
    return train(stage, budget, run.folder / "outcome", run.seed + 2, run.rhythm, run.device).eval()


def write_bundle(run: Run, autoencoder, denoiser, outcome, latents: LatentStore) -> WorldModel:
    """Puts the world into `world/` in the run's folder and returns it as loaded from there."""
    world = assemble(run, autoencoder, denoiser, outcome, latents)
    folder = bundle.save(world, run.folder / "world", torch.bfloat16, card(world))
    return bundle.load(folder, _device(run))


def assemble(run: Run, autoencoder, denoiser, outcome, latents: LatentStore) -> WorldModel:
    """Joins trained parts into a world that starts from clips of the training episodes."""
    info, preset = run.store.info, run.preset
    hashes = [run.store.records[i].hash for i in run.training_episodes]
    provenance = {"training_episodes": hashes, **describe_run(run)}
    facts = WorldInfo(
        run.folder.name, info.game, info.fps, info.action_space, tuple(info.observation_shape), info.keymap,
        info.discrete_table, provenance,
    )  # fmt: skip
    return WorldModel(
        facts, autoencoder, denoiser, outcome, EulerSampler(preset.steps), prompt_clips(run, latents).to(_device(run)),
        preset.context_level,
    )  # fmt: skip


def prompt_clips(run: Run, latents: LatentStore) -> Clip:
    """Returns up to 16 clips `[p t …]` to start dreams from: a window of history from as many training episodes."""
    window = run.preset.clip_length - 1
    steps = [run.store.records[i].total_steps for i in run.training_episodes]
    window = min(window, max(steps))  # short episodes: shorter prompts
    long_enough = [i for i, n in zip(run.training_episodes, steps, strict=True) if n >= window]
    chosen = [long_enough[k] for k in np.linspace(0, len(long_enough) - 1, NUM_PROMPTS).round().astype(int)]
    windows = [(i, (run.store.records[i].total_steps - window) * k // NUM_PROMPTS) for k, i in enumerate(dict.fromkeys(chosen))]
    return clip_batch(latents, run.action_codec, windows, window)


def describe_run(run: Run) -> dict[str, Any]:
    """Returns where a world comes from: command, commit, minutes, machine, data."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    info = run.store.info
    return {
        "preset": run.preset.name,
        "minutes": run.minutes,
        "seed": run.seed,
        "command": run.command,
        "commit": commit.stdout.strip() or None,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "data": {"game": info.game, "episodes": len(run.training_episodes), "frames": run.store.num_frames},
    }


def card(world: WorldModel) -> str:
    """Returns the README of a bundle."""
    p = world.info.provenance
    return (
        f"# {world.info.name}\n\nA learned world of {world.info.game}: {p['data']['episodes']} training episodes, "
        f"{p['minutes']} minutes with preset {p['preset']} on {p['machine']}, commit {p['commit']}, {p['date']}.\n\n"
        f"    {p['command']}\n"
    )


def _type_name(partial: Callable) -> str:
    return getattr(partial, "func", partial).__name__


def _device(run: Run) -> torch.device:
    return torch.device(run.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _write_json(path: Path, data: dict) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        file.write(json.dumps(data, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _preview_episode(run: Run) -> int:
    return max(run.held_out_episodes or run.training_episodes, key=lambda i: run.store.records[i].total_steps)


def _preview_frames(run: Run) -> torch.Tensor:
    index = _preview_episode(run)
    steps = run.store.records[index].total_steps
    return torch.stack([torch.from_numpy(np.array(run.store.observations(index, s, s + 1)[0])) for s in np.linspace(0, steps, 12).astype(int)])


def _write_sheet(run: Run, name: str, frames: list[np.ndarray], step: int) -> None:
    folder = run.folder / "sheets"
    folder.mkdir(exist_ok=True)
    iio.imwrite(folder / f"{name}-{step:06d}.png", contact_sheet(frames, columns=12, scale=2))

