"""Plans dreamed ahead: what `rollout` says comes of them is what stepping would have brought."""

import numpy as np
import pytest
import torch
from fake_world import FakeWorld
from gymnasium import spaces
from tiny_world import tiny_world

from worldsim import noise
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

PLANS = np.random.default_rng(0).integers(0, 4, (6, 9))


def stepped(envs, plans):
    """Rewards and terminations `[b H]` of steps, nothing after a row's end."""
    alive, rewards, ends = np.ones(len(plans), bool), [], []
    for actions in np.moveaxis(plans, 1, 0):
        _, reward, terminated, _, _ = envs.step(actions)
        rewards.append(reward * alive)
        ends.append(terminated & alive)
        alive &= ~terminated
    return np.stack(rewards, 1), np.stack(ends, 1)


def test_a_rollout_brings_what_steps_bring_and_nothing_after_the_end():
    envs = WorldModelVectorEnv(FakeWorld(end=0.1), 6)
    envs.reset(seed=3)
    rewards, ends = envs.rollout(envs.get_state(), PLANS)
    expected = stepped(envs, PLANS)
    assert ends.any() and not ends.any(1).all() and ends.dtype == bool and rewards.shape == (6, 9)
    assert np.allclose(rewards, expected[0]) and np.array_equal(ends, expected[1])


def test_a_network_world_rolls_out_as_it_steps_without_decoding(monkeypatch):
    world = tiny_world()
    plans = np.random.default_rng(1).integers(0, 2, (3, 5, 4))
    envs = WorldModelVectorEnv(world, 3, obs="latent")
    envs.reset(seed=0)
    monkeypatch.setattr(world.autoencoder, "decode", None)
    rewards, ends = envs.rollout(envs.get_state(), plans)
    expected = stepped(envs, plans)
    assert np.allclose(rewards, expected[0], atol=1e-6) and np.array_equal(ends, expected[1])


def test_rollouts_leave_the_env_and_the_state_as_they_were():
    envs = WorldModelVectorEnv(FakeWorld(), 6)
    envs.reset(seed=0)
    state = envs.get_state()
    before = state.to_bytes()
    envs.rollout(state, PLANS), envs.rollout(state, PLANS, seed=1)
    assert state.to_bytes() == envs.get_state().to_bytes() == before


def test_plans_may_be_many_for_one_row_and_a_state_may_be_bytes():
    env = WorldModelEnv(FakeWorld(end=0))
    env.reset(seed=5)
    state = env.get_state()
    rewards, _ = env.rollout(state, PLANS)
    for plan, expected in zip(PLANS, rewards, strict=True):
        env.set_state(state)
        assert np.allclose([env.step(action)[1] for action in plan], expected)
    assert np.array_equal(env.rollout(state.to_bytes(), PLANS)[0], rewards)


def test_luck_is_the_states_own_or_a_seeds():
    env = WorldModelEnv(FakeWorld(end=0))
    env.reset(seed=5)
    state, plans = env.get_state(), np.repeat(PLANS[:1], 3, 0)
    assert np.ptp(env.rollout(state, plans)[0], 0).max() == 0
    assert np.ptp(env.rollout(state, plans, seed=7)[0], 0).max() > 0
    assert np.ptp(env.rollout(state, plans, seed=[7, 7, 7])[0], 0).max() == 0
    assert np.array_equal(env.rollout(state, plans, seed=7)[0], env.fork(3, seed=7).rollout(
        env.fork(3, seed=7).get_state(), plans)[0])  # fmt: skip


def test_a_row_that_had_ended_brings_nothing():
    envs = WorldModelVectorEnv(FakeWorld(end=0.5), 6)
    envs.reset(seed=0)
    over = envs.step(np.ones(6, int))[2]
    rewards, ends = envs.rollout(envs.get_state(), PLANS)
    assert over.any() and not over.all() and not rewards[over].any() and not ends[over].any() and rewards[~over].any()


def test_expected_outcomes_are_the_mean_of_drawn_ones():
    world = tiny_world(steps=1)
    state = world.initial(torch.zeros(1, dtype=torch.int64), noise.address_of([0]))
    actions = world.action_codec.null.repeat(1, 1, 1)
    rewards, ends = world.rollout(state, actions, expected=True)
    forecast = world.foresee(state, actions[:, 0])[1]
    many = type(forecast)(forecast.reward_logits.expand(4000, -1), forecast.end_logit.expand(4000), forecast.bins)
    drawn = many.sample(noise.uniform(noise.address_of(list(range(4000))), (2,), noise.OUTCOME))
    assert rewards == forecast.reward_mean and 0.1 < ends < 0.9
    assert abs(drawn.terminated.float().mean() - ends) < 0.03


