"""Whether a dream remembers what it turned away from: away and back, beside standing still as long.

Here because a world of a few frames' memory invents the room anew, which no figure of the next frame shows.
Leaves out games whose way back is not known.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import rest_action
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.fidelity import positions
from worldsim.evaluation.statistics import interval, psnr, square_error
from worldsim.evaluation.subject import Subject, branches, starts_of

WINDOWS = (0.5, 1, 2, 8)  # lengths of excursions


def revisits(
    subject: Subject, store: EpisodeStore, episodes: list[int], env: gym.Env, there: np.ndarray, back: np.ndarray
) -> dict[str, Any]:
    """Returns, by the excursion's length in windows of the subject, PSNR against the real game at its end.

    Half of its steps are `there`, half `back` (packed actions); `stay` is the same without leaving, the oracle beside
    it: what is lost to time alone. One state of every episode; in the real game what moves has moved on, in both.
    """
    rest, result = rest_action(store.info.action_space), {}
    states = [
        (i, int(p)) for i in episodes for p in positions(store.records[i].total_steps + 1, subject.window, 3, 1)[1:2]
    ]
    for share in WINDOWS:
        half = max(1, round(share * max(subject.window, 4) / 2))
        plans = np.stack((np.stack([there] * half + [back] * half), np.stack([rest] * 2 * half)))
        goals = [list(branches(env, starts_of(store, i, [p], 1)[0], plans)) for i, p in states]
        starts = [start for i, p in states for start in starts_of(store, i, [p], subject.window) * 2]
        subject.reset(starts)
        chosen = np.tile(plans, (len(states), 1, 1))
        for step in range(2 * half - 1):
            subject.step(chosen[:, step], look=False)
        frames = subject.step(chosen[:, -1]).frames.reshape(len(states), 2, *starts[0].frames.shape[1:])
        errors = np.array(
            [
                [float(square_error(g[-1], f)) for g, f in zip(*pair, strict=True)]
                for pair in zip(goals, frames, strict=True)
            ]
        )
        away, stay = (interval([psnr(e) for e in column]) for column in errors.T)
        result[f"{share:g}"] = {"steps": 2 * half, "revisit": away, "stay": stay}
    return result
