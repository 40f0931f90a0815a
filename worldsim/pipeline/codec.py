"""What turns frames into latents, trained where it learns; and every recorded frame turned into them, once.

Here as the first stages. Leaves out networks (`models.autoencoder`, `models.folded`) and losses.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace

import torch

from worldsim.data.clips import ClipTable, WindowSampler, frame_batch
from worldsim.data.latents import encode_dataset, folded_dataset
from worldsim.files import save_tensors
from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.objectives.reconstruction import reconstruction_loss
from worldsim.pipeline.previews import preview_frames, write_sheet
from worldsim.pipeline.run import Run, seeded, trained
from worldsim.training.loop import Stage

CODEC_SHARE = 0.1  # of the minutes
STATISTICS_FRAMES = 2_000
Codec = ConvAutoencoder | FoldedPixels


def prepare_codec(run: Run) -> Codec:
    """Returns the preset's codec, trained where it learns; that of the world to begin from, where there is one."""
    config = run.preset.autoencoder(frame_shape=tuple(run.store.info.observation_shape))
    begun = run.begun and run.begun.autoencoder
    if isinstance(config, FoldedPixelsConfig):
        if config.scale is None and isinstance(begun, FoldedPixels):
            config = replace(config, scale=begun.scale)
        pairs = statistics_clips(run, 2)
        codec: Codec = FoldedPixels(config.fitted(pairs[:, 1]).quieted(pairs))
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
        model.start_from(statistics_frames(run))
    sampler = WindowSampler(store, run.training_episodes, 2, run.seed)
    device = run.torch_device

    def objective(model, average, frames, progress, generator):
        return reconstruction_loss(model, frames.to(device), generator=generator)

    def preview(average: ConvAutoencoder, step: int) -> None:
        frames = preview_frames(run)
        set_statistics(average, run, device)
        with torch.no_grad():
            rebuilt = average.decode(average.encode(frames.to(device))).cpu()
        write_sheet(run, "codec", [*frames.numpy(), *rebuilt.numpy()], step)

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
    raw = encoded(autoencoder, statistics_frames(run))
    autoencoder.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    return autoencoder


@torch.no_grad()
def encoded(autoencoder: Codec, frames: torch.Tensor) -> torch.Tensor:
    """Returns the latents of uint8 frames `[n H W 3]`, on the codec's device."""
    return torch.cat([autoencoder.encode(part.to(autoencoder.bound.device)) for part in frames.split(256)])


def statistics_frames(run: Run) -> torch.Tensor:
    """Returns uint8 frames `[n H W 3]` spread over the training episodes."""
    return statistics_clips(run, 1)[:, 0]


def statistics_clips(run: Run, length: int) -> torch.Tensor:
    """Returns uint8 frames `[n length H W 3]`, each clip consecutive ones, spread over the training episodes."""
    sampler = WindowSampler(run.store, run.training_episodes, length, run.seed)
    return frame_batch(run.store, sampler.windows(0, min(STATISTICS_FRAMES, run.store.num_steps)), length)


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
