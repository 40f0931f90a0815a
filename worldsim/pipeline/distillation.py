"""From a world to one that needs fewer steps: a student begins as its teacher and learns by one of `distill.METHODS`.

Here as a training like any other: rounds, then the outcome model goes on with the student's features, then a bundle
whose provenance holds the teacher's. Histories are noised as in training, their newest frames the student's own as soon
as it can make them.
Leaves out codec and forecaster, which stay the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from worldsim import bundle
from worldsim.data.clips import ClipTable, WindowSampler
from worldsim.data.episodes import EpisodeStore
from worldsim.data.shards import acquire_lock
from worldsim.diffusion.process import RectifiedFlow, expand
from worldsim.distill import METHODS, Known
from worldsim.distill.task import Task, standing
from worldsim.models.denoiser import Denoiser
from worldsim.models.layers import zero_init
from worldsim.objectives.denoising import (
    DenoisingConfig,
    Draws,
    dropped_actions,
    faulty_history,
    noisy_history,
    resample_history,
)
from worldsim.pipeline.assembly import write_bundle
from worldsim.pipeline.codec import encode, prepare_codec
from worldsim.pipeline.forecast import learned_from, seen_clips
from worldsim.pipeline.outcome import OUTCOME_SHARE, train_outcome
from worldsim.pipeline.run import Preset, Run, StageSizes, seeded, trained
from worldsim.training.loop import Rhythm, Stage
from worldsim.types import Clip, Denoise, Stream, map_rows
from worldsim.world_model import WorldModel


@dataclass(frozen=True)
class Distillation:
    """One distillation: who teaches what to whom, from which data, for how long."""

    store: EpisodeStore
    folder: Path
    teacher: str  # a world's name or path
    method: str
    minutes: float
    steps: int = 1  # the most evaluations a frame that it is for
    sizes: StageSizes = field(default_factory=lambda: StageSizes(32, 3e-4))
    own_frames: int = 3  # of the newest history frames, how many may be the student's
    own_share: float = 0.5  # clips where they are
    faulty_share: float | None = None  # clips whose history is faulty; None takes the teacher's
    seed: int = 0
    device: str | None = None
    rhythm: Rhythm = field(default_factory=Rhythm)
    command: str = ""

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"expected method= one of {', '.join(METHODS)}, found {self.method!r}")
        if not (isinstance(self.steps, int) and self.steps in (1, 2, 4, 8)):
            raise ValueError(f"expected steps= 1, 2, 4 or 8, found {self.steps!r}")
        if not (isinstance(self.own_frames, int) and self.own_frames >= 0):
            raise ValueError(f"expected own_frames to be a count of at least 0, found {self.own_frames!r}")
        shares = (self.own_share, 0.0 if self.faulty_share is None else self.faulty_share)
        if not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares):
            raise ValueError(
                f"expected own_share and faulty_share from 0 to 1, found {self.own_share} and {self.faulty_share}"
            )
        if self.sizes.batch % METHODS[self.method].group:
            raise ValueError(
                f"expected a batch that is a multiple of {METHODS[self.method].group}, found {self.sizes.batch}"
            )


class Networks(nn.Module):
    """A student, and where the method has one its critic: a denoiser too, with a head that says what looks real."""

    def __init__(self, teacher: Denoiser, critic: bool):
        super().__init__()
        self.student = _learner(teacher)
        self.critic = _learner(teacher) if critic else None
        self.head = zero_init(nn.Conv2d(teacher.backbone.feature_width, 1, 1)) if critic else None


def distill_world(how: Distillation) -> WorldModel:
    """Trains the student and returns it as loaded from `world/` in the folder; resumes what is there.

    Raises ValueError, in one sentence, for a teacher that does not fit the data or the methods.
    """
    teacher = bundle.load(how.teacher)
    _check(teacher, how.store)
    run = Run(
        how.store, how.folder, _preset(how, teacher), how.minutes, how.seed, how.device, how.teacher,
        rhythm=how.rhythm, command=how.command,
    )  # fmt: skip
    with run.processes.first_first():
        run.claim_folder()
    with acquire_lock(run.folder) if run.processes.first else nullcontext():
        if (run.folder / "world" / "world.json").exists():
            return bundle.load(run.folder / "world", run.torch_device)
        codec = prepare_codec(run)  # the teacher's
        clips = encode(run, codec)
        known, student = METHODS[how.method], bundle.load(how.teacher, run.torch_device).denoiser
        for index in range(known.rounds):
            student = _round(how, run, known, index, student, clips)
        return write_bundle(run, codec, student, train_outcome(run, student, clips), clips, teacher.latent)


def _check(teacher: WorldModel, store: EpisodeStore) -> None:
    mine, theirs = teacher.info, store.info
    if teacher.takes_latent_actions:
        raise ValueError(f"expected a teacher with the game's own actions, found {mine.name}, whose actions are latent")
    for name in ("game", "frame_shape", "action_space"):
        expected, found = getattr(mine, name), getattr(theirs, {"frame_shape": "observation_shape"}.get(name, name))
        if (tuple(found) if name == "frame_shape" else found) != expected:
            raise ValueError(
                f"expected data= of the teacher's {name}, {expected}, found {found}; record the world's own game"
            )
    if teacher.denoiser.process != RectifiedFlow():
        raise ValueError(
            f"expected a teacher trained by process=rectified_flow with shift=1, found {teacher.denoiser.process}; "
            "train it anew"
        )
    if (method := str(mine.provenance.get("preset")).split(", ")[0]) in METHODS:
        raise ValueError(f"expected a teacher, found {mine.name}, itself a student by {method}; give its teacher")
    if teacher.guidance is not None:
        raise ValueError(
            f"expected a teacher without guidance, which a student cannot be asked for, found {teacher.guidance}"
        )


def _preset(how: Distillation, teacher: WorldModel) -> Preset:
    denoiser = teacher.denoiser
    return Preset(
        name=f"{how.method}, {how.steps} step{'s' if how.steps > 1 else ''}",
        autoencoder=_like(teacher.autoencoder.config),
        backbone=_like(denoiser.backbone.config),
        codec=how.sizes,
        dynamics=how.sizes,
        outcome=StageSizes(64, 1e-3),
        clip_length=teacher.prompts.latents.shape[1] + how.own_frames + 1,
        steps=how.steps,
        temperature=teacher.temperature,
        context_level=teacher.context_level,
        denoising=DenoisingConfig(
            resampled_frames=how.own_frames, resampled_share=how.own_share, faulty_share=_faulty_share(how, teacher)
        ),
        process=denoiser.process,
        prediction=denoiser.prediction,
    )


def _faulty_share(how: Distillation, teacher: WorldModel) -> float:
    share = teacher.info.provenance.get("faulty_share") if how.faulty_share is None else how.faulty_share
    if share is None:
        raise ValueError(f"expected faulty_share= with {teacher.info.name}, which does not say its own, found none")
    return share


def _like(config: Any) -> Callable[..., Any]:
    """Returns what makes a config like this one, whatever shapes it is told."""
    kind: Callable[..., Any] = type(config)
    return partial(kind, **{f.name: getattr(config, f.name) for f in fields(config)})


def _round(how: Distillation, run: Run, known: Known, index: int, teacher: Denoiser, clips: ClipTable) -> Denoiser:
    config, device, length = run.preset.denoising, run.torch_device, run.preset.clip_length
    with seeded(run.seed + 1):
        model = Networks(teacher, known.critic)
    sampler = WindowSampler(run.store, learned_from(run, teacher), length, run.seed + index)
    null = run.action_codec.null.to(device)

    def objective(model, average, clip, progress, generator):
        able = known.first >> index <= how.steps  # of all jumps that a frame takes
        ready = config if able else replace(config, resampled_share=0.0)
        task = _task(how, run, known, teacher, model, average, clip.to(device), null, ready, generator, index)
        return known.loss(replace(task, progress=progress))

    def batch(step: int) -> Clip:
        return seen_clips(run, teacher.forecaster, clips, sampler.windows(step, how.sizes.batch // known.group), length)

    stage = Stage(
        f"round-{index + 1}", model, batch, objective, how.sizes.batch, how.sizes.learning_rate, None,
        {"student": known.share},
    )  # fmt: skip
    left = known.rounds - index
    budget = run.spend(stage.name, lambda seconds: (seconds - OUTCOME_SHARE * 60 * run.minutes) / left)
    return trained(run, stage, budget, run.seed + 1).student.eval()


def _task(how, run, known, teacher, model, average, clip: Clip, null: Tensor, config, generator, index: int) -> Task:
    """Returns a batch as its method sees it in round `index`."""
    draw, temperature = Draws(clip.latents, generator), run.preset.temperature
    if config.resampled_frames:
        clip = resample_history(average.student, clip, config, draw, how.steps, temperature)
    clip = faulty_history(map_rows(lambda x: x[:, config.resampled_frames :], clip), config, draw)
    repeats = torch.arange(len(clip.valid), device=clip.valid.device).repeat_interleave(known.group)
    history = noisy_history(clip, config, draw).select(repeats)
    action, valid = dropped_actions(clip, null, config, draw)[repeats], clip.valid[repeats, -1:]
    with torch.no_grad():
        forecast = teacher.forecaster.foresee(history, action)
        clean = forecast.residual(clip.latents[repeats, -1:])[:, 0]

    everywhere = torch.ones_like(valid)
    # A sampler's first evaluation, from 1 to 1 - 1 / steps at least, is told no draft; students learn both ways.
    some, begin = draw.uniform(*valid.shape) < 0.5, 1 - 1 / how.steps

    def given(network: Denoiser, told: Tensor, begin: float = begin) -> Denoise:
        seen = (history, action, valid, forecast)
        return lambda x, time, target: _clean(network, *seen, x, time, target, told, begin)[0]

    def critic(x: Tensor, time: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mean, features = _clean(model.critic, history, action, valid, forecast, x, time, target, some, begin)
        return mean, model.head(features).flatten(1).mean(1)

    def judge(x: Tensor, time: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with standing(model.critic), standing(model.head):
            return critic(x, time, target)

    student, mean = (given(network, some) for network in (model.student, average.student))
    # The world itself was told drafts from everywhere; a student of it that teaches, as students are.
    taught = given(teacher, everywhere, begin if index else 1.0)
    task = Task(taught, student, mean, clean, draw, how.steps, round=index, temperature=temperature)
    return replace(task, critic=critic, judge=judge) if known.critic else task


def _clean(
    network: Denoiser, history: Stream, action, valid, forecast, x, time, target, told: Tensor, begin: float
) -> tuple[Tensor, Tensor]:
    """Returns clean residuals `[b c h w]`, without gradient as a sampler would clamp them, and features `[b d h w]`.

    In `told` rows `[b 1]` what the network says itself stands for what the evaluation before made of the frame, at
    levels up to `begin`.
    """
    one = Stream(x[:, None], time[:, None], action, valid, target[:, None])
    if network.drafts and begin > 0:
        with torch.no_grad():
            own, _ = network(history, one, forecast)
        told = told & (one.level < 1) & (one.level <= begin)
        one = replace(one, draft=torch.where(expand(told, own), network.clamp(own), torch.nan))
    clean, features = network(history, one, forecast)
    clean = clean if torch.is_grad_enabled() else network.clamp(clean)
    return forecast.residual(clean)[:, 0], rearrange(features, "b 1 d h w -> b d h w")


def _learner(denoiser: Denoiser) -> Denoiser:
    learner = deepcopy(denoiser).requires_grad_(True)
    if isinstance(learner.forecaster, nn.Module):
        learner.forecaster.requires_grad_(False)
    return learner.train()
