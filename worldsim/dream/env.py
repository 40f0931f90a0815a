"""The dream as a `gymnasium.Env`: one row of a learned world.

Here so that an agent steps a generated world like any game, and can do more: save, branch and rewind it.
Leaves out many rows at once (`vector_env.py`) and what both share (`rows.py`).
"""

from __future__ import annotations

import itertools
import string
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim.actions import KEY_CODES, Keymap, default_keymap
from worldsim.dream.options import read_seed
from worldsim.dream.rows import RENDER_MODES, Dream, check_render_mode, open_world
from worldsim.dream.saved_state import EnvState
from worldsim.dream.vector_env import WorldModelVectorEnv, fork
from worldsim.world_model import WorldModel

_KEYS_AT_ONCE = 3  # most keyboards cannot report more, and `get_keys_to_action` lists every combination
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


class WorldModelEnv(gym.Env, gym.utils.EzPickle):
    """One row of a learned world. `terminated` comes from the outcome model, `truncated` from the time limit only.

    `world` is a shipped world's name, a bundle's path, or (constructed directly, not by `gym.make`) a loaded world.
    Observations are frames, or with `obs="latent"` what the network dreams in: float32 within the codec's bounds.
    With `uncertainty` the infos tell how unsure a step was, for one more network evaluation: see
    `WorldModel.uncertainty`; it is 0 where nothing was dreamed yet.
    A copy by pickle is a fresh env of the same arguments: what it stands at is `get_state()`'s.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 15}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        world: str | Path | WorldModel,
        *,
        device: str | torch.device = "cpu",
        steps: int | None = None,
        dtype: str | torch.dtype | None = None,
        compile: bool = False,
        obs: str = "rgb",
        actions: str = "native",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        uncertainty: bool = False,
    ):
        self._arguments = {
            "compile": compile, "obs": obs, "actions": actions, "max_episode_steps": max_episode_steps,
            "render_mode": check_render_mode(render_mode), "uncertainty": uncertainty,
        }  # fmt: skip
        gym.utils.EzPickle.__init__(self, world, device=device, steps=steps, dtype=dtype, **self._arguments)
        self.render_mode = render_mode
        self.world = open_world(world, device, steps, dtype)
        self._dream = Dream(self.world, 1, obs, actions, max_episode_steps, compile, uncertainty)
        self.metadata = {**type(self).metadata, **self._dream.metadata}
        self.observation_space = self._dream.observation_space
        self.action_space = self._dream.reader.space

    @property
    def row_seed(self) -> int:
        """The seed that the current episode's noise is addressed by."""
        return int(self._dream.state.address[0, 0])

    @property
    def episode(self) -> int:
        """The current episode's number, from 0 for the first after a seed."""
        return int(self._dream.state.address[0, 1])

    @property
    def keymap(self) -> Keymap:
        """The world's keymap, or one made up for its action space; its packed actions are native ones."""
        info = self.world.info
        space = self.action_space if info.action_space is None else info.action_space
        return Keymap(space, info.keymap or default_keymap(space))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts the row of `seed` at its first episode; without a seed, the next episode of the same row.

        `options["prompt"]` is what it starts from: the index of a shipped prompt, an image (uint8 `[H W 3]`), or a clip
        `{"frames": [t H W 3], "actions": the t - 1 between them}`; without actions they count as unknown.
        `options["state"]` starts where a state (or its bytes) stands, as a new episode with noise of its own;
        to go on with the old one, noise and all, use `set_state`. Options are left as they are.
        """
        _, start = self._dream.read_options(options, ("prompt", "state"))
        super().reset(seed=read_seed(seed))
        self._dream.reset([seed], self.np_random, None, start)
        return self._observe()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Dreams one frame. A bad action raises ValueError and leaves everything as it was."""
        outcome = self._dream.step(self._dream.reader.read(action))
        observation, info = self._observe()
        reward, terminated = float(outcome.reward), bool(outcome.terminated)
        return observation, reward, terminated, bool(self._dream.truncated), info

    def render(self) -> np.ndarray | None:
        """Returns the current frame, uint8 `[H W 3]`, with `render_mode="rgb_array"`."""
        return None if self.render_mode is None else self._dream.frames()[0].cpu().numpy().copy()

    def get_state(self) -> EnvState:
        """Returns everything that the env stands at, as a value; `.to_bytes()` is it as safetensors."""
        return self._dream.get_state()

    def set_state(self, state: EnvState | bytes) -> tuple[np.ndarray, dict]:
        """Goes back, or on, to a state of this world; returns its observation and info.

        What follows is what followed it, bit for bit on the same device. Raises ValueError for a foreign state.
        """
        self._dream.set_state(state)
        return self._observe()

    def fork(self, n: int, *, seed: int | None = None, **arguments: Any) -> WorldModelVectorEnv:
        """Returns a vector env of `n` rows that stand where this env stands; see `WorldModelVectorEnv.fork`."""
        return fork(self._dream, n, seed, self._arguments | arguments)

    def rollout(
        self, state: EnvState | bytes, actions: Any, *, seed: Any = None, expected: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what plans `[b H …]` bring from a state on, undecoded; see `WorldModelVectorEnv.rollout`."""
        rewards, ends = self._dream.rollout(state, actions, seed, expected)
        return rewards.cpu().numpy(), ends.cpu().numpy()

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Returns the action of every combination of up to three keys, for `gymnasium.utils.play`."""
        keymap, combinations = self.keymap, {}
        codes = {key: KEY_CODES.get(key) or ord(key) for key in sorted(keymap.keys & {*KEY_CODES, *_CHARACTERS})}
        for count in range(1, _KEYS_AT_ONCE + 1):
            for held in itertools.combinations(codes, count):
                action = self._dream.reader.from_native(keymap.packed(set(held)))
                if action is not None:
                    combinations[tuple(sorted(codes[key] for key in held))] = action
        return combinations

    def _observe(self) -> tuple[np.ndarray, dict]:
        infos = {name: value.item() for name, value in self._dream.facts().items()}
        return self._dream.observe()[0].cpu().numpy().copy(), infos
