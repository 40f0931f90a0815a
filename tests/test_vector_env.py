"""The dream as a vector env: rows, seeds, prompts and what is handed out, on the fake world."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import AGE, EPISODE, PROMPT, FakeWorld, read
from gymnasium import spaces

from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv


def test_row_i_is_the_single_env_seeded_s_plus_i():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 5)
    observations = [envs.reset(seed=100)[0], *(envs.step(np.full(5, a))[0] for a in (1, 2, 3))]
    for row in range(5):
        env = WorldModelEnv(FakeWorld(end=0))
        expected = [env.reset(seed=100 + row)[0], *(env.step(a)[0] for a in (1, 2, 3))]
        assert np.array_equal([observation[row] for observation in observations], expected)


def test_a_bad_action_in_one_row_leaves_every_row_as_it_was():
    envs, twin = (WorldModelVectorEnv(FakeWorld(spaces.MultiBinary(3), keymap=None), 3) for _ in range(2))
    good = np.ones((3, 3), np.int8)
    envs.reset(seed=0), twin.reset(seed=0)
    for bad in (np.vstack((good[:2], [[0, 0, 2]])), good[:2], None, np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="expected"):
            envs.step(bad)
    assert np.array_equal(envs.step(good)[0], twin.step(good)[0])


def test_seeds_may_be_a_list_where_none_goes_on_with_the_next_episode():
    envs = WorldModelVectorEnv(FakeWorld(), 3)
    envs.reset(seed=5)
    observations = envs.reset(seed=[None, 9, None])[0]
    assert [read(frame, EPISODE) for frame in observations] == [1, 0, 1]
    assert np.array_equal(observations[1], WorldModelEnv(FakeWorld()).reset(seed=9)[0])
    with pytest.raises(ValueError, match="expected an integer or 3 seeds"):
        envs.reset(seed=[1, 2])


def test_rows_that_were_never_seeded_differ():
    envs = WorldModelVectorEnv(FakeWorld(), 8)
    envs.reset()
    rewards = np.stack([envs.step(np.ones(8, int))[1] for _ in range(8)], 1)  # of one step, two in a thousand are alike
    assert len({tuple(row) for row in rewards.tolist()}) == 8


def test_prompts_may_be_named_for_all_rows_or_each():
    envs = WorldModelVectorEnv(FakeWorld(), 3)
    for prompt, expected in ((2, [2, 2, 2]), ([4, 0, 3], [4, 0, 3]), (np.array([1, 1, 2]), [1, 1, 2])):
        observations = envs.reset(seed=0, options={"prompt": prompt})[0]
        assert [read(frame, PROMPT) for frame in observations] == expected
    for options in ({"prompt": [1, 2]}, {"prompt": [0, 0, 5]}, {"reset_mask": np.ones(2, bool)}):
        with pytest.raises(ValueError, match=r"^expected .*found .*$"):
            envs.reset(options=options)


def test_returned_arrays_are_never_written_again():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 2, render_mode="rgb_array")
    observations = [envs.reset(seed=0)[0], *(envs.step([1, 1])[0] for _ in range(3))]
    assert [read(observation[0], AGE) for observation in observations] == [0, 1, 2, 3]
    observations[-1][:] = 0
    frames = envs.render()
    assert type(frames) is tuple and len(frames) == 2 and frames[0].shape == (40, 48, 3) and frames[0].any()


def test_the_global_generators_are_untouched():
    state = torch.get_rng_state()
    envs = WorldModelVectorEnv(FakeWorld(), 2)
    envs.reset(), envs.step([0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_step_and_render_before_reset_ask_for_a_reset():
    envs = WorldModelVectorEnv(FakeWorld(), 2, render_mode="rgb_array")
    for call in (lambda: envs.step([0, 0]), envs.render):
        with pytest.raises(gym.error.ResetNeeded):
            call()


def test_gymnasiums_statistics_wrapper_counts_the_episodes():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(WorldModelVectorEnv(FakeWorld(end=0), 3, max_episode_steps=4))
    envs.reset(seed=0)
    for _ in range(4):
        infos = envs.step([1, 1, 1])[4]
    assert infos["episode"]["l"].tolist() == [4, 4, 4]


@pytest.mark.parametrize("arguments", [{"num_envs": 0}, {"output": "jax"}, {"max_episode_steps": 0}], ids=str)
def test_bad_arguments_raise_one_sentence(arguments):
    with pytest.raises(ValueError, match=r"^expected .*found .*$"):
        WorldModelVectorEnv(FakeWorld(), **({"num_envs": 1} | arguments))
