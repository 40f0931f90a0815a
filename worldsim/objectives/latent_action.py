"""The loss that makes latent actions: the next frame, rebuilt from the frames before and a name of what happened.

Here with what keeps the name honest: noise, so that it tells little, and frames that the inverse model sees shifted, so
that it names what moves and not where. A few labels say which of all that moves is meant.

Sources: Schmidt and Jiang 2024 (a bottleneck between inverse and forward model), Nikulin et al. 2025 (a few labels,
where other things move too), Szegedy et al. 2016 (labels smoothed).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.models.latent_action import WINDOW, LatentActions
from worldsim.types import Loss

CHANGED, MORE = 0.05, 4.0  # pixels in [-1, 1] that change by so much count so many times more
SHIFT = 8  # positions
SMOOTH = 0.1  # of labels: not every action moves something


def latent_action_loss(
    model: LatentActions,
    frames: Tensor,
    taken: Tensor | None = None,
    noise: float = 0.0,
    *,
    generator: torch.Generator,
) -> Loss:
    """Returns the loss of clips, uint8 `[b 3 H W 3]`: two past frames, and the one to be named and rebuilt.

    The last clips of them are only named: `taken [l]` are the numbers of the game's own actions there. `noise` is the
    deviation of what is added to a clip's numbers, which are bounded: so much they cannot tell.
    """
    folded = model.pixels.encode(frames)
    past, after = folded[:, :WINDOW], folded[:, WINDOW]
    before = past[:, -1]
    seen = model.see(*_shifted(before, after, generator))
    b = len(frames) - (0 if taken is None else len(taken))
    past, after, before = past[:b], after[:b], before[:b]
    action = model.numbers(seen[:b])
    spread = noise * torch.randn(action.shape, generator=generator, device=generator.device).to(action.device)
    rebuilt = model.following(past, action + spread).float()
    weight = 1 + MORE * ((after - before).abs().amax(1, keepdim=True) > CHANGED)
    error = (weight * (rebuilt - after).square()).mean()
    still = (weight * (before - after).square()).mean()
    total = error / still.clamp_min(1e-4).detach()
    parts = {"explained": 1 - error.detach() / still, "spread": action.detach().std(0).mean()}
    if taken is not None:
        assert model.own is not None  # it is taught
        guess = model.own(seen[b:]).float()
        total = total + F.cross_entropy(guess, taken, label_smoothing=SMOOTH)
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
