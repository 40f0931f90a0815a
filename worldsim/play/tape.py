"""What a person plays, in a dream or in a game on the screen, as episodes of a data folder to train on.

Here because what a player takes back must not be kept. Leaves out how episodes lie on disk (`data.episodes`).
"""

from __future__ import annotations

import numpy as np

from worldsim.actions import default_keymap
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeWriter
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.registration import gym_id

LONGEST = 1000  # steps of an episode in memory; longer ones are cut, the frame at the cut kept on both sides


def dream_info(env: WorldModelEnv) -> DatasetInfo:
    """Returns what a data folder says of a dream: it is the dream's own game, never the real one's."""
    info = env.world.info
    return DatasetInfo(
        game=gym_id(info.name),
        observation_shape=info.frame_shape,
        action_space=info.action_space,
        fps=info.fps,
        keymap=info.keymap or (default_keymap(info.action_space) if info.action_space is not None else None),
        discrete_table=info.discrete_table,
    )


class Tape:
    """Writes what is played as episodes, each as soon as it is over."""

    def __init__(self, writer: EpisodeWriter, longest: int = LONGEST, policy: str = "human"):
        """`policy` is who plays, as the episodes say it."""
        self._writer, self._longest, self._policy = writer, longest, policy
        self._frames: list[np.ndarray] = []
        self._steps: list[tuple[np.ndarray, float | None]] = []

    @property
    def pending(self) -> int:
        """How many frames are in memory."""
        return len(self._frames)

    def begin(self, frame: np.ndarray) -> None:
        """Begins an episode at a frame, uint8 `[H W 3]`; one that is open is closed."""
        self.close()
        self._frames = [frame]

    def add(self, packed: np.ndarray, reward: float | None, frame: np.ndarray, terminated: bool) -> None:
        """Adds a step: the packed action `[k]`, and what it led to; a game on the screen tells no reward."""
        self._frames.append(frame)
        self._steps.append((packed, reward))
        if terminated or len(self._steps) >= self._longest:
            self.close(terminated)
            self._frames = [] if terminated else [frame]

    def back(self, frame: np.ndarray) -> None:
        """Takes the last step back, to `frame`. What is written already stays, and another episode begins there."""
        if self._steps:
            self._frames.pop()
            self._steps.pop()
        else:
            self._frames = [frame]

    def close(self, terminated: bool = False) -> None:
        """Writes what is open, if it has a step."""
        (frames, steps), self._frames, self._steps = (self._frames, self._steps), [], []  # never written twice
        if steps:
            actions, told = zip(*steps, strict=True)
            rewards = None if None in told else np.array(told, np.float32)
            taken = None if self._writer.info.action_space is None else np.stack(actions)
            episode = Episode(np.stack(frames), taken, rewards, terminated, not terminated, None, self._policy)
            self._writer.append(episode)
