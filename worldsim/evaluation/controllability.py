"""Whether actions matter in a dream as they do in the game.

Here because a world that plays a film scores well on fidelity alone. The strongest test needs the real game: from one
state it is led on by every action, and each dreamed future has to be nearest to its own real one.
Leaves out long dreams (`drift`).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import ActionCodec, rest_action
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.fidelity import positions
from worldsim.evaluation.statistics import interval, psnr, square_error
from worldsim.evaluation.subject import Subject, actions_of, branches, starts_of

HOLD = 4  # steps for which an action is held
AGES = (0, 16, 64)  # steps of a dream before its actions are compared
CANDIDATES = 8  # actions that are compared at most
ALIKE = (2 / 255) ** 2  # real futures nearer than two grey levels cannot be told apart


def action_effect(subject: Subject, store: EpisodeStore, episodes: list[int], starts: int = 16) -> dict[str, Any]:
    """Returns, by the dream's age, what dreams lose by wrong actions, which needs no real game. Aged ones are fewer.

    `delta_psnr`: decibels between dreams by the recorded actions and by those of another start, 4 steps on (Bruce et
    al. 2024); `shuffled_ratio`: their errors' ratio after one step. A world that ignores actions has 0 and 1. None at
    ages that no episode is long enough for, or where all actions are the same.
    """
    few = max(starts // 4, 2)
    return {str(age): _effect(subject, store, episodes, few if age else starts, age) for age in AGES}


def _effect(subject: Subject, store: EpisodeStore, episodes: list[int], starts: int, age: int) -> dict[str, Any] | None:
    measured = [_shuffled(subject, store, index, starts, age) for index in episodes]
    pairs = [pair for pair in measured if pair is not None]
    return {
        "delta_psnr": interval([psnr(right[-1]) - psnr(wrong[-1]) for right, wrong in pairs]),
        "shuffled_ratio": interval([wrong[0] / max(right[0], 1e-10) for right, wrong in pairs]),
    } if pairs else None  # fmt: skip


def _shuffled(
    subject: Subject, store: EpisodeStore, index: int, starts: int, age: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the mean errors after 1 … 4 steps by the recorded and by other actions, by which dreams go on at `age`.

    None where all actions are the same, or the episode is too short.
    """
    real, actions = np.array(store.observations(index)), actions_of(store, index)
    if len(real) <= subject.window + age:
        return None
    first = positions(len(real), subject.window + age, starts, HOLD)
    plans = actions[first[:, None] + np.arange(min(HOLD, len(real) - int(first.max())))]
    others = np.roll(plans, len(plans) // 2 or 1, 0)
    if np.array_equal(plans, others):
        return None
    results = []
    for chosen in (plans, others):
        subject.reset(starts_of(store, index, first - age, subject.window))
        for step in range(age):
            subject.step(actions[first - age + step], look=False)
        frames = [subject.step(chosen[:, step]).seen for step in range(chosen.shape[1])]
        results.append(np.array([square_error(real[first + i], x).mean() for i, x in enumerate(frames)]))
    return results[0], results[1]


def candidates(store: EpisodeStore) -> np.ndarray:
    """Returns the packed actions `[n k]` that are compared: rest, and the table's that change one number of it."""
    space = store.info.action_space
    assert space is not None  # who compares actions has some
    table, rest = ActionCodec(space, store.info.discrete_table).table, rest_action(space)
    single = np.unique(np.concatenate((rest[None], table[(table != rest).sum(1) <= 1])), axis=0)
    return single[np.unique(np.linspace(0, len(single) - 1, CANDIDATES).astype(int))]


def retrieval(
    subject: Subject, store: EpisodeStore, episodes: list[int], env: gym.Env, per_episode: int = 2
) -> dict[str, Any] | None:
    """Returns, by the dream's age, how often a dreamed future is nearest to the real one of its own action.

    From `per_episode` states of every episode, the real game is led on by each candidate action, held for 4 steps, and
    so is a dream that began `age` steps before and followed the recorded actions until then. Real futures that look
    alike count as one; states where all do, or where one ends the episode, are left out. `chance` is what guessing
    reaches. `frames_to_effect` is how many frames later than in the game (0: at once) an action can be told from the
    others. None without such states.
    """
    plans = np.repeat(candidates(store)[:, None], HOLD, 1)
    states = [(i, int(p)) for i in episodes for p in _branching(store, i, subject.window, per_episode)]
    real = {}
    for index, position in states:
        (start,) = starts_of(store, index, [position], 1)
        futures = list(branches(env, start, plans))
        if all(len(frames) == HOLD for frames in futures):
            real[index, position] = np.stack(futures)
    ages = {str(age): _at_age(subject, store, real, plans, age) for age in AGES}
    return {age: figures for age, figures in ages.items() if figures is not None} or None


def _branching(store: EpisodeStore, index: int, window: int, count: int) -> np.ndarray:
    first, last = window + AGES[-1], store.records[index].total_steps
    return np.unique(np.linspace(first, last, count + 2).astype(int)[1:-1]) if last > first else np.zeros(0, int)


def _at_age(
    subject: Subject, store: EpisodeStore, real: dict[tuple[int, int], np.ndarray], plans: np.ndarray, age: int
) -> dict[str, Any] | None:
    n, starts, led = len(plans), [], []
    for index, position in real:
        starts += starts_of(store, index, [position - age], subject.window) * n
        led += [actions_of(store, index)[position - age : position]] * n
    if not starts:
        return None
    subject.reset(starts)
    for actions in np.stack(led, 1):
        subject.step(actions, look=False)
    held = np.tile(plans, (len(real), 1, 1))
    dreamed = np.stack([subject.step(held[:, step]).seen for step in range(HOLD)], 1)
    by_episode: dict[int, list[tuple[float, float, float]]] = {}
    for (index, _), futures, dreams in zip(real, real.values(), np.split(dreamed, len(real)), strict=True):
        by_episode.setdefault(index, []).extend(_compare(futures, dreams))
    rows = [np.mean(values, 0) for values in by_episode.values() if values]
    if not rows:
        return None
    right, chance, lag = np.array(rows).T
    return {"top1": interval(right), "chance": round(float(chance.mean()), 4), "frames_to_effect": interval(lag)}


def _compare(real: np.ndarray, dreamed: np.ndarray) -> list[tuple[float, float, float]]:
    """Returns, for each action of one state, whether its last dreamed frame is nearest to its own real one, the chance
    of that, and the frames until it is; both arguments are `[n h H W 3]`. Empty where all real futures look alike.
    """
    n, horizon = real.shape[:2]
    alike = square_error(real[:, None], real[None]) <= ALIKE  # [n n h]
    if alike[..., -1].all():
        return []
    distance = square_error(dreamed[:, None], real[None])  # [n n h]
    nearest = distance.argmin(1)  # [n h]
    right = alike[np.arange(n)[:, None], nearest, np.arange(horizon)] & ~alike.all((0, 1))
    when = lambda told: np.where(told.any(1), told.argmax(1), horizon)  # noqa: E731
    lag = np.maximum(when(right) - when(~alike.all(1)), 0)
    return [(float(right[i, -1]), float(alike[i, :, -1].mean()), float(lag[i])) for i in range(n)]
