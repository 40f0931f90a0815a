"""A recorded episode dreamed along: real, reconstructed and dreamed frames beside one another.

Here because contact sheets and films show dreams in the same way.
Leaves out measuring (see `fidelity`).
"""

from __future__ import annotations

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.subject import Dream, Subject, actions_of, starts_of
from worldsim.world_model import WorldModel

SHOWN = 12  # frames of each kind in a row of a contact sheet


def filmed(subject: Subject, store: EpisodeStore, index: int, frames: int = 48) -> list[np.ndarray]:
    """Returns real, reconstructed (where the subject has a codec) and dreamed frames `[n H W 3]` of an episode's
    beginning, of at least `window` steps; the dream follows the recorded actions."""
    first, stop = subject.window, min(subject.window + frames, store.records[index].num_observations)
    real, actions = np.array(store.observations(index, first, stop)), actions_of(store, index)
    start = starts_of(store, index, [first], subject.window)
    subject.reset(start)
    dreamed = np.concatenate([subject.step(actions[p : p + 1]).frames for p in range(first, stop)])
    return [real, *([subject.reconstruct(real)] if hasattr(subject, "reconstruct") else []), dreamed]


def dream_along(world: WorldModel, store: EpisodeStore, index: int) -> list[np.ndarray]:
    """Returns twelve real, as many reconstructed, and as many dreamed frames `[H W 3]` of an episode's beginning."""
    rows = filmed(Dream(world), store, index)
    picks = np.linspace(0, len(rows[0]) - 1, SHOWN).astype(int)  # of a short episode some twice
    return [frames[i] for frames in rows for i in picks]
