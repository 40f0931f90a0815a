"""The adapter for Stable-Baselines3, against SB3's own vector env of single dreams; and SB3 learning through it."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from fake_world import FakeWorld
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import worldsim
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.sb3 import SB3VecEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

LIMIT = 12


def make(rows=3, **arguments):
    settings = {"max_episode_steps": LIMIT, "autoreset_mode": "SameStep"} | arguments
    return SB3VecEnv(WorldModelVectorEnv(FakeWorld(), rows, **settings))


def test_it_is_the_vector_env_that_sb3_would_build_of_single_dreams():
    reference = DummyVecEnv([lambda: WorldModelEnv(FakeWorld(), max_episode_steps=LIMIT)] * 3)
    envs = make()
    reference.seed(7), envs.seed(7)
    assert np.array_equal(envs.reset(), reference.reset())
    assert envs.reset_infos == reference.reset_infos
    rng, ends, limits = np.random.default_rng(0), 0, 0
    for _ in range(60):
        actions = rng.integers(0, 4, 3)
        found, expected = envs.step(actions), reference.step(actions)
        assert all(np.allclose(a, b) and a.dtype == b.dtype for a, b in zip(found[:3], expected[:3], strict=True))
        for info, like in zip(found[3], expected[3], strict=True):
            assert info.keys() == like.keys() and info["age"] == like["age"]
            assert info["TimeLimit.truncated"] is bool(like["TimeLimit.truncated"])
            assert ("terminal_observation" in info) <= np.array_equal(
                info.get("terminal_observation"), like.get("terminal_observation")
            )
        ends, limits = ends + found[2].sum(), limits + sum(info["TimeLimit.truncated"] for info in found[3])
    assert ends > limits > 0  # episodes of both kinds came


def test_gymnasiums_own_vector_envs_are_adapted_too():
    mode = gym.vector.AutoresetMode.SAME_STEP
    envs = gym.vector.SyncVectorEnv(
        [lambda: WorldModelEnv(FakeWorld(end=0), max_episode_steps=2)] * 2, autoreset_mode=mode
    )
    envs = VecMonitor(SB3VecEnv(gym.wrappers.vector.RecordEpisodeStatistics(envs)))
    envs.seed(0), envs.reset(), envs.step(np.ones(2, int))
    infos = envs.step(np.ones(2, int))[3]
    assert [info["episode"]["l"] for info in infos] == [2, 2] and all(info["TimeLimit.truncated"] for info in infos)


def test_seeds_and_options_hold_for_one_reset():
    envs = make()
    envs.seed(3), envs.set_options({"prompt": 2})
    first = envs.reset()
    assert np.array_equal(first, WorldModelVectorEnv(FakeWorld(), 3).reset(seed=3, options={"prompt": 2})[0])
    assert not np.array_equal(envs.reset(), first)


def test_rows_of_one_batch_are_reached_through_the_batch():
    envs = make(render_mode="rgb_array")
    envs.reset()
    assert envs.get_attr("num_envs", [0, 2]) == [3, 3] and envs.env_is_wrapped(gym.Wrapper) == [False] * 3
    assert len(envs.get_images()) == 3 and envs.render_mode == "rgb_array"
    for call in (lambda: envs.set_attr("world", None), lambda: envs.env_method("get_state")):
        with pytest.raises(AttributeError, match="one batch"):
            call()
    envs.close()
    assert envs.envs.closed


@pytest.mark.parametrize("arguments", [{"autoreset_mode": "NextStep"}, {"output": "torch"}], ids=str)
def test_envs_it_cannot_adapt_are_refused(arguments):
    with pytest.raises(ValueError, match=r"^expected envs with .*found .*$"):
        make(**arguments)


def test_without_sb3_the_error_names_the_extra():
    code = "import sys; sys.modules['stable_baselines3'] = None; import worldsim.dream.sb3"
    error = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "ImportError: worldsim.dream.sb3 needs the extra agents" in error


def test_ppo_learns_which_action_pays():
    envs = SB3VecEnv(WorldModelVectorEnv(FakeWorld(end=0), 8, obs="latent", autoreset_mode="SameStep"))
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, learning_rate=3e-3, gamma=0, seed=0, device="cpu")
    model.learn(2048)
    chosen = model.predict(envs.reset(), deterministic=True)[0]
    assert (chosen == 3).mean() > 0.8  # the fake world's reward is luck and the action's number


@pytest.mark.slow
def test_ppo_runs_two_thousand_steps_on_a_world_that_ships():
    envs = worldsim.WorldModelVectorEnv("arena", 8, steps=1, autoreset_mode="SameStep", max_episode_steps=50)
    model = PPO("CnnPolicy", VecMonitor(SB3VecEnv(envs)), n_steps=64, batch_size=256, n_epochs=1, seed=0, device="cpu")
    model.learn(2000)
    assert model.num_timesteps >= 2000 and len(model.ep_info_buffer) > 0
