"""The denoiser's training, and before it where its weights begin.

Here as the stage that has most of the minutes. Leaves out the loss (`objectives.denoising`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import torch

from worldsim import bundle
from worldsim.data.clips import ClipTable, WindowSampler
from worldsim.evaluation.replay import dream_along
from worldsim.models.denoiser import Denoiser
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.models.unet import UNet
from worldsim.objectives.denoising import denoising_loss
from worldsim.pipeline.assembly import assemble
from worldsim.pipeline.codec import Codec, encoded, statistics_frames
from worldsim.pipeline.forecast import learned_from, newly_told, prepare_forecaster, seen_clips
from worldsim.pipeline.outcome import OUTCOME_SHARE
from worldsim.pipeline.previews import preview_episode, write_sheet
from worldsim.pipeline.run import Run, seeded, trained
from worldsim.training.loop import Stage
from worldsim.types import Clip
from worldsim.world_model import WorldModel

SHORTCUTS_FROM = 0.15  # of the training: they need an average that already predicts something


def train_dynamics(run: Run, autoencoder: Codec, clips: ClipTable) -> Denoiser:
    """Trains the denoiser, ordinary and shortcut rows in the same batches; a forecaster that learns comes first."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes, length = preset.dynamics, preset.clip_length
    shapes = {"latent_shape": autoencoder.latent_shape, "action_width": codec.width}
    forecaster = prepare_forecaster(run, shapes, autoencoder, clips)
    with seeded(run.seed + 1):
        backbone = bundle.module_of(preset.backbone(**shapes, told=forecaster.told))
        if isinstance(backbone, UNet):
            backbone.start_from(encoded(autoencoder, statistics_frames(run)).cpu())
    model = Denoiser(backbone, autoencoder.bound.cpu(), preset.process, preset.prediction, forecaster)
    if run.begun is not None:
        _begin_from(run.begun, model, str(run.begin_from))
    null, sampler = codec.null.to(device), WindowSampler(run.store, learned_from(run, model), length, run.seed)

    def objective(model, average, clip, progress, generator):
        config = preset.denoising
        ready = {"shortcuts": progress > SHORTCUTS_FROM, "resample": progress > config.resampled_from}
        return denoising_loss(model, average, clip.to(device), null, config, **ready, generator=generator)

    def preview(average: Denoiser, step: int) -> None:
        with seeded(run.seed):
            untrained = OutcomeModel(OutcomeConfig(backbone.feature_width, codec.width)).to(device)
        world = assemble(run, autoencoder, average, untrained, clips)
        write_sheet(run, "dynamics", dream_along(world, run.store, preview_episode(run)), step)

    def batch(step: int) -> Clip:
        return seen_clips(run, forecaster, clips, sampler.windows(step, sizes.batch), length)

    per_step = sizes.batch * preset.denoising.num_targets
    stage = Stage("dynamics", model, batch, objective, per_step, sizes.learning_rate, preview)
    budget = run.spend("dynamics", lambda left: left - OUTCOME_SHARE * 60 * run.minutes)
    return trained(run, stage, budget, run.seed + 1).eval()


def _begin_from(world: WorldModel, model: Denoiser, name: str) -> None:
    """Gives a denoiser a world's weights. Raises ValueError, in one sentence, where sizes or codec differ.

    A world that keeps the last frame gives them to one that is told a forecast, too: that one says at first what it is
    told, and learns anew what to add. One without drafts, or that sees no older frames, gives them to one with.
    """
    begun, config = dict(world.denoiser.state_dict()), model.backbone.config
    told = config.told
    if newly_told(model.forecaster, world.denoiser):
        config = replace(config, told=0)
        stem, c = begun["backbone.stem.weight"], len(model.bound[0])
        begun["backbone.stem.weight"] = torch.cat((stem[:, :c], stem.new_zeros(len(stem), told, 3, 3), stem[:, c:]), 1)
        begun |= {k: v for k, v in model.state_dict().items() if k.startswith(("forecaster.", "backbone.head."))}
    if model.drafts and not world.denoiser.drafts:
        config = replace(config, drafts=False)
        begun |= {k: v for k, v in model.state_dict().items() if k.startswith("backbone.embed_draft.")}
    grows = bool(getattr(config, "older", ()) and not getattr(world.denoiser.backbone.config, "older", ()))
    if grows:
        config = replace(config, older=())
    mine, theirs = (
        (json.dumps(asdict(sizes)), str((x.process, x.prediction)), x.bound.tolist())
        for sizes, x in ((config, model), (world.denoiser.backbone.config, world.denoiser))
    )
    for expected, found in zip(mine, theirs, strict=True):
        if expected != found:
            raise ValueError(f"expected begin_from={name} to be a world of {expected}, found {found}; use its preset")
    if grows:
        for part in ("backbone.stem.weight", "backbone.embed_past.weight"):  # the oldest come last in both
            grown = torch.zeros_like(model.state_dict()[part])
            grown[:, : begun[part].shape[1]] = begun[part]
            begun[part] = grown
    model.load_state_dict(begun)
