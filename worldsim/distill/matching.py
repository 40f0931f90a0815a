"""Distribution matching (DMD2, Yin et al. 2024) on the student's own dreams (self-forcing, Huang et al. 2025).

A critic learns the mean clean frame that noised frames of the student's come from. Where the teacher's mean differs,
there the student's frames move: down the gradient of their Kullback-Leibler divergence at any noise. Histories are the
student's own, so what is matched is what is seen in play; unlike there, gradients reach the last frame of a dream only.

Unlike there too, every jump of a sampler is matched by itself, to frames of the game as noisy as where it lands, and
the critic is told where that is: one critic of all jumps would be content with their mixture. So a student is for one
number of steps alone. With the adversarial part the critic also tells, of a window of frames and actions, whether the
last frame is the game's, and the student is moved to deceive it: no mistake of the teacher's bounds it then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.diffusion.process import expand
from worldsim.distill.task import Task, land, of
from worldsim.types import Loss

HIGHEST, LEAST = 0.98, 0.03  # the noisiest time compared; how far it is from where a jump lands, as a share of the way
ADVERSARIAL = 0.1  # weight of deceiving the critic, and of the critic's learning to tell


def matching(task: Task) -> Loss:
    """Returns the student's loss and its critic's: one network's terms have no gradient in the other."""
    return _matched(task, adversarial=False)


def adversarial_matching(task: Task) -> Loss:
    """Returns the same with the adversarial part."""
    return _matched(task, adversarial=True)


def _matched(task: Task, adversarial: bool) -> Loss:
    assert task.critic is not None and task.judge is not None
    index = (task.draw.uniform(len(task.clean)) * task.steps).floor()
    start, end = (index + 1) / task.steps, index / task.steps
    x = task.noised(start)
    clean = task.student(x, start, end)
    made = land(x, clean, start, end)
    seen, time, _ = _noisier(made, end, task)
    told = time if task.steps == 1 else end  # of a single jump the critic begins as the mean that it is to learn
    with torch.no_grad():
        real, (own, _) = task.teacher(seen, time, time), task.judge(seen, time, told)
        size = (clean - real).abs().flatten(1).mean(1)
        move = (own - real) / expand(size.clamp_min(1e-6), x)
    student = (clean - (clean - move).detach()).square().mean() / 2
    false, later, goal = _noisier(made.detach(), end, task)
    mean, looks_real = task.critic(false, later, later if task.steps == 1 else end)
    # In units of noise, which have the same size at every time.
    weight = (1 - later).square() * (later.square() - _kept(later, end).square()) / later**4
    critic = (expand(weight, x) * (mean - goal).square()).mean()
    parts = {"student": student, "critic": critic}
    if adversarial:
        _, deceived = task.judge(seen, time, told)
        _, true = task.critic(task.noised(later), later, later if task.steps == 1 else end)
        doubt = F.softplus(looks_real).mean() + F.softplus(-true).mean()
        student = student + ADVERSARIAL * F.softplus(-deceived).mean()
        critic = critic + ADVERSARIAL * doubt
        parts["doubt"] = doubt
    return of(student + critic, **parts)


def _kept(time: Tensor, end: Tensor) -> Tensor:
    """Returns how much of the noise at `end [b]` is left in x at a later time."""
    return (1 - time) / (1 - end) * end


def _noisier(x: Tensor, end: Tensor, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `x [b c h w]` at a later time than `end [b]`, that time, and what a critic of it learns.

    The last is the clean frame by which the noise just added says where x came from (Tweedie's formula of one draw).
    """
    time = end + (HIGHEST - end) * (LEAST + (1 - LEAST) * task.draw.uniform(len(x)))
    added, noise = (time.square() - _kept(time, end).square()).sqrt(), task.noise()
    later = expand((1 - time) / (1 - end), x) * x + expand(added, x) * noise
    return later, time, (later - expand(time.square() / added, x) * noise) / expand(1 - time, x)
