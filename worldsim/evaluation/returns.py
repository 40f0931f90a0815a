"""Whether policies that do well in the dream do well in the game: the correlation of their returns.

Here because it is what a dream is for when agents learn in it.
Leaves out training agents in earnest: the policies are simple habits, and scripts that err more and more often; where
a game has no scripts, small networks that some generations of chance improved in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import ActionCodec, pack
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.habits import GONE, Script
from worldsim.evaluation.statistics import bootstrap, correlation, rank_correlation
from worldsim.evaluation.subject import RealGame, Start, Subject, starts_of

STEPS = 128  # of a return
CELLS = 8  # a policy sees frames as 8x8 cells
LATEST = 256  # steps of an episode, after which nothing begins: the real game is led to every start again and again
SKILLED, CHILDREN = 8, 3  # the n-th network is n generations old
CHOSEN = 4  # starts by which the best child is chosen
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
    make: Callable[[], gym.Env],
    scripts: Mapping[str, Script] | None = None,
    per_policy: int = 32,
) -> dict[str, Any] | None:
    """Returns the correlation of policies' mean returns over 128 steps, dreamed and real, from the same real frames.

    Eight policies are habits, eight or so of graded skill: scripts of which more and more steps are random, or, without
    scripts, networks chosen by other starts. Intervals are bootstraps over policies. `itself` is the correlation of the
    game with itself, by as many other starts: luck alone keeps it below 1. None where a policy's return never differs,
    or there are too few frames to begin from.
    """
    space, rng = store.info.action_space, np.random.default_rng(0)
    table = ActionCodec(space, store.info.discrete_table).table
    latest = {i: min(store.records[i].total_steps, subject.window + LATEST) for i in episodes}
    places = rng.permutation([(i, p) for i in episodes for p in range(subject.window, latest[i])])
    if len(places) < 2 * per_policy + CHOSEN:
        return None
    begin = lambda window, which: [starts_of(store, i, [p], window)[0] for i, p in places[which].tolist()]  # noqa: E731
    measured, again = slice(per_policy), slice(per_policy, 2 * per_policy)
    dreams, real, other = begin(subject.window, measured), begin(1, measured), begin(1, again)
    own = begin(1, slice(2 * per_policy, 2 * per_policy + CHOSEN))
    policies: list[Act] = []
    if space is not None:
        policies = [_erring(script, share, table, space) for script, share in _grades(scripts or {})]
    with closing(RealGame(make)) as game:
        policies = policies or [_network(game, own, table, generations) for generations in range(SKILLED)]
        policies += habits(table, rng, SKILLED)
        rows = [(_return(subject, dreams, by), _return(game, real, by), _return(game, other, by)) for by in policies]
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
    grades = max(math.ceil(SKILLED / max(len(scripts), 1)), 2)
    return [(script, n / grades) for script in scripts.values() for n in range(grades)]


def _erring(script: Script, share: float, table: np.ndarray, space: gym.Space) -> Act:
    """Returns a script of which a share of the steps is random. Every row has luck of its own, the same every time."""
    luck: list[np.random.Generator] = []

    def choose(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return table[rng.integers(len(table))] if rng.random() < share else pack(space, script(frame, rng, space))

    def act(frames: np.ndarray, before: np.ndarray, step: int) -> np.ndarray:
        if step == 0:
            luck[:] = [np.random.default_rng(row) for row in range(len(frames))]
        return np.stack([choose(frame, rng) for frame, rng in zip(frames, luck, strict=True)])

    return act


def _network(game: Subject, starts: list[Start], table: np.ndarray, generations: int) -> FramePolicy:
    """Returns a random network after some generations: each keeps the best in the real game of it and its children."""
    rng = np.random.default_rng(generations)
    best = FramePolicy(table, rng.normal(size=(2 * 3 * CELLS**2 + 1, len(table))))
    score = _return(game, starts, best) if generations else 0.0
    for _ in range(generations):
        children = [FramePolicy(table, best.weights + rng.normal(size=best.weights.shape)) for _ in range(CHILDREN)]
        for policy in children:
            if (value := _return(game, starts, policy)) > score:
                best, score = policy, value
    return best


def _return(player: Subject, starts: list[Start], act: Act) -> float:
    """Returns the mean expected return: rewards count by the chance that the player has come so far."""
    player.reset(starts)
    before = frames = np.stack([start.frames[-1] for start in starts])
    alive, total = np.ones(len(starts)), np.zeros(len(starts))
    for step in range(STEPS):
        result = player.step(act(frames, before, step))
        before, frames = frames, result.seen
        total += alive * result.reward
        alive = alive * (1 - result.end)
        if alive.max() <= GONE:
            break
    return float(total.mean())
