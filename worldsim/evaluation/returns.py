"""Whether policies that do well in the dream do well in the game: the correlation of their returns.

Here because it is what a dream is for when agents learn in it.
Leaves out training agents in earnest: the policies are small networks that a few generations of chance improved in the
real game, each by itself, and simple habits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import ActionCodec, unpack
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.statistics import bootstrap, correlation, rank_correlation
from worldsim.evaluation.subject import Start, Subject, lead, starts_of

STEPS = 128  # of a return
CELLS = 8  # a policy sees frames as 8x8 cells
NETWORKS, GENERATIONS, CHILDREN = 8, 4, 3
CHOSEN = 3  # starts by which the best child is chosen
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
    subject: Subject, store: EpisodeStore, episodes: list[int], env: gym.Env, per_policy: int = 8
) -> dict[str, Any] | None:
    """Returns the correlation of policies' mean returns over 128 steps, dreamed and real, from the same real frames.

    Half of the policies are networks, chosen by other starts than they are measured from, half habits; the interval is
    a bootstrap over policies. None where a policy's return never differs, or no episode is long enough to begin in.
    """
    table, rng = ActionCodec(store.info.action_space, store.info.discrete_table).table, np.random.default_rng(0)
    measured, chosen = range(per_policy), range(per_policy, per_policy + CHOSEN)
    usable = [i for i in episodes if store.records[i].total_steps >= subject.window + chosen.stop]
    if not usable:
        return None
    begin = lambda window, which: [  # noqa: E731
        starts_of(store, usable[i % len(usable)], [subject.window + i // len(usable)], window)[0] for i in which
    ]
    real, own = begin(1, measured), begin(1, chosen)
    policies: list[Act] = [_checkpoint(env, own, table, np.random.default_rng(seed)) for seed in range(NETWORKS)]
    policies += habits(table, rng, NETWORKS)
    pairs = [(_dreamed(subject, begin(subject.window, measured), act), _real(env, real, act)) for act in policies]
    figures = {
        "pearson": bootstrap(pairs, lambda rows: correlation(np.array(rows))),
        "spearman": bootstrap(pairs, lambda rows: rank_correlation(np.array(rows))),
    }
    if figures["pearson"] is None:
        return None
    listed = [[round(float(x), 3) for x in pair] for pair in pairs]
    return {**figures, "dreamed_and_real": listed, "policies": len(pairs), "steps": STEPS}


def _checkpoint(env: gym.Env, starts: list[Start], table: np.ndarray, rng: np.random.Generator) -> FramePolicy:
    """Returns a network after a few generations: of some changed copies the best in the real game goes on."""
    inputs = 2 * 3 * CELLS**2 + 1
    best, score = FramePolicy(table, rng.normal(size=(inputs, len(table)))), -np.inf
    for _ in range(GENERATIONS):
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
