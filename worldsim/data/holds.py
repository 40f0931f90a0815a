"""How long recorded actions are held: a habit that no recording shows is guesswork in the dream.

Here because `record` says it while more can be recorded, and `eval` when figures are explained.
Leaves out who held them (`policies`).
"""

from __future__ import annotations

import numpy as np

from worldsim.data.episodes import EpisodeStore

NAMED = 8  # actions that are listed one by one at most


def holds(store: EpisodeStore) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the packed actions `[n k]` there are, and for each of them how many steps it was held, time by time."""
    taken, lengths = [], []
    for index in range(len(store)):
        actions = store.actions(index)
        if actions is not None and len(actions):
            starts = np.flatnonzero(np.r_[True, (actions[1:] != actions[:-1]).any(1)])
            taken.append(np.array(actions)[starts])
            lengths.append(np.diff(np.r_[starts, len(actions)]))
    if not taken:
        return np.zeros((0, 0)), []
    found, which = np.unique(np.concatenate(taken), axis=0, return_inverse=True)
    runs = np.concatenate(lengths)
    order = np.argsort(which.ravel(), kind="stable")
    return found, np.split(runs[order], np.cumsum(np.bincount(which.ravel()))[:-1])


def longest(found: tuple[np.ndarray, list[np.ndarray]], action: np.ndarray) -> int:
    """Returns for how many steps a packed action `[k]` is held at most in what `holds` found, 0 where it never is."""
    actions, lengths = found
    return max(
        (int(runs.max()) for x, runs in zip(actions, lengths, strict=True) if np.array_equal(x, action)), default=0
    )


def in_words(store: EpisodeStore) -> str | None:
    """Returns a line that says how long actions are held; None where there are none."""
    actions, lengths = holds(store)
    if not lengths:
        return None
    if len(lengths) > NAMED:
        actions, lengths = np.zeros((1, 0)), [np.concatenate(lengths)]
    each = [
        f"{' '.join(f'{x:g}' for x in action)}: {np.median(runs):.0f}, {runs.max()}".removeprefix(": ")
        for action, runs in zip(actions, lengths, strict=True)
    ]
    return f"actions held, median and most steps: {'; '.join(each)}"
