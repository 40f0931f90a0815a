"""The dream as a `gymnasium.vector.VectorEnv`: many rows of one world, stepped as one batch.

Here because batching on one device is what a learned game is good at; row i seeded s is the single env seeded s + i.
Leaves out same-step and disabled autoreset: a row that ended starts its next episode in the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldsim.env import RENDER_MODES, Dream, check_render_mode, open_world, read_prompt, read_seed
from worldsim.world_model import WorldModel

OUTPUTS = ("numpy", "torch")
AUTORESET_MODES = (AutoresetMode.NEXT_STEP,)


class WorldModelVectorEnv(gym.vector.VectorEnv):
    """`num_envs` rows of a learned world; no row depends on another, and each draws its own noise.

    With `output="torch"` observations, rewards, ends and infos are tensors on the world's device. Frames equal a single
    env's to numerical precision, and bit for bit among runs of the same device, dtype and `num_envs`.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's own declaration)
        "render_modes": list(RENDER_MODES),
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        world: str | Path | WorldModel,
        num_envs: int = 1,
        *,
        device: str | torch.device = "cpu",
        steps: int | None = None,
        compile: bool = False,
        actions: str = "native",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        output: str = "numpy",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ):
        if num_envs < 1:
            raise ValueError(f"expected num_envs of at least 1, found {num_envs}")
        if output not in OUTPUTS:
            raise ValueError(f"expected output= one of {', '.join(OUTPUTS)}, found {output!r}")
        self.autoreset_mode = _read_autoreset_mode(autoreset_mode)
        self.render_mode = check_render_mode(render_mode)
        self.world = open_world(world, device, steps)
        self.num_envs, self.output = num_envs, output
        fps = self.world.info.fps
        self.metadata = {**type(self).metadata, "render_fps": fps, "autoreset_mode": self.autoreset_mode}
        self._dream = Dream(self.world, num_envs, actions, max_episode_steps, compile)
        self._frames: Tensor | None = None
        self._terminated = torch.zeros(num_envs, dtype=torch.bool)
        self.single_observation_space = spaces.Box(0, 255, self.world.info.frame_shape, np.uint8)
        self.single_action_space = self._dream.reader.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Starts every row; returns observations and infos. Seed s makes row i the single env seeded s + i.

        A row without a seed starts its next episode. `options={"prompt": ...}` takes an index, or one for each row.
        """
        prompt = read_prompt(options, self.world.num_prompts, self.num_envs)
        seeds = self._spread(seed)
        super().reset(seed=seed if isinstance(seed, int) else None)
        self._dream.seed(seeds, self.np_random)
        self._dream.begin(np.arange(self.num_envs), prompt)
        self._terminated = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._observe()

    def step(self, actions: Any):
        """Dreams one frame of every row. A row that ended in the last step ignores its action and starts anew.

        A bad action in any row raises ValueError and leaves every row as it was.
        """
        vectors = self._dream.reader.read(actions, self.num_envs)
        ended = self._terminated.cpu().numpy() | self._dream.truncated
        outcome = self._dream.step(vectors)
        reward, self._terminated = outcome.reward, outcome.terminated
        if ended.any():
            self._dream.begin(np.flatnonzero(ended))
            is_new = torch.from_numpy(ended).to(reward.device)
            reward, self._terminated = reward.masked_fill(is_new, 0), self._terminated & ~is_new
        observations, infos = self._observe()
        truncated = torch.from_numpy(self._dream.truncated)
        return (observations, *map(self._hand_out, (reward, self._terminated, truncated)), infos)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns each row's current frame, uint8 `[H W 3]`, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        if self._frames is None:
            raise gym.error.ResetNeeded("cannot render before the first reset(); call reset() once")
        return tuple(self._frames.cpu().numpy().copy())

    def _spread(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected an integer or {self.num_envs} seeds, one for each row, found {len(seeds)}")
        return [read_seed(row) for row in seeds]

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        self._frames = self._dream.frames()
        is_known = torch.ones(self.num_envs, dtype=torch.bool)
        infos = {"age": self._hand_out(self._dream.state.age), "_age": self._hand_out(is_known)}
        return self._hand_out(self._frames), infos

    def _hand_out(self, value: Tensor) -> Any:
        """Returns a value as the agent wants it, in storage of its own."""
        if self.output == "torch":
            return value.to(self.world.device, copy=True)
        value = value.double() if value.is_floating_point() else value  # Gymnasium's rewards are float64
        return value.cpu().numpy().copy()


def _read_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if mode not in (*AUTORESET_MODES, *(known.value for known in AUTORESET_MODES)):
        known = ", ".join(repr(known.value) for known in AUTORESET_MODES)
        raise ValueError(f"expected autoreset_mode {known}, found {mode!r}; the other modes come with a later version")
    return AutoresetMode(mode)
