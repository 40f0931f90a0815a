"""The worlds that ship: whole, small, and good Gymnasium citizens as they are."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import worldsim
from worldsim import bundle
from worldsim.agents.agent import FILE, Agent
from worldsim.cli.compose import compose
from worldsim.dream.registration import gym_id

WORLDS = bundle.shipped()


def test_the_default_world_of_play_ships():
    assert compose("play", []).world in WORLDS


def test_all_worlds_together_stay_under_fifty_megabytes():
    assert sum(path.stat().st_size for path in bundle.WORLDS.rglob("*")) < 50e6


@pytest.mark.parametrize("name", [name for name in WORLDS if (bundle.WORLDS / name / FILE).exists()])
def test_an_agent_beside_a_world_was_taught_in_it_and_plays_it(name):
    world, agent = worldsim.load(name), Agent.load(bundle.WORLDS / name)
    assert (agent.facts["world"], agent.facts["world_temperature"]) == (world.fingerprint, world.temperature)
    assert "worldsim agent train" in (bundle.WORLDS / name / "AGENT.md").read_text()
    env = gym.make(gym_id(name))
    observation, _ = env.reset(seed=0)
    actions = [agent.act(env.step(agent.act(observation, step == 0))[0]) for step in range(3)]
    assert all(env.action_space.contains(action) for action in actions)


@pytest.mark.parametrize("name", WORLDS)
class TestWorld:
    def test_gymnasiums_checker_has_no_complaint(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gym.make(gym_id(name), render_mode="rgb_array").unwrapped)

    def test_stable_baselines_checker_has_no_complaint_about_discrete_actions(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sb3_check_env(gym.make(gym_id(name), actions="discrete"))

    def test_one_seed_gives_one_dream(self, name):
        def frames(seed):
            env = gym.make(gym_id(name))
            env.action_space.seed(0)
            first, _ = env.reset(seed=seed)
            return np.stack([first] + [env.step(env.action_space.sample())[0] for _ in range(5)])

        assert np.array_equal(frames(1), frames(1)) and not np.array_equal(frames(1), frames(2))

    def test_in_bfloat16_a_step_is_that_of_float32_to_a_grey_level_and_its_states_are_float32_s(self, name):
        def step(dtype):
            envs = gym.make_vec("worldsim/World-v0", num_envs=4, world=name, dtype=dtype)
            envs.reset(seed=0)
            envs.action_space.seed(0)
            frames, rewards, *_ = envs.step(envs.action_space.sample())
            return frames.astype(int), rewards, envs.get_state()

        frames, rewards, _ = step("float32")
        others, rounded, state = step("bfloat16")
        assert (np.abs(frames - others) > 1).mean() < 1e-3 and not np.array_equal(frames, others)
        assert np.allclose(rewards, rounded, atol=0.1)
        envs = gym.make_vec("worldsim/World-v0", num_envs=4, world=name)
        envs.set_state(state)  # which refuses another dtype

    def test_its_card_and_its_metrics_are_there(self, name):
        world = worldsim.load(name)
        assert world.info.metrics["one_step"]["psnr"]["mean"] > world.info.metrics["copy_last"]["1"]["psnr"]["mean"]
        assert (bundle.WORLDS / name / "sheet.png").exists()
        card = (bundle.WORLDS / name / "README.md").read_text()
        assert all(word in card for word in ("worldsim record", "worldsim train", "minutes", "wrong"))
