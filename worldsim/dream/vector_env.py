"""The dream as a `gymnasium.vector.VectorEnv`: many rows of one world, stepped as one batch.

Here because batching on one device is what a learned game is good at; row i seeded s is the single env seeded s + i.
Leaves out what both envs share (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldsim.dream.action_reader import are_tensors
from worldsim.dream.options import read_seeds
from worldsim.dream.rows import RENDER_MODES, Dream, check_render_mode, open_world, with_luck
from worldsim.dream.saved_state import EnvState
from worldsim.world_model import WorldModel

OUTPUTS = ("numpy", "torch")


class WorldModelVectorEnv(gym.vector.VectorEnv, gym.utils.EzPickle):
    """`num_envs` rows of a learned world; no row depends on another, and each draws its own noise.

    Frames equal a single env's to numerical precision, and bit for bit among runs of the same device, dtype and
    `num_envs`. `autoreset_mode` is one of Gymnasium's three, by name or as the enum (a spec with the enum is not JSON).

    With `output="torch"` observations, rewards (float32), ends and infos are tensors on the world's device, and a step
    that is given tensors waits for nothing on the host. Hence three differences. The host does not look at an action's
    values: a row whose action is not in the space takes the null action (a clamped one would pass for what the agent
    did), and `infos["bad_action"]` says so. `final_obs` and `final_info` are there after every same-step step, for all
    rows, and their masks say where they count. A row that ended with autoreset disabled dreams on if it is not reset,
    where the NumPy env raises ResetNeeded.
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
        dtype: str | torch.dtype | None = None,
        compile: bool = False,
        obs: str = "rgb",
        actions: str = "native",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        output: str = "numpy",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        uncertainty: bool = False,
    ):
        if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"expected num_envs of at least 1, found {num_envs!r}")
        if output not in OUTPUTS:
            raise ValueError(f"expected output= one of {', '.join(OUTPUTS)}, found {output!r}")
        self._arguments = {
            "compile": compile, "obs": obs, "actions": actions, "max_episode_steps": max_episode_steps,
            "render_mode": check_render_mode(render_mode), "output": output,
            "autoreset_mode": _read_autoreset_mode(autoreset_mode), "uncertainty": uncertainty,
        }  # fmt: skip
        gym.utils.EzPickle.__init__(self, world, num_envs, device=device, steps=steps, dtype=dtype, **self._arguments)
        self.num_envs, self.render_mode, self.output = int(num_envs), render_mode, output
        self.autoreset_mode, self._is_torch = self._arguments["autoreset_mode"], output == "torch"
        self.world = open_world(world, device, steps, dtype)
        self._dream = Dream(self.world, self.num_envs, obs, actions, max_episode_steps, compile, uncertainty)
        self.metadata = {**type(self).metadata, **self._dream.metadata, "autoreset_mode": self.autoreset_mode}
        self._every_row = torch.ones(self.num_envs, dtype=torch.bool, device=self.world.device)
        self.single_observation_space = self._dream.observation_space
        self.single_action_space = self._dream.reader.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None):
        """Starts every row; returns observations and infos. Seed s makes row i the single env seeded s + i.

        A row without a seed starts its next episode. `options["reset_mask"]`, booleans `[b]`, starts only those rows.
        `prompt` and `state` are as for `WorldModelEnv.reset`, for all rows or with one for each: indices `[b]`, images
        `[b H W 3]`, clips `[b t H W 3]` with actions `[b t-1 …]`, a state of b rows.
        """
        seeds = read_seeds(seed, self.num_envs)
        mask, start = self._dream.read_options(options, ("prompt", "state", "reset_mask"))
        super().reset(seed=seeds[0] if isinstance(seed, (int, np.integer)) else None)
        self._dream.reset(seeds, self.np_random, mask, start)
        return self._observe(self._every_row if mask is None else mask)

    def step(self, actions: Any):
        """Dreams one frame of every row; returns observations, rewards, terminations, truncations and infos.

        A bad action in any row raises ValueError and leaves every row as it was. A row that ended in the last step
        ignores its action and starts anew (NEXT_STEP), or has started anew already (SAME_STEP).
        """
        vectors, infos = self._read(actions)
        ended = self._dream.terminated | self._dream.truncated
        if self.autoreset_mode is AutoresetMode.DISABLED:
            self._check_running(ended)
        reward = self._dream.step(vectors).reward
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._may_hold(ended):
            self._dream.begin_next(ended)
            reward = reward.masked_fill(ended, 0)
        terminated, truncated = self._dream.terminated, self._dream.truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._may_hold(terminated | truncated):
            infos |= self._finish(terminated | truncated)
        observations, facts = self._observe(self._every_row)
        reward = reward if self._is_torch else reward.double()  # Gymnasium's own are float64
        return (observations, *map(self._hand_out, (reward, terminated, truncated)), infos | facts)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns each row's current frame, uint8 `[H W 3]`, with `render_mode="rgb_array"`."""
        return None if self.render_mode is None else tuple(self._dream.frames().cpu().numpy().copy())

    def get_state(self) -> EnvState:
        """Returns everything that the rows stand at, as a value; `.select(rows)` takes some, `.to_bytes()` saves it."""
        return self._dream.get_state()

    def set_state(self, state: EnvState | bytes):
        """Goes back, or on, to a state of this world and as many rows; returns its observations and infos.

        Rows that have ended there begin anew at once, where they would have by themselves (SAME_STEP).
        What follows is what followed it, bit for bit on the same device. Raises ValueError for a foreign state.
        """
        self._dream.set_state(state)
        ended = self._dream.terminated | self._dream.truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._may_hold(ended):
            self._dream.begin_next(ended)
        return self._observe(self._every_row)

    def fork(self, n: int, *, seed: int | None = None, **arguments: Any) -> WorldModelVectorEnv:
        """Returns an env of `n` rows for each row, beside one another, that stand where it stands; weights are shared.

        The same actions lead them the same way, luck included; with a `seed` row i draws the luck of seed + i from here
        on. `arguments` replace this env's, such as `output="torch"`.
        """
        return fork(self._dream, n, seed, self._arguments | arguments)

    def rollout(self, state: EnvState | bytes, actions: Any, *, seed: Any = None, expected: bool = False):
        """Returns the rewards and terminations `[b H]` that plans bring: actions, with rows and steps in front.

        The rows begin where a state of one row or b rows stands; this env stays where it is. Nothing is decoded and no
        time limit holds. A row that ended brings nothing any more: reward 0, termination False. Luck is the state's
        own, or with a `seed` (or one for each row) other luck. With `expected` rewards and terminations are not drawn
        but expected rewards and probabilities, both times the probability of having come so far.
        """
        return tuple(map(self._hand_out, self._dream.rollout(state, actions, seed, expected)))

    def _read(self, actions: Any) -> tuple[Tensor, dict[str, Any]]:
        if not (self._is_torch and are_tensors(actions)):
            return self._dream.reader.read(actions, self.num_envs), {}
        vectors, is_good = self._dream.reader.read_tensors(actions, self.num_envs)
        return vectors, {"bad_action": ~is_good, "_bad_action": self._every_row.clone()}

    def _may_hold(self, mask: Tensor) -> bool:
        """Returns whether a mask may hold for any row; with tensors out the answer would be waited for, so it may."""
        return self._is_torch or bool(mask.any())

    def _check_running(self, ended: Tensor) -> None:
        if not self._is_torch and ended.any():
            rows = ", ".join(map(str, ended.nonzero()[:, 0].tolist()))
            raise gym.error.ResetNeeded(f"cannot step rows that ended ({rows}); reset them by options['reset_mask']")

    def _finish(self, ended: Tensor) -> dict[str, Any]:
        """Starts the next episode of rows that ended; returns what they showed last, as Gymnasium 1.4 hands it out."""
        final, infos = self._hand_out(self._dream.observe()), self._infos(ended)
        if not self._is_torch:
            rows, shown = ended.cpu().numpy(), final
            final = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(rows):
                final[row] = shown[row].copy()
        self._dream.begin_next(ended)
        masks = {name: self._hand_out(ended) for name in ("_final_obs", "_final_info")}
        return {"final_obs": final, "final_info": infos, **masks}

    def _observe(self, rows: Tensor) -> tuple[Any, dict[str, Any]]:
        return self._hand_out(self._dream.observe()), self._infos(rows)

    def _infos(self, rows: Tensor) -> dict[str, Any]:
        facts = {name: value * rows for name, value in self._dream.facts().items()}
        return {
            key: self._hand_out(value) for name in facts for key, value in ((name, facts[name]), (f"_{name}", rows))
        }

    def _hand_out(self, value: Tensor) -> Any:
        """Returns a value as the agent wants it, in storage of its own."""
        return value.clone() if self._is_torch else value.cpu().numpy().copy()


def fork(dream: Dream, n: int, seed: int | None, arguments: dict[str, Any]) -> WorldModelVectorEnv:
    """Returns an env of `n` rows for each of a dream's, which go on from its state with their own luck if seeded."""
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"expected a fork into at least 1, found {n!r}")
    rows = torch.arange(dream.rows, device=dream.world.device).repeat_interleave(int(n))
    state = dream.get_state().select(rows)
    state = state if seed is None else with_luck(state, read_seeds(seed, len(rows)))
    envs = WorldModelVectorEnv(dream.world, len(rows), **arguments)
    envs.set_state(state)
    return envs


def _read_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    for member in AutoresetMode:
        if mode in (member, member.value):
            return member
    names = ", ".join(repr(member.value) for member in AutoresetMode)
    raise ValueError(f"expected autoreset_mode one of {names}, found {mode!r}")
