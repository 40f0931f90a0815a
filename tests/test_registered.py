"""The registered ids, over a bundle of a tiny real world on disk."""

import copy
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tiny_world import tiny_world

import worldsim
from worldsim import bundle
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

ID = "worldsim/World-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(bundle.save(tiny_world(), tmp_path_factory.mktemp("worlds") / "tiny"))


def test_gymnasium_check_env_finds_nothing_to_warn_about(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, world=folder, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("sizes", [{"codes": 4}, {"codes": 0, "numbers": 2}])
def test_a_world_of_latent_actions_is_an_environment_like_any_other(sizes, tmp_path):
    world = tiny_world(latent=sizes)
    folder = str(bundle.save(world, tmp_path / "latent"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*symmetric and normalized")  # latent numbers reach farther, and alike
        env = gym.make(ID, world=folder, render_mode="rgb_array")
        check_env(env.unwrapped)
        envs = gym.make_vec(ID, num_envs=2, world=folder)
    assert env.action_space == envs.single_action_space == world.latent.config.space
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    for each in (env, twin):
        each.reset(seed=3)
        each.action_space.seed(0)
    for _ in range(4):
        assert np.array_equal(env.step(env.action_space.sample())[0], twin.step(twin.action_space.sample())[0])
    frame, _ = envs.reset(seed=3)
    assert frame.shape == (2, *world.info.frame_shape) and envs.step(envs.action_space.sample())[0].shape == frame.shape


def test_an_id_with_a_path_makes_both_envs_and_specs_are_plain_json(folder):
    gym.register_envs(worldsim)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env, envs = gym.make(ID, world=folder), gym.make_vec(ID, num_envs=3, world=folder, actions="discrete")
    assert type(env.unwrapped) is WorldModelEnv and type(envs) is WorldModelVectorEnv
    assert envs.num_envs == 3 and envs.single_action_space == gym.spaces.Discrete(16)
    for made in (env, envs):
        assert json.loads(made.spec.to_json())["kwargs"]["world"] == folder
    assert gym.make_vec(envs.spec).num_envs == 3


def test_make_vec_hands_the_time_limit_of_a_spec_to_the_vector_env(folder):
    spec = copy.deepcopy(gym.spec(ID))
    spec.max_episode_steps, spec.kwargs = 1, {"world": folder}
    envs = gym.make_vec(spec, num_envs=2)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[3].tolist() == [True, True]


def test_rows_of_a_real_network_follow_the_single_envs():
    world = tiny_world()
    envs, singles = WorldModelVectorEnv(world, 3), [WorldModelEnv(world) for _ in range(3)]
    envs.reset(seed=5), [env.reset(seed=5 + i) for i, env in enumerate(singles)]
    running = np.ones(3, bool)
    for _ in range(8):
        actions = envs.action_space.sample()
        found, expected = envs.step(actions), [env.step(action) for env, action in zip(singles, actions, strict=True)]
        for i in np.flatnonzero(running):
            assert np.abs(found[0][i].astype(int) - expected[i][0]).max() <= 1
            assert found[1][i] == pytest.approx(expected[i][1], rel=1e-3)
        running &= ~found[2]


def test_a_pickled_env_of_a_path_is_small_and_dreams_the_same(folder):
    env = gym.make(ID, world=folder).unwrapped
    text = pickle.dumps(env)
    twin = pickle.loads(text)
    assert len(text) < 10_000
    env.reset(seed=0), twin.reset(seed=0)
    assert np.array_equal(env.step(np.ones(4, np.int8))[0], twin.step(np.ones(4, np.int8))[0])


def test_an_unknown_world_is_one_sentence():
    with pytest.raises(ValueError, match=r"no-such-world$"):
        gym.make(ID, world="no-such-world")
