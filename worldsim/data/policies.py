"""Who acts while recording: at random, at random but held for some steps, wandering, or any function of the user's.

Here so that the recorder sees one protocol, whoever plays. Leaves out the human, who needs a window
(`worldsim.play.human`), and trained agents: `policy=my_module:my_agent` reaches those.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from worldsim.actions import pack, packed_width
from worldsim.data.wander import WanderPolicy

LONGEST_HOLD = 8  # steps


class Policy(Protocol):
    """Chooses an action for every row."""

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray: ...

    # observations uint8 [n H W 3], started bool [n] (the row's episode has just begun) -> packed actions float64 [n k];
    # raises EndOfRecording when whoever acts has had enough


class EndOfRecording(Exception):
    """Whoever acts wants to stop; what was recorded so far counts."""


class RandomPolicy:
    """A new random action every step, drawn from the action space's own distribution."""

    def __init__(self, space: gym.Space, rng: np.random.Generator):
        self._space = deepcopy(space)  # its generator is ours: sampling leaves the game's own space alone
        self._space.seed(int(rng.integers(2**31)))

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        return np.stack([self.draw() for _ in started])

    def draw(self) -> np.ndarray:
        """Returns one packed action `[k]`."""
        return pack(self._space, self._space.sample())


class StickyPolicy:
    """A random action held for 1 to 8 steps, each row by itself: it gets about, which a new one every step does not."""

    def __init__(self, space: gym.Space, rng: np.random.Generator):
        self._random, self._rng, self._width = RandomPolicy(space, rng), rng, packed_width(space)
        self._held = np.zeros((0, self._width))
        self._left = np.zeros(0, int)

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        if len(self._left) != len(started):
            self._held, self._left = np.zeros((len(started), self._width)), np.zeros(len(started), int)
        for row in np.flatnonzero((self._left == 0) | started):
            self._held[row] = self._random.draw()
            self._left[row] = self._rng.integers(1, LONGEST_HOLD + 1)
        self._left -= 1
        return self._held.copy()


class FunctionPolicy:
    """A user's `function(observation [H W 3], rng, action_space) -> action`, called for one row after the other."""

    def __init__(self, function: Callable[..., Any], space: gym.Space, rng: np.random.Generator):
        self._function, self._space, self._rng = function, space, rng

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        return np.stack([pack(self._space, self._function(o, self._rng, self._space)) for o in observations])


POLICIES: dict[str, Callable[[gym.Space, np.random.Generator], Policy]] = {
    "random": RandomPolicy,
    "sticky": StickyPolicy,
    "wander": WanderPolicy,
}


def find_policy(name: str) -> Callable[[gym.Space, np.random.Generator], Policy]:
    """Returns what makes the policy from the action space and a generator. Raises ValueError naming the known ones."""
    if name in POLICIES:
        return POLICIES[name]
    module, colon, attribute = str(name).partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"unknown policy {name!r}; expected one of {', '.join(POLICIES)}, human, or module:function")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected policy={name} to name a function that can be imported, found: {error}") from error
    if not callable(function):
        raise ValueError(f"expected policy={name} to be a function, found {type(function).__name__}")
    return lambda space, rng: FunctionPolicy(function, space, rng)
