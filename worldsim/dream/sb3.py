"""Stable-Baselines3's `VecEnv` over a vector env of Gymnasium that restarts rows in the same step, such as a dream.

Here because SB3 takes no vector env as it is. Needs the extra agents, which importing this file tells.
Leaves out algorithms, which are SB3's, and tensors: SB3 wants NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError("worldsim.dream.sb3 needs the extra agents: pip install 'worldsim-rl[agents]'") from error


class SB3VecEnv(VecEnv):
    """Rows of one batch as SB3's environments. `envs` is owned: closing this closes it.

    An ended row's info has `terminal_observation`, and `TimeLimit.truncated` says whether the limit alone ended it.
    """

    def __init__(self, envs: VectorEnv):
        """Raises ValueError for an env of another autoreset mode, or whose output is not NumPy."""
        mode, output = envs.metadata.get("autoreset_mode"), getattr(envs, "output", "numpy")
        if mode is not AutoresetMode.SAME_STEP or output != "numpy":
            found = f"{getattr(mode, 'value', mode)!r} and {output!r}"
            raise ValueError(f"expected envs with autoreset_mode='SameStep' and output='numpy', found {found}")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Starts every row, with what `seed` and `set_options` said; options are the first row's, for all."""
        seeds = None if self._seeds == [None] * self.num_envs else self._seeds
        envs: Any = self.envs  # Gymnasium's stub knows one seed only, and of renders no lists
        observations, infos = envs.reset(seed=seeds, options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = rows_of(infos, self.num_envs)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        rows = rows_of(infos, self.num_envs)
        for row, last, limit in zip(rows, terminated, truncated, strict=True):
            if last or limit:
                row |= {**row.pop("final_info", {}), "terminal_observation": row.pop("final_obs")}
            row["TimeLimit.truncated"] = bool(limit and not last)
        return observations, rewards.astype(np.float32), terminated | truncated, rows

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray]:
        pictures: Any = self.envs.render()
        return pictures

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns an attribute of the batch, once for each row asked for."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"cannot set {attr_name} of single rows: they are one batch; set it on .envs")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"cannot call {method_name} of single rows: they are one batch; call it on .envs")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def rows_of(infos: Mapping[str, Any], num_rows: int) -> list[dict[str, Any]]:
    """Returns Gymnasium's infos, arrays with masks (`_key`), as a dict for each row of what is there for it."""
    rows: list[dict[str, Any]] = [{} for _ in range(num_rows)]
    for key in (key for key in infos if f"_{key}" in infos):
        values = rows_of(infos[key], num_rows) if isinstance(infos[key], Mapping) else infos[key]
        for row in np.flatnonzero(infos[f"_{key}"]):
            rows[row][key] = values[row]
    return rows
