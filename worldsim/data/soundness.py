"""Whether recordings are fit to be learned from: what is in them, and what will go wrong if it stays there.

Here because what is wrong with a recording is seen in a second there, and in a dream only after an hour's training.
Leaves out drawing (`cli.check`), and mending, which is for whoever recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from worldsim.actions import leaves
from worldsim.data.episodes import EpisodeStore
from worldsim.data.holds import holds
from worldsim.data.lag import REACH, Lag, measure_lag

AT_ONCE = 1024  # frames that are looked at together
BLACK = 8  # grey levels: a frame that nowhere has more shows nothing
FEW = 0.01  # share of black frames that nobody minds
OFTEN = 0.25  # share of repeated frames from which the recorder is faster than the game
FROZEN = 2.0  # seconds that a picture stands still before somebody should look
HELD = 16  # steps; a player holds a key longer than that
LISTED = 16  # actions that are listed one by one at most
QUICK, LAG_STEPS = 4000, 20_000  # steps that a quick check looks at, and that the lag is measured on at most


@dataclass(frozen=True)
class Stretch:
    """Some frames of one kind: their share of all, and the longest unbroken run of them."""

    share: float
    longest: int
    episode: int  # where that run is, and the frame it begins with
    start: int

    def __str__(self) -> str:
        where = f", longest {self.longest} frames, in episode {self.episode} from frame {self.start}"
        return f"{self.share:.1%}{where if self.longest else ''}"


@dataclass(frozen=True)
class Soundness:
    """What `check_data` found."""

    facts: list[tuple[str, str]]
    actions: list[tuple[str, str, str, str]]  # the action, its share of steps, median and most steps it is held
    lag: Lag | None
    warnings: list[str]


def check_data(store: EpisodeStore, quick: bool = False) -> Soundness:
    """Looks at all recordings; where that must be quick, at the pictures of the first few thousand steps alone."""
    episodes = _first(store, QUICK) if quick else range(len(store))
    black, repeated, regular = _stretches(store, episodes)
    lag = measure_lag(store, episodes, QUICK if quick else LAG_STEPS)
    if quick and lag is not None and not lag.tells:  # a few long holds may hide it: no ground for a warning
        lag = measure_lag(store, _first(store, LAG_STEPS), LAG_STEPS)
    lengths = [record.total_steps for record in store.records]
    ended = sum(record.terminated for record in store.records)
    frames, minutes = sum(lengths) + len(lengths), sum(lengths) / store.info.fps / 60
    shape = "x".join(str(n) for n in store.info.observation_shape[:2])
    facts = [
        ("game", store.info.game),
        ("frames", f"{frames} of {shape}, {minutes:.1f} minutes at {store.info.fps:g} a second"),
        ("episodes", f"{len(lengths)}, of {min(lengths)} to {max(lengths)} steps, median {np.median(lengths):.0f}"),
        ("ended by the game", f"{ended} of {len(lengths)}"),
        ("black frames", str(black)),
        ("frames like the one before", str(repeated)),
    ]
    if store.info.has_rewards:
        paid = np.concatenate([np.asarray(store.rewards(i)) for i in range(len(store))])
        facts.append(("rewards", f"in {(paid != 0).mean():.1%} of steps, {paid.min():g} to {paid.max():g}"))
    if store.info.action_space is not None:
        facts.append(("actions come", _late(lag)))
    held = holds(store)
    warnings = _of_frames(store, black, repeated, regular) + _of_actions(store, held, lag)
    if not ended:
        warnings.append("no episode is ended by the game: a world of it will not know what ends one")
    return Soundness(facts, _taken(*held), lag, warnings)


def _first(store: EpisodeStore, steps: int) -> list[int]:
    """Returns the first episodes that have so many steps together."""
    before = np.cumsum([0, *(record.total_steps for record in store.records)])
    return [i for i in range(len(store)) if before[i] < steps]


def _stretches(store: EpisodeStore, episodes: Sequence[int]) -> tuple[Stretch, Stretch, bool]:
    """Returns the black frames, those that repeat the frame before them, and whether these come as by a clock."""
    black, repeated = [], []
    for index in episodes:
        dark, same = zip(*_looked_at(store, index), strict=True)
        black.append((index, np.concatenate(dark)))
        repeated.append((index, np.concatenate(same)))
    gaps = np.concatenate([np.diff(np.flatnonzero(~found)) for _, found in repeated])
    each = np.repeat(gaps, gaps - 1)  # of every repeated frame
    few = max(len(gaps) // 4, 1)  # a clock repeats often, a pause once
    regular = (gaps > 1).sum() >= few and np.ptp(np.quantile(each, (0.05, 0.95))) <= 1  # two neighbours
    return _stretch(black), _stretch(repeated), bool(regular)


def _looked_at(store: EpisodeStore, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    count = store.records[index].num_observations
    for start in range(0, count, AT_ONCE):
        frames = store.observations(index, max(0, start - 1), min(count, start + AT_ONCE))
        new = frames[1:] if start else frames
        same = (frames[1:] == frames[:-1]).all((1, 2, 3))
        yield new.max((1, 2, 3)) < BLACK, same if start else np.r_[False, same]


def _stretch(parts: Sequence[tuple[int, np.ndarray]]) -> Stretch:
    best = (0, 0, 0)
    for index, found in parts:
        edges = np.flatnonzero(np.diff(np.r_[False, found, False].astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            if stop - start > best[0]:
                best = (int(stop - start), index, int(start))
    return Stretch(float(np.concatenate([found for _, found in parts]).mean()), *best)


def _taken(found: np.ndarray, lengths: list[np.ndarray]) -> list[tuple[str, str, str, str]]:
    """Returns how often each action is taken and how long it is held, the most frequent first."""
    total = sum(int(runs.sum()) for runs in lengths)
    order = sorted(range(len(lengths)), key=lambda i: -int(lengths[i].sum()))[:LISTED]
    return [
        (
            " ".join(f"{x:g}" for x in found[i]),
            f"{lengths[i].sum() / total:.1%}",
            f"{np.median(lengths[i]):.0f}",
            f"{lengths[i].max()}",
        )
        for i in order
    ]


def _of_frames(store: EpisodeStore, black: Stretch, repeated: Stretch, regular: bool) -> list[str]:
    found = []
    if black.share > FEW:
        found.append(f"frames are black: {black}; leave out what shows nothing")
    if repeated.share > OFTEN and regular:
        rate = store.info.fps * (1 - repeated.share)
        found.append(f"frames repeat: {repeated}; the game draws about {rate:.0f} a second, record it at that rate")
    elif repeated.longest > FROZEN * store.info.fps and _acts(store, repeated):
        found.append(f"the picture stands still, whatever is done: {repeated}; leave out pauses and menus")
    return found


def _acts(store: EpisodeStore, stretch: Stretch) -> bool:
    """Returns whether more than one action is taken in a stretch."""
    actions = store.actions(stretch.episode, stretch.start - 1, stretch.start + stretch.longest - 1)
    return actions is None or bool((actions != actions[0]).any())


def _of_actions(store: EpisodeStore, held: tuple[np.ndarray, list[np.ndarray]], lag: Lag | None) -> list[str]:
    space = store.info.action_space
    if space is None:
        return []
    (actions, lengths), found = held, []
    if not lengths:
        return []
    if isinstance(space, spaces.Discrete):
        never = [str(i) for i in space.start + np.arange(space.n) if i not in actions]
    else:
        never = [f"number {i + 1} other than {actions[0, i]:g}" for i in np.flatnonzero((actions == actions[0]).all(0))]
    if never:
        found.append(f"never taken: {', '.join(never)}; a dream of it is guesswork")
    most = max(int(runs.max()) for runs in lengths)
    if most <= HELD and not any(isinstance(leaf, spaces.Box) for leaf in leaves(space)):
        found.append(f"no action is held for more than {most} steps: a dream of one who does is guesswork")
    if lag is not None and not lag.tells:
        found.append(
            f"actions tell nothing of what changes within {REACH} steps: they come later still, or mean nothing"
        )
    elif lag is not None and (lag.low > 0 or lag.high < 0):
        found.append(f"actions come {_late(lag)}; worldsim import source=<this> out=<new> shift={lag.shift} mends it")
    return found


def _late(lag: Lag | None) -> str:
    if lag is None:
        return "early or late: too few steps to tell"
    if not lag.tells:
        return "early or late: unknown, they tell nothing of what changes"
    side = "early" if lag.shift < 0 else "late"
    return f"{abs(lag.shift)} steps {side} (95 %: {lag.low} to {lag.high})"
