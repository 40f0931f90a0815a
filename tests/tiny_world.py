"""A real world model with tiny, untrained networks; and a tiny recorded data set."""

from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces

from worldsim import pixels
from worldsim.actions import ActionCodec, packed_width
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.diffusion.samplers import EulerSampler
from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.conv import ConvBackbone, ConvBackboneConfig
from worldsim.models.denoiser import Denoiser
from worldsim.models.forecast import LastFrame, Motion, MotionConfig, MotionMemory
from worldsim.models.latent_action import LatentActionConfig, LatentActions
from worldsim.models.next_frame import NextFrame, NextFrameConfig
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.models.transformer import Transformer, TransformerConfig
from worldsim.models.unet import UNet, UNetConfig
from worldsim.types import Clip, WorldInfo
from worldsim.world_model import WorldModel

SPACE = spaces.MultiBinary(4)
SHAPE = (16, 16, 3)
WINDOW = 3


def shake(module, seed=0):
    """Gives every parameter a random value, so that zero-initialised branches take part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


def conv_backbone(latent_shape=(4, 2, 2), action_width=5, told=0, older=()):
    sizes = {"window": WINDOW, "width": 16, "depth": 1, "condition_width": 16, "older": older}
    return ConvBackbone(ConvBackboneConfig(latent_shape, action_width, **sizes, told=told))


def unet_backbone(latent_shape=(4, 2, 2), action_width=5, told=0, moved=0, drafts=False):
    sizes = {"window": WINDOW, "widths": (8, 16), "condition_width": 16, "words": 4, "moved": moved, "drafts": drafts}
    unet = UNet(UNetConfig(latent_shape, action_width, **sizes, told=told))
    unet.start_from(torch.randn(8, *latent_shape, generator=torch.Generator().manual_seed(0)))
    return unet


def transformer_backbone(latent_shape=(4, 2, 2), action_width=5, told=0):
    config = TransformerConfig(
        latent_shape, action_width, width=16, depth=2, heads=2, kv_heads=1, time_layers=(0,), window=WINDOW + 1,
        patch=1, registers=1, told=told,
    )  # fmt: skip
    return Transformer(config)


def last_frame(latent_shape=(4, 2, 2), action_width=5):
    return LastFrame()


def motion(latent_shape=(4, 2, 2), action_width=5, **more):
    """Returns a forecaster whose warp knows some pictures."""
    sizes = {"window": WINDOW, "width": 8, "condition_width": 16}
    forecaster, generator = Motion(MotionConfig(latent_shape, action_width, **sizes, **more)), torch.Generator()
    generator.manual_seed(4)
    images = torch.randn(32, 3, 8 * latent_shape[1], 8 * latent_shape[2], generator=generator)
    forecaster.warp.start_from(images, torch.randn((32, *latent_shape), generator=generator))
    return forecaster


def next_frame(latent_shape=(4, 2, 2), action_width=5):
    """Returns a forecaster that sees through a codec of its own."""
    sizes = {"window": WINDOW, "widths": (8, 16), "scale": 2.0}
    return NextFrame(NextFrameConfig(latent_shape, action_width, **sizes)).see_through(PlainCodec())


class PlainCodec:
    """Shows three of four channels as colours of 8x8 pixels: the same to the bit, however many frames are shown."""

    bound = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 4, 1, 1)

    def decode(self, latents):
        return pixels.to_uint8(latents[..., :3, :, :].repeat_interleave(8, -1).repeat_interleave(8, -2))

    def encode(self, frames):
        colours = pixels.to_float(frames)[..., ::8, ::8]
        return torch.cat((colours, -colours[..., :1, :, :]), -3)


def tiny_codec():
    codec = ConvAutoencoder(ConvAutoencoderConfig(SHAPE, latent_channels=4, widths=(8, 8), blocks=(1, 1)))
    shake(codec, 1)
    codec.set_statistics(torch.tensor([0.1, 0.0, -0.1, 0.2]), torch.tensor([0.5, 0.4, 0.6, 0.3]))
    return codec.requires_grad_(False)


def recalling(latent_shape=(4, 2, 2), action_width=5):
    """Returns a forecaster with a warp and six keyframes."""
    forecaster = motion(latent_shape, action_width, keyframes=6, renewed=0.5)
    shape = (6, 8 * latent_shape[1], 8 * latent_shape[2], 3)
    forecaster.recall.start_from(
        torch.randint(256, shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    )
    return forecaster


def forgetful(memory):
    """Returns a memory that holds nothing beside the last frames, as in training."""
    return replace(memory, view=torch.zeros_like(memory.view)) if isinstance(memory, MotionMemory) else memory


def tiny_world(
    backbone=conv_backbone,
    forecaster=last_frame,
    steps=2,
    context_level=0.1,
    provenance=None,
    game="counting",
    latent=None,  # sizes of latent actions, which then are the world's
):
    latent = shake(LatentActions(LatentActionConfig(SHAPE, width=8, **latent)), 4) if latent else None
    space = latent.config.space if latent else SPACE
    autoencoder, codec = tiny_codec(), ActionCodec(space)
    told = forecaster(autoencoder.latent_shape, codec.width)
    if isinstance(told, NextFrame):
        told.see_through(autoencoder)
    network = backbone(autoencoder.latent_shape, codec.width, told=told.told)
    denoiser = shake(Denoiser(network, autoencoder.bound, forecaster=told), 2)
    outcome = shake(OutcomeModel(OutcomeConfig(network.feature_width, codec.width, width=8, bins=9)), 3)
    info = WorldInfo("tiny", game, 15.0, space, SHAPE, provenance=provenance or {})
    prompts = random_clip(4, WINDOW, autoencoder.latent_shape, codec)
    return WorldModel(info, autoencoder, denoiser, outcome, EulerSampler(steps), prompts, context_level, latent=latent)


def random_clip(rows, length, latent_shape, codec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 2, (rows, length, packed_width(codec.space)), generator=generator)
    return Clip(
        torch.randn(rows, length, *latent_shape, generator=generator).clamp(-1, 1), codec.encode(packed),
        torch.ones(rows, length, dtype=torch.bool), torch.zeros(rows, length),
        torch.zeros(rows, length, dtype=torch.bool), torch.ones(rows, length, dtype=torch.bool),
    )  # fmt: skip


def record(folder, episodes=3, steps=9, seed=0) -> EpisodeStore:
    """Writes episodes whose pixels tell: red is the episode, green the step, blue the action that led here."""
    info = DatasetInfo("counting", SHAPE, SPACE, 15.0)
    rng = np.random.default_rng(seed)
    with EpisodeWriter(folder, info) as writer:
        for episode in range(episodes):
            actions = rng.integers(0, 2, (steps, 4)).astype(float)
            frames = np.zeros((steps + 1, *SHAPE), np.uint8)
            frames[..., 0] = 10 + episode
            frames[..., 1] = np.arange(steps + 1)[:, None, None]
            frames[1:, ..., 2] = 8 * (actions @ [1, 2, 4, 8])[:, None, None]
            rewards = np.arange(1, steps + 1, dtype=np.float32)
            writer.append(Episode(frames, actions, rewards, episode % 2 == 0, episode % 2 == 1, seed + episode, "test"))
    return EpisodeStore(folder)
