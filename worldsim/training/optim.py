"""The optimiser and its schedule, as a function of how much of the budget is spent.

Here because a budget of minutes has no known number of steps: the schedule follows the share of the budget.
Leaves out Muon, which has not been measured here yet.
"""

from __future__ import annotations

import torch
from torch import nn

WARM_UP = 0.02
DECAY = 0.3


def adamw(model: nn.Module, learning_rate: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """Returns AdamW that decays matrices and kernels only, not biases, norms and gains."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def schedule(progress: float) -> float:
    """Returns the learning rate's factor at `progress` in [0, 1]: warm-up, stable, linear decay to 5 %."""
    return min(progress / WARM_UP + 0.02, 1.0, 0.05 + 0.95 * max(1 - progress, 0.0) / DECAY)
