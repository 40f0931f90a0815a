"""The loss that makes latent actions: the next frame, rebuilt from the frames before and a name of what happened.

Here with what keeps the name honest: a price on what it tells, and frames that the inverse model sees shifted, so that
it names what moves and not where. A few labels say which of all that moves is meant.

Sources: Higgins et al. 2017 and Gao et al. 2025 (a price on information), Kingma et al. 2016 (free bits), Nikulin et
al. 2025 (a few labels, where other things move too).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.models.latent_action import REACH, WINDOW, LatentActions
from worldsim.types import Loss

CHANGED, MORE = 0.05, 4.0  # pixels in [-1, 1] that change by so much count so many times more
SHIFT = 2  # positions
BETA, FREE = 1e-3, 0.1  # of the information of a latent number, and what is free of it (nats)


def latent_action_loss(
    model: LatentActions, frames: Tensor, taken: Tensor | None = None, *, generator: torch.Generator
) -> Loss:
    """Returns the loss of clips, uint8 `[b 3 H W 3]`: two past frames, and the one to be named and rebuilt.

    `taken [l]` are the numbers of the game's own actions in the last clips, where labels teach them.
    """
    folded = model.pixels.encode(frames)
    past, after = folded[:, :WINDOW], folded[:, WINDOW]
    before = past[:, -1]
    action, cost, nats = _drawn(model.infer(*_shifted(before, after, generator)).float(), generator)
    rebuilt = model.following(past, action).float()
    weight = 1 + MORE * ((after - before).abs().amax(1, keepdim=True) > CHANGED)
    error = (weight * (rebuilt - after).square()).mean()
    still = (weight * (before - after).square()).mean()
    total = error / still.clamp_min(1e-4).detach() + cost
    parts = {"explained": 1 - error.detach() / still, "nats": nats}
    if taken is not None:
        assert model.own is not None  # it is taught
        guess = model.own(action[-len(taken) :].clamp(-REACH, REACH))
        total = total + F.cross_entropy(guess, taken)
        parts["right"] = (guess.argmax(-1) == taken).float().mean()
    return Loss(total, parts)


def _shifted(before: Tensor, after: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns both frames moved alike by up to so many positions, each clip its own way, edges repeated."""
    b, _, h, w = before.shape
    both = F.pad(torch.cat((before, after), 1), (SHIFT,) * 4, mode="replicate")
    device = before.device
    places = torch.randint(2 * SHIFT + 1, (2, b, 1), generator=generator, device=generator.device).to(device)
    rows, columns = (places[i] + torch.arange(n, device=device) for i, n in enumerate((h, w)))
    index = torch.arange(b, device=device)[:, None, None]
    moved = both.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    first, second = moved.chunk(2, 1)
    return first, second


def _drawn(inferred: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns numbers drawn as the inverse model is sure of them `[b n]`, what their information costs, and nats."""
    mean, log_variance = inferred.chunk(2, -1)
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean.device)
    told = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)  # nats above a standard normal
    cost = BETA * told.mean(0).clamp_min(FREE).sum()
    return mean + (0.5 * log_variance).exp() * noise, cost, told.detach().mean(0).sum()
