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
    it: what is lost to time alone. One state of every episode whose real game lives on in both; what moves has moved
    on there, too.
    """
    assert store.info.action_space is not None  # excursions are actions
    rest, result = rest_action(store.info.action_space), {}
    middles = [
        (i, int(np.median(positions(store.records[i].num_observations, subject.window, 3, 1)))) for i in episodes
    ]
    for share in WINDOWS:
        half = max(1, round(share * max(subject.window, 4) / 2))
        plans = np.stack((np.stack([there] * half + [back] * half), np.stack([rest] * 2 * half)))
        goals = {place: list(branches(env, starts_of(store, place[0], [place[1]], 1)[0], plans)) for place in middles}
        goals = {place: g for place, g in goals.items() if all(len(frames) == 2 * half for frames in g)}
        if not goals:
            continue  # nobody lives that long
        subject.reset([start for i, p in goals for start in starts_of(store, i, [p], subject.window) * 2])
        chosen = np.tile(plans, (len(goals), 1, 1))
        results = [subject.step(chosen[:, step], look=step == 2 * half - 1) for step in range(2 * half)]
        ends = np.stack([frames[-1] for pair in goals.values() for frames in pair])
        errors = square_error(results[-1].seen, ends).reshape(len(goals), 2)
        away, stay = (interval([psnr(e) for e in column]) for column in errors.T)
        result[f"{share:g}"] = {"steps": 2 * half, "revisit": away, "stay": stay}
    return result
