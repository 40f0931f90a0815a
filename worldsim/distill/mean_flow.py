"""MeanFlow (Geng et al. 2025): the mean velocity u of a jump from t to r obeys u = v - (t - r) du/dt along the flow.

Here with the teacher's v, and in finite form: where the teacher's velocity is w on average over a stretch h, the
identity is u(t) = w - (t - h - r) (u(t) - u(t - h)) / h, exactly. Theirs, its limit, learns long jumps more slowly:
what is known of short ones reaches the nearest times only (points in a plane, 1,000 steps, sliced distance of a single
jump: 0.53 by `torch.func.jvp`, 0.17 so).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.diffusion.process import expand
from worldsim.distill.task import Task, follow, of, velocity
from worldsim.types import Loss

SAME = 0.25  # rows whose jump has no length: there u is v
ASKED = 0.5  # rows that jump to where a sampler's step ends: those drawn as theirs hardly ever reach it
BACK = 0.1  # h at most
ADAPTIVE = 0.5  # an error's weight is its size to minus twice this
FLOOR = 1e-3


def mean_flow(task: Task) -> Loss:
    """Returns the distance of mean velocities to what the identity says of them, times an adaptive weight."""
    b = len(task.clean)
    end, start = (task.draw.normal((2, b)) - 0.4).sigmoid().sort(0).values.unbind()  # logit-normal, as theirs
    first, last = task.stretch()
    inside = last + (first - last) * task.draw.uniform(b).clamp_min(1e-2)
    asked = task.draw.uniform(b) < ASKED
    start, end = torch.where(asked, inside, start), torch.where(asked, last, end)
    end = torch.where(task.draw.uniform(b) < SAME, start, end)
    with torch.autocast(task.clean.device.type, enabled=False):  # a difference of near things wants every digit
        x = task.noised(start)
        here = velocity(task.student, x, start, end)
        error = (here - identity(task, x, here.detach(), start, end)).square().flatten(1).mean(1)
    weight = (error.detach() + FLOOR) ** -ADAPTIVE
    return of((weight * error).mean(), error=error.mean())


@torch.no_grad()
def identity(task: Task, x: Tensor, here: Tensor, start: Tensor, end: Tensor, long: float = 1.0) -> Tensor:
    """Returns what MeanFlow's identity says of the mean velocity from `start [b]` to `end [b]`, which is `here` now.

    With `long` below 1, of that share of the way.
    """
    step = (start - end).clamp(1e-3, BACK)
    back = follow(task.teacher, x, start, start - step, 2)
    mean = (x - back) / expand(step, x)
    left = long * (start - step - end).clamp_min(0)  # none: the stretch is the whole jump
    before = start - step
    there = velocity(task.student, back, before.clamp_min(1e-3), torch.minimum(end, before))
    return mean - expand(left / step, x) * (here - there)
