"""Drifting models (Deng et al. 2026): what one history leads to is drawn to real futures and pushed off one another.

The drift of a made frame is the mean shift to positive samples less that to negative ones, which are the other made
frames of the same history. It is zero where both are alike. Positives are the teacher's samples, as one history has one
recorded future. Distances are between patches of several sizes, place by place; theirs between features of a network
that learned from pictures, which is what made it work there. A student is for one number of steps alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldsim.distill.task import Task, follow, of, sampled
from worldsim.types import Loss

GROUP = 8  # rows of a batch that share a history
TEMPERATURES = (0.02, 0.05, 0.2)
SOLVED = 4  # Heun steps of the teacher for a positive sample
PATCHES = (1, 4)  # cells a side; and the whole frame


def drifting(task: Task) -> Loss:
    """Returns how far made frames are from where they drift. The batch's rows are groups of one history."""
    group = min(GROUP, len(task.clean))
    one = task.clean.new_ones(len(task.clean))
    positive = follow(task.teacher, task.noise(), one, 0 * one, SOLVED)
    made = sampled(task.student, task.noise(), task.steps)
    losses = []
    for ours, theirs in zip(_patches(made), _patches(positive), strict=True):
        x, y = (rearrange(z, "(g n) l d -> g l n d", n=group) for z in (ours, theirs))
        with torch.no_grad():
            goal = x + drift(x, y)
        losses.append((x - goal).square().mean())
    return of(torch.stack(losses).mean())


def drift(x: Tensor, positive: Tensor) -> Tensor:
    """Returns where made samples `x [... n d]` go beside `positive [... m d]`, in steps of one size per temperature."""
    with torch.autocast(x.device.type, enabled=False):  # a difference of near things wants every digit
        return _drift(x.float(), positive.float())


def _drift(x: Tensor, positive: Tensor) -> Tensor:
    n, width = x.shape[-2:]
    everyone = torch.cat((positive, x), -2)
    apart = torch.cdist(x, everyone)
    scale = apart.mean((-2, -1), keepdim=True).clamp_min(1e-6)
    itself = torch.eye(n, device=x.device) * 1e6
    apart = apart / scale + torch.cat((apart.new_zeros(n, positive.shape[-2]), itself), -1)
    total = torch.zeros_like(x)
    for temperature in TEMPERATURES:
        logits = -apart / temperature
        kernel = (logits.softmax(-1) * logits.softmax(-2)).sqrt()
        to, off = kernel.split((positive.shape[-2], n), -1)
        shift = (to * off.sum(-1, keepdim=True)) @ positive - (off * to.sum(-1, keepdim=True)) @ x
        size = shift.square().mean((-2, -1), keepdim=True).sqrt()
        total = total + shift / size.clamp_min(1e-6) * scale / width**0.5
    return total


def _patches(frames: Tensor) -> list[Tensor]:
    """Returns frames `[b c h w]` as patches of several sizes, `[b l d]` each."""
    side = min(frames.shape[-2:])
    cut = [F.unfold(frames, p, stride=p).transpose(1, 2) for p in PATCHES if p < side]
    return [*cut, frames.flatten(1)[:, None]]
