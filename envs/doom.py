"""Two Doom games through ViZDoom and Freedoom: dodge fireballs, and find the vest in a maze with keyboard and mouse.

Here as the first real games that worlds are dreamed of: headless, seeded, 64x64 pixels, two tics (of 1/35 s) a step.
Leaves out sound, HUD, weapon, particles and decals, and every ViZDoom scenario that `generic.py` reaches.

The same seed and actions give the same bytes, in any process. A state is the seed and the actions since: ViZDoom's own
saved games come back elsewhere (12 map units off in the maze) and its finished episodes not at all, while replaying
without drawing is exact and takes 0.1 ms a step. The frame of a last step (death, the vest) is the one before it, as
ViZDoom draws none there.
"""

from __future__ import annotations

import abc
import contextlib
import os
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec

from worldsim import pixels

SIZE, TICS = 64, 2
FPS = 35 / TICS
TURN = 12.0  # degrees a step at mouse +-1
_HIDDEN = ("hud", "weapon", "crosshair", "decals", "particles", "messages", "screen_flashes")


def _import_vizdoom() -> ModuleType:
    try:
        import vizdoom
    except ImportError as error:
        raise ImportError(
            f'the Doom games need ViZDoom ({error}); install it with: pip install "worldsim-rl[games]"'
        ) from error
    return vizdoom


class _Doom:
    """ViZDoom in a process of its own, rendered at 4x3 pixels for every one of ours."""

    def __init__(self, vizdoom: ModuleType, scenario: str, buttons: tuple[str, ...], labels: bool = False):
        self.game = game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, f"{scenario}.cfg"))
        game.set_doom_config_path(os.devnull)  # no settings of other games, and none left behind
        game.set_doom_game_path(os.path.join(vizdoom.__path__[0], "freedoom2.wad"))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X192)  # whole multiples: no beating when resized
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_labels_buffer_enabled(labels)
        for thing in _HIDDEN:
            getattr(game, f"set_render_{thing}")(False)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
        game.set_available_game_variables([])
        game.set_episode_timeout(0)
        game.set_living_reward(0)
        game.set_death_penalty(0)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # ViZDoom leaves an empty folder there
            game.init()

    def start(self, seed: int) -> np.ndarray:
        """Starts an episode; returns its first frame."""
        self.game.set_seed(seed)
        self.game.new_episode()
        return self.frame()

    def act(self, buttons: list[float], draw: bool = True) -> tuple[float, int, bool]:
        """Holds the buttons for a step; returns the scenario's reward, the tics it took, and whether all is over."""
        before = self.game.get_episode_time()
        self.game.set_action(buttons)
        self.game.advance_action(TICS, draw)
        return self.game.get_last_reward(), self.game.get_episode_time() - before, self.game.is_episode_finished()

    def frame(self) -> np.ndarray:
        """Returns the current frame, uint8 `[64 64 3]`, new storage."""
        picture = torch.from_numpy(np.array(self.game.get_state().screen_buffer))
        # By way of floats, not `pixels.resize`: the worlds that ship know their recordings by the hash of such frames.
        images = pixels.to_float(picture)[None]
        small = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        return pixels.to_uint8(small)[0].numpy()

    def things(self) -> dict[str, list[tuple[float, float]]]:
        """Returns the centres (x, y) of what is in view, in our pixels, by ViZDoom's names; needs `labels`."""
        found: dict[str, list[tuple[float, float]]] = {}
        for label in self.game.get_state().labels:
            centre = ((label.x + label.width / 2) / 4, (label.y + label.height / 2) / 3)
            found.setdefault(label.object_name, []).append(centre)
        return found


