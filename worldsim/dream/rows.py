"""A dream in play: rows of one world, the episodes that begin in them, and what an agent is shown.

Here as what the single env and the vector env share; everything that a step touches stays on the world's device.
Leaves out Gymnasium's calls (`env.py`, `vector_env.py`) and everything learned (`world_model.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldsim import bundle, noise
from worldsim.dream.action_reader import ActionReader
from worldsim.dream.options import Start, read_options, read_plans, read_seeds
from worldsim.dream.saved_state import EnvState, read_state
from worldsim.types import Clip, Outcome, map_rows
from worldsim.world_model import WorldModel, WorldState

OBSERVATIONS = ("rgb", "latent")
RENDER_MODES = ("rgb_array",)


def open_world(
    world: str | Path | WorldModel,
    device: str | torch.device = "cpu",
    steps: int | None = None,
    dtype: str | torch.dtype | None = None,
) -> WorldModel:
    """Returns a world by name or path; a loaded one as it is. Raises ValueError where the arguments contradict it."""
    if isinstance(world, (str, os.PathLike)):
        return bundle.load(world, device, steps, dtype=dtype)
    if steps is not None or dtype is not None or bundle.read_device(device).type not in ("cpu", world.device.type):
        raise ValueError(
            "expected device=, steps= and dtype= beside a world's name or path, found a world loaded on "
            f"{world.device}; give them to worldsim.load instead"
        )
    return world


def check_render_mode(render_mode: str | None) -> str | None:
    """Returns a render mode. Raises ValueError for an unknown one; `gym.make` knows to add "human" itself."""
    if render_mode not in (None, *RENDER_MODES):
        raise ValueError(f"expected render_mode {RENDER_MODES[0]!r} or None, found {render_mode!r}")
    return render_mode


def draw_prompt(address: Tensor, num_prompts: int) -> Tensor:
    """Draws each row's shipped prompt, int64 `[b]`: a function of its address `[b 3]` alone."""
    drawn = noise.uniform(address, (1,), noise.PROMPT)[:, 0] * num_prompts
    return drawn.long().clamp(max=num_prompts - 1)


