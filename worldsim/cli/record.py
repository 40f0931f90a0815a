"""`worldsim record`: plays a game and keeps every finished episode; run again with the same `out=` it continues.

Here as the place where names become a game, a policy and a folder; `worldsim.data.recorder` does the work.
Leaves out reading existing recordings (videos, other data sets).
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from worldsim.cli.agents import check_actor, find_actor
from worldsim.data import holds
from worldsim.data.episodes import DatasetInfo, EpisodeStore, EpisodeWriter
from worldsim.data.policies import Policy
from worldsim.data.recorder import Recorder, dataset_info
from worldsim.dream.registration import gym_id
from worldsim.messages import check_whole
from worldsim.play.human import HumanPolicy


def main(config: DictConfig) -> int:
    """Records as `configs/record.yaml` says."""
    for key, least in (("frames", 1), ("num_envs", 1), ("seed", 0), ("max_episode_steps", 1)):
        check_whole(key, config[key], least)
    policy_name = str(config.policy)
    if str(config.game.get("_target_")).endswith("ScreenGame"):
        return _record_screen(config, policy_name)
    if policy_name == "human" and config.num_envs != 1:
        raise ValueError(f"expected num_envs=1 with policy=human, found num_envs={config.num_envs}")
    if policy_name != "human":
        check_actor(policy_name)
    env, threads = _make(config), torch.get_num_threads()
    if getattr(env, "world", None) is None:
        torch.set_num_threads(1)  # a frame is too small for more, which wait for one another where a core is busy
    try:
        _record(config, env, policy_name)
    finally:
        torch.set_num_threads(threads)
        env.close()
    return 0


def _record_screen(config: DictConfig, policy_name: str) -> int:
    """Records a game on the screen, which a person plays."""
    if policy_name != "human" or config.num_envs != 1:
        raise ValueError("expected policy=human and num_envs=1 with game=screen, which a person plays")
    game, out = instantiate(config.game, _convert_="all"), Path(str(config.out))
    with tqdm(total=config.frames, unit="frame", desc="record") as bar:
        update = lambda frames: bar.update(frames - bar.n)  # noqa: E731
        pace = game.record(out, config.frames, config.max_episode_steps, update, tqdm.write)
    store = EpisodeStore(out)
    print(f"{out}: {len(store)} episodes, {store.num_frames} frames; {pace.in_words()}")
    if held := holds.in_words(store):
        print(held)
    return 0


def _make(config: DictConfig) -> VectorEnv:
    """Returns the games, which leave resets to the recorder; dreams are one batch already."""
    if config.game.get("_target_") == "gymnasium.make_vec":
        return instantiate(config.game, num_envs=config.num_envs, _convert_="all")
    make_game = lambda: instantiate(config.game, _convert_="all")  # noqa: E731 (a name for what follows)
    return SyncVectorEnv([make_game] * config.num_envs, autoreset_mode=AutoresetMode.DISABLED)


def _record(config: DictConfig, env: VectorEnv, policy_name: str) -> None:
    world = getattr(env, "world", None)
    info = dataset_info(env, world and gym_id(world.info.name))
    with _window(policy_name, info) as human, EpisodeWriter(Path(str(config.out)), info) as writer:
        before, began = writer.num_frames, time.perf_counter()
        rng = np.random.default_rng([config.seed, len(writer.records)])  # what is added later must not repeat
        policy = human or find_actor(
            policy_name, env.single_action_space, rng, latent=world is not None and world.takes_latent_actions
        )
        recorder = Recorder(env, policy, writer, policy_name, config.seed, config.max_episode_steps)
        with tqdm(total=config.frames, initial=before, unit="frame", desc="record") as bar:
            recorder.record(config.frames, lambda frames: bar.update(frames - bar.n))
        print(_summary(writer, before, time.perf_counter() - began))
    if held := holds.in_words(EpisodeStore(Path(str(config.out)))):
        print(held)


def _window(policy_name: str, info: DatasetInfo) -> AbstractContextManager[Policy | None]:
    """Returns the person's window, which opens before anything is written, or nothing for other policies."""
    if policy_name != "human":
        return nullcontext()
    assert info.action_space is not None and info.keymap is not None  # a game has both
    return HumanPolicy(info.action_space, info.keymap, info.fps, info.observation_shape)


def _summary(writer: EpisodeWriter, before: int, seconds: float) -> str:
    records, frames = writer.records, writer.num_frames
    if frames == before:
        return f"{writer.folder} already holds {frames} frames in {len(records)} episodes; a larger frames= adds more"
    mean = float(np.mean([record.total_reward for record in records]))
    rate = (frames - before) / seconds
    return f"{writer.folder}: {len(records)} episodes, {frames} frames, mean return {mean:.2f}, {rate:.0f} frames/s"
