"""The dream as a `gymnasium.Env`, over `Dream`: rows of one world with their seeds, episodes and actions.

Here so that an agent steps a generated world like any game; `Dream` is what this shell and the vector env share.
Leaves out many rows at once (`vector_env.py`) and everything learned (`world_model.py`).
"""

from __future__ import annotations

import itertools
import os
import string
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldsim import bundle, noise
from worldsim.actions import ActionCodec, Keymap, default_keymap, pack, unpack
from worldsim.types import Outcome
from worldsim.world_model import WorldModel, WorldState

ACTIONS = ("native", "discrete")
RENDER_MODES = ("rgb_array",)
OPTIONS = ("prompt",)
_KEYS_AT_ONCE = 3  # most keyboards cannot report more, and `get_keys_to_action` lists every combination
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
_KEY_CODES = {  # pygame's codes of the keys whose names are longer than a character; env and agents need no pygame
    "backspace": 8, "tab": 9, "return": 13, "escape": 27, "space": 32, "delete": 127,
    "right": 1073741903, "left": 1073741904, "down": 1073741905, "up": 1073741906,
    "left ctrl": 1073742048, "left shift": 1073742049, "left alt": 1073742050,
    "right ctrl": 1073742052, "right shift": 1073742053, "right alt": 1073742054,
}  # fmt: skip


def open_world(
    world: str | Path | WorldModel, device: str | torch.device = "cpu", steps: int | None = None
) -> WorldModel:
    """Returns a world by name or path; a loaded one as it is. Raises ValueError where the arguments contradict it."""
    if isinstance(world, (str, os.PathLike)):
        return bundle.load(world, device, steps)
    if steps is not None or bundle.read_device(device).type not in ("cpu", world.device.type):
        raise ValueError(
            f"expected device= and steps= beside a world's name or path, found a world loaded on {world.device}; "
            "give them to worldsim.load instead"
        )
    return world


class ActionReader:
    """Turns what an agent hands in into the vectors a world takes; `space` is what the agent sees."""

    def __init__(self, codec: ActionCodec, actions: str):
        if actions not in ACTIONS:
            raise ValueError(f"expected actions= one of {', '.join(ACTIONS)}, found {actions!r}")
        # A world without actions is a table of one: the null.
        self._is_table = actions == "discrete" or codec.space is None
        self._codec = codec
        self.space = spaces.Discrete(len(codec.table)) if self._is_table else deepcopy(codec.space)

    def read(self, action: Any, rows: int | None = None) -> Tensor:
        """Encodes an action `[1 a]`, or `rows` as Gymnasium batches them `[b a]`. Raises ValueError for bad ones."""
        packed = pack(self.space, _to_host(action), rows).reshape(rows or 1, -1)
        if self._codec.space is None:
            return self._codec.null.expand(len(packed), -1)
        return self._codec.encode(self._codec.table[packed[:, 0].astype(int)] if self._is_table else packed)

    def from_native(self, packed: np.ndarray) -> Any | None:
        """Returns the agent's action for a packed native one `[k]`; None where its table has none."""
        if not self._is_table:
            return unpack(self.space, packed)
        matches = np.flatnonzero((self._codec.table == packed).all(-1))
        return int(matches[0]) if len(matches) else None


def _to_host(action: Any) -> Any:
    """Returns an action whose tensors, wherever they are, are NumPy arrays."""
    if isinstance(action, Tensor):
        return action.detach().cpu().numpy()
    if isinstance(action, Mapping):
        return {key: _to_host(part) for key, part in action.items()}
    return tuple(map(_to_host, action)) if isinstance(action, tuple) else action


