"""Whether policies that do well in the dream do well in the game: the correlation of their returns.

Here because it is what a dream is for when agents learn in it.
Leaves out training agents in earnest: the policies are simple habits, and scripts that err more and more often; where
a game has no scripts, small networks that some generations of chance improved in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import ActionCodec, unpack
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.habits import GONE, Script, scripted
from worldsim.evaluation.statistics import bootstrap, correlation, rank_correlation
from worldsim.evaluation.subject import Start, Subject, lead, starts_of

STEPS = 128  # of a return
CELLS = 8  # a policy sees frames as 8x8 cells
SKILLED, CHILDREN = 8, 4  # the n-th network is n generations old
CHOSEN = 6  # starts by which the best child is chosen
Act = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`act(frames [b H W 3], previous frames, step) -> packed actions [b k]`"""


class FramePolicy:
    """A linear network on what 8x8 cells of a frame show and how they changed: a deterministic action for every row."""

    def __init__(self, table: np.ndarray, weights: np.ndarray):
        self.table, self.weights = table, weights

    def __call__(self, frames: np.ndarray, before: np.ndarray, step: int) -> np.ndarray:
        now, change = _cells(frames), _cells(frames) - _cells(before)
        inputs = np.concatenate((now - now.mean(1, keepdims=True), 4 * change, np.ones((len(now), 1))), 1)
        return self.table[(inputs @ self.weights).argmax(1)]


def _cells(frames: np.ndarray) -> np.ndarray:
    b, height, width, _ = frames.shape
    h, w = height // CELLS, width // CELLS
    cut = frames[:, : h * CELLS, : w * CELLS].astype(np.float32) / 255
    return cut.reshape(b, CELLS, h, CELLS, w, 3).mean((2, 4)).reshape(b, -1)


def habits(table: np.ndarray, rng: np.random.Generator, count: int) -> list[Act]:
    """Returns policies that do not look: one action for ever, or a random one held for a while."""
    fixed = [np.repeat(action[None], STEPS, 0) for action in table[: count // 2]]
    held = [table[np.repeat(rng.integers(len(table), size=STEPS), hold)[:STEPS]] for hold in range(1, 9)]
    return [partial(_planned, plan) for plan in fixed + held[: count - len(fixed)]]


def _planned(plan: np.ndarray, frames: np.ndarray, before: np.ndarray, step: int) -> np.ndarray:
    return np.repeat(plan[step][None], len(frames), 0)


def returns(
    subject: Subject,
    store: EpisodeStore,
    episodes: list[int],
    env: gym.Env,
    scripts: Mapping[str, Script] | None = None,
    per_policy: int = 32,
) -> dict[str, Any] | None:
    """Returns the correlation of policies' mean returns over 128 steps, dreamed and real, from the same real frames.

    Half of the policies are of graded skill, half habits: scripts of which a share of the steps is random, or networks
    chosen by other starts than they are measured from. Intervals are bootstraps over policies. `itself` is the
    correlation of the game with itself, by as many other starts: luck alone keeps it below 1. None where a policy's
    return never differs, or there are too few frames to begin from.
    """
    table, rng = ActionCodec(store.info.action_space, store.info.discrete_table).table, np.random.default_rng(0)
    places = rng.permutation([(i, p) for i in episodes for p in range(subject.window, store.records[i].total_steps)])
    if len(places) < 2 * per_policy + CHOSEN:
        return None
    begin = lambda window, which: [starts_of(store, i, [p], window)[0] for i, p in places[which].tolist()]  # noqa: E731
    measured, again = slice(per_policy), slice(per_policy, 2 * per_policy)
    dreams, real, other = begin(subject.window, measured), begin(1, measured), begin(1, again)
    own = begin(1, slice(2 * per_policy, 2 * per_policy + CHOSEN))
    policies = [_erring(script, n, table, env.action_space) for script, n in _grades(scripts or {})]
    policies = policies or [_network(env, own, table, generations) for generations in range(SKILLED)]
    policies += habits(table, rng, SKILLED)
    rows = [(_dreamed(subject, dreams, act), _real(env, real, act), _real(env, other, act)) for act in policies]
    pairs, itself = [row[:2] for row in rows], [row[1:] for row in rows]
    figures = {
        "pearson": bootstrap(pairs, lambda some: correlation(np.array(some))),
        "spearman": bootstrap(pairs, lambda some: rank_correlation(np.array(some))),
        "itself": bootstrap(itself, lambda some: correlation(np.array(some))),
    }
    if figures["pearson"] is None:
        return None
    listed = [[round(float(x), 3) for x in pair] for pair in pairs]
    return {**figures, "dreamed_and_real": listed, "policies": len(pairs), "starts": per_policy, "steps": STEPS}


def _grades(scripts: Mapping[str, Script]) -> list[tuple[Script, float]]:
    """Returns scripts and the share of their steps that is random: as many of each, from none to less than all."""
    grades = SKILLED // max(len(scripts), 1)
    return [(script, n / grades) for script in scripts.values() for n in range(grades)]


def _erring(script: Script, share: float, table: np.ndarray, space: gym.Space) -> Act:
    """Returns a script of which a share of the steps is random actions."""
    rng, play = np.random.default_rng(0), scripted(script, space)

    def act(frames: np.ndarray, before: np.ndarray, step: int) -> np.ndarray:
        errs, chance = rng.random(len(frames)) < share, table[rng.integers(len(table), size=len(frames))]
        return np.where(errs[:, None], chance, play(frames, step))

    return act


def _network(env: gym.Env, starts: list[Start], table: np.ndarray, generations: int) -> FramePolicy:
    """Returns a random network after some generations: each keeps the best in the real game of it and its children."""
    rng = np.random.default_rng(generations)
    best = FramePolicy(table, rng.normal(size=(2 * 3 * CELLS**2 + 1, len(table))))
    score = _real(env, starts, best) if generations else 0.0
    for _ in range(generations):
        children = [FramePolicy(table, best.weights + rng.normal(size=best.weights.shape)) for _ in range(CHILDREN)]
        for policy in children:
            if (value := _real(env, starts, policy)) > score:
                best, score = policy, value
    return best


def _dreamed(subject: Subject, starts: list[Start], act: Act) -> float:
    """Returns the mean expected return: rewards count by the chance that the dream has come so far."""
    subject.reset(starts)
    before = frames = np.stack([start.frames[-1] for start in starts])
    alive, total = np.ones(len(starts)), np.zeros(len(starts))
    for step in range(STEPS):
        result = subject.step(act(frames, before, step))
        before, frames = frames, result.seen
        total += alive * result.reward
        alive = alive * (1 - result.end)
        if alive.max() <= GONE:
            break
    return float(total.mean())


def _real(env: gym.Env, starts: list[Start], act: Act) -> float:
    """Returns the mean return in the real game, from the same frames."""
    return float(np.mean([_real_return(env, start, act) for start in starts]))


def _real_return(env: gym.Env, start: Start, act: Act) -> float:
    before = frame = lead(env, start)
    total = 0.0
    for step in range(STEPS):
        action = unpack(env.action_space, act(frame[None], before[None], step)[0])
        before, (frame, reward, over, *_) = frame, env.step(action)
        total += float(reward)
        if over:  # a limit of the environment's is no end of the game
            break
    return total
