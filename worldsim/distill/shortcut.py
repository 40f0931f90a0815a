"""Shortcut models (Frans et al. 2024): a jump lands where two of half its length do, by the student's average.

Here as a method by itself: in `objectives/denoising.py` it stands beside the data's loss.
"""

from __future__ import annotations

import torch

from worldsim.diffusion.process import expand
from worldsim.distill.task import Task, follow, jump, landing, of
from worldsim.types import Loss

FINEST = 4  # the shortest jumps that are learned are 2^-4: they are the teacher's


def shortcut(task: Task) -> Loss:
    """Returns the distance of jumps of every length, on its own grid, to two of half the length."""
    b = len(task.clean)
    size = 0.5 ** (task.draw.uniform(b) * (FINEST + 1)).floor()
    time = ((task.draw.uniform(b) / size).floor() + 1) * size
    x, half = task.noised(time), size / 2
    with torch.no_grad():
        own = jump(task.average, jump(task.average, x, time, time - half), time - half, time - size)
        finest = follow(task.teacher, x, time, time - size, 2)
        goal = landing(x, torch.where(expand(size <= 0.5**FINEST, x), finest, own), time, time - size)
    return of((task.student(x, time, time - size) - goal).square().mean())
