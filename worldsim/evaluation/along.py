"""Dreams that follow the recorded actions, looked at when they are so and so old, beside the frames of the recording.

Here because two measures compare the same dreams. Where an episode ends, its actions begin again: a dream may be older
than any recording.
Leaves out what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.subject import Subject, actions_of, starts_of

AGES = (0, 16, 64, 256)  # steps of a dream before it is looked at
SPAN = 16  # steps for which it is, at each age


@dataclass(frozen=True, eq=False)
class Stretch:
    """One row's steps at one age; of each, frames around it and the action that led to it."""

    age: int
    row: int
    dreamed: np.ndarray  # uint8 [n before+1+after H W 3]
    real: np.ndarray  # the same of the recording
    actions: np.ndarray  # float64 [n k], packed


def along(subject: Subject, store: EpisodeStore, episodes: Sequence[int], before: int, after: int) -> Iterator[Stretch]:
    """Yields, for every age and row, the steps whose frames around them are in the recording as well.

    What a dream shows after its end is not looked at; whether a step is its end is drawn by the probability.
    A row for each of `episodes`, which may hold an episode more than once: its rows begin all along it.
    """
    recorded = {i: (np.array(store.observations(i)), actions_of(store, i)) for i in set(episodes)}
    real, led = zip(*(recorded[i] for i in episodes), strict=True)
    first = max(subject.window, before)
    turns = [(list(episodes[:row]).count(i), list(episodes).count(i)) for row, i in enumerate(episodes)]
    begins = [first + (len(frames) - first) * n // of for frames, (n, of) in zip(real, turns, strict=True)]
    subject.reset([starts_of(store, i, [p], subject.window)[0] for i, p in zip(episodes, begins, strict=True)])
    # Where in the episode each step is; behind its end comes the first frame that an action led to.
    count = np.array([[len(frames) - 1] for frames in real])
    places = (np.array(begins)[:, None] - 1 + np.arange(AGES[-1] + SPAN + after)) % count + 1
    looked = {age + k for age in AGES for k in range(-before, SPAN + after)}
    dreamed = {-k: [frames[p - k] for frames, p in zip(real, begins, strict=True)] for k in range(1, before + 1)}
    lived, alive, rng = np.zeros(len(real), int), np.ones(len(real), bool), np.random.default_rng(0)
    for step, where in enumerate(places.T):
        actions = np.stack([actions[place] for actions, place in zip(led, where, strict=True)])
        result = subject.step(actions, step in looked)
        alive &= rng.random(len(real)) >= result.end
        lived += alive
        if step in looked:
            dreamed[step] = list(result.seen)
    around = range(-before, after + 1)
    for age in AGES:
        for row, frames in enumerate(real):
            span = range(age, min(age + SPAN, lived[row] - after))
            whole = [s for s in span if before <= places[row, s] < len(frames) - after]
            if whole:
                mine = np.stack([[dreamed[s + k][row] for k in around] for s in whole])
                there = frames[places[row, whole][:, None] + np.array(around)]
                yield Stretch(age, row, mine, there, led[row][places[row, whole]])
