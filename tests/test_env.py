"""The dream as a single Gymnasium env, on the fake world."""

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_world import ACTION, AGE, EPISODE, FakeWorld, read
from fake_world import PROMPT as PROMPT_BAND
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from worldsim import noise
from worldsim.dream.env import WorldModelEnv

DOOM_LIKE = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})


def play(env, actions, seed=None):
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, _, _ = env.step(action)
        frames.append(observation)
        rewards.append(reward)
        if terminated:
            frames.append(env.reset()[0])
    return np.array(frames), rewards


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiBinary(3), DOOM_LIKE, "none"], ids=str)
@pytest.mark.parametrize("actions", ["native", "discrete"])
def test_gymnasium_check_env_finds_nothing_to_warn_about(space, actions):
    gym.register("H4/Checked-v0", WorldModelEnv, kwargs={"world": FakeWorld(space, keymap=None)})
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            check_env(gym.make("H4/Checked-v0", actions=actions, render_mode="rgb_array").unwrapped)
    finally:
        del gym.registry["H4/Checked-v0"]
    # The action space of a game with degrees is not [-1, 1]; that is the game's own.
    assert [str(w.message) for w in found if "normalized space" not in str(w.message)] == []


@pytest.mark.parametrize("space", [spaces.Discrete(4), DOOM_LIKE], ids=str)
def test_stable_baselines_check_env_accepts_the_discrete_table(space):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(WorldModelEnv(FakeWorld(space, keymap=None), actions="discrete"))


def test_one_seed_gives_the_same_frames_twice_and_another_seed_gives_others():
    env, actions = WorldModelEnv(FakeWorld()), np.random.default_rng(0).integers(0, 4, 50)
    first, again, other = (play(env, actions, seed) for seed in (7, 7, 8))
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert first[1] != other[1]


def test_reset_without_a_seed_is_the_next_episode_of_the_same_row():
    env = WorldModelEnv(FakeWorld())
    episodes = [read(env.reset(seed=seed)[0], EPISODE) for seed in (3, None, None, 3, None)]
    assert episodes == [0, 1, 2, 0, 1]
    assert env.row_seed == 3 and env.episode == 1


def test_rows_that_were_never_seeded_differ():
    rewards = {tuple(play(WorldModelEnv(FakeWorld()), [1, 1, 1])[1]) for _ in range(4)}  # one of each may be alike
    assert len(rewards) == 4


def test_the_global_generators_are_untouched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    env = WorldModelEnv(FakeWorld())
    play(env, [0, 1, 2, 3], seed=0)
    play(env, [0, 1, 2, 3])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))


def test_returned_arrays_are_never_written_again():
    env = WorldModelEnv(FakeWorld(), render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    kept = observation.copy()
    following = env.step(1)[0]
    assert np.array_equal(observation, kept) and not np.array_equal(following, kept)
    following[:] = 0
    assert env.render().any() and not np.shares_memory(env.render(), env.render())


def test_step_returns_plain_python_scalars_and_the_age():
    env = WorldModelEnv(FakeWorld())
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(np.int64(2))
    assert (observation.dtype, observation.shape) == (np.uint8, (40, 48, 3))
    assert [type(x) for x in (reward, terminated, truncated)] == [float, bool, bool]
    assert info == {"age": 1} and type(info["age"]) is int
    assert (read(observation, AGE), read(observation, ACTION)) == (1, 16)


def test_the_time_limit_truncates_and_never_terminates():
    env = WorldModelEnv(FakeWorld(end=0), max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_prompts_are_drawn_from_the_address_and_cover_them_all():
    env = WorldModelEnv(FakeWorld())
    drawn = [read(env.reset(seed=seed)[0], PROMPT_BAND) for seed in range(60)]
    uniform = noise.uniform(noise.address_of(list(range(60))), (1,), noise.PROMPT)[:, 0]
    assert drawn == [int(u * 5) for u in uniform.tolist()]
    assert set(drawn) == set(range(5))


def test_the_prompt_option_names_the_prompt_and_is_left_as_it_was():
    env, options = WorldModelEnv(FakeWorld()), {"prompt": 4}
    assert read(env.reset(seed=0, options=options)[0], PROMPT_BAND) == 4
    assert options == {"prompt": 4}


@pytest.mark.parametrize("options", [{"prompt": 5}, {"prompt": -1}, {"prompt": 1.5}, {"prompt": [1, 2]}, {"promt": 1}])
def test_bad_reset_options_raise_one_sentence_and_change_nothing(options):
    env = WorldModelEnv(FakeWorld())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^expected .*found .*$"):
        env.reset(seed=1, options=options)
    assert (env.row_seed, env.episode) == (0, 0)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5])
