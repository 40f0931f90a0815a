"""The recorder: steps an Env or VectorEnv with a policy and hands every finished episode to the store.

Here because vector environments reset their rows in three modes, and each puts an episode's last frame elsewhere.
Leaves out who acts (`policies`) and how episodes lie on disk (`episodes`).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from worldsim.actions import default_keymap, unpack_rows
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeWriter
from worldsim.data.policies import EndOfRecording, Policy
from worldsim.messages import GameError, one_line

DEFAULT_FPS = 15.0  # of games that do not say


def dataset_info(env: gym.Env | VectorEnv, game: str | None = None) -> DatasetInfo:
    """Returns what a data folder says of a game: its spaces and spec, and from its metadata fps, keymap and table.

    Raises ValueError where observations are not uint8 pictures.
    """
    space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    action_space = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    if not (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)):
        raise ValueError(f"expected uint8 observations [H W 3], found {space}; worldsim.envs.generic.make gives these")
    source = env.envs[0].unwrapped if isinstance(env, SyncVectorEnv) else env.unwrapped  # its spec has no wrappers
    height, width, _ = space.shape
    table = env.metadata.get("discrete_table")
    return DatasetInfo(
        game=game or (source.spec.id if source.spec is not None else type(source).__name__),
        observation_shape=(height, width, 3),
        action_space=action_space,
        fps=float(env.metadata.get("render_fps") or DEFAULT_FPS),
        keymap=env.metadata.get("keymap") or default_keymap(action_space),
        discrete_table=None if table is None else np.array(table, dtype=np.float64),
        env_spec=_spec_to_json(source.spec),
    )


def _spec_to_json(spec: gym.envs.registration.EnvSpec | None) -> dict | None:
    """Returns a spec as plain data, or None where Gymnasium cannot (an entry point that is a class, say)."""
    try:
        return None if spec is None else json.loads(spec.to_json())
    except (TypeError, ValueError):
        return None


class _GameFailed(Exception):
    """Carries what a game raised, as its cause, past what is not the game's."""


@contextmanager
def _game() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _GameFailed from error


@dataclass
class _Row:
    """The episode that a row of the environment is in the middle of; empty while the row waits for its reset."""

    seed: int | None = None
    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def close(self, terminated: bool, truncated: bool, policy: str) -> Episode:
        steps = len(self.rewards)  # of a row that was interrupted, the whole ones
        observations, actions = np.stack(self.observations[: steps + 1]), np.stack(self.actions[:steps])
        return Episode(
            observations, actions, np.array(self.rewards, np.float32), terminated, truncated, self.seed, policy
        )