class Dream:
    """Rows of one world in play: who each row is, where it stands, and how long its episode has been going on."""

    def __init__(
        self,
        world: WorldModel,
        rows: int,
        actions: str = "native",
        max_episode_steps: int | None = None,
        compile: bool = False,
    ):
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"expected max_episode_steps of at least 1 or None, found {max_episode_steps}")
        self.world, self.rows = world, rows
        self.reader = ActionReader(world.action_codec, actions)
        self.state: WorldState | None = None
        self.seeds = np.zeros(rows, np.int64)
        self.episodes = np.full(rows, -1, np.int64)
        self.elapsed = np.zeros(rows, np.int64)
        self._limit = max_episode_steps or np.inf
        self._is_seeded = np.zeros(rows, bool)
        self._step = torch.compile(world.step) if compile else world.step

    @property
    def truncated(self) -> np.ndarray:
        """Which rows have come to the time limit, bool `[b]`."""
        return self.elapsed >= self._limit

    def seed(self, seeds: Sequence[int | None], generator: np.random.Generator) -> None:
        """Makes each row the one of its seed, before its first episode; None leaves a row that has a seed as it is."""
        for row, seed in enumerate(seeds):
            if seed is not None or not self._is_seeded[row]:
                self.seeds[row] = generator.integers(2**63) if seed is None else seed
                self.episodes[row] = -1
        self._is_seeded[:] = True

    def begin(self, rows: np.ndarray, prompt: np.ndarray | None = None) -> None:
        """Starts the next episode of `rows` (indices), at their `prompt` indices or where each row's address says."""
        self.episodes[rows] += 1
        self.elapsed[rows] = 0
        address = np.stack((self.seeds[rows], self.episodes[rows], self.elapsed[rows]), -1)
        address = torch.from_numpy(address).to(self.world.device)
        drawn = draw_prompt(address, self.world.num_prompts) if prompt is None else torch.from_numpy(prompt)
        fresh = self.world.initial(drawn.to(self.world.device), address)
        where = torch.from_numpy(rows).to(self.world.device)
        self.state = fresh if len(rows) == self.rows else self.state.put(where, fresh)

    def step(self, action: Tensor) -> Outcome:
        """Steps every row by encoded actions `[b a]`."""
        if self.state is None:
            raise gym.error.ResetNeeded("cannot step before the first reset(); call reset() once")
        self.state, outcome = self._step(self.state, action.to(self.world.device))
        self.elapsed += 1
        return outcome

    def frames(self) -> Tensor:
        """Returns the rows' current frames, uint8 `[b H W 3]`; the world's storage, so copy before handing out."""
        return self.world.observe(self.state)


def draw_prompt(address: Tensor, num_prompts: int) -> Tensor:
    """Draws each row's shipped prompt, int64 `[b]`: a function of its address `[b 3]` alone."""
    drawn = noise.uniform(address, (1,), noise.PROMPT)[:, 0] * num_prompts
    return drawn.long().clamp(max=num_prompts - 1)


def read_seed(seed: Any) -> int | None:
    """Returns a seed as it was handed in. Raises ValueError for what is not an integer in [0, 2**63)."""
    if seed is not None and (not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63):
        raise ValueError(f"expected a seed from 0 to 2**63 - 1, found {seed!r}")
    return seed


def read_prompt(options: Mapping | None, num_prompts: int, rows: int) -> np.ndarray | None:
    """Returns the prompt indices int64 `[b]` that reset options ask for, or None. Raises ValueError for bad options."""
    options = {} if options is None else options
    if unknown := [key for key in options if key not in OPTIONS]:
        raise ValueError(f"expected reset options out of {', '.join(OPTIONS)}, found {', '.join(map(str, unknown))}")
    prompt = options.get("prompt")
    if prompt is None:
        return None
    indices = np.asarray(_to_host(prompt))
    is_valid = np.issubdtype(indices.dtype, np.integer) and indices.shape in ((), (rows,))
    if not (is_valid and (indices >= 0).all() and (indices < num_prompts).all()):
        raise ValueError(f"expected options['prompt'] an index from 0 to {num_prompts - 1}, found {prompt!r:.80}")
    return np.broadcast_to(indices, rows).astype(np.int64)