class Dream:
    """Rows of one world in play. A row's seed, episode and steps since its start are its state's address `[b 3]`."""

    def __init__(
        self,
        world: WorldModel,
        rows: int,
        obs: str = "rgb",
        actions: str = "native",
        max_episode_steps: int | None = None,
        compile: bool = False,
        uncertainty: bool = False,
    ):
        if max_episode_steps is not None and not (isinstance(max_episode_steps, int) and max_episode_steps >= 1):
            raise ValueError(f"expected max_episode_steps of at least 1 or None, found {max_episode_steps!r}")
        if obs not in OBSERVATIONS:
            raise ValueError(f"expected obs= one of {', '.join(OBSERVATIONS)}, found {obs!r}")
        self.world, self.rows, self._obs = world, rows, obs
        self.reader = ActionReader(world.action_codec, actions, world.device)
        self._limit = 2**62 if max_episode_steps is None else max_episode_steps
        self._step = torch.compile(world.step) if compile else world.step
        self._state: WorldState | None = None
        self.terminated = torch.zeros(rows, dtype=torch.bool, device=world.device)  # [b], by the last step
        self.is_measured = uncertainty
        self._uncertainty = torch.zeros(rows, device=world.device)
        self._frames: Tensor | None = None

    @property
    def observation_space(self) -> spaces.Box:
        """What an agent sees of a row: a frame, or the latent within what the codec can produce."""
        if self._obs == "rgb":
            return spaces.Box(0, 255, self.world.info.frame_shape, np.uint8)
        return spaces.Box(*self.world.latent_bound.cpu().numpy(), dtype=np.float32)

    @property
    def state(self) -> WorldState:
        """Where the rows stand. Raises ResetNeeded before the first reset."""
        if self._state is None:
            raise gym.error.ResetNeeded("cannot do this before the first reset(); call reset() once")
        return self._state

    @property
    def truncated(self) -> Tensor:
        """Which rows have come to the time limit, bool `[b]`."""
        return self.state.address[:, 2] >= self._limit

    @property
    def metadata(self) -> dict[str, Any]:
        """What Gymnasium's metadata says of the world: its rate, and where actions are the game's, keys and table.

        A whole rate is an integer, as Gymnasium's player demands.
        """
        info, is_native = self.world.info, self.reader.space == self.world.info.action_space
        return {
            "render_fps": int(info.fps) if float(info.fps).is_integer() else info.fps,
            "keymap": info.keymap if is_native else None,
            "discrete_table": info.discrete_table if is_native else None,
        }

    def facts(self) -> dict[str, Tensor]:
        """Returns what infos say of each row: its age, and where it is measured the last step's uncertainty, `[b]`."""
        facts = {"age": self.state.age}
        return facts | {"uncertainty": self._uncertainty} if self.is_measured else facts

    def read_options(self, options: Mapping | None, known: tuple[str, ...]) -> tuple[Tensor | None, Start]:
        """Returns which rows reset options start, and from what; see `options.read_options`."""
        mask, start = read_options(options, known, self.world, self.reader, self.rows)
        if mask is not None and self._state is None:
            raise gym.error.ResetNeeded("cannot reset some rows before the first reset() of all; leave out reset_mask")
        return mask, start

    def reset(self, seeds: list[int | None], generator: np.random.Generator, mask: Tensor | None, start: Start) -> None:
        """Starts the rows of `mask` (None: all): a row with a seed at its first episode, another at its next one.

        Rows that never had a seed draw one.
        """
        if self._state is None:
            seeds = [int(generator.integers(2**63)) if seed is None else seed for seed in seeds]
        self._begin(self._addresses(seeds), mask, start)

    def begin_next(self, mask: Tensor) -> None:
        """Starts the next episode of the rows of `mask` `[b]`, without looking at it."""
        self._begin(self._next_addresses(), mask, None)

    def step(self, action: Tensor) -> Outcome:
        """Steps every row by encoded actions `[b a]`."""
        before = self.state
        state, outcome = self._step(before, action)
        self._move(state, outcome.terminated)
        if self.is_measured:
            self._uncertainty = self.world.uncertainty(before, action, state)
        return outcome

    def rollout(self, state: EnvState | bytes, actions: Any, seed: Any, expected: bool) -> tuple[Tensor, Tensor]:
        """Returns rewards and terminations `[b H]` of dreaming on from a state; see `WorldModelVectorEnv.rollout`."""
        vectors = read_plans(actions, self.reader)
        rows = len(vectors)
        begun: EnvState = map_rows(
            lambda x: x.expand(rows, *x.shape[1:]), read_state(state, self.world, tuple({1, rows}))
        )
        if seed is not None:
            begun = with_luck(begun, read_seeds(seed, rows))
        over = begun.terminated[:, None]
        rewards, ends = self.world.rollout(begun.world, vectors, expected)
        return rewards.masked_fill(over, 0), ends.masked_fill(over, 0)

    def observe(self) -> Tensor:
        """Returns what the rows show, uint8 `[b H W 3]` or float32 `[b c h w]`; not to be written to."""
        return self.frames() if self._obs == "rgb" else self.state.latent

    def frames(self) -> Tensor:
        """Returns the rows' frames, uint8 `[b H W 3]`, decoded once; not to be written to."""
        if self._frames is None:
            self._frames = self.world.observe(self.state).clone()
        return self._frames

    def get_state(self) -> EnvState:
        """Returns a copy of everything that the rows are."""
        return EnvState(self.world.fingerprint, self.state, self.terminated).clone()

    def set_state(self, state: EnvState | bytes) -> None:
        """Puts the rows where a state says. Raises ValueError for one of another world or number of rows."""
        state = read_state(state, self.world, (self.rows,))
        self._move(state.world, state.terminated)

    def _addresses(self, seeds: list[int | None]) -> Tensor:
        """Returns where each row's noise comes from, `[b 3]`: a seed's first episode, or without one the next."""
        is_seeded = [seed is not None for seed in seeds]
        if not any(is_seeded):
            return self._next_addresses()
        first = noise.address_of([seed or 0 for seed in seeds], self.world.device)
        following = first if all(is_seeded) else self._next_addresses()
        return torch.where(torch.tensor(is_seeded, device=first.device)[:, None], first, following)

    def _next_addresses(self) -> Tensor:
        seed, episode, step = self.state.address.unbind(-1)
        return torch.stack((seed, episode + 1, torch.zeros_like(step)), -1)

    def _begin(self, address: Tensor, mask: Tensor | None, start: Start) -> None:
        """Starts episodes. Every row is made ready, since the device alone may know which ones start."""
        if start is None:
            start = draw_prompt(address, self.world.num_prompts)
        if isinstance(start, (Tensor, Clip)):
            fresh = self.world.initial(start, address)
        else:
            fresh = replace(start, age=torch.zeros_like(start.age), address=address)
        running, uncertainty = torch.zeros_like(self.terminated), self._uncertainty
        if mask is None:
            self._move(fresh, running)
        else:
            self._move(self.state.where(mask, fresh), self.terminated & ~mask)
            self._uncertainty = uncertainty.masked_fill(mask, 0)

    def _move(self, state: WorldState, terminated: Tensor) -> None:
        self._state, self.terminated, self._frames = state, terminated, None
        self._uncertainty = torch.zeros_like(self._uncertainty)  # of a frame that no step led to


def with_luck(state: EnvState, seeds: list[int | None]) -> EnvState:
    """Returns a state whose rows draw what is to come by other seeds. Raises ValueError where a row has none."""
    if None in seeds:
        raise ValueError(
            f"expected a seed for every row, found none for row {seeds.index(None)}; give an integer for all"
        )
    drawn = torch.tensor(seeds, device=state.terminated.device)
    address = torch.cat((drawn[:, None], state.world.address[:, 1:]), 1)
    return replace(state, world=replace(state.world, address=address))
