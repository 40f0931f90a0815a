"""Whether a dream sees ends and rewards coming: what it predicts for the next steps beside what really came.

Here because a policy trained in a dream learns from both. Leaves out whole episodes' returns (`returns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.statistics import average_precision, bootstrap, correlation
from worldsim.evaluation.subject import Subject, actions_of, starts_of

WITHIN = 8  # steps
BINS = 10
RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Foreseen:
    """What was predicted for 8 steps from some starts in one episode, and what came, float64 `[n]` each."""

    ends: np.ndarray  # probability of a termination within them
    ended: np.ndarray  # bool
    rewards: np.ndarray  # expected sum
    rewarded: np.ndarray  # sum; NaN where none were recorded


def foresee(subject: Subject, store: EpisodeStore, episodes: list[int], starts: int = 32) -> list[Foreseen]:
    """Dreams 8 steps from `starts` real frames of every episode, evenly spread up to its end, by recorded actions.

    Behind the episode's end the last action is held, so that every dream has as many steps to end in. Episodes too
    short to begin in are left out.
    """
    found = [_foresee(subject, store, index, starts) for index in episodes]
    return [foreseen for foreseen in found if len(foreseen.ends)]


def _foresee(subject: Subject, store: EpisodeStore, index: int, starts: int) -> Foreseen:
    record, window = store.records[index], subject.window
    steps = record.total_steps
    last = steps if record.terminated else steps - WITHIN + 1  # the last first-dreamed position whose future is known
    if last < window:
        return Foreseen(*(np.zeros(0, kind) for kind in (float, bool, float, float)))
    first = np.unique(np.linspace(window, last, starts).astype(int))
    actions, rewards = actions_of(store, index), store.rewards(index)
    came = np.full(steps, np.nan) if rewards is None else np.array(rewards, np.float64)
    subject.reset(starts_of(store, index, first, window))
    alive, expected = np.ones(len(first)), np.zeros(len(first))
    for step in range(WITHIN):
        result = subject.step(actions[np.minimum(first + step, steps)], look=False)
        expected += alive * result.reward
        alive = alive * (1 - result.end)
    rewarded = np.array([came[p - 1 : p - 1 + WITHIN].sum() for p in first])
    return Foreseen(1 - alive, record.terminated & (first + WITHIN - 1 >= steps), expected, rewarded)


def termination(foreseen: list[Foreseen]) -> dict[str, Any] | None:
    """Returns how well the ends were told; None where no measured episode ends within reach of a start.

    The Brier skill is 1 for certainty that comes true, 0 for what the base rate alone knows (Brier 1950); `calibration`
    gives, for bins of the predicted probability, its mean, how often it came true, and how many there were.
    """
    if not any(f.ended.any() for f in foreseen):
        return None
    scores, labels = (np.concatenate([getattr(f, name) for f in foreseen]) for name in ("ends", "ended"))
    join = lambda parts: [np.concatenate([getattr(f, name) for f in parts]) for name in ("ends", "ended")]  # noqa: E731
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return {
        "average_precision": bootstrap(foreseen, lambda parts: average_precision(*join(parts)), RESAMPLES),
        "brier_skill": bootstrap(foreseen, lambda parts: _brier_skill(*join(parts)), RESAMPLES),
        "calibration": [
            [round(float(x), 4) for x in (scores[bins == i].mean(), labels[bins == i].mean())]
            + [int((bins == i).sum())]
            for i in np.unique(bins)
        ],
        "base_rate": round(float(labels.mean()), 4),
        "ends": int(labels.sum()),
        "starts": len(labels),
        "within": WITHIN,
    }


def _brier_skill(scores: np.ndarray, labels: np.ndarray) -> float:
    spread = labels.mean() * (1 - labels.mean())
    return 1 - float(np.square(scores - labels).mean() / spread) if spread > 0 else float("nan")


def reward(foreseen: list[Foreseen]) -> dict[str, Any] | None:
    """Returns how well the sums of 8 steps' rewards were told; None where they were not recorded or never differ.

    `skill` is the share of their variance that is explained: 0 for knowing their mean, below for knowing less.
    """
    values = np.concatenate([np.zeros(0), *(f.rewarded for f in foreseen)])
    if not np.isfinite(values).all() or len(values) < 3 or np.ptp(values) == 0:
        return None
    join = lambda parts: np.concatenate([np.stack((f.rewards, f.rewarded), 1) for f in parts])  # noqa: E731
    return {
        "skill": bootstrap(foreseen, lambda parts: _skill(join(parts)), RESAMPLES),
        "correlation": bootstrap(foreseen, lambda parts: correlation(join(parts)), RESAMPLES),
        "within": WITHIN,
    }


def _skill(pairs: np.ndarray) -> float:
    spread = pairs[:, 1].var()
    return 1 - float(np.square(pairs[:, 0] - pairs[:, 1]).mean() / spread) if spread > 0 else float("nan")
