"""The real game beside its dream, under the same keys.

Here so that a player sees where a dream leaves its game, and can have the dream go on from the game's last frames.
Leaves out how the game is found (`worldsim.cli.play`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import rest_action, unpack, unpack_rows
from worldsim.world_model import WorldModel


class Beside:
    """A real game that is played along. Raises ValueError where it is not the world's."""

    def __init__(self, game: gym.Env, world: WorldModel, seed: int = 0):
        expected = world.info.frame_shape, world.info.action_space
        found = game.observation_space.shape, game.action_space
        if expected != found:
            raise ValueError(f"expected a game of frames and actions like the world's, {expected}, found {found}")
        self._game, self._space = game, game.action_space
        self._window = world.prompts.latents.shape[1]
        self._seed, self.ended = seed, False
        self.begin()

    @property
    def frame(self) -> np.ndarray:
        """What the game shows, uint8 `[H W 3]`."""
        return self._frames[-1]

    def begin(self, seed: int | None = None) -> dict[str, Any]:
        """Starts a seed's episode, or the next one, and lets it rest until there is a past; returns it as a prompt."""
        self._seed = self._seed if seed is None else seed
        frame, _ = self._game.reset(seed=self._seed)
        self._seed += 1
        self._frames = deque([frame], self._window)  # at once: the window looks while the worker waits for the game
        self._actions: deque[np.ndarray] = deque(maxlen=self._window - 1)
        self.ended = False
        while len(self._frames) < self._window and not self.ended:
            self.step(rest_action(self._space))
        return self.prompt()

    def step(self, packed: np.ndarray) -> None:
        """Plays a packed action `[k]`, unless the game is over."""
        if self.ended:
            return
        frame, _, terminated, truncated, _ = self._game.step(unpack(self._space, packed))
        self._frames.append(frame)
        self._actions.append(packed)
        self.ended = terminated or truncated

    def prompt(self) -> dict[str, Any]:
        """Returns the game's last frames and the actions between them, for a dream to go on from."""
        frames = np.stack(self._frames)
        if len(frames) == 1:
            return {"frames": frames}
        return {"frames": frames, "actions": unpack_rows(self._space, np.stack(self._actions)[1 - len(frames) :])}

    def close(self) -> None:
        """Closes the game."""
        self._game.close()
