"""What open-loop figures stand between: a network that regresses instead of dreaming, and the best of eight dreams.

Here because where the game is random, blur wins on PSNR and one dream of many may be right.
Leaves out copy-last and the mean frame, which `fidelity` has beside every figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldsim.data.episodes import EpisodeStore
from worldsim.diffusion.flow import Flow
from worldsim.evaluation.few_steps import with_sampler
from worldsim.evaluation.fidelity import decibels, open_loop, positions
from worldsim.evaluation.statistics import square_error
from worldsim.evaluation.subject import Dream, Subject
from worldsim.types import Denoise, Noise, NoiseProcess
from worldsim.world_model import WorldModel

TRIES = 8


@dataclass(frozen=True)
class Regression:
    """One evaluation at pure noise that goes nowhere: the mean of all frames the network thinks possible."""

    def __call__(self, denoise: Denoise, process: NoiseProcess, shape: tuple[int, ...], noise: Noise) -> torch.Tensor:
        flow = Flow(denoise, process, noise)
        top = flow.point(1.0)
        return flow.clean(top.time * noise(0), top)


def regression(world: WorldModel, store: EpisodeStore, episodes: list[int], starts: int) -> dict[str, Any]:
    """Returns PSNR by horizon of the same network without sampling: its twin that learned to regress."""
    found = tries(Dream(with_sampler(world, Regression())), store, episodes, starts, 1)
    return {step: {"psnr": figures["psnr"]} for step, figures in found.items()}


def tries(
    subject: Subject, store: EpisodeStore, episodes: list[int], starts: int, count: int = TRIES
) -> dict[str, Any]:
    """Returns by horizon the `psnr` of the best of `count` dreams from every start, and of `one` of them.

    They differ in their luck alone. `starts` may be fewer than elsewhere, hence the figure of one dream beside it.
    """
    errors: dict[int, list[np.ndarray]] = {}  # [count n] by episode
    for index in episodes:
        real = np.array(store.observations(index))
        first = positions(len(real), subject.window, starts)
        runs = [dict(open_loop(subject, store, index, first, seed)) for seed in range(count)]
        for step in runs[0]:
            off = np.stack([square_error(real[first + step - 1], run[step]) for run in runs])
            errors.setdefault(step, []).append(off)
    return {
        str(step): {"psnr": decibels([off.min(0) for off in found]), "one": decibels([off[0] for off in found])}
        for step, found in errors.items()
    }
