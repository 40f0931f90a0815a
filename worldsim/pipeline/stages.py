"""From recorded episodes to a world: codec, encode once, dynamics, outcome, bundle, within a number of minutes.

Here as plain functions over a `Run`, so that Python users need no command line.
Leaves out sizes and learning rates, which are presets (`configs/preset`), and measuring, which is `evaluation`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from worldsim import bundle, pixels
from worldsim.data.clips import ClipTable, EventSampler, WindowSampler, frame_batch
from worldsim.data.latents import encode_dataset, folded_dataset
from worldsim.data.shards import acquire_lock
from worldsim.diffusion.samplers import EulerSampler
from worldsim.evaluation.replay import dream_along
from worldsim.evaluation.sheet import contact_sheet
from worldsim.files import save_tensors
from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.conv import ConvBackbone
from worldsim.models.denoiser import Denoiser
from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.models.forecast import LastFrame, Motion
from worldsim.models.latent_action import LatentActions
from worldsim.models.next_frame import NextFrame, NextFrameConfig
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.models.unet import UNet
from worldsim.objectives.denoising import denoising_loss, forecast_loss
from worldsim.objectives.next_frame import next_frame_loss
from worldsim.objectives.outcome import Rarity, outcome_loss
from worldsim.objectives.reconstruction import reconstruction_loss
from worldsim.pipeline.latent_actions import sizes_of, with_latent_actions
from worldsim.pipeline.provenance import card, describe_run
from worldsim.pipeline.run import Run
from worldsim.training.loop import Budget, M, Stage, train
from worldsim.types import Clip, Forecaster, WorldInfo
from worldsim.world_model import WorldModel

STAGES = ("codec", "encode", "dynamics", "outcome", "bundle")
TRAINED = ("codec", "dynamics", "outcome")
CODEC_SHARE, OUTCOME_SHARE = 0.1, 0.12  # of the minutes; dynamics gets what the others leave
Codec = ConvAutoencoder | FoldedPixels
SHORTCUTS_FROM = 0.15  # of the training: they need an average that already predicts something
NUM_PROMPTS = 16
STATISTICS_FRAMES = 2_000


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
    if isinstance(networks[-1], NextFrameConfig) and not isinstance(codec, ConvAutoencoderConfig):
        raise ValueError(
            f"expected a codec that learns where the next frame is foreseen, found {type(codec).__name__}; leave the "
            "forecaster out"
        )
    window, own = max(network.window for network in networks), preset.denoising.resampled_frames
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialises modules from a seed, and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: that is what comes back
        yield


def trained(run: Run, stage: Stage[M], budget: Budget, seed: int) -> M:
    """Returns the stage's model, trained in its own folder of the run's."""
    return train(stage, budget, run.folder / stage.name, seed, run.rhythm, run.torch_device, run.batches_a_step)


def prepare_codec(run: Run) -> Codec:
    """Returns the preset's codec, trained where it learns; that of the world to begin from, where there is one."""
    config = run.preset.autoencoder(frame_shape=tuple(run.store.info.observation_shape))
    begun = run.begun and run.begun.autoencoder
    if isinstance(config, FoldedPixelsConfig):
        if config.scale is None and isinstance(begun, FoldedPixels):
            config = replace(config, scale=begun.scale)
        codec: Codec = FoldedPixels(config.fitted(_statistics_frames(run)))
    elif isinstance(begun, ConvAutoencoder) and json.dumps(asdict(begun.config)) == json.dumps(asdict(config)):
        codec = begun
    else:
        return train_codec(run, config)
    with run.processes.first_first():
        if run.processes.first:
            (run.folder / "codec").mkdir(exist_ok=True)
            save_tensors(codec.state_dict(), run.folder / "codec" / "final.safetensors")
    return codec.to(run.torch_device)


