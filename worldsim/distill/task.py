"""What a method of distillation is given: denoisers that know a batch's history and actions, and the frames that came.

Everything is in rectified flow's coordinates, x = (1 - t) clean + t noise: time t is a level of `RectifiedFlow()`. A
student is a flow map: told time and target time, its clean latent is the one whose straight line from x passes through
the teacher's flow at the target. Told the same time twice, a teacher is the mean; most students no longer are.
Leaves out where the batch comes from (`pipeline/distillation.py`) and the methods, one file each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldsim.diffusion.process import RectifiedFlow, add_noise, expand
from worldsim.objectives.denoising import Draws
from worldsim.types import Denoise, Loss

Critic = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`critic(x [b c h w], time [b], target [b]) -> mean clean latent [b c h w], whether x is real [b] (a logit)`.

The target is where the student's jump landed, whose frames were noised further to x.
"""


@dataclass(frozen=True)
class Task:
    """A batch of a distillation. Only `student` and `critic` have gradients."""

    teacher: Denoise
    student: Denoise
    average: Denoise  # the student with averaged weights
    clean: Tensor  # [b c h w], the frames that came, as residuals of the teacher's forecast
    draw: Draws
    steps: int = 1  # the most evaluations a frame that the student is for: it learns 1, 2, 4, … up to these
    progress: float = 0.0  # the share of the training that is over
    round: int = 0  # for methods that take several: the teacher is the student of the round before
    critic: Critic | None = None  # learns the student's frames
    judge: Critic | None = None  # the critic as it stands: gradients pass through it to the student
    temperature: float = 1.0  # of the noise, as in the teacher's dreams

    def noised(self, time: Tensor) -> Tensor:
        """Returns the frames that came, noised to `time [b]`."""
        return add_noise(RectifiedFlow(), self.clean, self.noise(), time)

    def noise(self) -> Tensor:
        """Returns normal noise for every row, of the world's temperature, `[b c h w]`."""
        return self.temperature * self.draw.normal(self.clean.shape)

    def stretch(self) -> tuple[Tensor, Tensor]:
        """Draws where a step of a sampler of 1, 2, 4, … evaluations starts and ends, `[b]` each."""
        sizes = (self.steps).bit_length()
        count = 2.0 ** (self.draw.uniform(len(self.clean)) * sizes).floor()
        index = (self.draw.uniform(len(self.clean)) * count).floor()
        return (index + 1) / count, index / count


Method = Callable[[Task], Loss]


def velocity(denoise: Denoise, x: Tensor, time: Tensor, target: Tensor | None = None) -> Tensor:
    """Returns the velocity at `time [b]`, or with `target [b]` a flow map's mean one on the way there."""
    return (x - denoise(x, time, time if target is None else target)) / expand(time, x)


def jump(denoise: Denoise, x: Tensor, time: Tensor, target: Tensor) -> Tensor:
    """Returns where a flow map takes `x [b c h w]` from `time [b]` to `target [b]`."""
    return land(x, denoise(x, time, target), time, target)


def land(x: Tensor, clean: Tensor, time: Tensor, target: Tensor) -> Tensor:
    """Returns the point at `target [b]` on the straight line from `x [b c h w]` at `time [b]` to a clean latent."""
    return clean + expand(target / time, x) * (x - clean)


def landing(x: Tensor, goal: Tensor, time: Tensor, target: Tensor) -> Tensor:
    """Returns the clean latent for which `land` gives `goal [b c h w]`."""
    return x + expand(time / (time - target), x) * (goal - x)


@torch.no_grad()
def follow(denoise: Denoise, x: Tensor, time: Tensor, target: Tensor, steps: int) -> Tensor:
    """Returns where the probability flow of a mean leads from `time [b]` to `target [b]`, by Heun's method."""
    size = (target - time) / steps
    for i in range(steps):
        here, there = time + i * size, time + (i + 1) * size
        slope = velocity(denoise, x, here)
        straight = x + expand(size, x) * slope
        ends = there < 1e-4  # at clean there is no slope: the last step is Euler's
        second = velocity(denoise, straight, torch.where(ends, here, there))
        x = torch.where(expand(ends, x), straight, x + expand(size, x) * (slope + second) / 2)
    return x


def sampled(denoise: Denoise, noise: Tensor, steps: int) -> Tensor:
    """Returns what a flow map makes of noise in so many equal jumps."""
    x = noise
    for i in range(steps, 0, -1):
        time = x.new_full((len(x),), i / steps)
        x = jump(denoise, x, time, time - 1 / steps)
    return x


def of(total: Tensor, **parts: Tensor) -> Loss:
    """Returns a loss, and its parts for the log."""
    return Loss(total, {name: value.detach() for name, value in parts.items()})


@contextmanager
def standing(module: nn.Module) -> Iterator[None]:
    """Lets gradients pass through a module without reaching its weights."""
    learned = [p for p in module.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
