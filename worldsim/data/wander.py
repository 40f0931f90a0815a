"""Wandering about in a game seen through a player's eyes, from its frames alone: walk, and turn away from walls.

Here because held random actions turn on the spot; a world model of a maze wants to see all of it, in games and dreams.
Leaves out maps, goals, and games whose actions are not W S A D and a mouse that turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

from worldsim.actions import rest_action

# A straight way is blocked where so many steps move the picture by less than so many pixels. In the maze `_shift` told
# blocked ways (under 6 map units) from clear ones (over 15) with an area under the ROC curve of 0.89, the plain
# difference of the frames with 0.75.
PATIENCE, BUMPED = 3, 1.3
_W, _S, _A, _D, _MOUSE = range(5)
_LEGS = {"walk": 0.6, "curve": 0.18, "strafe": 0.08, "look": 0.06, "back": 0.05, "stop": 0.03}  # shares


@dataclass
class _Leg:
    """One action held for some steps; of straight ones that lead on, the frames seen since."""

    kind: str
    action: np.ndarray  # [5]
    steps_left: int
    frames: list[np.ndarray] = field(default_factory=list)

    def is_bumped(self, frame: np.ndarray) -> bool:
        """Whether the way is blocked: nothing much has changed in the last steps of walking straight on."""
        if self.kind not in ("walk", "slide"):
            return False
        self.frames = [*self.frames[-PATIENCE:], np.array(frame)]
        return len(self.frames) > PATIENCE and _shift(self.frames[0], frame) < BUMPED


class WanderPolicy:
    """Walks in straight and curved legs, strafes, looks around, rests; at walls it slides along or turns away.

    For `Dict(keys=MultiBinary(4), mouse=Box(-1, 1, (1,)))`, the keys being W S A D and the mouse turning; raises
    ValueError for other spaces. Each row wanders by itself, and starts anew with its episode.
    """

    def __init__(self, space: gym.Space, rng: np.random.Generator):
        parts = {"keys": gym.spaces.MultiBinary(4), "mouse": gym.spaces.Box(-1, 1, (1,), np.float32)}
        if space != gym.spaces.Dict(parts):
            raise ValueError(f"policy=wander plays games of {gym.spaces.Dict(parts)}, found {space}; sticky plays any")
        self._rng, self._rest = rng, rest_action(space)
        self._legs: list[_Leg] = []

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        if len(self._legs) != len(started):
            self._legs = [_Leg("none", self._rest, 0)] * len(started)
        for row, frame in enumerate(observations):
            leg = self._legs[row]
            if not started[row] and leg.is_bumped(frame):
                self._legs[row] = self._leave_wall(leg)
            elif started[row] or leg.steps_left == 0:
                self._legs[row] = self._go_on()
            self._legs[row].steps_left -= 1
        return np.stack([leg.action for leg in self._legs])

    def _leave_wall(self, leg: _Leg) -> _Leg:
        """Slides along a wall as often as it turns away by 48 to 180 degrees; a slide ends in a turn."""
        if leg.kind == "walk" and self._rng.random() < 0.5:
            return self._leg("slide", (6, 17), {_W: 1, self._rng.choice([_A, _D]): 1})
        return self._leg("turn", (4, 16), {_MOUSE: self._sign(), _W: int(self._rng.integers(2))})

    def _go_on(self) -> _Leg:
        """Returns the next leg where nothing is in the way."""
        uniform, kind = self._rng.uniform, self._rng.choice(list(_LEGS), p=list(_LEGS.values()))
        if kind == "walk":
            return self._leg(kind, (6, 17), {_W: 1})
        if kind == "curve":
            return self._leg(kind, (3, 9), {_W: 1, _MOUSE: uniform(-0.7, 0.7)})
        if kind == "strafe":
            return self._leg(kind, (3, 9), {self._rng.choice([_A, _D]): 1})
        if kind == "look":
            return self._leg(kind, (5, 16), {_MOUSE: uniform(0.2, 1) * self._sign()})
        return self._leg(kind, (3, 9), {_S: 1}) if kind == "back" else self._leg(kind, (2, 6), {})

    def _leg(self, kind: str, steps: tuple[int, int], values: dict[int, float]) -> _Leg:
        action = self._rest.copy()
        for component, value in values.items():
            action[component] = value
        return _Leg(kind, action, int(self._rng.integers(*steps)))

    def _sign(self) -> int:
        return int(self._rng.choice([-1, 1]))


def _shift(first: np.ndarray, second: np.ndarray) -> float:
    """Returns about how many pixels a picture has moved sideways or outwards: the change of its columns' means
    over the difference between neighbouring columns. A head that bobs up and down does not count."""
    before, after = first.mean(0), second.mean(0)
    return float(np.abs(after - before).mean() / (np.abs(np.diff(after, axis=0)).mean() + 0.3))
