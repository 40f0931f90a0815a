"""The outcome model's loss: reward by two-hot cross-entropy on a symexp grid, termination by binary cross-entropy.

Here as a function of the models and a clip; the denoiser is read, never changed.
Leaves out class weights: probabilities should mean what they say, also where events are shown oftener than they come
(but where rewards share bins, a rare one shown oftener counts less).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.clips import parts
from worldsim.diffusion.process import start
from worldsim.models.outcome import OutcomeDistribution, two_hot
from worldsim.objectives.denoising import (
    DenoisingConfig,
    Draws,
    dreamed,
    faulty_history,
    noisy_history,
)
from worldsim.types import Clip, Loss


@dataclass(frozen=True)
class Rarity:
    """What an `EventSampler` drew oftener than it comes: the common reward, and the shares of steps with another, and
    of steps that terminate; 0 where it did not."""

    common: float
    reward: float
    end: float
    apart: bool = True  # no other reward shares a bin with the common one


def outcome_loss(
    outcome,
    denoiser,
    clip: Clip,
    config: DenoisingConfig,
    rarity: Rarity | None = None,
    *,
    steps: int = 4,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> Loss:
    """Returns the loss on the last frame of a clip `[b t …]`, on the features of what the denoiser makes of it.

    As in play that comes from noise of a `temperature` in 1, 2, 4, … or `steps` steps. The real frame would tell too
    much: where one that ends an episode repeats the frame before, say, a dream need not.

    With `rarity` the clip is an `EventSampler`'s. Reward then learns from its first two parts and termination from the
    first and the third, with the log-odds added by which either is likelier there: what the heads say stays what the
    data says (logit adjustment, Menon et al. 2021). Where rewards share bins, other ones weigh less instead.
    """
    draw = Draws(clip.latents, generator)
    counts = [*(k for k in (1, 2, 4, 8) if k < steps), steps]
    count = counts[int(draw.uniform(1) * len(counts))]
    history = noisy_history(_faulty(clip, config, draw), config, draw)
    last, action = clip.latents[:, -1:], clip.action[:, -1:]
    with torch.no_grad():
        forecast = denoiser.forecaster.foresee(history, action)
        levels = [last.new_full((len(last), 1), i / count) for i in range(count, -1, -1)]
        noise = temperature * start(denoiser.process, draw.normal(last.shape))
        _, features = dreamed(denoiser, history, action, clip.valid[:, -1:], forecast, noise, levels)
    distribution = outcome(features[:, 0], action[:, 0])
    known = clip.known[:, -1].float()
    of_reward, of_end = known, known
    if rarity is not None:
        of_reward, of_end, distribution = _adjusted(distribution, clip.reward[:, -1], known, rarity)
    goal = two_hot(clip.reward[:, -1], outcome.bins)  # in reward units, so that the mean is exact
    reward = -(goal * distribution.reward_logits.log_softmax(-1)).sum(-1)
    ended = clip.terminated[:, -1].float()
    end = F.binary_cross_entropy_with_logits(distribution.end_logit, ended, reduction="none")
    reward, end = ((x * of).sum() / of.sum().clamp_min(1e-6) for x, of in ((reward, of_reward), (end, of_end)))
    return Loss(reward + end, {"reward": reward.detach(), "end": end.detach()})


def _faulty(clip: Clip, config: DenoisingConfig, draw: Draws) -> Clip:
    """Returns the clip with faults in some rows' histories, of every part alike: what is missing is no sign of an end.

    In recordings it is: only a thing that touches another hides it. In dreams things are missing at other times too.
    """
    if not config.faulty_share:
        return clip
    order = draw.uniform(len(clip.valid)).argsort()
    return faulty_history(clip.select(order), config, draw).select(order.argsort())


def _adjusted(
    distribution: OutcomeDistribution, reward: Tensor, known: Tensor, rarity: Rarity
) -> tuple[Tensor, Tensor, OutcomeDistribution]:
    """Returns how much each head learns from rows `[b]`, and what it would say were events as common as in them."""
    any_frame, rewards, ends = parts(len(known))
    of_reward, of_end = known.clone(), known.clone()
    of_reward[ends], of_end[rewards] = 0, 0
    drawn = (rewards.stop - rewards.start, ends.stop - ends.start)
    more = [_log_odds(any_frame.stop, n, share) for n, share in zip(drawn, (rarity.reward, rarity.end), strict=True)]
    if rarity.apart:
        is_rare = two_hot(distribution.bins.new_full((), rarity.common), distribution.bins) == 0
        reward_logits = distribution.reward_logits + more[0] * is_rare
    else:
        reward_logits = distribution.reward_logits
        of_reward = torch.where(reward == rarity.common, of_reward, of_reward * math.exp(-more[0]))
    return (
        of_reward,
        of_end,
        replace(distribution, reward_logits=reward_logits, end_logit=distribution.end_logit + more[1]),
    )


def _log_odds(count: int, drawn: int, share: float) -> float:
    """Returns by how much the log-odds of an event of this share rise with `drawn` of them beside `count` frames."""
    if share == 0:
        return 0.0
    mixed = (share * count + drawn) / (count + drawn)
    return math.log(mixed / (1 - mixed)) - math.log(share / (1 - share))
