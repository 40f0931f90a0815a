"""What foresees the next frame before the dynamics do, trained where it learns; and which clips it is shown.

Here as what comes before the dynamics, in presets that have it.
Leaves out networks (`models.forecast`, `models.next_frame`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from worldsim import bundle, pixels
from worldsim.data.clips import ClipTable, WindowSampler, frame_batch
from worldsim.models.conv import ConvBackbone
from worldsim.models.denoiser import Denoiser
from worldsim.models.forecast import LastFrame, Motion
from worldsim.models.next_frame import NextFrame, NextFrameConfig
from worldsim.objectives.denoising import forecast_loss
from worldsim.objectives.next_frame import next_frame_loss
from worldsim.pipeline.codec import Codec, encoded, statistics_frames
from worldsim.pipeline.run import Run, seeded, trained
from worldsim.training.loop import Stage
from worldsim.types import Clip, Forecaster


def prepare_forecaster(run: Run, shapes: dict, autoencoder: Codec, clips: ClipTable) -> Forecaster:
    """Returns the preset's forecaster, trained where it learns; that of the world to begin from, where there is one.

    Raises ValueError, in one sentence, where that is another than the preset's.
    """
    if run.preset.forecaster is None:
        return LastFrame()
    config = run.preset.forecaster(**shapes)
    denoiser = None if run.begun is None else run.begun.denoiser
    if denoiser is None or newly_told(config, denoiser):
        return train_forecaster(run, shapes, autoencoder, clips)
    begun = denoiser.forecaster
    if isinstance(config, NextFrameConfig) and isinstance(begun, NextFrame) and config.scale is None:
        config = replace(config, scale=begun.config.scale)
    if not isinstance(begun, (Motion, NextFrame)) or json.dumps(asdict(config)) != json.dumps(asdict(begun.config)):
        found = getattr(begun, "config", begun)
        raise ValueError(f"expected begin_from={run.begin_from} to foresee by {config}, found {found}; use its preset")
    if isinstance(begun, NextFrame):
        begun.see_through(autoencoder)
    return begun.requires_grad_(False)


def newly_told(forecaster: Any, begun: Denoiser) -> bool:
    """Whether the network told by a forecaster begins from one that was told nothing."""
    told = isinstance(forecaster, (NextFrame, NextFrameConfig)) and isinstance(begun.forecaster, LastFrame)
    return told and isinstance(begun.backbone, ConvBackbone)


def train_forecaster(run: Run, shapes: dict, autoencoder: Codec, clips: ClipTable) -> Motion | NextFrame:
    """Trains a forecaster, gives it its keyframes, and returns it: from here on it stands."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes, length, frames = preset.forecast, preset.clip_length, statistics_frames(run)
    assert preset.forecaster is not None and sizes is not None  # the preset has both or none
    config, denoising = preset.forecaster(**shapes), preset.denoising
    with seeded(run.seed + 3):
        model = bundle.module_of(config.fitted(frames) if isinstance(config, NextFrameConfig) else config)
    if isinstance(model, NextFrame):
        model.see_through(autoencoder)
    else:
        model.warp.start_from(pixels.to_float(frames), encoded(autoencoder, frames).cpu())
    null, sampler = codec.null.to(device), WindowSampler(run.store, run.training_episodes, length, run.seed)

    def objective(model, average, clip, progress, generator):
        loss = next_frame_loss if isinstance(model, NextFrame) else forecast_loss
        return loss(model, clip.to(device), null, denoising, generator=generator)

    def batch(step: int) -> Clip:
        return seen_clips(run, model, clips, sampler.windows(step, sizes.batch), length)

    per_step = sizes.batch * (1 if isinstance(model, NextFrame) else denoising.num_targets)
    stage = Stage("forecast", model, batch, objective, per_step, sizes.learning_rate)
    budget = run.spend("forecast", lambda left: preset.forecast_share * left)
    model = trained(run, stage, budget, run.seed + 3).requires_grad_(False)
    if isinstance(model, Motion) and model.recall is not None:
        remembered, _ = _parts(run, model.config.keyframes)
        model.recall.start_from(_keyframes(run, remembered, model.config.keyframes))
    return model.cpu()


def seen_clips(
    run: Run, forecaster: Forecaster, clips: ClipTable, windows: Sequence[tuple[int, int]], length: int
) -> Clip:
    """Returns clips, with their frames where the forecaster looks at these."""
    clip = clips.clips(windows, length)
    looks = isinstance(forecaster, NextFrame)
    return replace(clip, frames=frame_batch(run.store, windows, length)) if looks else clip


def _parts(run: Run, keyframes: int) -> tuple[list[int], list[int]]:
    """Returns the training episodes whose frames are remembered and those learned from.

    Every other one where there are keyframes: what is learned from must be recalled from elsewhere, as in a dream.
    """
    episodes = run.training_episodes
    return (episodes[::2], episodes[1::2] or episodes) if keyframes else ([], episodes)


def learned_from(run: Run, denoiser: Denoiser) -> list[int]:
    """Returns the episodes that a denoiser learns from, none of those whose frames it remembers."""
    return _parts(run, _num_keyframes(denoiser))[1]


def _num_keyframes(denoiser: Denoiser) -> int:
    return denoiser.forecaster.config.keyframes if isinstance(denoiser.forecaster, Motion) else 0


def _keyframes(run: Run, episodes: Sequence[int], count: int) -> torch.Tensor:
    """Returns n frames, uint8 `[n H W 3]`, evenly spread over episodes: all of them, or up to about `count`."""
    lengths = [run.store.records[i].total_steps + 1 for i in episodes]
    stride = max(1, math.ceil(sum(lengths) / count))
    frames = [run.store.observations(i, 0, n)[::stride] for i, n in zip(episodes, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(frames))
