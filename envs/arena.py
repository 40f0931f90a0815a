"""The laboratory game: a 64x64 arena with an agent, a ball, three coins and a hazard, made to be measured.

Here because its frames decode exactly and its state can be read and set, so that a dream of it can be graded.
Leaves out everything that NumPy alone cannot draw in microseconds.

Rules. The agent (4x4 px) moves 2 px a step by four keys W S A D = up, down, left, right; opposite keys cancel, walls
and the ball block each axis by itself. Touching a coin (3x3) gives +1 and the coin moves to a free place drawn from
the state's own counter. The ball (3x3) moves (±2, ±1) and the hazard (5x5) drifts (±1, ±1); both turn around, on each
axis by itself, at walls, coins and one another, the ball also at the agent. Touching the hazard gives -1 and ends the
episode. So nothing overlaps in a frame but agent and hazard in the last one: there the agent is on top and leaves a
whole row and column of the hazard to see. A mover that is held from both sides stays, and points right (down) then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

SIZE, NUM_COINS = 64, 3
SIDES = {"agent": 4, "ball": 3, "hazard": 5, "coin": 3}  # pixels
AGENT, BALL, HAZARD, COIN = SIDES.values()
WALLS = (  # x, y, width, height
    *((0, 0, 64, 2), (0, 62, 64, 2), (0, 0, 2, 64), (62, 0, 2, 64)),
    *((14, 18, 16, 4), (44, 10, 4, 18), (36, 44, 16, 4), (16, 34, 4, 16)),
)
COLORS = {
    "ground": (222, 218, 206),
    "wall": (74, 74, 84),
    "agent": (36, 80, 224),
    "ball": (16, 150, 64),
    "hazard": (214, 28, 44),
    "coin": (246, 176, 12),
}

Place = tuple[int, int]  # x, y of the top left pixel
Mover = tuple[int, int, int, int]  # x, y and the pixels a step along each
Square = tuple[int, int, int]  # x, y, side


class State(NamedTuple):
    """Everything the future depends on, beside the keys. A value: steps make new ones."""

    seed: int
    counter: int  # draws made so far; draw i of a seed is a hash of the two
    step: int
    agent: Place
    ball: Mover
    hazard: Mover
    coins: tuple[Place, ...]


def _ground() -> np.ndarray:
    """Returns the frame without things: a light, smooth, low-contrast texture and the walls, uint8 `[64 64 3]`."""
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = 4 * np.sin(2 * np.pi * (x + 2 * y) / 32) + 3 * np.sin(2 * np.pi * (2 * x - y) / 21)
    frame = np.rint(np.array(COLORS["ground"]) + waves[..., None]).astype(np.uint8)
    for left, top, width, height in WALLS:
        frame[top : top + height, left : left + width] = COLORS["wall"]
    return frame


def _free(side: int) -> list[list[bool]]:
    """Returns, for `[y][x]`, whether a square of this side stands clear of the walls there."""
    wall = np.ones((SIZE + 8, SIZE + 8), bool)
    wall[:SIZE, :SIZE] = (_ground() == COLORS["wall"]).all(-1)
    windows = np.lib.stride_tricks.sliding_window_view(wall, (side, side))
    return np.logical_not(windows.any((-1, -2))).tolist()


_GROUND = _ground()
_FREE = {side: _free(side) for side in (AGENT, BALL, HAZARD)}
_PLACES = {side: [(x, y) for y in range(0, SIZE, 2) for x in range(0, SIZE, 2) if _FREE[side][y][x]] for side in _FREE}
_PAINT = {name: np.full((SIDES[name],) * 2 + (3,), COLORS[name], np.uint8) for name in SIDES}


def _draw(seed: int, counter: int, count: int) -> int:
    """Returns draw number `counter` of a seed in 0..count-1 (SplitMix64: Steele et al. 2014)."""
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) % count


def _touch(x: int, y: int, side: int, other_x: int, other_y: int, other_side: int) -> bool:
    return x < other_x + other_side and other_x < x + side and y < other_y + other_side and other_y < y + side


def _place(seed: int, counter: int, side: int, taken: list[Square], gap: int = 0) -> tuple[Place, int]:
    """Draws a place clear of walls and of the taken squares (x, y, side); returns it and the counter behind it."""
    while True:
        x, y = _PLACES[side][_draw(seed, counter, len(_PLACES[side]))]
        counter += 1
        if not any(_touch(x - gap, y - gap, side + 2 * gap, *other) for other in taken):
            return (x, y), counter


def start(seed: int) -> State:
    """Returns the first state of an episode; the hazard starts 8 px or more away from the agent."""
    squares: list[Square] = []
    counter = 0
    for side in (AGENT, HAZARD, BALL, *[COIN] * NUM_COINS):
        place, counter = _place(seed, counter, side, squares, gap=8 if side == HAZARD else 0)
        squares.append((*place, side))
    agent, hazard, ball, *coins = (square[:2] for square in squares)
    signs = [2 * _draw(seed, counter + i, 2) - 1 for i in range(4)]
    movers = (*ball, 2 * signs[0], signs[1]), (*hazard, signs[2], signs[3])
    return State(seed, counter + 4, 0, agent, *movers, tuple(coins))


def advance(state: State, keys: Sequence[int]) -> tuple[State, float, bool]:
    """Returns the next state, the reward, and whether the hazard was touched. `keys`: four 0/1 for W, S, A, D."""
    up, down, left, right = map(int, keys)
    ball_square, hazard_square = (*state.ball[:2], BALL), (*state.hazard[:2], HAZARD)
    x, y = _walk(state.agent, 2 * (right - left), 2 * (down - up), ball_square)
    coins, counter, reward = state.coins, state.counter, 0.0
    for i, coin in enumerate(coins):
        if _touch(x, y, AGENT, *coin, COIN):
            taken = [(x, y, AGENT), ball_square, hazard_square, *((*other, COIN) for other in coins)]
            place, counter = _place(state.seed, counter, COIN, taken)
            coins, reward = (*coins[:i], place, *coins[i + 1 :]), reward + 1
    solid = [(*coin, COIN) for coin in coins]
    ball = _bounce(state.ball, BALL, [*solid, (x, y, AGENT), hazard_square])
    hazard = _bounce(state.hazard, HAZARD, [*solid, (*ball[:2], BALL)])
    caught = _touch(x, y, AGENT, *hazard[:2], HAZARD)
    return State(state.seed, counter, state.step + 1, (x, y), ball, hazard, coins), reward - caught, caught


def _clear(x: int, y: int, side: int, solid: list[Square]) -> bool:
    if not _FREE[side][y][x]:
        return False
    for left, top, other in solid:  # `_touch` in place: half of a step's time is spent here
        if x < left + other and left < x + side and y < top + other and top < y + side:
            return False
    return True


def _walk(place: Place, dx: int, dy: int, ball: Square) -> Place:
    """Moves the agent along x, then along y, where the way is clear."""
    x, y = place
    if _clear(x + dx, y, AGENT, [ball]):
        x += dx
    if _clear(x, y + dy, AGENT, [ball]):
        y += dy
    return x, y


def _bounce(mover: Mover, side: int, solid: list[Square]) -> Mover:
    """Moves a square along x, then along y, turning around where its way is blocked."""
    x, y, dx, dy = mover
    x, dx = next(((x + v, v) for v in (dx, -dx) if _clear(x + v, y, side, solid)), (x, abs(dx)))
    y, dy = next(((y + v, v) for v in (dy, -dy) if _clear(x, y + v, side, solid)), (y, abs(dy)))
    return x, y, dx, dy


def draw(state: State) -> np.ndarray:
    """Returns the frame of a state, uint8 `[64 64 3]`, new storage."""
    frame = _GROUND.copy()
    for x, y in state.coins:
        frame[y : y + COIN, x : x + COIN] = _PAINT["coin"]
    for name, (x, y, *_) in (("ball", state.ball), ("hazard", state.hazard), ("agent", state.agent)):
        frame[y : y + SIDES[name], x : x + SIDES[name]] = _PAINT[name]
    return frame


def decode(frame: np.ndarray) -> dict[str, Any]:
    """Returns where things are in a frame: top left pixel x, y of `agent`, `ball`, `hazard`, and a sorted list `coins`.

    Exact on drawn frames. On dreamed ones the best match of colour and size counts; None (a shorter list) where less
    than about a third of a thing is there.
    """
    likeness = _likeness(frame)
    found = {name: _find(likeness[name], SIDES[name]) for name in ("agent", "ball", "hazard")}
    coins = [_find(likeness["coin"], COIN) for _ in range(NUM_COINS)]  # each one found is wiped off the map
    return {**found, "coins": sorted(coin for coin in coins if coin is not None)}


def things(frame: np.ndarray) -> dict[str, list[Place]]:
    """Returns the top left pixels of every `agent`, `ball`, `hazard` and `coin`, up to twice as many as belong there.

    Each is found as in `decode`, which finds no more than belong there.
    """
    likeness = _likeness(frame)
    most = {"agent": 2, "ball": 2, "hazard": 2, "coin": 2 * NUM_COINS}
    found = {name: [_find(likeness[name], SIDES[name]) for _ in range(count)] for name, count in most.items()}
    return {name: [place for place in places if place is not None] for name, places in found.items()}


def _likeness(frame: np.ndarray) -> dict[str, np.ndarray]:
    """Returns for every colour how much each pixel `[64 64]` is of it, 0 where another colour is nearer."""
    colors, pixels = np.array(list(COLORS.values()), np.float32), frame.reshape(-1, 3).astype(np.float32)
    distance = (colors**2).sum(1)[:, None] + (pixels**2).sum(1) - 2 * colors @ pixels.T  # squared; whole numbers
    maps = np.exp(-distance / 1e4) * (distance == distance.min(0))  # half way to the ground, 100, counts 0.37
    return dict(zip(COLORS, maps.reshape(-1, SIZE, SIZE), strict=True))


def _find(likeness: np.ndarray, side: int) -> Place | None:
    """Returns the square with the most of a colour, the first one in reading order, and wipes it off the map."""
    rows = np.sum([likeness[i : SIZE - side + 1 + i] for i in range(side)], 0)
    score = np.sum([rows[:, i : SIZE - side + 1 + i] for i in range(side)], 0)
    y, x = divmod(int(score.argmax()), score.shape[1])
    if score[y, x] < 0.35 * side * side:  # an agent may leave 9 of the hazard's 25 pixels to see
        return None
    likeness[y : y + side, x : x + side] = 0
    return x, y


def collect(observation: np.ndarray, rng: np.random.Generator, action_space: gym.Space) -> np.ndarray:
    """A scripted policy that goes for the nearest coin and keeps away from the hazard; a fifth of its steps are random.

    `worldsim record game=arena policy=worldsim.envs.arena:collect`: coins are taken twenty times as often as by chance.
    """
    seen, keys = decode(observation), rng.integers(2, size=4)
    if seen["agent"] is None or rng.random() < 0.2:
        return keys.astype(np.int8)
    agent, hazard = np.array(seen["agent"]), seen["hazard"]
    ways = [np.array(coin) - agent for coin in seen["coins"]]
    way = min(ways, key=lambda way: np.abs(way).sum(), default=np.zeros(2))
    if hazard is not None and np.abs(np.array(hazard) - agent).max() < 11:
        way = agent - np.array(hazard)
    x, y = way
    return np.array([y < -1, y > 1, x < -1, x > 1], np.int8)


WAYS = [(x, y) for x in (-2, 0, 2) for y in (-2, 0, 2)]


def careful(observation: np.ndarray, rng: np.random.Generator, action_space: gym.Space) -> np.ndarray:
    """A scripted policy that keeps 16 px between itself and the hazard, and goes for the nearest coin where that is so.

    Ten of ten episodes lasted a thousand steps: by it a dream grows old.
    """
    seen = decode(observation)
    agent, hazard = seen["agent"] or (30, 30), seen["hazard"]
    coin = min(seen["coins"], key=lambda c: abs(c[0] - agent[0]) + abs(c[1] - agent[1]), default=agent)

    def worth(way: tuple[int, int]) -> tuple[float, float, float]:
        path = [agent]
        for _ in range(6):
            path.append(_walk(path[-1], *way, (-9, -9, BALL)))
        (next_x, next_y), (x, y) = path[1], path[-1]
        gap = 16.0 if hazard is None else max(abs(x - hazard[0] - 0.5), abs(y - hazard[1] - 0.5))
        edge = 0.2 * max(0, abs(x - 30) - 16, abs(y - 30) - 16) if gap < 16 else 0.0  # corners are traps
        return min(gap, 16) - edge, -abs(next_x - coin[0]) - abs(next_y - coin[1]), rng.random()

    x, y = max(WAYS, key=worth)
    return np.array([y < 0, y > 0, x < 0, x > 0], np.int8)


_AXES = {"w": 0, "up": 0, "s": 1, "down": 1, "a": 2, "left": 2, "d": 3, "right": 3}


class Arena(gym.Env):
    """The arena as a Gymnasium environment. `max_episode_steps` None: only the hazard ends an episode."""

    metadata = gym.Env.metadata | {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "keymap": {
            "rest": [0, 0, 0, 0],
            "bindings": [{"keys": [key], "set": {str(axis): 1}} for key, axis in _AXES.items()],
            "mouse": [],
        },
        "discrete_table": [[u, d, a, b] for u, d in ((0, 0), (1, 0), (0, 1)) for a, b in ((0, 0), (1, 0), (0, 1))],
    }

    def __init__(self, render_mode: str | None = None, max_episode_steps: int | None = 500):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected render_mode None or 'rgb_array', found {render_mode!r}")
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = gym.spaces.MultiBinary(4)
        self.render_mode, self.max_episode_steps = render_mode, max_episode_steps
        kwargs = {"max_episode_steps": max_episode_steps}
        self.spec = EnvSpec("worldsim-real/Arena-v0", "worldsim.envs.arena:Arena", kwargs=kwargs)
        self._state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._state = start(int(self.np_random.integers(2**63)))
        return draw(self._state), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        keys = np.asarray(action).tolist()
        if np.shape(action) != (4,) or any(key not in (0, 1) for key in keys):
            raise gym.error.InvalidAction(f"expected four keys of 0 or 1, found {action!r}")
        self._state, reward, terminated = advance(self._begun(), keys)
        truncated = self.max_episode_steps is not None and self._state.step >= self.max_episode_steps
        return draw(self._state), reward, terminated, truncated, {}

    def render(self) -> np.ndarray | None:
        return draw(self._begun()) if self.render_mode == "rgb_array" else None

    def get_state(self) -> dict[str, Any]:
        """Returns the full state as plain data, the fields of `State`; JSON may turn its tuples into lists."""
        return self._begun()._asdict()

    def set_state(self, state: Mapping[str, Any]) -> np.ndarray:
        """Goes on from a state that `get_state` returned, here or in another arena; returns its frame."""
        parts = {name: tuple(state[name]) for name in ("agent", "ball", "hazard")}
        self._state = State(**{**state, **parts, "coins": tuple(tuple(coin) for coin in state["coins"])})
        return draw(self._state)

    def _begun(self) -> State:
        if self._state is None:
            raise gym.error.ResetNeeded("the arena has no state yet; call reset or set_state first")
        return self._state
