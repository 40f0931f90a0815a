"""A real world of a few thousand random weights, for tests of what only real networks, files and ids show.

Here beside `fake_world`, which is quicker. Leaves out training.
"""

import torch
from gymnasium import spaces

from worldsim.actions import ActionCodec
from worldsim.diffusion.prediction import CleanPrediction
from worldsim.diffusion.process import RectifiedFlow
from worldsim.diffusion.samplers import EulerSampler
from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.denoiser import Denoiser
from worldsim.models.outcome import OutcomeConfig, OutcomeModel
from worldsim.models.unet import ConvBackbone, ConvBackboneConfig
from worldsim.types import Clip, WorldInfo
from worldsim.world_model import WorldModel


def tiny_world(name="tiny", seed=0, space=None, num_prompts=3):
    """Returns a world with random weights and prompts; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = spaces.MultiBinary(4) if space is None else space
        codec = ActionCodec(space)
        autoencoder = ConvAutoencoder(ConvAutoencoderConfig((64, 64, 3), 4, (8, 16), (1, 1)))
        config = ConvBackboneConfig(autoencoder.latent_shape, codec.width, window=3, width=16, depth=2, condition_width=16)
        denoiser = Denoiser(ConvBackbone(config), autoencoder.bound, RectifiedFlow(), CleanPrediction())
        outcome = OutcomeModel(OutcomeConfig(denoiser.backbone.feature_width, codec.width, 16, 9))
        for module in (denoiser, outcome):
            for parameter in module.parameters():  # layers that begin at zero would hide what they are fed
                parameter.data += 0.05 * torch.randn_like(parameter)
        rows, frames = num_prompts, 2
        prompts = Clip(
            torch.randn(rows, frames, *autoencoder.latent_shape).clamp(-1, 1),
            codec.null.expand(rows, frames, -1).clone(),
            torch.ones(rows, frames, dtype=torch.bool),
            torch.zeros(rows, frames),
            torch.zeros(rows, frames, dtype=torch.bool),
            torch.ones(rows, frames, dtype=torch.bool),
        )
        info = WorldInfo(name, "tiny", 15.0, space, (64, 64, 3))
        return WorldModel(info, autoencoder, denoiser, outcome, EulerSampler(2), prompts, 0.1)