def check_render_mode(render_mode: str | None) -> str | None:
    """Returns a render mode. Raises ValueError for an unknown one; `gym.make` knows to add "human" itself."""
    if render_mode not in (None, *RENDER_MODES):
        raise ValueError(f"expected render_mode {RENDER_MODES[0]!r} or None, found {render_mode!r}")
    return render_mode


class WorldModelEnv(gym.Env, gym.utils.EzPickle):
    """One row of a learned world. `terminated` comes from the outcome model, `truncated` from the time limit only.

    `world` is a shipped world's name, a bundle's path, or (constructed directly, not by `gym.make`) a loaded world.
    A copy by pickle is a fresh env of the same arguments: state is not carried.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 15}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        world: str | Path | WorldModel,
        *,
        device: str | torch.device = "cpu",
        steps: int | None = None,
        compile: bool = False,
        actions: str = "native",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ):
        gym.utils.EzPickle.__init__(
            self, world, device=device, steps=steps, compile=compile, actions=actions,
            max_episode_steps=max_episode_steps, render_mode=render_mode,
        )  # fmt: skip
        self.render_mode = check_render_mode(render_mode)
        self.world = open_world(world, device, steps)
        self.metadata = {**type(self).metadata, "render_fps": self.world.info.fps}
        self._dream = Dream(self.world, 1, actions, max_episode_steps, compile)
        self._frame: np.ndarray | None = None
        self.observation_space = spaces.Box(0, 255, self.world.info.frame_shape, np.uint8)
        self.action_space = self._dream.reader.space

    @property
    def row_seed(self) -> int:
        """The seed that the current episode's noise is addressed by."""
        return int(self._dream.seeds[0])

    @property
    def episode(self) -> int:
        """The current episode's number, from 0 for the first after a seed; -1 before any."""
        return int(self._dream.episodes[0])

    @property
    def keymap(self) -> Keymap:
        """The world's keymap, or one made up for its action space; its packed actions are native ones."""
        info = self.world.info
        space = self.action_space if info.action_space is None else info.action_space
        return Keymap(space, info.keymap or default_keymap(space))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts the row of `seed` at its first episode; without a seed, the next episode of the same row.

        `options={"prompt": index}` names the shipped prompt to start from.
        """
        prompt = read_prompt(options, self.world.num_prompts, 1)
        super().reset(seed=read_seed(seed))
        self._dream.seed([seed], self.np_random)
        self._dream.begin(np.arange(1), prompt)
        return self._observe()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Dreams one frame. A bad action raises ValueError and leaves everything as it was."""
        outcome = self._dream.step(self._dream.reader.read(action))
        observation, info = self._observe()
        reward, terminated = float(outcome.reward), bool(outcome.terminated)
        return observation, reward, terminated, bool(self._dream.truncated[0]), info

    def render(self) -> np.ndarray | None:
        """Returns the current frame, uint8 `[H W 3]`, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        if self._frame is None:
            raise gym.error.ResetNeeded("cannot render before the first reset(); call reset() once")
        return self._frame.copy()

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Returns the action of every combination of up to three keys, for `gymnasium.utils.play`."""
        keymap, combinations = self.keymap, {}
        codes = {key: _KEY_CODES.get(key) or ord(key) for key in sorted(keymap.keys & {*_KEY_CODES, *_CHARACTERS})}
        for count in range(1, _KEYS_AT_ONCE + 1):
            for held in itertools.combinations(codes, count):
                action = self._dream.reader.from_native(keymap.packed(set(held)))
                if action is not None:
                    combinations[tuple(sorted(codes[key] for key in held))] = action
        return combinations

    def _observe(self) -> tuple[np.ndarray, dict]:
        self._frame = self._dream.frames()[0].cpu().numpy()
        return self._frame.copy(), {"age": int(self._dream.state.age[0])}
