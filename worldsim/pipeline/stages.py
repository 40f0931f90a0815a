"""From recorded episodes to a world: codec, encode once, dynamics, outcome, bundle, within a number of minutes.

Here as plain functions over a `Run`, so that Python users need no command line.
Leaves out sizes and learning rates, which are presets (`configs/preset`), and measuring, which is `evaluation`.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict

import torch

from worldsim import bundle
from worldsim.data.shards import acquire_lock
from worldsim.models.folded import FoldedPixelsConfig
from worldsim.models.next_frame import DOWNSAMPLING, NextFrameConfig
from worldsim.pipeline.assembly import write_bundle
from worldsim.pipeline.codec import encode, prepare_codec
from worldsim.pipeline.dynamics import train_dynamics
from worldsim.pipeline.latent_actions import sizes_of, with_latent_actions
from worldsim.pipeline.outcome import train_outcome
from worldsim.pipeline.run import Run
from worldsim.world_model import WorldModel

STAGES = ("codec", "encode", "dynamics", "outcome", "bundle")
TRAINED = ("codec", "dynamics", "outcome")


def train_world(run: Run, stage: str | None = None) -> WorldModel | None:
    """Runs all stages, or one by name whose forerunners are done, and returns the world once it is whole.

    A run that has its world returns it at once. Raises ValueError where another process trains in the folder.
    """
    _check_stage(run, stage)
    with run.processes.first_first():
        run.claim_folder()
    with acquire_lock(run.folder) if run.processes.first else nullcontext():
        if stage is None and (run.folder / "world" / "world.json").exists():
            return bundle.load(run.folder / "world", run.torch_device)
        return _run_stages(run, stage)


def _check_stage(run: Run, stage: str | None) -> None:
    if stage is not None and stage not in STAGES:
        raise ValueError(f"expected stage to be one of {', '.join(STAGES)}, found {stage!r}")
    _check_sizes(run)
    if run.latent is not None:
        sizes_of(run)  # and this with codes and numbers
    for needed in STAGES[: STAGES.index(stage or "codec")]:
        if needed in TRAINED and not (run.folder / needed / "final.safetensors").exists():
            raise ValueError(
                f"expected a finished {needed} stage in {run.folder} before {stage}; run stage={needed} first"
            )


def _check_sizes(run: Run) -> None:
    """Says what is wrong with frames and sizes before anything is trained."""
    preset = run.preset
    codec = preset.autoencoder(frame_shape=tuple(run.store.info.observation_shape))
    shapes = {"latent_shape": codec.latent_shape, "action_width": 1}  # of any actions
    networks = [preset.backbone(**shapes)]
    if preset.forecaster is not None:
        networks.append(preset.forecaster(**shapes))
    foreseen = networks[-1].folded.frame_shape if isinstance(networks[-1], NextFrameConfig) else codec.frame_shape
    if foreseen != codec.frame_shape:
        raise ValueError(
            f"expected a codec whose positions are {DOWNSAMPLING} pixels wide where the next frame is foreseen, found "
            f"{codec}; leave the forecaster out"
        )
    window = max(getattr(network, "ages", (network.window,))[-1] for network in networks)
    own = preset.denoising.resampled_frames
    if not window + own < preset.clip_length > preset.denoising.num_targets:
        raise ValueError(
            f"expected clip_length above window={window}{f' and resampled_frames={own} together' if own else ''} and "
            f"num_targets={preset.denoising.num_targets}, found {preset.clip_length}"
        )
    with torch.device("meta"):  # their modules say what does not fit
        for network in networks:
            bundle.module_of(network)
    if run.begun is not None:
        begun = run.begun.autoencoder.config
        folded = all(isinstance(each, FoldedPixelsConfig) for each in (codec, begun))  # their scales are told later
        if not folded and json.dumps(asdict(begun)) != json.dumps(asdict(codec)):
            raise ValueError(
                f"expected begin_from={run.begin_from} to be a world of {codec}, found {begun}; use its preset"
            )


def _run_stages(run: Run, stage: str | None) -> WorldModel | None:
    run, latent = with_latent_actions(run)
    autoencoder = prepare_codec(run)
    if stage == "codec":
        return None
    clips = encode(run, autoencoder)
    if stage == "encode":
        return None
    denoiser = train_dynamics(run, autoencoder, clips)
    if stage == "dynamics":
        return None
    outcome = train_outcome(run, denoiser, clips)
    return None if stage == "outcome" else write_bundle(run, autoencoder, denoiser, outcome, clips, latent)
