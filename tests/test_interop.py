"""The dream in other people's hands: Gymnasium's player, the recorder, TorchRL."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_world import FakeWorld
from tiny_world import tiny_world
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper

import worldsim
from worldsim import bundle
from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore, EpisodeWriter
from worldsim.data.policies import StickyPolicy
from worldsim.data.recorder import Recorder, dataset_info
from worldsim.dream.vector_env import WorldModelVectorEnv

PLAY = """
import warnings; warnings.simplefilter("error", DeprecationWarning)
import pygame
from gymnasium.utils import play
from fake_world import FakeWorld
from worldsim.dream.env import WorldModelEnv

env, seen, keys = WorldModelEnv(FakeWorld(end=0), render_mode="rgb_array"), [], [pygame.K_a, pygame.K_d, pygame.K_LEFT]

def callback(before, after, action, reward, terminated, truncated, info):
    seen.append(int(action))
    step = len(seen) - 1
    if step < len(keys):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=keys[step]))
        if step:
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=keys[step - 1]))
    else:
        pygame.event.post(pygame.event.Event(pygame.QUIT))

play.play(env, callback=callback, seed=0, noop=0)
print(seen)
"""


def test_gymnasiums_player_plays_the_dream_by_its_keys():
    tests = Path(__file__).parent
    settings = {"SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "agg", "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    run = [sys.executable, "-c", PLAY]
    found = subprocess.run(run, env=os.environ | settings, capture_output=True, text=True, timeout=200)
    assert found.stdout.splitlines()[-1] == "[0, 1, 2, 3]", found.stderr  # nothing held, then a, d and left


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_dreams_are_recorded_whole_in_every_mode(tmp_path, mode):
    envs = WorldModelVectorEnv(FakeWorld(end=0.2), 3, autoreset_mode=mode, max_episode_steps=7)
    with EpisodeWriter(tmp_path / "data", dataset_info(envs, "fake")) as writer:
        Recorder(envs, StickyPolicy(envs.single_action_space, np.random.default_rng(0)), writer, "sticky").record(80)
    store = EpisodeStore(tmp_path / "data")
    assert store.info.keymap == FakeWorld().info.keymap and store.num_frames >= 80
    ended = [record for record in store.records if record.terminated or record.total_steps == 7]
    assert len(ended) > 6 and any(record.terminated for record in ended)
    for index, _ in enumerate(store.records):
        shown = np.asarray(store.observations(index))[:, 20, 24, 0]  # the band of age, 0 at each episode's start
        assert shown.tolist() == list(range(len(shown)))


def test_the_record_command_takes_a_dream_as_its_game(tmp_path, capsys):
    world = bundle.save(tiny_world(), tmp_path / "world")
    arguments = [
        "game=dream",
        f"game.world={world}",
        "policy=sticky",
        "frames=40",
        "num_envs=4",
        f"out={tmp_path}/data",
    ]
    assert main(["record", *arguments, "max_episode_steps=8"]) == 0, capsys.readouterr().err
    store = EpisodeStore(tmp_path / "data")
    assert store.info.game == "worldsim/Tiny-v0" and store.num_frames >= 40
    assert store.info.env_spec["kwargs"]["world"] == str(world)
    envs = WorldModelVectorEnv(str(world), 1)
    record, frames = store.records[0], np.asarray(store.observations(0))
    dreamed = [envs.reset(seed=record.seed)[0][0]]
    dreamed += [envs.step(action[None].astype(np.int8))[0][0] for action in store.actions(0)]
    assert np.abs(np.stack(dreamed).astype(int) - frames).max() <= 1  # an episode's seed and actions dream it again


def collect(envs, frames, batch):
    collector = Collector(GymWrapper(envs), None, frames_per_batch=batch, total_frames=frames)
    try:
        return torch.cat([data.clone() for data in collector], 1)
    finally:
        collector.shutdown()


@pytest.mark.parametrize("mode", ["Disabled", "SameStep"])
def test_torchrl_collects_whole_episodes_through_its_own_wrapper(mode):
    data = collect(WorldModelVectorEnv(FakeWorld(), 4, max_episode_steps=6, autoreset_mode=mode), 96, 32)
    assert data.shape == (4, 24)
    now, after = (part["observation"][..., 20, 24, 0].long() for part in (data, data["next"]))
    done = data["next", "done"][..., 0]
    assert torch.equal(after, now + 1)  # the band of age: what comes after a step is never the next episode's start
    assert torch.equal(now[:, 1:], torch.where(done[:, :-1], 0, after[:, :-1]))
    assert data["next", "terminated"].any() and data["next", "truncated"].any()


@pytest.mark.slow
def test_torchrl_collects_two_thousand_steps_on_a_world_that_ships():
    envs = worldsim.WorldModelVectorEnv("arena", 8, steps=1, max_episode_steps=50, autoreset_mode="Disabled")
    data = collect(envs, 2000, 400)
    assert data.numel() == 2000 and data["next", "truncated"].any()
    assert (data["next", "observation"] != data["observation"]).any((-3, -2, -1)).float().mean() > 0.9