class _DoomEnv(gym.Env, abc.ABC):
    """What both games share. `max_episode_steps` None: only the game itself ends an episode.

    With `labels`, `info["things"]` says where things are in the frame: ViZDoom's name to centres (x, y) in pixels.
    """

    metadata = gym.Env.metadata | {"render_modes": ["rgb_array"], "render_fps": FPS}
    id: ClassVar[str]
    scenario: ClassVar[str]
    buttons: ClassVar[tuple[str, ...]]

    def __init__(self, render_mode: str | None, max_episode_steps: int | None, labels: bool = False):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected render_mode None or 'rgb_array', found {render_mode!r}")
        self._vizdoom = _import_vizdoom()
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.render_mode, self.max_episode_steps, self._labels = render_mode, max_episode_steps, labels
        entry, kwargs = f"{__name__}:{type(self).__name__}", {"max_episode_steps": max_episode_steps}
        self.spec = EnvSpec(self.id, entry, kwargs=kwargs)
        self._doom: _Doom | None = None
        self._frame: np.ndarray | None = None  # None: no episode yet
        self._past: list[list[float]] = []
        self._seed, self._over = 0, False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._start(int(self.np_random.integers(2**31)))[1].copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._doom is None or self._frame is None or self._over:
            raise gym.error.ResetNeeded("the episode is over or has not begun; call reset or set_state first")
        buttons = self._pressed(action)
        reward, tics, self._over = self._doom.act(buttons)
        self._past.append(buttons)
        if not self._over:
            self._frame = self._doom.frame()
        truncated = self.max_episode_steps is not None and len(self._past) >= self.max_episode_steps
        return self._frame.copy(), self._reward(reward, tics, self._over), self._over, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        if not self._labels or self._doom is None or self._over:  # ViZDoom draws nothing when all is over
            return {}
        return {"things": self._doom.things()}

    def render(self) -> np.ndarray | None:
        if self._frame is None:
            raise gym.error.ResetNeeded("the game has no frame yet; call reset or set_state first")
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def get_state(self) -> dict[str, Any]:
        """Returns the full state as plain data: the seed and the buttons held in every step since."""
        if self._frame is None:
            raise gym.error.ResetNeeded("the game has no state yet; call reset or set_state first")
        return {"seed": self._seed, "past": [list(buttons) for buttons in self._past]}

    def set_state(self, state: Mapping[str, Any]) -> np.ndarray:
        """Goes on from a state that `get_state` returned, here or in another process; returns its frame."""
        doom, frame = self._start(int(state["seed"]))
        past = [list(buttons) for buttons in state["past"]]
        for index, buttons in enumerate(past):
            drawn = index >= len(past) - 2  # the last step may end the game: the frame before it stands then
            self._over = doom.act(buttons, drawn)[2]
            if drawn and not self._over:
                frame = doom.frame()
        self._frame, self._past = frame, past
        return frame.copy()

    def close(self) -> None:
        if self._doom is not None:
            self._doom.game.close()
        self._doom = self._frame = None

    def _start(self, seed: int) -> tuple[_Doom, np.ndarray]:
        """Starts an episode; returns the game and its first frame."""
        self._doom = doom = self._doom or _Doom(self._vizdoom, self.scenario, self.buttons, self._labels)
        self._seed, self._past, self._over = seed, [], False
        self._frame = frame = doom.start(seed)
        return doom, frame

    @abc.abstractmethod
    def _pressed(self, action: Any) -> list[float]:
        """Returns what an action does to each button. Raises InvalidAction where it is not in the space."""

    @abc.abstractmethod
    def _reward(self, reward: float, tics: int, over: bool) -> float:
        """Returns the reward of a step from the scenario's own and the tics it lasted."""


def _bindings(*sets: tuple[str | float, ...]) -> list[dict]:
    return [{"keys": [key], "set": {str(axis): value}} for *keys, axis, value in sets for key in keys]


