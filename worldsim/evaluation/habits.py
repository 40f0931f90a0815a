"""What decides a game: by habit of the player, how long one lives, what one earns, and what is there to be seen.

Here because a few pixels decide it (a coin, a fireball, the end), which no mean over pixels sees.
Leaves out policies that were made to do well (`returns`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import ActionCodec, pack
from worldsim.data.episodes import EpisodeStore
from worldsim.data.holds import holds, longest
from worldsim.evaluation.statistics import bootstrap, rank_correlation
from worldsim.evaluation.subject import RealGame, Start, Subject, starts_of

AGES = (0, 10, 25, 50, 100, 200, 400, 1000)  # where each span of ages begins
NEAR = 6  # pixels: a thing without one of its kind so near a frame ago has just appeared
HELD = 4  # single actions, at most, that are habits
GONE = 1e-3  # a row whose episode is over with all but this probability is not looked at any more

Places = Callable[[np.ndarray], Mapping[str, Sequence[tuple[int, int]]]]
"""Reads where things are in a frame `[H W 3]`: a list of (x, y) for every kind, empty where there is none."""
Script = Callable[[np.ndarray, np.random.Generator, gym.Space], Any]
"""A scripted policy as `worldsim record policy=` takes it: `(frame [H W 3], rng, action_space) -> action`."""
Act = Callable[[np.ndarray, int], np.ndarray]
"""`act(frames [b H W 3], step) -> packed actions [b k]`"""


@dataclass
class Life:
    """One row of one habit: what came, each step counting by the chance that the episode was not over before."""

    weight: list[float]
    reward: list[float]
    change: list[float]  # mean absolute difference to the frame before, in grey levels
    seen: list[dict[str, tuple[int, int, int]]]  # by thing: how many there are, have appeared and have vanished


def habits(
    subject: Subject,
    store: EpisodeStore,
    episodes: list[int],
    make: Callable[[], gym.Env],
    places: Places | None = None,
    scripts: Mapping[str, Script] | None = None,
    rows: int = 16,
    length: int = 300,
) -> dict[str, Any] | None:
    """Returns, for every habit, mean steps lived and return (of at most `length`) in the dream and the real game.

    Rows begin at the starts of held-out episodes. `change` is how much a frame differs from the one before, by age.
    With `places` also how many of each thing a frame shows, and how many a frame appear and vanish; `whole` is the
    share of frames that show as many of each as the first one did. `longest` is for how many steps these
    recordings hold an action at most.
    None where no episode is long enough.
    """
    usable = [i for i in episodes if store.records[i].total_steps > subject.window]
    if not usable:
        return None
    rows = min(rows, len(usable))  # each begins in another episode
    chosen = usable[:rows]
    game = RealGame(make)
    result: dict[str, Any] = {"steps": length, "rows": rows, "habits": {}}
    for name, act_for in players(store, scripts or {}).items():
        lives = {}
        for side, player in (("dream", subject), ("real", game)):
            starts = [starts_of(store, i, [subject.window], player.window)[0] for i in chosen]
            lives[side] = _live(player, starts, act_for(), places, length)
        result["habits"][name] = _figures(lives)
    found = holds(store)
    for i, action in enumerate(_table(store)[:HELD]):
        result["habits"][f"held {i}"]["longest"] = longest(found, action)
    game.close()
    lived = [[h["lived"][side]["mean"] for side in ("dream", "real")] for h in result["habits"].values()]
    result["rank_correlation"] = bootstrap(lived, lambda pairs: rank_correlation(np.array(pairs)))
    return result


def players(store: EpisodeStore, scripts: Mapping[str, Script]) -> dict[str, Callable[[], Act]]:
    """Returns, by name, what begins each habit anew: the same choices for the dream and for the game."""
    space, table = store.info.action_space, _table(store)
    found: dict[str, Callable[[], Act]] = {f"held {i}": partial(_held, action) for i, action in enumerate(table[:HELD])}
    for name, low, high in (("random", 1, 1), ("sticky", 1, 8), ("long holds", 16, 64)):
        found[name] = partial(_sticky, table, low, high)
    if space is not None:
        found |= {name: partial(scripted, script, space) for name, script in scripts.items()}
    return found


def _table(store: EpisodeStore) -> np.ndarray:
    return ActionCodec(store.info.action_space, store.info.discrete_table).table


def _held(action: np.ndarray) -> Act:
    return lambda frames, step: np.repeat(np.asarray(action, np.float64)[None], len(frames), 0)


def _sticky(table: np.ndarray, low: int, high: int) -> Act:
    """Returns a policy that holds random actions from `low` to `high` steps, each row by itself."""
    rng, state = np.random.default_rng(0), {"left": np.zeros(0, int), "action": table[:0]}

    def act(frames: np.ndarray, step: int) -> np.ndarray:
        if step == 0:
            state.update(left=np.zeros(len(frames), int), action=np.zeros((len(frames), table.shape[1])))
        for row in np.flatnonzero(state["left"] == 0):
            state["left"][row] = rng.integers(low, high + 1)
            state["action"][row] = table[rng.integers(len(table))]
        state["left"] -= 1
        return state["action"].copy()

    return act


def scripted(script: Script, space: gym.Space) -> Act:
    """Returns a script as a policy of many rows; each has luck of its own, the same in dream and game."""
    luck: list[np.random.Generator] = []

    def act(frames: np.ndarray, step: int) -> np.ndarray:
        luck.extend(np.random.default_rng(row) for row in range(len(luck), len(frames)))
        return np.stack([pack(space, script(frame, rng, space)) for frame, rng in zip(frames, luck, strict=True)])

    return act


def _live(player: Subject, starts: list[Start], act: Act, places: Places | None, length: int) -> list[Life]:
    """Plays a habit until every row is over or `length` steps have passed."""
    player.reset(starts)
    frames = np.stack([start.frames[-1] for start in starts])
    before = [places(frame) if places else {} for frame in frames]
    lives, alive = [Life([1.0], [0.0], [0.0], [_changes(x, x)]) for x in before], np.ones(len(starts))
    for step in range(length):
        result = player.step(act(frames, step))
        change = np.abs(result.seen.astype(np.int16) - frames).mean((1, 2, 3))
        frames = result.seen
        for row in np.flatnonzero(alive > GONE):
            lives[row].weight.append(alive[row])
            lives[row].reward.append(result.reward[row])
            lives[row].change.append(change[row])
            now = places(frames[row]) if places else {}
            lives[row].seen.append(_changes(before[row], now))
            before[row] = now
        alive = alive * (1 - result.end)
        if alive.max() <= GONE:
            break
    return lives


def _changes(before: Mapping, now: Mapping) -> dict[str, tuple[int, int, int]]:
    return {
        kind: (len(there), _without(there, before.get(kind, ())), _without(before.get(kind, ()), there))
        for kind, there in now.items()
    }


def _without(some: Sequence, others: Sequence) -> int:
    """Returns how many places of some have none of the others near."""
    if not len(some) or not len(others):
        return len(some)
    away = np.abs(np.array(some)[:, None] - np.array(others)[None]).max(-1)
    return int((away.min(1) > NEAR).sum())


def things_by_age(
    subject: Subject, store: EpisodeStore, episodes: list[int], places: Places, rows: int, length: int
) -> dict[str, dict[str, float]]:
    """Returns how many of each thing a dreamed frame shows, by age, under a sticky policy."""
    starts = [starts_of(store, episodes[i % len(episodes)], [subject.window], subject.window)[0] for i in range(rows)]
    lives = _live(subject, starts, _sticky(_table(store), 1, 8), places, length)
    return {kind: _by_age(lives, partial(_seen, kind, 0)) for kind in lives[0].seen[0]}


def _figures(lives: dict[str, list[Life]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "lived": {side: bootstrap(some, lambda part: _mean_sum(part, None)) for side, some in lives.items()},
        "return": {side: bootstrap(some, lambda part: _mean_sum(part, "reward")) for side, some in lives.items()},
    }
    figures["change"] = {side: _by_age(some, lambda life, t: life.change[t]) for side, some in lives.items()}
    kinds = list(lives["real"][0].seen[0])
    if not kinds:
        return figures
    figures["whole"] = {side: _by_age(some, _whole) for side, some in lives.items()}
    figures["things"] = {
        kind: {
            name: {side: _by_age(some, partial(_seen, kind, i)) for side, some in lives.items()}
            for i, name in enumerate(("count", "appear", "vanish"))
        }
        for kind in kinds
    }
    return figures


def _seen(kind: str, index: int, life: Life, step: int) -> float:
    return life.seen[step][kind][index]


def _whole(life: Life, step: int) -> float:
    return float(all(seen[0] == life.seen[0][kind][0] for kind, seen in life.seen[step].items()))


def _mean_sum(lives: list[Life], name: str | None) -> float:
    """Returns the mean over rows of the weights' sum, or of the weighted rewards'."""
    return float(np.mean([np.dot(x.weight[1:], x.reward[1:] if name else np.ones(len(x.weight) - 1)) for x in lives]))


def _by_age(lives: list[Life], value: Callable[[Life, int], float]) -> dict[str, float]:
    """Returns the weighted mean of a value of every frame, by span of ages; none of fewer than two frames a row."""
    found = {}
    for low, high in zip(AGES, (*AGES[1:], 10**9), strict=True):
        parts = [(x.weight[t], value(x, t)) for x in lives for t in range(max(low, 1), min(high, len(x.weight)))]
        weights, values = np.array(parts, float).reshape(-1, 2).T
        if weights.sum() >= min(2, high - low) * len(lives):
            found[str(low)] = round(float(weights @ values / weights.sum()), 4)
    return found
