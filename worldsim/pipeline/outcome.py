"""Reward and termination, learned from the finished denoiser's features.

Here as the last stage that trains. Leaves out the network and its loss (`models.outcome`, `objectives.outcome`).
"""

from __future__ import annotations

import torch

from worldsim.data.clips import ClipTable, EventSampler
from worldsim.models.denoiser import Denoiser
from worldsim.models.outcome import OutcomeConfig, OutcomeModel, two_hot
from worldsim.objectives.outcome import Rarity, outcome_loss
from worldsim.pipeline.forecast import learned_from, seen_clips
from worldsim.pipeline.run import Run, seeded, trained
from worldsim.training.loop import Stage
from worldsim.types import Clip

OUTCOME_SHARE = 0.12  # of the minutes; dynamics gets what the others leave


def train_outcome(run: Run, denoiser: Denoiser, clips: ClipTable) -> OutcomeModel:
    """Trains reward and termination on the finished denoiser's features."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes = preset.outcome
    with seeded(run.seed + 2):
        model = OutcomeModel(OutcomeConfig(denoiser.backbone.feature_width, codec.width))
    if run.begun is not None:
        model.load_state_dict(run.begun.outcome.state_dict())
    sampler = EventSampler(run.store, learned_from(run, denoiser), preset.clip_length, run.seed + 2)
    near = two_hot(torch.tensor([sampler.common, *sampler.others]), model.bins) > 0
    reward, end = sampler.shares
    rarity = Rarity(sampler.common, reward, end, apart=not bool((near[1:] & near[0]).any()))

    def objective(model, average, clip, progress, generator):
        return outcome_loss(
            model, denoiser, clip.to(device), preset.denoising, rarity,
            steps=preset.steps, temperature=preset.temperature, generator=generator,
        )  # fmt: skip

    def batch(step: int) -> Clip:
        windows = sampler.windows(step, sizes.batch)
        return seen_clips(run, denoiser.forecaster, clips, windows, preset.clip_length)

    stage = Stage("outcome", model, batch, objective, sizes.batch, sizes.learning_rate)
    budget = run.spend("outcome", lambda left: left)
    return trained(run, stage, budget, run.seed + 2).eval()
