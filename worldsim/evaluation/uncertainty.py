"""Whether a world is unsure where it is wrong: its uncertainty beside the true error of the same step.

Here because a planner or a policy may shun what the world does not know, if that number means something.
Leaves out how uncertainty is made (`WorldModel.uncertainty`).
"""

from __future__ import annotations

import numpy as np
import torch

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.replay import addresses, prompt_of, recorded_actions
from worldsim.world_model import WorldModel

RESAMPLES = 500


def rank_correlation(pairs: np.ndarray) -> float:
    """Returns Spearman's correlation of the columns of `[n 2]`, equal values sharing a rank; NaN for less than 3."""
    return float(np.corrcoef(_ranks(pairs[:, 0]), _ranks(pairs[:, 1]))[0, 1]) if len(pairs) > 2 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[index]


def uncertainty(
    world: WorldModel, store: EpisodeStore, episodes: list[int], starts: int = 16
) -> dict[str, float] | None:
    """Returns the rank correlation of uncertainty and one-step error (mean square, frames), over all starts.

    In every episode `starts` single steps are dreamed from real frames. The 95 % interval is a bootstrap over episodes.
    None where that has no correlation: fewer than three steps, or one value throughout.
    """
    measured = [_pairs(world, store, index, starts) for index in episodes]
    mean = rank_correlation(np.concatenate(measured))
    if not np.isfinite(mean):
        return None
    resamples = np.random.default_rng(0).integers(len(measured), size=(RESAMPLES, len(measured)))
    draws = [rank_correlation(np.concatenate([measured[i] for i in rows])) for rows in resamples]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    figures = {"mean": mean, "low": float(low), "high": float(high)}
    return {name: round(value, 3) for name, value in figures.items()}


def _pairs(world: WorldModel, store: EpisodeStore, index: int, starts: int) -> np.ndarray:
    """Returns uncertainty and squared error `[n 2]` of single steps in one episode."""
    window, last = world.prompts.latents.shape[1], store.records[index].total_steps
    first = np.unique(np.linspace(window, last, starts).astype(int))
    rows = np.stack([np.arange(p - window, p) for p in first])
    real, actions = store.observations(index), recorded_actions(world, store, index)
    latents = world.encode(torch.from_numpy(np.array(real)[rows]))
    before = world.initial(prompt_of(latents, actions[rows]), addresses(world, first, index))
    after, _ = world.step(before, actions[first])
    error = (world.observe(after).cpu().numpy() - np.array(real)[first].astype(np.float32)) / 255
    unsure = world.uncertainty(before, actions[first], after).cpu().numpy()
    return np.stack((unsure, np.square(error).mean((1, 2, 3))), 1)
