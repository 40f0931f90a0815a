"""Gymnasium's own wrappers, makers and checkers over the dream, as users combine them."""

import copy
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import FakeWorld
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, HumanRendering, RecordVideo
from gymnasium.wrappers import vector as wrappers
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

ID = "worldsim/World-v0"
MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(bundle.save(tiny_world(), tmp_path_factory.mktemp("worlds") / "tiny"))


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("arguments", [{"obs": "latent"}, {"actions": "discrete"}, {"max_episode_steps": 3}], ids=str)
def test_gymnasium_check_env_finds_nothing_to_warn_about(folder, arguments):
    check_env(gym.make(ID, world=folder, render_mode="rgb_array", **arguments).unwrapped)


def test_a_restored_and_a_pickled_env_match_the_first_one_step_by_step(folder):
    env = gym.make(ID, world=folder).unwrapped
    check_environments_match(env, pickle.loads(pickle.dumps(env)), num_steps=5, seed=0)


@MODES
def test_episode_statistics_count_in_every_mode(mode):
    envs = WorldModelVectorEnv(FakeWorld(end=0), 3, max_episode_steps=4, autoreset_mode=mode)
    envs = wrappers.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    steps = [envs.step([1, 1, 1]) for _ in range(4)]
    assert steps[-1][4]["episode"]["l"].tolist() == [4, 4, 4]
    assert np.allclose(steps[-1][4]["episode"]["r"], np.sum([step[1] for step in steps], 0), rtol=1e-5)


def test_episode_statistics_see_the_reset_mask_that_the_env_left_where_it_was():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 3, max_episode_steps=9, autoreset_mode="Disabled")
    envs = wrappers.RecordEpisodeStatistics(envs)
    envs.reset(seed=0), envs.step([1, 1, 1]), envs.step([1, 1, 1])
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert envs.episode_lengths.tolist() == [0, 2, 2]


def test_videos_are_recorded_of_one_row_and_of_many(tmp_path):
    arguments = {"render_mode": "rgb_array", "max_episode_steps": 3}
    single = RecordVideo(WorldModelEnv(FakeWorld(end=0, fps=15), **arguments), tmp_path / "a")
    single.reset(seed=0)
    [single.step(1) for _ in range(3)]
    single.close()
    envs = WorldModelVectorEnv(FakeWorld(end=0, fps=15), 2, **arguments)
    envs = wrappers.RecordVideo(envs, str(tmp_path / "b"), episode_trigger=lambda episode: episode == 0)
    envs.reset(seed=0)
    [envs.step([1, 1]) for _ in range(5)]
    envs.close()
    assert len([*(tmp_path / "a").glob("*.mp4")]) == len([*(tmp_path / "b").glob("*.mp4")]) == 1


def test_frames_stack_and_turn_grey():
    env = FrameStackObservation(GrayscaleObservation(WorldModelEnv(FakeWorld(end=0))), 4)
    env.reset(seed=0)
    stacks = [env.step(action)[0] for action in (1, 2, 3)]
    assert stacks[0].shape == (4, 40, 48) and np.array_equal(stacks[2][2], stacks[1][3])


def test_arrays_become_tensors_and_tensors_arrays():
    numpy, tensors = WorldModelVectorEnv(FakeWorld(end=0), 2), WorldModelVectorEnv(FakeWorld(end=0), 2, output="torch")
    to_torch = wrappers.NumpyToTorch(WorldModelVectorEnv(FakeWorld(end=0), 2))
    to_numpy = wrappers.ArrayConversion(tensors, env_xp=torch, target_xp=np)
    expected = numpy.reset(seed=0)[0], *numpy.step([1, 2])[:4]
    for envs, as_array, kind in ((to_torch, torch.tensor, torch.Tensor), (to_numpy, np.array, np.ndarray)):
        found = envs.reset(seed=0)[0], *envs.step(as_array([1, 2]))[:4]
        for part, expected_part in zip(found, expected, strict=True):
            assert isinstance(part, kind) and np.allclose(part, expected_part)


