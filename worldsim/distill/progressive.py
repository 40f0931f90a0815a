"""Progressive distillation (Salimans & Ho 2022): every round, one jump does what two of the round before did.

The first round halves the teacher's steps, which are Heun's here and not DDIM's; the last one leaves a single jump.
Unlike there, one network keeps all of them: told how long to jump, it repeats its teacher's shorter jumps.
"""

from __future__ import annotations

import torch

from worldsim.diffusion.process import expand
from worldsim.distill.task import Task, follow, jump, landing, of
from worldsim.types import Loss

ROUNDS = 5  # 32 steps to 16, to 8, to 4, to 2, to 1


def progressive(task: Task) -> Loss:
    """Returns the distance of this round's jumps to two of the teacher's, of shorter ones to the teacher's own."""
    b = len(task.clean)
    newest = 0.5 ** (ROUNDS - 1 - task.round)
    older = (task.draw.uniform(b) * 2 * max(task.round, 1)).floor()  # half of the rows are this round's
    size = newest * 0.5 ** torch.where(older < task.round, older + 1, 0)
    time = ((task.draw.uniform(b) / size).floor() + 1) * size
    x = task.noised(time)
    with torch.no_grad():
        if task.round == 0:
            goal = follow(task.teacher, x, time, time - size, 2)
        else:
            half, one = time - size / 2, jump(task.teacher, x, time, time - size)
            two = jump(task.teacher, jump(task.teacher, x, time, half), half, time - size)
            goal = torch.where(expand(size < newest, x), one, two)
        goal = landing(x, goal, time, time - size)
    return of((task.student(x, time, time - size) - goal).square().mean())
