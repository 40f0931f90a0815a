"""Which episodes a world may be measured on: its own game's, and none that it was trained on.

Here because a figure from training episodes says nothing. Leaves out measuring.
"""

from __future__ import annotations

import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.world_model import WorldModel


def held_out(world: WorldModel, store: EpisodeStore, count: int) -> list[int]:
    """Returns up to `count` episodes that the world was not trained on, spread over the store.

    Raises ValueError, in one sentence, where the data is another game's or holds training episodes only.
    """
    info, facts = world.info, (store.info.game, store.info.action_space, tuple(store.info.observation_shape))
    mine = (info.game, info.action_space, tuple(info.frame_shape))
    if mine != facts:
        raise ValueError(f"expected episodes of {mine}, found {facts}; give data of {info.game}")
    trained = set(info.provenance.get("training_episodes", []))
    free = [i for i, record in enumerate(store.records) if record.hash not in trained]
    if not free:
        raise ValueError(
            f"expected episodes that {info.name} was not trained on, found {len(store)} that it was; record others"
        )
    return spread(store, free, world.prompts.latents.shape[1], count)


def spread(store: EpisodeStore, episodes: list[int], window: int, count: int) -> list[int]:
    """Returns up to `count` of the episodes that are at least `window` steps long, evenly spread."""
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"expected at least 1 episode to measure on, found {count}")
    once = {store.records[i].hash: i for i in reversed(episodes)}  # of equal episodes the first: they are one
    usable = [i for i in episodes if store.records[i].total_steps >= window and once[store.records[i].hash] == i]
    if not usable:
        raise ValueError(f"expected an episode of at least {window} steps, found none; record longer ones")
    return [usable[i] for i in np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int))]