def test_humans_can_watch(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = HumanRendering(WorldModelEnv(FakeWorld(), render_mode="rgb_array"))
    env.reset(seed=0), env.step(1)
    assert env.render() is None and env.window is not None
    env.close()


def test_async_workers_dream_what_the_batch_dreams(folder):
    envs = AsyncVectorEnv([lambda: gym.make("worldsim:" + ID, world=folder)] * 2, context="spawn")
    batch = gym.make_vec(ID, num_envs=2, world=folder)
    try:
        found, expected = envs.reset(seed=4)[0], batch.reset(seed=4)[0]
        assert np.abs(found.astype(int) - expected).max() <= 1
        actions = np.ones((2, 4), np.int8)
        assert np.abs(envs.step(actions)[0].astype(int) - batch.step(actions)[0]).max() <= 1
    finally:
        envs.close()
    envs.close(), batch.close(), batch.close()


def test_make_vec_defaults_and_arguments_reach_the_env(folder):
    envs = gym.make_vec(ID, num_envs=2, world=folder)
    assert (envs.autoreset_mode, envs.output, envs.num_envs) == (AutoresetMode.NEXT_STEP, "numpy", 2)
    arguments = {"autoreset_mode": "SameStep", "output": "torch", "obs": "latent", "actions": "discrete", "steps": 1}
    envs = gym.make_vec(ID, num_envs=3, world=folder, max_episode_steps=2, **arguments)
    envs.reset(seed=0)
    steps = [envs.step(torch.zeros(3, dtype=torch.long)) for _ in range(2)]
    assert steps[0][0].shape == (3, 4, 2, 2) and steps[0][0].dtype == torch.float32 and envs.world.steps == 1
    assert envs.autoreset_mode is AutoresetMode.SAME_STEP and "final_obs" in steps[0][4]
    assert torch.equal(steps[1][3], ~steps[0][2])  # two steps after the start, where none ended sooner


@pytest.mark.parametrize("vector", [False, True])
def test_a_spec_goes_through_json_and_makes_the_same_env(folder, vector):
    arguments = {"world": folder, "obs": "latent", "actions": "discrete"}
    if vector:
        made = gym.make_vec(ID, num_envs=3, max_episode_steps=5, autoreset_mode="SameStep", **arguments)
        again = gym.make_vec(EnvSpec.from_json(made.spec.to_json()))
        assert again.num_envs == 3 and again.autoreset_mode is AutoresetMode.SAME_STEP
    else:
        made = gym.make(ID, max_episode_steps=5, **arguments)
        again = gym.make(EnvSpec.from_json(made.spec.to_json()))
    assert again.observation_space == made.observation_space and again.action_space == made.action_space
    assert json.loads(again.spec.to_json()) == json.loads(made.spec.to_json())
    for env in (made, again):
        env.action_space.seed(0), env.reset(seed=0)
    rows = [[env.step(env.action_space.sample())[:4] for _ in range(5)] for env in (made, again)]
    assert all(np.array_equal(a, b) for x, y in zip(*rows, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
def test_a_copy_of_a_vector_env_is_a_fresh_one_of_the_same_arguments(copied):
    envs = WorldModelVectorEnv(
        FakeWorld(spaces.MultiBinary(2), keymap=None), 2, actions="discrete", autoreset_mode="SameStep"
    )
    envs.reset(seed=0)
    twin = copied(envs)
    with pytest.raises(gym.error.ResetNeeded):
        twin.step([0, 0])
    assert twin.autoreset_mode is AutoresetMode.SAME_STEP
    assert np.array_equal(twin.reset(seed=0)[0], envs.reset(seed=0)[0])
    assert np.array_equal(twin.step([1, 2])[0], envs.step([1, 2])[0])
