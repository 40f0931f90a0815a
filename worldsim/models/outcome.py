"""The outcome model: reward and termination of a step, read from the denoiser's features of the frame it made.

Here as a separate small head, trained after the dynamics, so that it cannot bend them.
Leaves out memory of its own: the features have seen the history, and what they keep of it is what the dream knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.types import Outcome


def symexp(x: Tensor) -> Tensor:
    """Returns sign(x) (exp |x| - 1): even bins in x lie close at 0 and far at the ends (Hafner et al. 2023)."""
    return x.sign() * x.abs().expm1()


def two_hot(values: Tensor, bins: Tensor) -> Tensor:
    """Spreads each value over its two neighbouring bins so that the mean is the value: `[...]` to `[... n]`.

    Values beyond the outermost bins go to those (Hafner et al. 2023).
    """
    values = values.clamp(bins[0], bins[-1])
    upper = torch.searchsorted(bins, values).clamp(1, len(bins) - 1)
    lower = upper - 1
    weight = (values - bins[lower]) / (bins[upper] - bins[lower])
    low, high = (F.one_hot(index, len(bins)).to(values.dtype) for index in (lower, upper))
    return low * (1 - weight)[..., None] + high * weight[..., None]


@dataclass(frozen=True)
class OutcomeConfig:
    """Sizes of an `OutcomeModel`; rewards up to symexp(`reach`) in size."""

    feature_width: int
    action_width: int
    width: int = 128
    bins: int = 63
    reach: float = 7.0


@dataclass(frozen=True)
class OutcomeDistribution:
    """What may come of a step: a categorical over reward bins and a probability of ending."""

    reward_logits: Tensor  # [b n]
    end_logit: Tensor  # [b]
    bins: Tensor  # [n], rewards

    @property
    def reward_mean(self) -> Tensor:
        """The expected reward, `[b]`."""
        return self.reward_logits.softmax(-1) @ self.bins

    @property
    def end_probability(self) -> Tensor:
        """The probability that the step ended the episode, `[b]`."""
        return self.end_logit.sigmoid()

    def sample(self, uniform: Tensor) -> Outcome:
        """Draws an outcome from uniform numbers `[b 2]`.

        A drawn reward is the mean over its bin and the two beside it, so that a reward that lies between two bins
        comes out as itself and not as either bin.
        """
        probabilities = self.reward_logits.softmax(-1)
        index = (probabilities.cumsum(-1) < uniform[:, :1]).sum(-1, keepdim=True).clamp(max=len(self.bins) - 1)
        near = (torch.arange(len(self.bins), device=index.device) - index).abs() <= 1
        local = probabilities * near
        reward = (local @ self.bins) / local.sum(-1)
        return Outcome(reward, uniform[:, 1] < self.end_probability)


class OutcomeModel(nn.Module):
    """Features `[b d h w]` and the action `[b a]` to an `OutcomeDistribution`."""

    bins: Tensor  # [n], rewards

    def __init__(self, config: OutcomeConfig):
        super().__init__()
        self.config = config
        self.reduce = nn.Conv2d(config.feature_width, config.width, 1)
        self.mix = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.hidden = nn.Linear(2 * config.width + config.action_width, config.width)
        self.out = nn.Linear(config.width, config.bins + 1)
        self.register_buffer("bins", symexp(torch.linspace(-config.reach, config.reach, config.bins)))

    def forward(self, features: Tensor, action: Tensor) -> OutcomeDistribution:
        """Returns the distribution for each row, in float32."""
        h = F.silu(self.mix(F.silu(self.reduce(features))))
        pooled = torch.cat((h.mean((-2, -1)), h.amax((-2, -1)), action.to(h.dtype)), -1)
        logits = self.out(F.silu(self.hidden(pooled))).float()
        return OutcomeDistribution(logits[:, :-1], logits[:, -1], self.bins)
