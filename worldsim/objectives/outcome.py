"""The outcome model's loss: reward by two-hot cross-entropy on a symexp grid, termination by binary cross-entropy.

Here as a function of the models and a clip; the denoiser is read, never changed.
Leaves out class weights: probabilities should mean what they say.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from worldsim.diffusion.process import add_noise
from worldsim.models.outcome import two_hot
from worldsim.objectives.denoising import DenoisingConfig, Draws, noisy_history
from worldsim.types import Clip, Loss, Stream

LAST_LEVELS = (1.0, 0.5, 0.25)  # where a sampler of 1, 2 and 4 steps evaluates the network for the last time


def outcome_loss(outcome, denoiser, clip: Clip, config: DenoisingConfig, *, generator: torch.Generator) -> Loss:
    """Returns the loss on the last frame of a clip `[b t …]`, on the features that the last sampling step would see."""
    draw = Draws(clip.latents, generator)
    history = noisy_history(clip, config, draw)
    last, action = clip.latents[:, -1:], clip.action[:, -1:]
    levels = torch.tensor(LAST_LEVELS, device=last.device)
    level = levels[(draw.uniform(len(last), 1) * len(levels)).long()]
    noisy = add_noise(denoiser.process, last, draw.normal(last.shape), level)
    target = Stream(noisy, level, action, clip.valid[:, -1:], torch.zeros_like(level))
    with torch.no_grad():
        _, features = denoiser(history, target)
    distribution = outcome(features[:, 0], action[:, 0])
    known = clip.known[:, -1].float()
    goal = two_hot(clip.reward[:, -1], outcome.bins)  # in reward units, so that the mean is exact
    reward = -(goal * distribution.reward_logits.log_softmax(-1)).sum(-1)
    ended = clip.terminated[:, -1].float()
    end = F.binary_cross_entropy_with_logits(distribution.end_logit, ended, reduction="none")
    count = known.sum().clamp_min(1)
    reward, end = (reward * known).sum() / count, (end * known).sum() / count
    return Loss(reward + end, {"reward": reward.detach(), "end": end.detach()})