def test_a_bad_seed_is_one_sentence(seed):
    with pytest.raises(ValueError, match="expected a seed"):
        WorldModelEnv(FakeWorld()).reset(seed=seed)


@pytest.mark.parametrize("bad", [4, -1, 0.5, float("nan"), None, "left", [1, 2]], ids=repr)
def test_a_bad_action_raises_and_leaves_the_state_as_it_was(bad):
    env, twin = WorldModelEnv(FakeWorld()), WorldModelEnv(FakeWorld())
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match="expected"):
        env.step(bad)
    found, expected = env.step(1), twin.step(1)
    assert np.array_equal(found[0], expected[0]) and found[1:] == expected[1:]


@pytest.mark.parametrize(
    "bad",
    [
        {"keys": [0, 0, 2], "look": [0, 0]},
        {"keys": [0, 0, 0], "look": [np.nan, 0]},
        {"keys": [0, 0, 0], "look": [31, 0]},
        {"keys": [0, 0, 0]},
        [0, 0, 0, 0, 0],
    ],
    ids=repr,
)
def test_a_bad_action_of_a_dict_space_raises(bad):
    env = WorldModelEnv(FakeWorld(DOOM_LIKE, keymap=None))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected"):
        env.step(bad)


def test_step_and_render_before_reset_ask_for_a_reset():
    env = WorldModelEnv(FakeWorld(), render_mode="rgb_array")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(gym.error.ResetNeeded):
            call()


def test_discrete_actions_are_the_rows_of_the_table():
    native = WorldModelEnv(FakeWorld(spaces.MultiBinary(3), keymap=None))
    discrete = WorldModelEnv(FakeWorld(spaces.MultiBinary(3), keymap=None), actions="discrete")
    assert discrete.action_space == spaces.Discrete(8)
    rows = discrete.world.action_codec.table
    expected, found = play(native, [row.astype(np.int8) for row in rows], 5), play(discrete, range(8), 5)
    assert np.array_equal(expected[0], found[0]) and expected[1] == found[1]


def test_a_world_without_actions_plays_with_the_null_action():
    env = WorldModelEnv(FakeWorld("none", keymap=None))
    assert env.action_space == spaces.Discrete(1)
    env.reset(seed=0)
    assert env.step(0)[4] == {"age": 1}


def test_keys_to_action_holds_every_combination_in_the_agents_own_actions():
    keymap = {"rest": [0, 0], "bindings": [{"keys": [k], "set": {str(i): 1}} for i, k in enumerate(("w", "space"))]}
    world = FakeWorld(spaces.MultiBinary(2), keymap=keymap)
    native = WorldModelEnv(world).get_keys_to_action()
    assert {keys: action.tolist() for keys, action in native.items()} == {
        (119,): [1, 0], (32,): [0, 1], (32, 119): [1, 1],
    }  # fmt: skip
    assert WorldModelEnv(world, actions="discrete").get_keys_to_action() == {(119,): 2, (32,): 1, (32, 119): 3}


def test_metadata_is_the_instances_own_and_shows_the_worlds_fps():
    assert WorldModelEnv(FakeWorld(fps=35)).metadata["render_fps"] == 35
    assert WorldModelEnv.metadata["render_fps"] == 15


def test_two_envs_of_one_world_share_neither_state_nor_action_sampling():
    world = FakeWorld()
    first, second = WorldModelEnv(world), WorldModelEnv(world)
    first.reset(seed=0), second.reset(seed=1)
    first.action_space.seed(0), second.action_space.seed(1)
    expected = WorldModelEnv(FakeWorld())
    expected.reset(seed=0), expected.action_space.seed(0)
    second.step(3)
    assert first.step(2)[1] == expected.step(2)[1]
    assert [first.action_space.sample() for _ in range(9)] == [expected.action_space.sample() for _ in range(9)]


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
def test_a_copy_is_a_fresh_env_of_the_same_arguments(copied):
    env = WorldModelEnv(FakeWorld(), actions="discrete", max_episode_steps=2)
    env.reset(seed=0)
    twin = copied(env)
    with pytest.raises(gym.error.ResetNeeded):
        twin.step(0)
    assert np.array_equal(play(twin, [1, 2], 0)[0], play(env, [1, 2], 0)[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"actions": "keys"},
        {"max_episode_steps": 0},
        {"render_mode": "ansi"},
        {"steps": 2},
        {"dtype": "bfloat16"},
        {"world": "arena", "dtype": "float16"},
        {"device": "meta"},
        {"device": "toaster"},
        {"device": "cuda:77"},
        {"world": "no-such-world"},
    ],
    ids=str,
)
def test_bad_arguments_raise_one_sentence(arguments):
    with pytest.raises(ValueError, match=r"^expected .*found .*$"):
        WorldModelEnv(**({"world": FakeWorld()} | arguments))
