"""What latent actions mean: whether they name what the game's own do, and whether a dream obeys them anywhere.

Here because they may tell too little (one code for everything) or too much: the next frame itself, which nobody could
press. Leaves out how they are learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class _Episode:
    """An episode's frames `[T + 1 H W 3]`; what its steps are named `[T k]`, and which action each was `[T]`."""

    index: int
    frames: np.ndarray
    names: np.ndarray
    true: np.ndarray

    @property
    def moves(self) -> np.ndarray:
        """Whether each step moves anything, bool `[T]`."""
        change = [np.abs(a.astype(np.int16) - b).max() for a, b in zip(self.frames, self.frames[1:], strict=False)]
        return np.array(change) > MOVES


def latent_actions(
    subject: Subject, label: Label, named: EpisodeStore, recorded: EpisodeStore, episodes: list[int], starts: int = 16
) -> dict[str, Any] | None:
    """Returns what latent actions tell, for recordings by their names (`named`) and with the game's own actions.

    Of codes: `used`, their perplexity as a share of how many there are, and `information`, what they tell of the
    game's actions in steps that move, as a share of all there is to tell (normalised mutual information).
    Of dreams 4 steps long, in dB: `gain`, of the right names over those of another start, and `elsewhere`, of names
    found in other episodes where the game's action was the same: far less means that names tell what is seen, not what
    is done. Of codes also `obeyed`: how often another start's are found again in the dream that followed them, in
    steps that move.
    None without recorded actions, or where no episode is long enough.
    """
    if recorded.info.action_space is None:
        return None
    table = ActionCodec(recorded.info.action_space, recorded.info.discrete_table).table
    found = [
        _Episode(i, np.array(recorded.observations(i)), actions_of(named, i)[1:], _numbers(recorded, i, table))
        for i in episodes
        if recorded.records[i].total_steps >= subject.window + AHEAD
    ]
    if not found:
        return None
    rng = np.random.default_rng(0)
    dreams = [_dreams(subject, label, named, episode, found, max(starts, 2), rng) for episode in found]
    told = {key: interval([dream[key] for dream in dreams]) for key in ("gain", "elsewhere")}
    space = named.info.action_space
    if not isinstance(space, gym.spaces.Discrete):
        return told
    codes = np.concatenate([episode.names[:, 0] for episode in found]).astype(int)
    pairs = [np.stack((e.names[:, 0].astype(int), e.true), 1)[e.moves] for e in found]
    obeyed = [dream["obeyed"] for dream in dreams if "obeyed" in dream]
    return told | {
        "used": round(perplexity(torch.from_numpy(np.bincount(codes) / len(codes))) / int(space.n), 4),
        "information": bootstrap(pairs, _information, RESAMPLES),
        "obeyed": interval(obeyed) if obeyed else None,
    }


def _numbers(store: EpisodeStore, index: int, table: np.ndarray) -> np.ndarray:
    """Returns the number `[T]` of the action in a table that is nearest to each recorded one."""
    return choices(actions_of(store, index)[1:], table)


def _dreams(
    subject: Subject,
    label: Label,
    named: EpisodeStore,
    episode: _Episode,
    found: list[_Episode],
    starts: int,
    rng: np.random.Generator,
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
    moved = np.abs(np.diff(dreamed.astype(np.int16), axis=1)).max((2, 3, 4)) > MOVES
    if not moved.any() or not isinstance(named.info.action_space, gym.spaces.Discrete):
        return gains
    again = np.stack([label(row)[:, 0] for row in dreamed])
    return gains | {"obeyed": float((again == wrong[..., 0])[moved].mean())}


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
