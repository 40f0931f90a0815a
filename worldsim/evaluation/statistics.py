"""Means with intervals, and the few statistics that the measures share.

Here because episodes, not frames, are what a measurement repeats: every interval is a bootstrap over episodes, with a
fixed generator, so that two runs say the same. Leaves out what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def bootstrap(
    groups: Sequence[Any], statistic: Callable[[list], float], resamples: int = RESAMPLES
) -> dict[str, float] | None:
    """Returns a statistic of all groups (episodes, policies) with the 95 % interval over resampled groups.

    None where the statistic of all of them is not finite; resamples without one are left out.
    """
    mean = statistic(list(groups))
    if not np.isfinite(mean):
        return None
    draws = np.random.default_rng(0).integers(len(groups), size=(resamples, len(groups)))
    low, high = np.nanquantile([statistic([groups[i] for i in rows]) for rows in draws], [0.025, 0.975])
    return {name: round(float(x), 4) for name, x in (("mean", mean), ("low", low), ("high", high))}


def interval(values: Sequence[float]) -> dict[str, float] | None:
    """Returns the mean of one value for each episode, with its 95 % interval; None without values."""
    x = np.asarray(values, float)
    if not len(x):
        return None
    draws = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.quantile(x[draws].mean(1), [0.025, 0.975])
    return {"mean": round(float(x.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def psnr(error: float) -> float:
    """Returns decibels of a mean square error of pixels in [0, 1]; 100 dB is the end of the scale."""
    return float(-10 * np.log10(max(error, 1e-10)))


def square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the mean square difference of frames `[... H W 3]` (grey levels, 0 to 255) on a scale of 1, `[...]`."""
    return np.square((a.astype(np.float32) - b.astype(np.float32)) / 255).mean((-3, -2, -1))


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


def correlation(pairs: np.ndarray) -> float:
    """Returns Pearson's correlation of the columns of `[n 2]`; NaN for less than 3, or where one never changes."""
    if len(pairs) < 3 or (np.ptp(pairs, 0) == 0).any():
        return float("nan")
    return float(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1])


def rank_correlation(pairs: np.ndarray) -> float:
    """Returns Spearman's correlation of the columns of `[n 2]`, equal values sharing a rank; NaN for less than 3."""
    return correlation(np.stack([_ranks(column) for column in pairs.T], 1)) if len(pairs) else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[index]
