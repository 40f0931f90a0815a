"""Any Gymnasium game as a source of frames: its image observations, or what it renders, at one size.

Here so that `game=gym game.id=CarRacing-v3` needs no code; `module:Id-v0` first imports the module that registers it,
`module:Class` makes a class that nobody registered.
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
from gymnasium.envs.registration import EnvSpec

from worldsim import pixels
from worldsim.actions import KEY_CODES
from worldsim.envs import pictures

_REGISTERED_BY = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "Vizdoom": "vizdoom.gymnasium_wrapper"}
_NAMES = {code: name for name, code in KEY_CODES.items()}


def make(id: str, size: int = 64, range: Any = None, **kwargs: Any) -> gym.Env:
    """Returns the game with uint8 `[size size 3]` observations; `kwargs` go to the game's constructor.

    `range` is the darkest and the brightest value of its pictures, where neither bounds nor pictures tell for certain.

    Raises ValueError (one sentence) where the id is unknown or the game has no pictures.
    """
    if not (isinstance(size, int) and size >= 8):
        raise ValueError(f"expected game.size to be a whole number of at least 8, found {size!r}")
    values, env = pictures.read_range(range), _make(id, **kwargs)
    space, modes = env.observation_space, env.metadata.get("render_modes", [])
    if isinstance(space, gym.spaces.Box) and pictures.layout_of(space.shape):
        return PixelEnv(env, size, values or pictures.range_of(space), rendered=False)
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(
            f"expected pictures [H W 3], [3 H W] or [H W] as observations, or render mode rgb_array, of {id}, found "
            f"{space} and {modes}"
        )
    return PixelEnv(_make(id, render_mode="rgb_array", **kwargs), size, values, rendered=True)


class PixelEnv(gym.Wrapper):
    """A game whose observation is one uint8 picture `[size size 3]`, with a keymap where the game says its keys."""

    def __init__(self, env: gym.Env, size: int, values: tuple[float, float] | None, rendered: bool):
        super().__init__(env)
        self._size, self._values, self._rendered = size, values, rendered
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
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
        array = np.asarray(self.env.render() if self._rendered else observation)
        if self._rendered and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
            array = array[..., :3]  # the fourth is opacity
        layout = pictures.layout_of(array.shape, smallest=4)
        if layout is None or array.dtype.kind not in "buif":
            raise ValueError(
                f"expected pictures [H W 3] of {self._name}, found {array.dtype} of shape {list(array.shape)}"
            )
        if self._values is None and (found := pictures.range_of_values(array)) is not None:
            self._values = found
        if self._values is None:
            raise ValueError(
                f"cannot tell black from white in {self._name}'s pictures, {array.dtype} from {array.min():g} to "
                f"{array.max():g}; give game.range=[darkest,brightest]"
            )
        frame = np.array(layout.rgb(pictures.to_bytes(array, self._values, self._name)))  # a copy: games reuse buffers
        return pixels.resize(torch.from_numpy(frame), self._size, self._size).numpy()


def _make(id: str, **kwargs: Any) -> gym.Env:
    for prefix, module in _REGISTERED_BY.items():
        if id.startswith(prefix) and importlib.util.find_spec(module.partition(".")[0]):
            importlib.import_module(module)
    try:
        if (made := _of_class(id, kwargs)) is not None:
            return made
        return gym.make(id, disable_env_checker=True, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(f"expected game.id to name a Gymnasium environment, found {id!r}; {_advice(id)}") from error
    except ModuleNotFoundError as error:
        name = error.name or id.partition(":")[0]
        raise ValueError(f"cannot import the module in game.id={id}: there is no {name} here; install it") from error
    except TypeError as error:
        raise ValueError(f"{id} does not take these settings: {error}") from error


def _of_class(id: str, kwargs: dict[str, Any]) -> gym.Env | None:
    """Returns the game that `module:Class` makes, or None where that is an id. Raises ValueError where it is none."""
    module_name, colon, name = id.partition(":")
    if not colon or not name.isidentifier():
        return None
    made_by = getattr(importlib.import_module(module_name), name, None)
    if made_by is None or name in gym.registry:
        return None
    made = made_by(**kwargs) if callable(made_by) else made_by
    if not isinstance(made, gym.Env):
        raise ValueError(f"expected game.id={id} to make a gymnasium.Env, found {type(made).__name__}")
    if made.unwrapped.spec is None:
        made.unwrapped.spec = EnvSpec(id, entry_point=id, kwargs=kwargs)  # its name, and how to make it again
    return made


def _advice(id: str) -> str:
    close = difflib.get_close_matches(id, gym.registry, n=3)
    return (
        f"did you mean {' or '.join(close)}?"
        if close
        else "module:Id-v0 imports what registers it, module:Class makes a class"
    )


def _keymap(env: gym.Env) -> dict | None:
    """Returns the game's own keys (Gymnasium's `get_keys_to_action`) as a keymap, or None where it has none."""
    if not isinstance(env.action_space, gym.spaces.Discrete):
        return None
    with contextlib.suppress(AttributeError, NotImplementedError):
        found = env.unwrapped.get_wrapper_attr("get_keys_to_action")()
        table = {_names(keys): int(action) for keys, action in found.items()}
        bindings = [{"keys": list(k), "set": {"0": action}} for k, action in table.items() if k and None not in k]
        return {"rest": [table.get((), int(env.action_space.start))], "bindings": bindings, "mouse": []}
    return None


def _names(keys: str | int | tuple[str | int, ...]) -> tuple[str | None, ...]:
    """Returns pygame's names of keys that a game gives as names, characters or pygame's codes; None for an unknown."""
    return tuple(_name(key) for key in ([keys] if isinstance(keys, int) else keys))


def _name(key: str | int) -> str | None:
    if isinstance(key, str) and len(key) != 1:
        return key.lower()
    code = key if isinstance(key, int) else ord(key)
    return _NAMES.get(code) or (chr(code).lower() if code < 0x110000 and chr(code).isprintable() else None)