class Recorder:
    """Records episodes with `policy` into `writer` until the folder holds enough frames.

    A vector environment that leaves resets to the caller (AutoresetMode.DISABLED; so are single ones) gives every
    episode a seed of its own: from `seed` on, or above all that the folder has. One that resets by itself is seeded
    once, and its later episodes have no seed. Episodes are cut (truncated) at `max_episode_steps`.
    """

    def __init__(
        self,
        env: gym.Env | VectorEnv,
        policy: Policy,
        writer: EpisodeWriter,
        policy_name: str,
        seed: int = 0,
        max_episode_steps: int = 1000,
    ):
        self._env: VectorEnv = (
            env if isinstance(env, VectorEnv) else SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
        )
        self._mode = self._env.metadata.get("autoreset_mode")
        if not isinstance(self._mode, AutoresetMode):
            raise ValueError(f"expected metadata['autoreset_mode'] to be an AutoresetMode, found {self._mode!r}")
        self._policy, self._writer, self._policy_name = policy, writer, policy_name
        self._max_episode_steps = max_episode_steps
        self._next_seed = max([seed, *(r.seed + 1 for r in writer.records if r.seed is not None)])
        self._rows: list[_Row] = []
        self._num_frames = writer.num_frames

    def record(self, frames: int, progress: Callable[[int], Any] = lambda frames: None) -> None:
        """Records until the folder holds `frames` observations; `progress` hears how many it holds.

        Episodes that are still open in the end are written as truncated, if they have a step; also where the game
        fails (GameError), the policy raises or Ctrl-C is pressed.
        """
        if self._num_frames >= frames:
            return
        try:
            self._play(frames, progress)
        except _GameFailed as failed:
            self._finish_all()
            raise self._game_error(failed) from failed.__cause__
        except BaseException:
            self._finish_all()
            raise
        self._finish_all()
        progress(self._num_frames)

    def _play(self, frames: int, progress: Callable[[int], Any]) -> None:
        with _game():
            observations = self._reset_all()
        started = np.ones(self._env.num_envs, bool)
        while self._num_frames + self._num_open_frames() < frames:
            try:
                packed = self._policy(observations, started)
            except EndOfRecording:
                break
            observations, started = self._step(packed)
            progress(self._num_frames + self._num_open_frames())

    def _finish_all(self) -> None:
        for row in range(len(self._rows)):
            self._finish(row, terminated=False, truncated=True)

    def _game_error(self, failed: _GameFailed) -> GameError:
        """Returns the error that names the game's own, whose traceback is written beside the data folder."""
        assert isinstance(failed.__cause__, Exception)
        error, log = failed.__cause__, self._writer.folder.with_name(f"{self._writer.folder.name}.error.log")
        log.write_text("".join(traceback.format_exception(error)))
        return GameError(
            f"the game raised {type(error).__name__}: {one_line(error, 200)}; {self._num_frames} frames are kept in "
            f"{self._writer.folder}, and its traceback stands in {log}"
        )

    def _num_open_frames(self) -> int:
        return sum(len(row.observations) for row in self._rows if row.actions)

    def _reset_all(self) -> np.ndarray:
        seeds = self._take_seeds(np.ones(self._env.num_envs, bool))
        observations = np.array(self._env.reset(seed=seeds[0])[0])  # an integer seeds row i with seed + i
        self._rows = [_Row(seed, [observation]) for seed, observation in zip(seeds, observations, strict=True)]
        return observations

    def _take_seeds(self, rows: np.ndarray) -> list[int | None]:
        """Returns the next free seeds for the rows of a mask, None for the others."""
        seeds = [self._next_seed + index for index in np.cumsum(rows) - 1]
        self._next_seed += int(rows.sum())
        return [int(seed) if row else None for seed, row in zip(seeds, rows, strict=True)]

    def _step(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps all rows; returns what the policy sees next, and which rows it sees for the first time."""
        with _game():
            actions = unpack_rows(self._env.single_action_space, packed)
            observations, rewards, terminated, truncated, infos = self._env.step(actions)
            if not np.isfinite(rewards).all():
                raise ValueError(f"expected finite rewards, found {rewards}")
        observations, ended = np.array(observations), np.asarray(terminated) | np.asarray(truncated)
        started = np.array([not row.observations for row in self._rows])  # NEXT_STEP: this step was their reset
        full = np.zeros(len(started), bool)
        for i in np.flatnonzero(~started).tolist():
            row = self._rows[i]
            last = infos["final_obs"][i] if ended[i] and self._mode is AutoresetMode.SAME_STEP else observations[i]
            row.observations.append(np.array(last))
            row.actions.append(packed[i])
            row.rewards.append(float(rewards[i]))
            full[i] = not ended[i] and len(row.actions) >= self._max_episode_steps
            if ended[i] or full[i]:
                self._finish(i, bool(terminated[i]), bool(truncated[i]) or bool(full[i]))
        for i in np.flatnonzero(started).tolist():
            self._rows[i] = _Row(None, [observations[i]])
        return self._start_rows(observations, started, ended, full)

    def _start_rows(
        self, observations: np.ndarray, started: np.ndarray, ended: np.ndarray, full: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Opens the next episode of rows whose first frame is known now, resetting them where that is our part."""
        if self._mode is AutoresetMode.DISABLED:
            fresh = ended | full
            seeds = self._take_seeds(fresh)
            if fresh.any():
                options = {"reset_mask": fresh.copy()}
                with _game():
                    found = self._env.reset(seed=seeds, options=options)  # type: ignore[arg-type]  # lists are taken too
                    observations = np.array(found[0])
        else:  # a full row's game goes on, as nobody can reset it: its next episode begins with the frame it ended with
            fresh = full if self._mode is AutoresetMode.NEXT_STEP else ended | full
            seeds = [None] * len(fresh)
        for i in np.flatnonzero(fresh):
            self._rows[i] = _Row(seeds[i], [observations[i]])
        return observations, started | fresh

    def _finish(self, index: int, terminated: bool, truncated: bool) -> None:
        row, self._rows[index] = self._rows[index], _Row()
        if row.rewards:
            record = self._writer.append(row.close(terminated, truncated, self._policy_name))
            self._num_frames += record.num_observations