def train_codec(run: Run, config: ConvAutoencoderConfig) -> ConvAutoencoder:
    """Trains the autoencoder on pairs of consecutive frames and measures its latents' statistics."""
    sizes, store = run.preset.codec, run.store
    with seeded(run.seed):
        model = ConvAutoencoder(config)
        model.start_from(_statistics_frames(run))
    sampler = WindowSampler(store, run.training_episodes, 2, run.seed)
    device = run.torch_device

    def objective(model, average, frames, progress, generator):
        return reconstruction_loss(model, frames.to(device), generator=generator)

    def preview(average: ConvAutoencoder, step: int) -> None:
        frames = _preview_frames(run)
        set_statistics(average, run, device)
        with torch.no_grad():
            rebuilt = average.decode(average.encode(frames.to(device))).cpu()
        _write_sheet(run, "codec", [*frames.numpy(), *rebuilt.numpy()], step)

    def batch(step: int) -> torch.Tensor:
        return frame_batch(store, sampler.windows(step, sizes.batch // 2), 2)

    stage = Stage("codec", model, batch, objective, sizes.batch, sizes.learning_rate, preview)
    budget = run.spend("codec", lambda left: CODEC_SHARE * left)
    average = trained(run, stage, budget, run.seed)
    return set_statistics(average, run, device).eval()


@torch.no_grad()
def set_statistics(autoencoder: ConvAutoencoder, run: Run, device: torch.device) -> ConvAutoencoder:
    """Sets the codec's latent statistics from training frames, and returns it."""
    autoencoder.to(device)
    autoencoder.set_statistics(torch.zeros_like(autoencoder.mean), torch.ones_like(autoencoder.std))
    raw = _encoded(autoencoder, _statistics_frames(run))
    autoencoder.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    return autoencoder


@torch.no_grad()
def _encoded(autoencoder: Codec, frames: torch.Tensor) -> torch.Tensor:
    """Returns the latents of uint8 frames `[n H W 3]`, on the codec's device."""
    return torch.cat([autoencoder.encode(part.to(autoencoder.bound.device)) for part in frames.split(256)])


def _statistics_frames(run: Run) -> torch.Tensor:
    """Returns uint8 frames `[n H W 3]` spread over the training episodes."""
    sampler = WindowSampler(run.store, run.training_episodes, 1, run.seed)
    return frame_batch(run.store, sampler.windows(0, min(STATISTICS_FRAMES, run.store.num_steps)), 1)[:, 0]


def encode(run: Run, autoencoder: Codec) -> ClipTable:
    """Encodes every frame once; the time it takes comes off what dynamics and outcome have."""
    start = time.monotonic()
    if isinstance(autoencoder, FoldedPixels):
        latents = folded_dataset(run.store, autoencoder.encode)
    else:
        fingerprint = hashlib.sha256((run.folder / "codec" / "final.safetensors").read_bytes()).hexdigest()
        with run.processes.first_first():
            latents = encode_dataset(run.store, autoencoder, run.folder / "latents", fingerprint)
    faulty = run.preset.denoising.faulty_share > 0
    clips = ClipTable(latents, run.action_codec, run.torch_device, tells_scenery=faulty)
    run.spend("encode", lambda left: time.monotonic() - start)
    return clips


def _parts(run: Run, keyframes: int) -> tuple[list[int], list[int]]:
    """Returns the training episodes whose frames are remembered and those learned from.

    Every other one where there are keyframes: what is learned from must be recalled from elsewhere, as in a dream.
    """
    episodes = run.training_episodes
    return (episodes[::2], episodes[1::2] or episodes) if keyframes else ([], episodes)


def _num_keyframes(denoiser: Denoiser) -> int:
    return denoiser.forecaster.config.keyframes if isinstance(denoiser.forecaster, Motion) else 0


def learned_from(run: Run, denoiser: Denoiser) -> list[int]:
    """Returns the episodes that a denoiser learns from, none of those whose frames it remembers."""
    return _parts(run, _num_keyframes(denoiser))[1]


def _keyframes(run: Run, episodes: Sequence[int], count: int) -> torch.Tensor:
    """Returns n frames, uint8 `[n H W 3]`, evenly spread over episodes: all of them, or up to about `count`."""
    lengths = [run.store.records[i].total_steps + 1 for i in episodes]
    stride = max(1, math.ceil(sum(lengths) / count))
    frames = [run.store.observations(i, 0, n)[::stride] for i, n in zip(episodes, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(frames))


def train_dynamics(run: Run, autoencoder: Codec, clips: ClipTable) -> Denoiser:
    """Trains the denoiser, ordinary and shortcut rows in the same batches; a forecaster that learns comes first."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes, length = preset.dynamics, preset.clip_length
    shapes = {"latent_shape": autoencoder.latent_shape, "action_width": codec.width}
    forecaster = prepare_forecaster(run, shapes, autoencoder, clips)
    with seeded(run.seed + 1):
        backbone = bundle.module_of(preset.backbone(**shapes, told=forecaster.told))
        if isinstance(backbone, UNet):
            backbone.start_from(_encoded(autoencoder, _statistics_frames(run)).cpu())
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
        _write_sheet(run, "dynamics", dream_along(world, run.store, _preview_episode(run)), step)

    def batch(step: int) -> Clip:
        return seen_clips(run, forecaster, clips, sampler.windows(step, sizes.batch), length)

    per_step = sizes.batch * preset.denoising.num_targets
    stage = Stage("dynamics", model, batch, objective, per_step, sizes.learning_rate, preview)
    budget = run.spend("dynamics", lambda left: left - OUTCOME_SHARE * 60 * run.minutes)
    return trained(run, stage, budget, run.seed + 1).eval()


def _begin_from(world: WorldModel, model: Denoiser, name: str) -> None:
    """Gives a denoiser a world's weights. Raises ValueError, in one sentence, where sizes or codec differ.

    A world that keeps the last frame gives them to one that is told a forecast, too: that one says at first what it is
    told, and learns anew what to add.
    """
    begun, told = dict(world.denoiser.state_dict()), model.backbone.config.told
    mine, theirs = (
        (json.dumps(asdict(x.backbone.config)), str((x.process, x.prediction)), x.bound.tolist())
        for x in (model, world.denoiser)
    )
    if isinstance(model.backbone, ConvBackbone) and _newly_told(model.forecaster, world.denoiser):
        mine = (json.dumps(asdict(replace(model.backbone.config, told=0))), *mine[1:])
        stem, c = begun["backbone.stem.weight"], len(model.bound[0])
        begun["backbone.stem.weight"] = torch.cat((stem[:, :c], stem.new_zeros(len(stem), told, 3, 3), stem[:, c:]), 1)
        begun |= {k: v for k, v in model.state_dict().items() if k.startswith(("forecaster.", "backbone.head."))}
    for expected, found in zip(mine, theirs, strict=True):
        if expected != found:
            raise ValueError(f"expected begin_from={name} to be a world of {expected}, found {found}; use its preset")
    model.load_state_dict(begun)


def _newly_told(forecaster: Any, begun: Denoiser) -> bool:
    """Whether the network told by a forecaster begins from one that was told nothing."""
    return isinstance(forecaster, (NextFrame, NextFrameConfig)) and isinstance(begun.forecaster, LastFrame)


def prepare_forecaster(run: Run, shapes: dict, autoencoder: Codec, clips: ClipTable) -> Forecaster:
    """Returns the preset's forecaster, trained where it learns; that of the world to begin from, where there is one.

    Raises ValueError, in one sentence, where that is another than the preset's.
    """
    if run.preset.forecaster is None:
        return LastFrame()
    config = run.preset.forecaster(**shapes)
    denoiser = None if run.begun is None else run.begun.denoiser
    if denoiser is None or _newly_told(config, denoiser):
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


def train_forecaster(run: Run, shapes: dict, autoencoder: Codec, clips: ClipTable) -> Motion | NextFrame:
    """Trains a forecaster, gives it its keyframes, and returns it: from here on it stands."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes, length, frames = preset.forecast, preset.clip_length, _statistics_frames(run)
    assert preset.forecaster is not None and sizes is not None  # the preset has both or none
    config, denoising = preset.forecaster(**shapes), preset.denoising
    with seeded(run.seed + 3):
        model = bundle.module_of(config.fitted(frames) if isinstance(config, NextFrameConfig) else config)
    if isinstance(model, NextFrame):
        model.see_through(autoencoder)
    else:
        model.warp.start_from(pixels.to_float(frames), _encoded(autoencoder, frames).cpu())
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


def train_outcome(run: Run, denoiser: Denoiser, clips: ClipTable) -> OutcomeModel:
    """Trains reward and termination on the finished denoiser's features."""
    preset, codec, device = run.preset, run.action_codec, run.torch_device
    sizes = preset.outcome
    with seeded(run.seed + 2):
        model = OutcomeModel(OutcomeConfig(denoiser.backbone.feature_width, codec.width))
    if run.begun is not None:
        model.load_state_dict(run.begun.outcome.state_dict())
    sampler = EventSampler(run.store, learned_from(run, denoiser), preset.clip_length, run.seed + 2)
    rarity = Rarity(sampler.common, *sampler.shares)

    def objective(model, average, clip, progress, generator):
        return outcome_loss(model, denoiser, clip.to(device), preset.denoising, rarity, generator=generator)

    def batch(step: int) -> Clip:
        windows = sampler.windows(step, sizes.batch)
        return seen_clips(run, denoiser.forecaster, clips, windows, preset.clip_length)

    stage = Stage("outcome", model, batch, objective, sizes.batch, sizes.learning_rate)
    budget = run.spend("outcome", lambda left: left)
    return trained(run, stage, budget, run.seed + 2).eval()


def write_bundle(
    run: Run,
    autoencoder: Codec,
    denoiser: Denoiser,
    outcome: OutcomeModel,
    clips: ClipTable,
    latent: LatentActions | None = None,
) -> WorldModel:
    """Puts the world into `world/` in the run's folder and returns it as loaded from there."""
    folder = run.folder / "world"
    with run.processes.first_first():
        if run.processes.first:
            world = assemble(run, autoencoder, denoiser, outcome, clips, latent)
            bundle.save(world, folder, torch.bfloat16, card(world))
    return bundle.load(folder, run.torch_device)


def assemble(
    run: Run,
    autoencoder: Codec,
    denoiser: Denoiser,
    outcome: OutcomeModel,
    clips: ClipTable,
    latent: LatentActions | None = None,
) -> WorldModel:
    """Joins trained parts into a world that starts from clips of the training episodes."""
    info, preset = run.store.info, run.preset
    hashes = [run.store.records[i].hash for i in run.training_episodes]
    provenance = {"training_episodes": hashes, **describe_run(run)}
    if (begun := run.begun) is not None:  # what it was trained on before counts as well
        before = dict(begun.info.provenance)
        provenance["training_episodes"] = [*before.pop("training_episodes", []), *hashes]
        provenance["begun_from"] = before | {"fingerprint": begun.fingerprint}
    facts = WorldInfo(
        run.folder.resolve().name, info.game, info.fps, info.action_space, info.observation_shape, info.keymap,
        info.discrete_table, provenance,
    )  # fmt: skip
    prompts = prompt_clips(run, clips).to(run.torch_device)
    sampler = EulerSampler(preset.steps)
    return WorldModel(facts, autoencoder, denoiser, outcome, sampler, prompts, preset.context_level, latent=latent)


def prompt_clips(run: Run, clips: ClipTable) -> Clip:
    """Returns 16 clips `[p t …]` to start dreams from, spread over the training episodes and over their lengths."""
    window = _prompt_length(run)
    long_enough = [i for i in run.training_episodes if run.store.records[i].total_steps >= window]
    chosen = [long_enough[k] for k in np.linspace(0, len(long_enough) - 1, NUM_PROMPTS).round().astype(int)]
    windows = [(i, (run.store.records[i].total_steps - window) * k // NUM_PROMPTS) for k, i in enumerate(chosen)]
    return clips.clips(windows, window)


def _prompt_length(run: Run) -> int:
    """Returns how many frames a prompt has: as many as a clip gives, fewer where no training episode is so long."""
    longest = max(run.store.records[i].total_steps for i in run.training_episodes)
    return min(run.preset.clip_length - 1 - run.preset.denoising.resampled_frames, longest)


def _preview_episode(run: Run) -> int:
    """Returns the longest held-out episode, of the training ones where it is too short to begin a dream."""
    steps, least = (lambda i: run.store.records[i].total_steps), _prompt_length(run)
    return max([i for i in run.held_out_episodes if steps(i) >= least] or run.training_episodes, key=steps)


def _preview_frames(run: Run) -> torch.Tensor:
    index = _preview_episode(run)
    steps = run.store.records[index].total_steps
    return torch.stack(
        [
            torch.from_numpy(np.array(run.store.observations(index, s, s + 1)[0]))
            for s in np.linspace(0, steps, 12).astype(int)
        ]
    )


def _write_sheet(run: Run, name: str, frames: list[np.ndarray], step: int) -> None:
    folder = run.folder / "sheets"
    folder.mkdir(exist_ok=True)
    iio.imwrite(folder / f"{name}-{step:06d}.png", contact_sheet(frames, columns=12, scale=2))
