"""The three autoreset modes against Gymnasium's own SyncVectorEnv of single envs: exactly on the fake world."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import EPISODE, FakeWorld, read
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import worldsim
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

DOOM_LIKE = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})
MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)


def pair(world, mode, num_envs=3, **arguments):
    arguments["render_mode"] = "rgb_array"
    reference = SyncVectorEnv([lambda: WorldModelEnv(world, **arguments)] * num_envs, autoreset_mode=mode)
    return WorldModelVectorEnv(world, num_envs, autoreset_mode=mode, **arguments), reference


def assert_equal(found, expected, tolerance=0):
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_equal(value, expected[key], tolerance)
    elif found is not None and found.dtype == object:
        for row, expected_row in zip(found, expected, strict=True):
            assert_equal(row, expected_row, tolerance)
    elif found is not None:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        tolerance *= 1 if found.dtype == np.uint8 else 1e-3  # grey levels; rewards
        assert np.abs(found.astype(float) - expected.astype(float)).max() <= tolerance


def step_both(envs, reference, tolerance=0):
    """Steps both; where autoreset is off, resets the rows that ended. Returns which rows ended."""
    taken = envs.action_space.sample()
    found, expected = envs.step(taken), reference.step(taken)
    for part, reference_part in zip(found, expected, strict=True):
        assert_equal(part, reference_part, tolerance)
    ended = found[2] | found[3]
    if envs.autoreset_mode is AutoresetMode.DISABLED and ended.any():
        reset_both(envs, reference, ended, tolerance)
    return ended


def reset_both(envs, reference, mask, tolerance=0):
    found, expected = (each.reset(options={"reset_mask": mask.copy()}) for each in (envs, reference))
    assert_equal(found[0], expected[0], tolerance), assert_equal(found[1], expected[1], tolerance)


@MODES
@pytest.mark.parametrize(
    ("space", "steps", "arguments"),
    [
        (DOOM_LIKE, 500, {"max_episode_steps": 7}),
        (spaces.MultiDiscrete([3, 2]), 100, {"actions": "discrete", "obs": "latent"}),
    ],
    ids=["native, limited", "discrete, latent"],
)
def test_500_steps_with_staggered_ends_equal_gymnasiums_sync_vector_env(mode, space, steps, arguments):
    envs, reference = pair(FakeWorld(space, keymap=None), mode, **arguments)
    for found, expected in zip(envs.reset(seed=11), reference.reset(seed=11), strict=True):
        assert_equal(found, expected)
    envs.action_space.seed(0)
    ends = np.array([step_both(envs, reference) for _ in range(steps)])
    assert (ends.sum(0) > 4).all() and (ends.any(1) & ~ends.all(1)).sum() > 10  # many ends, of some rows at a time


@MODES
def test_16_steps_of_a_shipped_world_equal_gymnasiums_sync_vector_env(mode):
    envs, reference = pair(worldsim.load("arena"), mode, num_envs=2, max_episode_steps=5)
    envs.reset(seed=3), reference.reset(seed=3)
    envs.action_space.seed(0)
    ends = [step_both(envs, reference, tolerance=1) for _ in range(2)]
    reset_both(envs, reference, np.array([True, False]), tolerance=1)  # so that ends are staggered
    ends += [step_both(envs, reference, tolerance=1) for _ in range(14)]
    assert (np.sum(ends, 0) >= 2).all() and (np.any(ends, 1) & ~np.all(ends, 1)).any()


@MODES
def test_spaces_and_metadata_equal_gymnasiums_sync_vector_env(mode):
    for obs in ("rgb", "latent"):
        envs, reference = pair(FakeWorld(DOOM_LIKE, keymap=None), mode, obs=obs)
        for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
            assert getattr(envs, name) == getattr(reference, name)
        assert envs.metadata == reference.metadata and envs.num_envs == reference.num_envs
        assert envs.autoreset_mode is envs.metadata["autoreset_mode"] is mode
    assert WorldModelVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@MODES
@pytest.mark.parametrize("by_name", [True, False])
def test_a_mode_is_given_as_the_enum_or_by_name(mode, by_name):
    envs = WorldModelVectorEnv(FakeWorld(), 1, autoreset_mode=mode.value if by_name else mode)
    assert envs.autoreset_mode is mode


def test_another_mode_is_one_sentence():
    with pytest.raises(ValueError, match=r"^expected autoreset_mode one of 'NextStep', 'SameStep', 'Disabled', found"):
        WorldModelVectorEnv(FakeWorld(), 1, autoreset_mode="sometimes")


@MODES
@pytest.mark.parametrize("rows", [[True, False, False], [False, True, True]])
def test_resetting_some_rows_changes_no_other_by_a_bit(mode, rows):
    world, mask = FakeWorld(end=0), np.array(rows)
    envs, undisturbed = (WorldModelVectorEnv(world, 3, autoreset_mode=mode) for _ in range(2))
    envs.reset(seed=0), undisturbed.reset(seed=0)
    envs.step([1, 2, 3]), undisturbed.step([1, 2, 3])
    options = {"reset_mask": mask, "prompt": 2}
    before = envs.get_state()
    observations, infos = envs.reset(options=options)
    assert list(options) == ["reset_mask", "prompt"] and options["reset_mask"] is mask and mask.tolist() == rows
    assert infos["_age"].tolist() == rows and [read(frame, EPISODE) for frame in observations] == mask.tolist()
    kept = torch.from_numpy(~mask).nonzero()[:, 0]
    same_rows(before.select(kept), envs.get_state().select(kept))
    for _ in range(5):
        found, expected = envs.step([3, 1, 2]), undisturbed.step([3, 1, 2])
        assert np.array_equal(found[0][~mask], expected[0][~mask])
        assert np.array_equal(found[1][~mask], expected[1][~mask]) and (found[1] != expected[1])[mask].all()


def same_rows(found, expected):
    assert found.to_bytes() == expected.to_bytes()


def test_a_mask_with_a_seed_starts_its_rows_as_that_seeds_rows():
    envs, whole = (WorldModelVectorEnv(FakeWorld(), 3, autoreset_mode="Disabled") for _ in range(2))
    envs.reset(seed=0), envs.reset(seed=50, options={"reset_mask": np.array([False, True, False])})
    whole.reset(seed=50)
    middle = torch.tensor([1])
    same_rows(envs.get_state().select(middle), whole.get_state().select(middle))
    assert envs.get_state().world.address[:, 0].tolist() == [0, 51, 2]


def test_the_first_reset_is_of_all_rows():
    with pytest.raises(gym.error.ResetNeeded, match="leave out reset_mask"):
        WorldModelVectorEnv(FakeWorld(), 2).reset(options={"reset_mask": np.array([True, False])})


def test_without_autoreset_stepping_a_row_that_ended_asks_for_its_reset_and_changes_nothing():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 2, autoreset_mode="Disabled", max_episode_steps=2)
    envs.reset(seed=0), envs.step([1, 1])
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.step([1, 1])[3].tolist() == [False, True]
    before = envs.get_state()
    with pytest.raises(gym.error.ResetNeeded, match=r"ended \(1\)"):
        envs.step([1, 1])
    same_rows(envs.get_state(), before)


def test_the_next_step_after_an_end_is_a_reset_without_reward_that_ignores_the_action():
    envs, twin = (WorldModelVectorEnv(FakeWorld(end=0), 2, max_episode_steps=2) for _ in range(2))
    envs.reset(seed=0), twin.reset(seed=0)
    for _ in range(2):
        assert np.array_equal(envs.step([1, 1])[3], twin.step([1, 1])[3])
    observations, rewards, terminated, truncated, infos = envs.step([3, 3])
    assert np.array_equal(observations, twin.step([0, 0])[0])
    assert [read(frame, EPISODE) for frame in observations] == [1, 1]
    assert not (rewards.any() or terminated.any() or truncated.any() or infos["age"].any())


def test_final_observations_are_arrays_of_their_own():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 2, autoreset_mode="SameStep", max_episode_steps=1)
    envs.reset(seed=0)
    observations, *_, infos = envs.step([1, 2])
    final = infos["final_obs"]
    assert final.dtype == object and not any(np.shares_memory(frame, observations) for frame in final)
    assert not np.shares_memory(*final)


def test_rows_that_ended_where_a_state_stands_begin_anew_at_once_in_the_same_step():
    env = WorldModelEnv(FakeWorld(end=1))
    env.reset(seed=0), env.step(1)
    envs = env.fork(2, autoreset_mode="SameStep")
    assert envs.get_state().world.age.tolist() == [0, 0] and not envs.get_state().terminated.any()
    disabled = env.fork(2, autoreset_mode="Disabled")
    assert disabled.get_state().terminated.all()
