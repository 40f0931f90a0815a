"""What fewer network evaluations cost: K = 1, 2, 4, 8 beside 32 steps of Heun's method with the same network.

Here because frame rates are quoted at small K and quality at large K; this is both. Leaves out guidance.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim import noise
from worldsim.data.episodes import EpisodeStore
from worldsim.diffusion.samplers import EulerSampler, HeunSampler
from worldsim.evaluation.controllability import retrieval
from worldsim.evaluation.drift import Reference, drift
from worldsim.evaluation.fidelity import fidelity, positions
from worldsim.evaluation.habits import Script
from worldsim.evaluation.subject import Dream, actions_of, encode, starts_of
from worldsim.types import Sampler
from worldsim.world_model import WorldModel

SAMPLERS: dict[str, Sampler] = {
    **{str(k): EulerSampler(k) for k in (1, 2, 4, 8)},
    "heun32": HeunSampler(32),
}
DRIFTED = 320  # frames of the drift column
TIMED = 20  # frames


def with_sampler(world: WorldModel, sampler: Sampler) -> WorldModel:
    """Returns the same world, sampled otherwise and without guidance."""
    other = copy.copy(world)
    other.sampler, other.guidance = sampler, None
    return other


def few_steps(
    world: WorldModel,
    store: EpisodeStore,
    episodes: list[int],
    game: Callable[[], gym.Env | None],
    reference: Callable[[], Reference | None],
    keep: Callable[[str, Callable[[], Any]], Any],
    survivor: Script | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns figures by sampler, and milliseconds for one frame (no batch, with decode) by sampler.

    `flow_map_error` is the distance (root mean square of unit-scale latents) of a frame to the one that 32 Heun steps
    make of the same noise and past; the others are the report's own measures, with fewer starts.
    """
    goal = cache(lambda: single_frames(with_sampler(world, SAMPLERS["heun32"]), store, episodes))

    def measured(name: str) -> dict[str, Any]:
        subject, quick = Dream(with_sampler(world, SAMPLERS[name])), name != "heun32"  # its frames take 63 evaluations
        ahead = fidelity(subject, store, episodes[:8], 4)["open_loop"].get("16", {})
        told = retrieval(subject, store, episodes[:8], real, 1) if quick and (real := game()) is not None else None
        long = drift(subject, to, DRIFTED, script=survivor) if quick and (to := reference()) is not None else None
        return {
            "flow_map_error": round(
                float((single_frames(subject.world, store, episodes) - goal()).square().mean().sqrt()), 4
            ),
            "psnr_16": ahead.get("psnr"),
            "detail_16": ahead.get("detail"),
            "top1": told and told.get("0", {}).get("top1"),
            "distance": long and list(long["ages"].values())[-1]["distance"],
            "milliseconds": milliseconds(subject.world),
        }

    table = {name: dict(keep(f"few steps, {name}", partial(measured, name))) for name in SAMPLERS}
    return table, {name: figures.pop("milliseconds") for name, figures in table.items()}


def single_frames(world: WorldModel, store: EpisodeStore, episodes: list[int]) -> torch.Tensor:
    """Returns the latents `[n c h w]` of single frames dreamed from real ones, the same for every sampler's start."""
    subject, latents = Dream(world), []
    for index in episodes[:8]:
        first = positions(store.records[index].num_observations, subject.window, 4, 1)
        subject.reset(starts_of(store, index, first, subject.window))
        subject.step(actions_of(store, index)[first], look=False)
        latents.append(subject.state.latent)
    return torch.cat(latents)


def milliseconds(world: WorldModel, rows: int = 1, frames: int = TIMED) -> float:
    """Returns the median time of a step of so many rows and of its decoding, over so many frames."""
    prompts = torch.zeros(rows, dtype=torch.long, device=world.device)
    state = world.initial(prompts, noise.address_of([0] * rows, world.device))
    action, times = encode(world, world.action_codec.table[:1].repeat(rows, 0)), []
    for _ in range(frames):
        start = time.perf_counter()
        state, _ = world.step(state, action)
        world.observe(state).cpu()
        times.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(times)), 2)
