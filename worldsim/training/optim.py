"""The optimiser and its schedule, as a function of how much of the budget is spent.

Here because a budget of minutes has no known number of steps: the schedule follows the share of the budget.
Leaves out Muon, which has not been measured here yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

WARM_UP = 0.02
DECAY = 0.3


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.01, shares: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """Returns AdamW that decays what has two dimensions or more: no biases, norms and gains of one.

    `shares` names children of the model that learn at that share of the rate; it stands in their groups as `share`.
    """
    groups = []
    for share in sorted({1.0, *(shares or {}).values()}):
        mine = [p for name, p in model.named_parameters() if (shares or {}).get(name.partition(".")[0], 1.0) == share]
        for decay, is_matrix in ((weight_decay, True), (0.0, False)):
            chosen = [p for p in mine if p.requires_grad and (p.dim() >= 2) == is_matrix]
            groups.append({"params": chosen, "weight_decay": decay, "share": share})
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def schedule(progress: float) -> float:
    """Returns the learning rate's factor at `progress` in [0, 1]: warm-up, stable, linear decay to 5 %."""
    return min(progress / WARM_UP + 0.02, 1.0, 0.05 + 0.95 * max(1 - progress, 0.0) / DECAY)
