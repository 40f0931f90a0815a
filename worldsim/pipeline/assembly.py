"""Trained parts joined into a world, and written as a bundle.

Here as the last stage, and for previews on the way. Leaves out the bundle's format (`bundle`).
"""

from __future__ import annotations

import numpy as np
import torch

from worldsim import bundle, noise
from worldsim.data.clips import ClipTable, WindowSampler
from worldsim.diffusion.samplers import EulerSampler
from worldsim.models.denoiser import Denoiser
from worldsim.models.folded import FoldedPixels
from worldsim.models.latent_action import LatentActions
from worldsim.models.outcome import OutcomeModel
from worldsim.pipeline.codec import Codec
from worldsim.pipeline.provenance import card, describe_run
from worldsim.pipeline.run import Run
from worldsim.types import Clip, WorldInfo, map_rows
from worldsim.world_model import WorldModel

NUM_PROMPTS = 16
SINGLE_STEPS, NO_WORSE = 256, 1.01  # by which a deadband is chosen


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
            given = run.preset.autoencoder(frame_shape=tuple(run.store.info.observation_shape))
            if isinstance(autoencoder, FoldedPixels) and given.deadband is None:
                sampler = WindowSampler(run.store, run.training_episodes, run.prompt_length + 1, run.seed)
                clip = clips.clips(sampler.windows(0, SINGLE_STEPS), sampler.length)
                autoencoder.set_deadband(helpful_deadband(world, autoencoder, clip))
            bundle.save(world, folder, torch.bfloat16, card(world))
    return bundle.load(folder, run.torch_device)


def helpful_deadband(world: WorldModel, codec: FoldedPixels, clip: Clip) -> int:
    """Returns the widest deadband, up to the codec's, by which single steps are hardly worse than by the best.

    `clip` `[b t …]` is what the game showed; its last frame is dreamed from those before.
    """
    widest, clip = codec.deadband, clip.to(world.device)
    clip = clip.select(clip.valid.all(1).nonzero()[:, 0])
    rows = list(range(len(clip.valid)))
    if not rows:  # no episode is long enough to tell
        return widest
    before = world.initial(map_rows(lambda x: x[:, :-1], clip), noise.address_of(rows, world.device))
    codec.set_deadband(0)
    dreamed, errors = world.foresee(before, clip.action[:, -1])[0].latent, []
    for levels in range(widest + 1):
        codec.set_deadband(levels)
        errors.append((codec.settle(dreamed, before.latent) - clip.latents[:, -1]).square().mean().item())
    return max(levels for levels, error in enumerate(errors) if error <= NO_WORSE * min(errors))


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
    return WorldModel(
        facts, autoencoder, denoiser, outcome, sampler, prompts, preset.context_level,
        latent=latent, temperature=float(preset.temperature),
    )  # fmt: skip


def prompt_clips(run: Run, clips: ClipTable) -> Clip:
    """Returns 16 clips `[p t …]` to start dreams from, spread over the training episodes and over their lengths."""
    window = run.prompt_length
    long_enough = [i for i in run.training_episodes if run.store.records[i].total_steps >= window]
    chosen = [long_enough[k] for k in np.linspace(0, len(long_enough) - 1, NUM_PROMPTS).round().astype(int)]
    windows = [(i, (run.store.records[i].total_steps - window) * k // NUM_PROMPTS) for k, i in enumerate(chosen)]
    return clips.clips(windows, window)
