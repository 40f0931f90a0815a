"""The moving average of weights that everything but the optimiser uses.

Here as torch's own `AveragedModel` with a power-function profile, whose memory grows with the run.
Leaves out reconstruction of other profiles after training (Karras et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

GAMMA = 6.94  # a relative width of 10 % of the run so far (Karras et al. 2024)


@torch.no_grad()
def _power_average(averages: Sequence[Tensor], weights: Sequence[Tensor], count: int) -> None:
    """Averages in place with decay (1 - 1 / t)^(gamma + 1), t the number of updates (Karras et al. 2024)."""
    share = 1 - (1 - 1 / (count + 1)) ** (GAMMA + 1)
    torch._foreach_lerp_(list(averages), [w.to(a.dtype) for a, w in zip(averages, weights, strict=True)], share)


def averaged(model: nn.Module) -> AveragedModel:
    """Returns the average of a model's weights; `.update_parameters(model)` updates it, `.module` is the model."""
    # By its own count, which is on the CPU: torch hands out a copy on the device, for which every step would wait.
    average = AveragedModel(model, multi_avg_fn=lambda a, w, _: _power_average(a, w, int(average.n_averaged)))
    return average.requires_grad_(False)