def test_expected_rewards_count_by_the_probability_of_having_come_so_far():
    env = WorldModelEnv(FakeWorld(end=0.25))
    env.reset(seed=0)
    rewards, ends = env.rollout(env.get_state(), PLANS, expected=True)
    certain, _ = WorldModelEnv(FakeWorld(end=0)).rollout(env.get_state(), PLANS)
    alive = 0.75 ** np.arange(9)
    assert np.allclose(ends, alive * 0.25) and np.allclose(rewards, certain * alive, rtol=1e-5)


def test_plans_of_nested_actions_and_of_tensors_are_read():
    space = spaces.Dict({"keys": spaces.MultiBinary(2), "turn": spaces.Discrete(3)})
    env = WorldModelEnv(FakeWorld(space, keymap=None, end=0))
    env.reset(seed=0)
    plans = {"keys": np.ones((2, 3, 2), np.int8), "turn": np.array([[0, 1, 2], [2, 0, 1]])}
    rewards, _ = env.rollout(env.get_state(), plans)
    tensors = {name: torch.from_numpy(part) for name, part in plans.items()}
    assert rewards.shape == (2, 3) and np.array_equal(env.rollout(env.get_state(), tensors)[0], rewards)
    torch_envs = WorldModelVectorEnv(FakeWorld(space, keymap=None, end=0), 2, output="torch")
    torch_envs.reset(seed=0)
    assert torch.is_tensor(torch_envs.rollout(torch_envs.get_state(), tensors)[0])


@pytest.mark.parametrize("plans", [3, [1, 2], np.zeros((0, 3), int), np.full((6, 2), 4), np.zeros((5, 2), int), None])
def test_bad_plans_are_refused_in_one_sentence(plans):
    envs = WorldModelVectorEnv(FakeWorld(), 6)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"^expected .*found .*$"):
        envs.rollout(envs.get_state(), plans)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_infos_tell_uncertainty_only_when_asked_and_none_of_a_first_frame(mode):
    envs = WorldModelVectorEnv(FakeWorld(end=0), 2, max_episode_steps=2, autoreset_mode=mode, uncertainty=True)
    assert envs.reset(seed=0)[1]["uncertainty"].tolist() == [0, 0]
    infos = envs.step([1, 1])[4]
    assert (infos["uncertainty"] >= 1).all() and infos["_uncertainty"].all()  # the fake's is 1 + luck
    infos = envs.step([1, 1])[4]
    if mode == "SameStep":
        assert infos["uncertainty"].tolist() == [0, 0] and (infos["final_info"]["uncertainty"] >= 1).all()
    elif mode == "NextStep":
        assert envs.step([1, 1])[4]["uncertainty"].tolist() == [0, 0]
    assert "uncertainty" not in WorldModelVectorEnv(FakeWorld(), 2).reset()[1]


def test_the_single_envs_uncertainty_is_that_of_its_row():
    env, envs = (make(FakeWorld(end=0), uncertainty=True) for make in (WorldModelEnv, WorldModelVectorEnv))
    assert env.reset(seed=0)[1]["uncertainty"] == envs.reset(seed=0)[1]["uncertainty"][0] == 0
    single, row = env.step(2)[4]["uncertainty"], envs.step([2])[4]["uncertainty"]
    assert isinstance(single, float) and single == row[0] > 0
    assert env.set_state(env.get_state())[1]["uncertainty"] == 0


def test_uncertainty_is_the_distance_to_one_evaluation_of_other_noise():
    world = tiny_world()
    before = world.initial(torch.arange(2), noise.address_of([0, 1]))
    action = world.action_codec.null.repeat(2, 1)
    after, _ = world.step(before, action)
    once = tiny_world(steps=1)
    other = once.denoiser.sample(
        once.sampler, action, before.context, lambda i: noise.normal(after.address, (4, 2, 2), noise.AGAIN)
    )[0]
    found = world.uncertainty(before, action, after)
    assert torch.allclose(
        found, torch.stack([(a - b).pow(2).mean().sqrt() for a, b in zip(after.latent, other, strict=True)])
    )
    assert (found > 0).all()
