"""A session of play: one env, the episode that is going on in it, and how long its steps took.

Here so that the window and the video are two ways of showing one thing. Leaves out who acts and who looks.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

import numpy as np

from worldsim.actions import unpack
from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv


class Session:
    """What a player sees and what the HUD tells; actions are packed rows of the env's native space."""

    def __init__(self, env: WorldModelEnv, seed: int | None = None, num_times: int = 60):
        """`num_times` is how many of the latest steps `milliseconds` looks at."""
        self.env = env
        self._seconds: deque[float] = deque(maxlen=num_times)
        self.begin(seed)

    def begin(self, seed: int | None = None) -> None:
        """Starts the seed's first episode, or without a seed the next one."""
        self.frame, info = self.env.reset(seed=seed)
        self.age, self.total_reward = info["age"], 0.0
        self.started, self.ended = True, False

    def choose(self, policy: Policy) -> np.ndarray:
        """Returns the packed action `[k]` that a policy takes now."""
        return policy(self.frame[None], np.array([self.started]))[0]

    def step(self, packed: np.ndarray) -> None:
        """Dreams the next frame."""
        action = unpack(self.env.action_space, packed)
        began = perf_counter()
        self.frame, reward, terminated, truncated, info = self.env.step(action)
        self._seconds.append(perf_counter() - began)
        self.age, self.total_reward = info["age"], self.total_reward + reward
        self.started, self.ended = False, terminated or truncated

    def milliseconds(self, percentile: float) -> float:
        """Returns a percentile of the latest steps' times, with decode; NaN before the first."""
        return float(np.percentile(self._seconds, percentile)) * 1e3 if self._seconds else float("nan")
