"""Whether a dream sees an episode's end coming: its predicted probability of termination beside what really came.

Here because a policy trained in a dream learns from its ends. Leaves out rewards, which come with returns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.replay import addresses, prompt_of, recorded_actions
from worldsim.world_model import WorldModel

WITHIN = 8  # steps
RESAMPLES = 500


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean precision at the true ones' ranks, equal scores sharing one threshold; NaN without a true one.

    The base rate is what scores that know nothing reach: the area under the precision-recall steps.
    """
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order].astype(np.float64)
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # the last place of each run of equal scores
    found = labels.cumsum()[last]
    if found[-1] == 0:
        return float("nan")
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / found[-1])


def termination(world: WorldModel, store: EpisodeStore, episodes: list[int], starts: int = 32) -> dict[str, Any] | None:
    """Returns how well dreams of 8 steps tell whether the real episode ends (terminates) within them, or None.

    In every episode `starts` dreams begin from real frames, evenly spread up to its end, and follow the recorded
    actions; behind the episode's end the last action is held, so that every dream has as many steps to end in. The
    score is the probability that it ended at any of them. None: no measured episode ends within reach of a start.
    """
    measured = [_predictions(world, store, index, starts) for index in episodes]
    scores, labels = (np.concatenate(parts) for parts in zip(*measured, strict=True))
    if not labels.any():
        return None
    return {
        "average_precision": {"mean": round(average_precision(scores, labels), 3), **_interval(measured)},
        "base_rate": round(float(labels.mean()), 4),
        "ends": int(labels.sum()),
        "starts": len(labels),
        "within": WITHIN,
    }


def _interval(measured: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Returns a 95 % interval of the average precision: a bootstrap over episodes, with a fixed generator."""
    rng, values = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        picked = [measured[i] for i in rng.integers(len(measured), size=len(measured))]
        values.append(average_precision(*(np.concatenate(parts) for parts in zip(*picked, strict=True))))
    low, high = np.nanquantile(values, [0.025, 0.975])  # a draw without an end has no precision
    return {"low": round(float(low), 3), "high": round(float(high), 3)}


def _predictions(world: WorldModel, store: EpisodeStore, index: int, starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for the starts in an episode, the dreams' probability of ending and whether it really ended `[n]`."""
    record, window = store.records[index], world.prompts.latents.shape[1]
    steps = record.total_steps
    last = steps if record.terminated else steps - WITHIN + 1  # the last first-dreamed position whose future is known
    if last < window:
        return np.zeros(0), np.zeros(0, bool)
    first = np.unique(np.linspace(window, last, starts).astype(int))
    real = np.array(store.observations(index))
    latents = torch.cat([world.encode(torch.from_numpy(part)) for part in np.array_split(real, len(real) // 256 + 1)])
    actions = recorded_actions(world, store, index)
    rows = np.stack([np.arange(p - window, p) for p in first])
    state = world.initial(prompt_of(latents[rows], actions[rows]), addresses(world, first, index))
    alive = torch.ones(len(first), dtype=torch.float64)
    for step in range(WITHIN):
        state, outcome = world.foresee(state, actions[np.minimum(first + step, steps)])
        alive = alive * (1 - outcome.end_probability.double().cpu())
    return 1 - alive.numpy(), record.terminated & (first + WITHIN - 1 >= steps)
