"""Regression on the teacher's samples (Luhman & Luhman 2021): where its flow leads, by squared error.

Here as the baseline that must lose: a small network cannot follow every line of noise, and gives the mean of several.
"""

from __future__ import annotations

from worldsim.distill.task import Task, follow, landing, of
from worldsim.types import Loss

SOLVED = 16  # Heun steps of the teacher from noise to clean


def regression(task: Task) -> Loss:
    """Returns the distance of a jump to where the teacher's flow goes in small steps."""
    time, target = task.stretch()
    x = task.noised(time)
    goal = landing(x, follow(task.teacher, x, time, target, SOLVED), time, target)
    return of((task.student(x, time, target) - goal).square().mean())
