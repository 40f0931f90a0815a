"""A session of play: one env, the episode that is going on in it, and how long its steps took.

Here so that the window and the video are two ways of showing one thing, and what was can be gone back to or branched.
Leaves out who acts and who looks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from worldsim.actions import unpack
from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.saved_state import EnvState
from worldsim.types import Rows, map_rows

MEMORY = 2**28  # bytes that may be gone back through
BRANCHES = 8  # kept at most: as many as there are keys to go to them
AHEAD = 8  # frames that a future is dreamed ahead
FUTURES = 16  # choices that are tried out at most


@dataclass(frozen=True)
class Moment:
    """What a session stands at: its frame, and what the next one is dreamed from."""

    frame: np.ndarray
    state: EnvState
    total_reward: float
    ended: bool


class Session:
    """What a player sees and what the HUD tells; actions are packed rows of the env's native space."""

    def __init__(
        self,
        env: WorldModelEnv,
        seed: int | None = None,
        num_times: int = 60,
        rewindable: int = 0,
        prompt: Any = None,
    ):
        """`num_times` is how many of the latest steps `milliseconds` looks at, `rewindable` how many can be undone.

        An env with `obs="latent"` and a render mode tells apart how long the network and the decoder took.
        """
        self.env = env
        self._rewindable = rewindable
        self._seconds: deque[tuple[float, float]] = deque(maxlen=num_times)
        self.branches: list[Moment] = []
        self.begin(seed, prompt)

    def begin(self, seed: int | None = None, prompt: Any = None) -> None:
        """Starts the seed's first episode, or without a seed the next one; that cannot be undone.

        `prompt` is what it starts from, as `WorldModelEnv.reset` takes it: a picture, say.
        """
        observation, info = self.env.reset(seed=seed, options=None if prompt is None else {"prompt": prompt})
        self.frame, self.facts = self._look(observation), info
        room = MEMORY // num_bytes(self.env.get_state()) if self._rewindable else 0
        self._past: deque[Moment] = deque(maxlen=min(self._rewindable, room))
        self.total_reward = 0.0
        self.ended = False
        self._follows = self._asked = False  # whether a policy took the last step's action, and this one's

    @property
    def age(self) -> int:
        """Frames since the episode began."""
        return int(self.facts["age"])

    def choose(self, policy: Policy) -> np.ndarray:
        """Returns the packed action `[k]` that a policy takes now; it starts anew where it did not the last."""
        self._asked = True
        return policy(self.frame[None], np.array([not self._follows]))[0]

    def step(self, packed: np.ndarray) -> float:
        """Dreams the next frame; returns its reward."""
        action = unpack(self.env.action_space, packed)
        if self._past.maxlen:
            self._past.append(self._moment())
        began = perf_counter()
        observation, reward, terminated, truncated, info = self.env.step(action)
        dreamed = perf_counter()
        self.frame, self.facts = self._look(observation), info
        self._seconds.append((dreamed - began, perf_counter() - dreamed))
        self.total_reward += reward
        self.ended = terminated or truncated
        self._follows, self._asked = self._asked, False
        return reward

    def rewind(self) -> bool:
        """Goes back by one frame, noise and all, so that the same actions dream the same again; False at the start."""
        if self._past:
            self._stand(self._past.pop())
            return True
        return False

    def branch(self) -> None:
        """Keeps this moment, to come back to it; the oldest one goes where there are too many."""
        self.branches = [*self.branches, self._moment()][-BRANCHES:]

    def go_to(self, index: int) -> bool:
        """Goes to a kept moment, noise and all; False where there is none of this number. `rewind` leads back."""
        if not 0 <= index < len(self.branches):
            return False
        if self._past.maxlen:
            self._past.append(self._moment())
        self._stand(self.branches[index])
        return True

    def futures(self) -> np.ndarray:
        """Returns the frames, uint8 `[n H W 3]`, to which each of the first choices leads when it is held for a while.

        Choices are the rows of the world's table of actions. The episode goes on as if nobody had looked.
        """
        table = self.env.world.action_codec.table[:FUTURES]
        shown, over = np.repeat(self.frame[None], len(table), 0), np.zeros(len(table), bool)
        if self.ended:
            return shown
        rows = self.env.fork(len(table), obs="rgb", actions="discrete", uncertainty=False, max_episode_steps=None)
        for _ in range(AHEAD):
            frames, _, ended, *_ = rows.step(np.arange(len(table)))
            shown[~over] = frames[~over]  # a row that ended shows its end
            over |= ended
        return shown

    def milliseconds(self, percentile: float, stage: int | None = None) -> float:
        """Returns a percentile of the latest steps' times; NaN before the first.

        `stage` 0 is the env's step, 1 what is decoded after it, None both.
        """
        if not self._seconds:
            return float("nan")
        seconds = np.array(list(self._seconds))  # a list at once: the window asks while the worker adds
        return float(np.percentile(seconds.sum(1) if stage is None else seconds[:, stage], percentile)) * 1e3

    def _look(self, observation: np.ndarray) -> np.ndarray:
        shown = self.env.render()
        return observation if shown is None else shown

    def _moment(self) -> Moment:
        return Moment(self.frame, self.env.get_state(), self.total_reward, self.ended)

    def _stand(self, moment: Moment) -> None:
        _, self.facts = self.env.set_state(moment.state)
        self.frame, self.total_reward = moment.frame, moment.total_reward
        self.ended = moment.ended
        self._follows = self._asked = False


def num_bytes(state: Rows) -> int:
    """Returns a state's bytes."""
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    map_rows(count, state)
    return sum(sizes)
