"""Whether a world is unsure where it is wrong: its uncertainty beside the true error of the same step.

Here because a planner or a policy may shun what the world does not know, if that number means something.
Leaves out how uncertainty is made (`WorldModel.uncertainty`).
"""

from __future__ import annotations

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.statistics import bootstrap, rank_correlation, square_error
from worldsim.evaluation.subject import Dream, actions_of, encode, starts_of
from worldsim.world_model import WorldModel

RESAMPLES = 500


def uncertainty(
    world: WorldModel, store: EpisodeStore, episodes: list[int], starts: int = 16
) -> dict[str, float] | None:
    """Returns the rank correlation of uncertainty and one-step error (mean square, frames), over all starts.

    In every episode `starts` single steps are dreamed from real frames. The 95 % interval is a bootstrap over episodes.
    None where that has no correlation: fewer than three steps, or one value throughout.
    """
    measured = [_pairs(world, store, index, starts) for index in episodes]
    return bootstrap(measured, lambda parts: rank_correlation(np.concatenate(parts)), RESAMPLES)


def _pairs(world: WorldModel, store: EpisodeStore, index: int, starts: int) -> np.ndarray:
    """Returns uncertainty and squared error `[n 2]` of single steps in one episode."""
    dream, last = Dream(world), store.records[index].total_steps
    first = np.unique(np.linspace(dream.window, last, starts).astype(int))
    dream.reset(starts_of(store, index, first, dream.window))
    before, actions = dream.state, actions_of(store, index)[first]
    dreamed = dream.step(actions).seen
    unsure = world.uncertainty(before, encode(world, actions), dream.state).cpu().numpy()
    return np.stack((unsure, square_error(dreamed, np.array(store.observations(index))[first])), 1)
