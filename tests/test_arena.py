"""The laboratory game: its rules, its exact decoding, its state."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.envs import arena
from worldsim.envs.arena import SIDES, WALLS, Arena, State, advance, decode, draw, start

KEYS = st.tuples(*[st.integers(0, 1)] * 4)
STILL, UP, DOWN, LEFT, RIGHT = (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)


def place(agent=(30, 30), ball=(6, 50, 2, 1), hazard=(50, 50, 1, 1), coins=((4, 4), (4, 8), (4, 12))) -> State:
    return State(seed=7, counter=20, step=0, agent=agent, ball=ball, hazard=hazard, coins=coins)


def positions(state: State) -> dict:
    return {
        "agent": state.agent,
        "ball": state.ball[:2],
        "hazard": state.hazard[:2],
        "coins": sorted(state.coins),
    }


def play(seed: int, num_steps: int) -> list[State]:
    """Plays with sticky keys; where the hazard was touched another episode starts."""
    keys = np.random.default_rng(seed).integers(0, 2, (num_steps, 4)).repeat(4, axis=0)
    state, states = start(seed), []
    for step in range(num_steps):
        state, _, terminated = advance(state, keys[step])
        states.append(state)
        if terminated:
            state = start(seed + 1000 + step)
    return states


def test_gymnasium_checks_the_arena_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Arena())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), keys=st.lists(KEYS, max_size=30))
def test_every_position_decodes_from_one_frame_also_when_the_agent_covers_the_hazard(seed, keys):
    state = start(seed)
    for pressed in keys:
        state, _, terminated = advance(state, pressed)
        assert decode(draw(state)) == positions(state)
        if terminated:
            break


def test_positions_decode_in_every_overlap_of_agent_and_hazard():
    for dx in range(-4, 6):
        for dy in range(-4, 6):
            state = place(agent=(30, 30), hazard=(30 + dx, 30 + dy, 1, 1))
            assert decode(draw(state)) == positions(state)


def test_adjacent_coins_decode_one_by_one():
    for coins in (((10, 50), (13, 50), (16, 50)), ((11, 50), (10, 53), (13, 53)), ((10, 50), (13, 51), (10, 54))):
        state = place(coins=coins, ball=(40, 30, 2, 1))
        assert decode(draw(state))["coins"] == sorted(coins)


def test_velocities_decode_from_two_frames():
    states = play(seed=3, num_steps=800)
    decoded = [decode(draw(state)) for state in states]
    pairs = [i for i in range(1, len(states)) if states[i].step == states[i - 1].step + 1]
    assert len(pairs) > 700
    for i in pairs:
        for name, speeds in (("ball", (2, 1)), ("hazard", (1, 1))):
            (x0, y0), (x1, y1) = decoded[i - 1][name], decoded[i][name]
            seen = (x1 - x0 or speeds[0], y1 - y0 or speeds[1])  # what is held from both sides points right, down
            assert seen == getattr(states[i], name)[2:]


def test_decoding_survives_the_errors_of_a_dream():
    rng, misses = np.random.default_rng(0), 0
    for state in play(seed=5, num_steps=60):
        frame = draw(state).astype(float)
        blurred = 0.7 * frame + 0.15 * (np.roll(frame, 1, 0) + np.roll(frame, 1, 1))
        noisy = np.clip(blurred + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8)
        misses += decode(noisy)["agent"] != state.agent
    assert misses <= 3


def test_what_is_not_in_a_frame_decodes_as_none():
    empty = decode(arena._GROUND)
    assert empty == {"agent": None, "ball": None, "hazard": None, "coins": []}


def test_nothing_overlaps_walls_or_one_another_but_agent_and_hazard():
    for state in play(seed=11, num_steps=2000):
        squares = [(*state.agent, SIDES["agent"]), (*state.ball[:2], SIDES["ball"])]
        squares += [(*coin, SIDES["coin"]) for coin in state.coins]
        hazard = (*state.hazard[:2], SIDES["hazard"])
        cover = np.zeros((64, 64), int)
        for left, top, width, height in WALLS:
            cover[top : top + height, left : left + width] = 1
        for x, y, side in squares:
            cover[y : y + side, x : x + side] += 1
        assert cover.max() == 1
        cover[state.agent[1] : state.agent[1] + 4, state.agent[0] : state.agent[0] + 4] = 0
        cover[hazard[1] : hazard[1] + 5, hazard[0] : hazard[0] + 5] += 1
        assert cover.max() == 1


def test_keys_move_the_agent_two_pixels_and_opposite_keys_cancel():
    moves = {UP: (0, -2), DOWN: (0, 2), LEFT: (-2, 0), RIGHT: (2, 0), (1, 0, 0, 1): (2, -2), (1, 1, 1, 1): (0, 0)}
    for keys, (dx, dy) in moves.items():
        after, reward, terminated = advance(place(), keys)
        assert after.agent == (30 + dx, 30 + dy) and reward == 0 and not terminated


def test_walls_block_one_axis_and_leave_the_other():
    after, _, _ = advance(place(agent=(2, 30)), (1, 0, 1, 0))
    assert after.agent == (2, 28)


def test_the_ball_bounces_off_walls_and_off_the_agent():
    after, _, _ = advance(place(ball=(58, 40, 2, 1)), STILL)
    assert after.ball == (56, 41, -2, 1)
    after, _, _ = advance(place(agent=(30, 30), ball=(26, 31, 2, 1)), STILL)
    assert after.ball == (24, 32, -2, 1)


def test_the_ball_blocks_the_agent():
    after, _, _ = advance(place(agent=(30, 30), ball=(35, 30, 2, 1)), RIGHT)
    assert after.agent == (30, 30)


def test_a_coin_gives_one_and_reappears_where_the_counter_says():
    state = place(coins=((35, 31), (4, 8), (4, 12)))
    after, reward, terminated = advance(state, RIGHT)
    assert reward == 1 and not terminated
    assert after.counter > state.counter and after.coins[0] != (35, 31) and after.coins[1:] == state.coins[1:]
    assert advance(state, RIGHT) == (after, reward, terminated)
    assert advance(state._replace(counter=state.counter + 9), RIGHT)[0].coins[0] != after.coins[0]


def test_the_hazard_costs_one_and_ends_the_episode():
    _, reward, terminated = advance(place(agent=(30, 30), hazard=(36, 30, -1, 1)), RIGHT)
    assert reward == -1 and terminated


def test_an_episode_ends_after_500_steps_or_never():
    for limit, truncated_at in ((500, 500), (None, None)):
        env = Arena(max_episode_steps=limit)
        env.reset(seed=0)
        env.set_state(place(agent=(46, 2), hazard=(10, 50, 1, 1))._asdict() | {"step": 498})
        assert [env.step(np.zeros(4, np.int8))[3] for _ in range(2)] == [False, truncated_at is not None]


def test_a_state_that_went_through_json_continues_identically_in_another_arena():
    rng, one, other = np.random.default_rng(2), Arena(), Arena()
    one.reset(seed=4)
    for _ in range(37):
        one.step(rng.integers(0, 2, 4, dtype=np.int8))
    frame = other.set_state(json.loads(json.dumps(one.get_state())))
    assert (frame == draw(State(**one.get_state()))).all()
    for _ in range(300):
        action = rng.integers(0, 2, 4, dtype=np.int8)
        (a, *rest_a), (b, *rest_b) = one.step(action), other.step(action)
        assert (a == b).all() and rest_a == rest_b and one.get_state() == other.get_state()


def test_same_seed_same_episode_and_other_seed_another():
    frames = [Arena().reset(seed=seed)[0] for seed in (1, 1, 2)]
    assert (frames[0] == frames[1]).all() and (frames[0] != frames[2]).any()


def test_the_global_generator_is_untouched():
    before = np.random.get_state()[1].copy()
    env = Arena()
    env.reset(seed=0)
    env.step(np.ones(4, np.int8))
    assert (np.random.get_state()[1] == before).all()


def test_the_discrete_table_holds_the_nine_ways_to_move():
    moves = {(right - left, down - up) for up, down, left, right in Arena.metadata["discrete_table"]}
    assert len(Arena.metadata["discrete_table"]) == len(moves) == 9


@pytest.mark.parametrize("action", [[0, 1, 2, 0], [0.5, 0, 0, 0], [float("nan"), 0, 0, 0], [0, 1], 3])
def test_an_action_out_of_space_is_refused_and_leaves_the_state(action):
    env = Arena()
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(gym.error.InvalidAction, match="expected four keys of 0 or 1"):
        env.step(np.array(action))
    assert env.get_state() == state


def test_a_step_before_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        Arena().step(np.zeros(4, np.int8))


def test_gym_make_knows_the_arena():
    import worldsim  # noqa: F401 (registers the id)

    env = gym.make("worldsim-real/Arena-v0", render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert (env.render() == frame).all()


@pytest.mark.parametrize(("script", "least", "coins"), [(arena.careful, 300, 3), (arena.collect, 20, 1)])
def test_scripts_live_and_take_coins(script, least, coins):
    rng, env, lived, taken = np.random.default_rng(0), Arena(max_episode_steps=300), [], []
    for seed in range(4):
        frame, _ = env.reset(seed=seed)
        over, rewards = False, []
        while not over:
            frame, reward, terminated, truncated, _ = env.step(script(frame, rng, env.action_space))
            rewards.append(reward)
            over = terminated or truncated
        lived.append(len(rewards))
        taken.append(sum(r > 0 for r in rewards))
    assert min(lived) >= least and np.mean(taken) >= coins
