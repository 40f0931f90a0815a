"""What latent actions mean: whether they name what the game's own do, and whether a dream obeys them anywhere.

Here because they may tell too little (one code for everything) or too much: the next frame itself, which nobody could
press. Leaves out how they are learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim.actions import ActionCodec, choices
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.fidelity import positions
from worldsim.evaluation.statistics import bootstrap, interval, psnr, square_error
from worldsim.evaluation.subject import Subject, actions_of, starts_of
from worldsim.models.latent_action import perplexity

AHEAD = 4  # steps after which dreams are compared
MOVES = 8  # grey levels by which a pixel changes at least in a step that moves
RESAMPLES = 500
Label = Callable[[np.ndarray], np.ndarray]
"""Names the steps between frames, uint8 `[n H W 3]`: packed latent actions `[n - 1 k]`."""
Played = Callable[[np.ndarray], Any]
"""Tells where what is played stands in a frame `[H W 3]`."""


@dataclass(frozen=True, eq=False)
class _Episode:
    """An episode's frames `[T + 1 H W 3]`; what its steps are named `[T k]`, and which action each was `[T]`.

    Steps that tell: `moves`, which move what is played, by an action of the table.
    """

    index: int
    frames: np.ndarray
    names: np.ndarray
    true: np.ndarray
    moves: np.ndarray


def moving(frames: np.ndarray, played: Played | None) -> np.ndarray:
    """Returns whether what is played moves in each step between frames `[n H W 3]`, bool `[n - 1]`: or anything."""
    if played is not None:
        return np.array([a != b for a, b in pairwise(map(played, frames))])
    return np.array([np.abs(a.astype(np.int16) - b).max() > MOVES for a, b in pairwise(frames)])


def latent_actions(
    subject: Subject,
    label: Label,
    named: EpisodeStore,
    recorded: EpisodeStore,
    episodes: list[int],
    starts: int = 16,
    played: Played | None = None,
) -> dict[str, Any] | None:
    """Returns what latent actions tell, for recordings by their names (`named`) and with the game's own actions.

    Of codes: `used`, their perplexity as a share of how many there are, and `information`, what they tell of the
    game's actions in steps that move what is `played` (or anything), as a share of all there is to tell.
    Of dreams 4 steps long, in dB: `gain`, of the right names over those of another start, and `elsewhere`, of names
    found in other episodes where the game's action was the same: far less means that names tell what is seen, not what
    is done. Of codes also `obeyed`: how often another start's are found again in the dream that followed them, in
    steps that move, and `by_chance`, how often they would be by any dream with as many of each.
    None without recorded actions, or where no episode is long enough.
    """
    if recorded.info.action_space is None:
        return None
    table = ActionCodec(recorded.info.action_space, recorded.info.discrete_table).table
    long = [i for i in episodes if recorded.records[i].total_steps >= subject.window + AHEAD]
    found = [_episode(named, recorded, i, table, played) for i in long]
    if not found:
        return None
    rng = np.random.default_rng(0)
    dreams = [_dreams(subject, label, named, episode, found, max(starts, 2), rng, played) for episode in found]
    told = {key: interval([dream[key] for dream in dreams]) for key in ("gain", "elsewhere")}
    space = named.info.action_space
    if not isinstance(space, gym.spaces.Discrete):
        return told
    codes = np.concatenate([episode.names[:, 0] for episode in found]).astype(int)
    pairs = [np.stack((e.names[:, 0].astype(int), e.true), 1)[e.moves] for e in found]
    obeyed = [dream for dream in dreams if "obeyed" in dream]
    return told | {
        "used": round(perplexity(torch.from_numpy(np.bincount(codes) / len(codes))) / int(space.n), 4),
        "information": bootstrap(pairs, _information, RESAMPLES),
        **{key: interval([dream[key] for dream in obeyed]) if obeyed else None for key in ("obeyed", "by_chance")},
    }


def _episode(
    named: EpisodeStore, recorded: EpisodeStore, index: int, table: np.ndarray, played: Played | None
) -> _Episode:
    frames, packed = np.array(recorded.observations(index)), actions_of(recorded, index)[1:]
    true = choices(packed, table)
    exact = (packed == table[true]).all(1)  # another action may do what one of the table does
    return _Episode(index, frames, actions_of(named, index)[1:], true, moving(frames, played) & exact)


def _dreams(
    subject: Subject,
    label: Label,
    named: EpisodeStore,
    episode: _Episode,
    found: list[_Episode],
    starts: int,
    rng: np.random.Generator,
    played: Played | None,
) -> dict[str, float]:
    """Returns the figures of an episode's dreams."""
    first = positions(len(episode.frames), subject.window, starts, AHEAD)
    steps = first[:, None] - 1 + np.arange(AHEAD)  # step t leads to frame t + 1
    right = episode.names[steps]
    wrong = np.roll(right, len(right) // 2, 0)
    others = [other for other in found if other is not episode] or [episode]
    pool, kinds = (np.concatenate([getattr(other, key) for other in others]) for key in ("names", "true"))
    same = right.copy()
    for place in np.ndindex(*steps.shape):
        alike = np.flatnonzero(kinds == episode.true[steps[place]])
        same[place] = pool[rng.choice(alike)] if len(alike) else same[place]
    errors, seen = [], episode.frames[first - 1]
    for plan in (right, wrong, same):
        subject.reset(starts_of(named, episode.index, first, subject.window))
        frames = [seen, *(subject.step(plan[:, step]).seen for step in range(AHEAD))]
        errors.append(psnr(float(square_error(episode.frames[first + AHEAD - 1], frames[-1]).mean())))
        if plan is wrong:
            dreamed = np.stack(frames, 1)
    gains = {"gain": errors[0] - errors[1], "elsewhere": errors[2] - errors[1]}
    moved = np.stack([moving(row, played) for row in dreamed])
    if not moved.any() or not isinstance(named.info.action_space, gym.spaces.Discrete):
        return gains
    again, asked = np.stack([label(row)[:, 0] for row in dreamed])[moved], wrong[..., 0][moved]
    by_chance = sum(float((again == code).mean() * (asked == code).mean()) for code in np.unique(asked))
    return gains | {"obeyed": float((again == asked).mean()), "by_chance": by_chance}


def _entropy(*labels: np.ndarray) -> float:
    """Returns the entropy of whole numbers `[n]`, or of several together, in nats."""
    _, counts = np.unique(np.stack(labels, 1), axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _information(parts: list[np.ndarray]) -> float:
    codes, true = np.concatenate(parts).T
    if len(codes) == 0 or (whole := _entropy(true)) == 0:
        return float("nan")
    return (_entropy(codes) + whole - _entropy(codes, true)) / whole
