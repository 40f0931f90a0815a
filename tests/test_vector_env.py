"""The dream as a vector env, against Gymnasium's own SyncVectorEnv of single envs, on the fake world."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import AGE, EPISODE, PROMPT, FakeWorld, read
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim.env import WorldModelEnv
from worldsim.vector_env import WorldModelVectorEnv

DOOM_LIKE = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})


def pair(space=None, num_envs=3, limit=None, actions="native"):
    world = FakeWorld(space, keymap=None)
    arguments = {"actions": actions, "max_episode_steps": limit, "render_mode": "rgb_array"}
    reference = SyncVectorEnv([lambda: WorldModelEnv(world, **arguments)] * num_envs)
    return WorldModelVectorEnv(world, num_envs, **arguments), reference


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_equal(value, expected[key])
    else:
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("space", "actions", "limit"),
    [
        (spaces.MultiDiscrete([3, 2]), "discrete", None),
        (DOOM_LIKE, "native", 7),
    ],
    ids=str,
)
def test_500_steps_with_staggered_ends_equal_gymnasiums_sync_vector_env(space, actions, limit):
    envs, reference = pair(space, limit=limit, actions=actions)
    for found, expected in zip(envs.reset(seed=11), reference.reset(seed=11), strict=True):
        assert_equal(found, expected)
    envs.action_space.seed(0)
    ends, limits = np.zeros(3, int), 0
    for _ in range(500):
        taken = envs.action_space.sample()
        found, expected = envs.step(taken), reference.step(taken)
        for part, reference_part in zip(found, expected, strict=True):
            assert_equal(part, reference_part)
        ends += found[2] | found[3]
        limits += found[3].sum()
    assert (ends > 10).all() and len(set(ends)) > 1 and bool(limits) == (limit is not None)


def test_spaces_and_metadata_equal_gymnasiums_sync_vector_env():
    envs, reference = pair(DOOM_LIKE)
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space", "num_envs"):
        assert getattr(envs, name) == getattr(reference, name)
    assert envs.metadata == reference.metadata
    assert envs.autoreset_mode is envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert WorldModelVectorEnv.metadata["render_fps"] == 15


def test_row_i_is_the_single_env_seeded_s_plus_i():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 5)
    observations = [envs.reset(seed=100)[0], *(envs.step(np.full(5, a))[0] for a in (1, 2, 3))]
    for row in range(5):
        env = WorldModelEnv(FakeWorld(end=0))
        expected = [env.reset(seed=100 + row)[0], *(env.step(a)[0] for a in (1, 2, 3))]
        assert np.array_equal([observation[row] for observation in observations], expected)


def test_the_step_after_an_end_is_a_reset_without_reward_that_ignores_the_action():
    envs, twin = (WorldModelVectorEnv(FakeWorld(end=0), 2, max_episode_steps=2) for _ in range(2))
    envs.reset(seed=0), twin.reset(seed=0)
    for _ in range(2):
        truncated = (envs.step([1, 1])[3], twin.step([1, 1])[3])
    assert np.array_equal(truncated, np.ones((2, 2)))
    observations, rewards, terminated, truncated, infos = envs.step([3, 3])
    assert np.array_equal(observations, twin.step([0, 0])[0])
    assert [read(frame, EPISODE) for frame in observations] == [1, 1]
    assert not (rewards.any() or terminated.any() or truncated.any() or infos["age"].any())


def test_reset_of_one_row_leaves_other_rows_unchanged():
    world = FakeWorld(end=0)
    envs, undisturbed = WorldModelVectorEnv(world, 3), WorldModelVectorEnv(world, 3)
    envs.reset(seed=0), undisturbed.reset(seed=0)
    envs.step([1, 2, 3]), undisturbed.step([1, 2, 3])
    envs._terminated = torch.tensor([False, True, False])
    found, expected = envs.step([1, 2, 3]), undisturbed.step([1, 2, 3])
    assert read(found[0][1], EPISODE) == 1 and found[1][1] == 0
    for kept in (0, 2):
        assert np.array_equal(found[0][kept], expected[0][kept]) and found[1][kept] == expected[1][kept]


def test_a_bad_action_in_one_row_leaves_every_row_as_it_was():
    (envs, reference), good = pair(spaces.MultiBinary(3)), np.ones((3, 3), np.int8)
    envs.reset(seed=0), reference.reset(seed=0)
    for bad in (np.vstack((good[:2], [[0, 0, 2]])), good[:2], None, np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="expected"):
            envs.step(bad)
    assert_equal(envs.step(good)[0], reference.step(good)[0])


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
    assert len(set(envs.step(np.ones(8, int))[1].tolist())) == 8


def test_prompts_may_be_named_for_all_rows_or_each():
    envs = WorldModelVectorEnv(FakeWorld(), 3)
    for prompt, expected in ((2, [2, 2, 2]), ([4, 0, 3], [4, 0, 3]), (np.array([1, 1, 2]), [1, 1, 2])):
        observations = envs.reset(seed=0, options={"prompt": prompt})[0]
        assert [read(frame, PROMPT) for frame in observations] == expected
    for options in ({"prompt": [1, 2]}, {"prompt": [0, 0, 5]}, {"reset_mask": np.ones(3, bool)}):
        with pytest.raises(ValueError, match=r"^expected .*found .*$"):
            envs.reset(options=options)


def test_torch_output_is_the_numpy_output_as_tensors_of_their_own():
    envs, expected = (WorldModelVectorEnv(FakeWorld(), 4, output=output) for output in ("torch", "numpy"))
    first, _ = envs.reset(seed=0)
    kept, _ = expected.reset(seed=0)
    for _ in range(40):
        found = envs.step(torch.tensor([0, 1, 2, 3]))
        for part, reference in zip(found[:4], expected.step(np.arange(4))[:4], strict=True):
            assert np.allclose(part.numpy(), reference)
    assert [part.dtype for part in found[:4]] == [torch.uint8, torch.float32, torch.bool, torch.bool]
    assert found[4]["age"].dtype == torch.int64 and found[4]["_age"].all()
    assert np.array_equal(first.numpy(), kept)


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


def test_autoreset_mode_may_be_given_by_name_and_others_come_later():
    assert WorldModelVectorEnv(FakeWorld(), 1, autoreset_mode="NextStep").autoreset_mode is AutoresetMode.NEXT_STEP
    for mode in ("SameStep", AutoresetMode.DISABLED, "sometimes"):
        with pytest.raises(ValueError, match="later version"):
            WorldModelVectorEnv(FakeWorld(), 1, autoreset_mode=mode)


@pytest.mark.parametrize("arguments", [{"num_envs": 0}, {"output": "jax"}, {"max_episode_steps": 0}], ids=str)
def test_bad_arguments_raise_one_sentence(arguments):
    with pytest.raises(ValueError, match=r"^expected .*found .*$"):
        WorldModelVectorEnv(FakeWorld(), **({"num_envs": 1} | arguments))
