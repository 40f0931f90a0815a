"""Any Gymnasium game as a source of frames: its image observations, or what it renders, at one size.

Here so that `game=gym game.id=CarRacing-v3` needs no code; `module:Id-v0` first imports the module that registers it.
Leaves out games that can only be heard or read, and frame stacks: an observation is one picture.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim import pixels

_REGISTERED_BY = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "Vizdoom": "vizdoom.gymnasium_wrapper"}
_SMALLEST_PICTURE = 32  # pixels a side; smaller uint8 arrays are maps of cells (MiniGrid: 7x7), not pictures


def make(id: str, size: int = 64, **kwargs: Any) -> gym.Env:
    """Returns the game with uint8 `[size size 3]` observations; `kwargs` go to the game's constructor.

    Raises ValueError (one sentence) where the id is unknown or the game has no pictures.
    """
    if size < 8:
        raise ValueError(f"expected game.size of at least 8 pixels, found {size}")
    env = _make(id, **kwargs)
    if _is_picture(env.observation_space):
        return PixelEnv(env, size, rendered=False)
    modes, space = env.metadata.get("render_modes", []), env.observation_space
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f"expected image observations or render mode rgb_array of {id}, found {space} and {modes}")
    return PixelEnv(_make(id, render_mode="rgb_array", **kwargs), size, rendered=True)


class PixelEnv(gym.Wrapper):
    """A game whose observation is one uint8 picture `[size size 3]`, with a keymap where the game says its keys."""

    def __init__(self, env: gym.Env, size: int, rendered: bool):
        super().__init__(env)
        self._size, self._rendered = size, rendered
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        keymap = _keymap(env)
        self.metadata = {**env.metadata, **({"keymap": keymap} if keymap else {})}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._picture(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._picture(observation), float(reward), bool(terminated), bool(truncated), info

    def _picture(self, observation: Any) -> np.ndarray:
        frame = np.asarray(self.env.render() if self._rendered else observation)
        frame = torch.from_numpy(np.array(frame[..., :3], np.uint8))  # a copy: games may draw into one buffer
        return pixels.resize(frame, self._size, self._size).numpy()


def _is_picture(space: gym.Space) -> bool:
    return (
        isinstance(space, gym.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
        and min(space.shape[:2]) >= _SMALLEST_PICTURE
    )


def _make(id: str, **kwargs: Any) -> gym.Env:
    for prefix, module in _REGISTERED_BY.items():
        if id.startswith(prefix) and importlib.util.find_spec(module.partition(".")[0]):
            importlib.import_module(module)
    try:
        return gym.make(id, disable_env_checker=True, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"expected game.id to name a Gymnasium environment, found {id!r}; {_advice(id)}") from error
    except ModuleNotFoundError as error:
        name = error.name or id.partition(":")[0]
        raise ValueError(f"cannot import the module in game.id={id}: there is no {name} here; install it") from error
    except TypeError as error:
        raise ValueError(f"{id} does not take these settings: {error}") from error


def _advice(id: str) -> str:
    close = difflib.get_close_matches(id, gym.registry, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "module:Id-v0 imports the module that registers it"


def _keymap(env: gym.Env) -> dict | None:
    """Returns the game's own keys (Gymnasium's `get_keys_to_action`) as a keymap, or None where it has none."""
    if not isinstance(env.action_space, gym.spaces.Discrete):
        return None
    with contextlib.suppress(AttributeError, NotImplementedError):
        table = {_names(keys): int(action) for keys, action in env.unwrapped.get_keys_to_action().items()}
        bindings = [{"keys": list(keys), "set": {"0": action}} for keys, action in table.items() if keys]
        return {"rest": [table.get((), int(env.action_space.start))], "bindings": bindings, "mouse": []}
    return None


def _names(keys: str | int | tuple[str | int, ...]) -> tuple[str, ...]:
    """Returns pygame's names of keys that a game gives as characters or their numbers, one or several."""
    characters = [chr(key) if isinstance(key, int) else key for key in ([keys] if isinstance(keys, int) else keys)]
    return tuple("space" if character == " " else character.lower() for character in characters)
