"""Consistency distillation (Song et al. 2023) in several stretches (Heek et al. 2024), discrete and continuous.

Every point of a line of the teacher's flow jumps to the same place at the stretch's end. Discrete: the student now, one
step of the teacher further, is the goal, and the error is Pseudo-Huber's (Song & Dhariwal 2024). Continuous: the change
of the jump along the line goes to zero (sCM, Lu & Song 2024), its tangent by finite difference, normalised, and warmed
up from the velocity alone.
"""

from __future__ import annotations

import torch

from worldsim.diffusion.process import expand
from worldsim.distill.mean_flow import identity
from worldsim.distill.task import Task, follow, jump, of, velocity
from worldsim.types import Loss

POINTS = 16  # of a stretch
HUBER = 0.03  # below it an error counts by its square
FLOOR = 0.1  # added to a tangent's size before it is divided by that
WARM_UP = 0.3  # of the training, until jumps have their full length


def consistency(task: Task) -> Loss:
    """Returns how far neighbours on a line of the teacher's flow jump apart."""
    start, end = task.stretch()
    index = (task.draw.uniform(len(start)) * POINTS).floor()
    time, before = (end + (start - end) * (index + i) / POINTS for i in (1, 0))
    x = task.noised(time)
    with torch.no_grad():
        back = follow(task.teacher, x, time, before, 1)
        goal = torch.where(expand(index == 0, x), back, jump(task.average, back, before.clamp_min(1e-4), end))
    rows = (jump(task.student, x, time, end) - goal).square().flatten(1).mean(1)
    return of(((rows + HUBER**2).sqrt() - HUBER).mean())


def continuous_consistency(task: Task) -> Loss:
    """Returns a loss whose gradient is the tangent: how a jump's end changes along the line, normalised row by row.

    In mean velocities that is the distance to MeanFlow's identity, for jumps to the end of a stretch.
    """
    start, end = task.stretch()
    time = end + (start - end) * task.draw.uniform(len(start)).clamp_min(1e-2)
    with torch.autocast(task.clean.device.type, enabled=False):  # a difference of near things wants every digit
        x = task.noised(time)
        here = velocity(task.student, x, time, end)
        tangent = here.detach() - identity(task, x, here.detach(), time, end, min(task.progress / WARM_UP, 1.0))
        size = tangent.square().flatten(1).mean(1).sqrt()
        tangent = tangent / expand(size + FLOOR, x)
        return of((here - here.detach() + tangent).square().mean(), tangent=size.mean())
