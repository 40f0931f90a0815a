"""A session of play: one env, the episode that is going on in it, and how long its steps took.

Here so that the window and the video are two ways of showing one thing, and what was can be gone back to.
Leaves out who acts and who looks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from torch import Tensor

from worldsim.actions import unpack
from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.saved_state import EnvState
from worldsim.types import Rows, map_rows

MEMORY = 2**28  # bytes that may be gone back through


@dataclass(frozen=True)
class Moment:
    """What a session stood at before a frame."""

    state: EnvState
    total_reward: float
    started: bool
    ended: bool


class Session:
    """What a player sees and what the HUD tells; actions are packed rows of the env's native space."""

    def __init__(self, env: WorldModelEnv, seed: int | None = None, num_times: int = 60, rewindable: int = 0):
        """`num_times` is how many of the latest steps `milliseconds` looks at, `rewindable` how many can be undone."""
        self.env = env
        self._rewindable = rewindable
        self._seconds: deque[float] = deque(maxlen=num_times)
        self.begin(seed)

    def begin(self, seed: int | None = None) -> None:
        """Starts the seed's first episode, or without a seed the next one; that cannot be undone."""
        self.frame, info = self.env.reset(seed=seed)
        room = MEMORY // num_bytes(self.env.get_state()) if self._rewindable else 0
        self._past: deque[Moment] = deque(maxlen=min(self._rewindable, room))
        self.age, self.total_reward = info["age"], 0.0
        self.started, self.ended = True, False

    def choose(self, policy: Policy) -> np.ndarray:
        """Returns the packed action `[k]` that a policy takes now."""
        return policy(self.frame[None], np.array([self.started]))[0]

    def step(self, packed: np.ndarray) -> None:
        """Dreams the next frame."""
        action = unpack(self.env.action_space, packed)
        if self._past.maxlen:
            self._past.append(Moment(self.env.get_state(), self.total_reward, self.started, self.ended))
        began = perf_counter()
        self.frame, reward, terminated, truncated, info = self.env.step(action)
        self._seconds.append(perf_counter() - began)
        self.age, self.total_reward = info["age"], self.total_reward + reward
        self.started, self.ended = False, terminated or truncated

    def rewind(self) -> bool:
        """Goes back by one frame, noise and all, so that the same actions dream the same again; False at the start."""
        if not self._past:
            return False
        moment = self._past.pop()
        self.frame, info = self.env.set_state(moment.state)
        self.age, self.total_reward = info["age"], moment.total_reward
        self.started, self.ended = moment.started, moment.ended
        return True

    def milliseconds(self, percentile: float) -> float:
        """Returns a percentile of the latest steps' times, with decode; NaN before the first."""
        return float(np.percentile(self._seconds, percentile)) * 1e3 if self._seconds else float("nan")


def num_bytes(state: Rows) -> int:
    """Returns a state's bytes."""
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    map_rows(count, state)
    return sum(sizes)