class DoomTakeCover(_DoomEnv):
    """Step aside from the imps' fireballs: stay, left or right; +1 a tic alive, and a hit or two ends it."""

    id, scenario, buttons = "worldsim-real/DoomTakeCover-v0", "take_cover", ("MOVE_LEFT", "MOVE_RIGHT")
    metadata = _DoomEnv.metadata | {
        "keymap": {"rest": [0], "bindings": _bindings(("a", "left", 0, 1), ("d", "right", 0, 2)), "mouse": []},
    }

    def __init__(self, render_mode: str | None = None, max_episode_steps: int | None = None, labels: bool = False):
        super().__init__(render_mode, max_episode_steps, labels)
        self.action_space = gym.spaces.Discrete(3)  # stay, left, right

    def _pressed(self, action: Any) -> list[float]:
        if np.shape(action) != () or action not in (0, 1, 2):
            raise gym.error.InvalidAction(f"expected 0 (stay), 1 (left) or 2 (right), found {action!r}")
        return [float(action == 1), float(action == 2)]

    def _reward(self, reward: float, tics: int, over: bool) -> float:
        return float(tics - over)  # the tic of death does not count


_AXES = (
    ("w", "up", 0, 1),
    ("s", "down", 1, 1),
    ("a", 2, 1),
    ("d", 3, 1),
    ("left", "q", 4, -0.5),
    ("right", "e", 4, 0.5),
)


class DoomMaze(_DoomEnv):
    """Find the vest among nine rooms and nine passages: W S A D walk, the mouse turns; +1 at the vest ends it.

    Every episode starts at one of 17 places, looking anywhere. `keys`: forward, backward, left, right.
    `mouse`: +1 turns 12 degrees to the right, half of it in each tic.
    """

    id, scenario = "worldsim-real/DoomMaze-v0", "my_way_home"
    buttons = ("MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT", "TURN_LEFT_RIGHT_DELTA")
    metadata = _DoomEnv.metadata | {
        "keymap": {
            "rest": [0, 0, 0, 0, 0],
            "bindings": _bindings(*_AXES),
            "mouse": [{"axis": "x", "component": 4, "scale": 0.02}],
        },
        "discrete_table": [  # W, S, A, D, mouse
            [0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0],
            [1, 0, 0, 0, -0.5],
            [1, 0, 0, 0, 0.5],
            [0, 0, 0, 0, -1],
            [0, 0, 0, 0, 1],
            [0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 0, 1, 0],
        ],
    }

    def __init__(self, render_mode: str | None = None, max_episode_steps: int | None = 1000):
        super().__init__(render_mode, max_episode_steps)
        parts = {"keys": gym.spaces.MultiBinary(4), "mouse": gym.spaces.Box(-1, 1, (1,), np.float32)}
        self.action_space = gym.spaces.Dict(parts)

    def _pressed(self, action: Any) -> list[float]:
        if not self.action_space.contains(action):
            raise gym.error.InvalidAction(
                f"expected keys (four of 0 or 1) and mouse (one in [-1, 1]) as arrays, found {action!r}"
            )
        return [*map(float, action["keys"]), float(action["mouse"][0]) * TURN / TICS]

    def _reward(self, reward: float, tics: int, over: bool) -> float:
        return float(reward)


WALL_ROWS = slice(24, 38)  # of a frame of take_cover: the far wall with the corners at its ends, at every place
_FARTHEST, _LIKENESS = 16, 0.3  # pixels that are tried; a correlation below means that there is no such wall


def wall_shift(first: np.ndarray, second: np.ndarray) -> dict[str, float | None]:
    """Returns by how many pixels the far wall of take_cover stands further right in the second frame than in the first.

    The wall's rows of both frames `[64 64 3]` are correlated at every shift (whole pixels, over the columns that
    overlap, each side less its mean); the best counts, and None stands for a wall that is not there.
    """
    a, b = (frame[WALL_ROWS].astype(np.float64).mean(-1) for frame in (first, second))
    shifts = sorted(range(-_FARTHEST, _FARTHEST + 1), key=abs)
    scores = [_correlation(a[:, max(0, -s) : SIZE - max(0, s)], b[:, max(0, s) : SIZE - max(0, -s)]) for s in shifts]
    best = int(np.argmax(scores))
    return {"wall": float(shifts[best]) if scores[best] >= _LIKENESS else None}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))
