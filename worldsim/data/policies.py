"""Who acts while recording: at random, held for a while or all along, wandering, a user's function, or a mix of them.

Here so that the recorder sees one protocol, whoever plays. Leaves out the human, who needs a window
(`worldsim.play.human`), and trained agents, which are found by their folders (`worldsim.cli.agents`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from worldsim.actions import pack, packed_width
from worldsim.data.wander import WanderPolicy

LONGEST_HOLD = 128  # steps


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
    """A random action held for 1 to 128 steps, each row by itself; short holds are as likely as long ones.

    (Log-uniform: as often from 1 to 2 steps as from 64 to 128.) It gets about, which a new one every step does not.
    """

    def __init__(self, space: gym.Space, rng: np.random.Generator, longest: int = LONGEST_HOLD):
        self._random, self._rng, self._width = RandomPolicy(space, rng), rng, packed_width(space)
        self._longest = longest
        self._held = np.zeros((0, self._width))
        self._left = np.zeros(0, int)

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        if len(self._left) != len(started):
            self._held, self._left = np.zeros((len(started), self._width)), np.zeros(len(started), int)
        for row in np.flatnonzero((self._left == 0) | started):
            self._held[row] = self._random.draw()
            self._left[row] = _hold(self._rng, self._longest)
        self._left -= 1
        return self._held.copy()


def _hold(rng: np.random.Generator, longest: int = LONGEST_HOLD) -> int:
    """Returns steps from 1 to `longest`, log-uniform."""
    return int(longest ** rng.random() + 0.5)


class HeldPolicy:
    """One random action a row and episode: what standing still or running one way leads to must be seen, too."""

    def __init__(self, space: gym.Space, rng: np.random.Generator):
        self._random, self._held = RandomPolicy(space, rng), np.zeros((0, packed_width(space)))

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        if len(self._held) != len(started):
            self._held = self._random(observations, started)
        for row in np.flatnonzero(started):
            self._held[row] = self._random.draw()
        return self._held.copy()


class MixedPolicy:
    """Several policies: in half of the episodes one acts all along, in the others they take turns of 1 to 128 steps.

    A policy's mistakes must be seen where another would not have led, and the other way round.
    """

    def __init__(self, policies: Sequence[Policy], rng: np.random.Generator):
        self._policies, self._rng = policies, rng
        self._chosen = self._left = np.zeros(0, int)  # left: steps of a turn
        self._turns = np.zeros(0, bool)  # rows whose policies take turns in this episode

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        if len(self._left) != len(started):
            started = np.ones(len(started), bool)
            self._chosen, self._left, self._turns = (np.zeros(len(started), kind) for kind in (int, int, bool))
        self._turns[started] = self._rng.random(started.sum()) < 0.5
        for row in np.flatnonzero((self._left == 0) & self._turns | started):
            self._chosen[row] = self._rng.integers(len(self._policies))
            self._left[row] = _hold(self._rng)
        self._left -= 1
        actions = np.stack([policy(observations, started) for policy in self._policies])
        return actions[self._chosen, np.arange(len(started))]


class FunctionPolicy:
    """A user's `function(observation [H W 3], rng, action_space) -> action`, called for one row after the other."""

    def __init__(self, function: Callable[..., Any], space: gym.Space, rng: np.random.Generator):
        self._function, self._space, self._rng = function, space, rng

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        return np.stack([pack(self._space, self._function(o, self._rng, self._space)) for o in observations])


POLICIES: dict[str, Callable[[gym.Space, np.random.Generator], Policy]] = {
    "random": RandomPolicy,
    "sticky": StickyPolicy,
    "held": HeldPolicy,
    "wander": WanderPolicy,
}
MIX = "random+sticky+held"


def find_policy(name: str) -> Callable[[gym.Space, np.random.Generator], Policy]:
    """Returns what makes the policy from the action space and a generator. Raises ValueError naming the known ones."""
    name = MIX if name == "mix" else str(name)
    if "+" in name:
        makers = [find_policy(part) for part in name.split("+")]
        return lambda space, rng: MixedPolicy([make(space, rng) for make in makers], rng)
    if name in POLICIES:
        return POLICIES[name]
    module, colon, attribute = str(name).partition(":")
    if not (module and colon and attribute):
        raise ValueError(
            f"unknown policy {name!r}; expected one of {', '.join(POLICIES)}, mix, human, an agent's folder, "
            "module:function, or several of them as a+b"
        )
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected policy={name} to name a function that can be imported, found: {error}") from error
    if not callable(function):
        raise ValueError(f"expected policy={name} to be a function, found {type(function).__name__}")
    return lambda space, rng: FunctionPolicy(function, space, rng)
