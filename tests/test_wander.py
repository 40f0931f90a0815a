"""The wandering policy: it turns away from what does not move, and gets about in the maze."""

import gymnasium as gym
import numpy as np
import pytest
import vizdoom
from fake_world import FakeWorld

from worldsim.actions import unpack
from worldsim.data.policies import StickyPolicy, find_policy
from worldsim.data.wander import BUMPED, PATIENCE, WanderPolicy, _shift
from worldsim.dream.env import WorldModelEnv
from worldsim.envs.doom import DoomMaze

SPACE = gym.spaces.Dict({"keys": gym.spaces.MultiBinary(4), "mouse": gym.spaces.Box(-1, 1, (1,), np.float32)})
ROOMS = (  # x, y of the lower left and the upper right corner: 9 rooms, 9 passages
    *((160, -256, 320, -96), (384, -256, 544, -96), (384, -32, 544, 128), (608, -256, 768, -96), (608, -32, 768, 128)),
    *((384, -544, 544, -384), (960, -32, 1120, 128), (960, -256, 1120, -96), (992, -416, 1088, -256)),
    *((320, -208, 384, -144), (1008, -96, 1072, -32), (768, 16, 960, 80), (544, 16, 608, 80), (656, -96, 720, -32)),
    *((432, -96, 496, -32), (432, -384, 496, -256), (432, -704, 576, -544), (544, -208, 608, -144)),
)


def picture(shift: int, lift: int = 0) -> np.ndarray:
    """A wall of pillars and bricks, moved sideways and up."""
    y, x = np.mgrid[:64, :64]
    grey = 128 + 60 * np.sin((x + shift) / 5) + 30 * np.sin((y + lift) / 3)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def drive(policy: WanderPolicy, frames: list[np.ndarray]) -> np.ndarray:
    """Returns the actions `[t 5]` of one row that sees these frames."""
    return np.stack([policy(frame[None], np.array([step == 0]))[0] for step, frame in enumerate(frames)])


def test_a_shift_is_counted_in_pixels_and_bobbing_does_not_count():
    assert _shift(picture(0), picture(1)) == pytest.approx(1, abs=0.2)
    assert _shift(picture(0), picture(3)) == pytest.approx(3, abs=0.5)
    assert _shift(picture(0), picture(0, lift=6)) < 0.5 < BUMPED


def test_against_a_wall_it_does_not_walk_on_but_slides_or_turns():
    actions = drive(WanderPolicy(SPACE, np.random.default_rng(0)), [picture(0)] * 600)
    straight = (actions == [1, 0, 0, 0, 0]).all(1)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, straight, 0])))[::2]
    assert runs.max() <= 3 * (PATIENCE + 1)  # a few walks in a row at most
    assert np.median(runs) == PATIENCE + 1 and (np.abs(actions[:, 4]) == 1).mean() > 0.3


def test_on_its_way_it_mostly_walks_straight_on():
    actions = drive(WanderPolicy(SPACE, np.random.default_rng(0)), [picture(2 * step) for step in range(600)])
    assert (actions[:, 0] == 1).mean() > 0.7
    assert (np.abs(actions[:, 4]) < 1).all()  # nothing to turn away from


def test_every_key_and_all_of_the_mouse_are_used():
    actions = drive(WanderPolicy(SPACE, np.random.default_rng(1)), [picture(step // 20) for step in range(2000)])
    assert (actions[:, :4].mean(0) > 0.01).all()
    assert np.histogram(actions[:, 4], bins=8, range=(-1, 1))[0].min() > 10
    assert abs(actions[:, 4].mean()) < 0.1


def test_rows_wander_by_themselves_and_the_generator_decides():
    frames, started = np.stack([picture(0)] * 3), np.zeros(3, bool)

    def run(seed: int) -> np.ndarray:
        policy = WanderPolicy(SPACE, np.random.default_rng(seed))
        return np.stack([policy(frames, started) for _ in range(40)])

    assert np.array_equal(run(0), run(0)) and not np.array_equal(run(0), run(1))
    assert not np.array_equal(run(0)[:, 0], run(0)[:, 1])


def test_a_started_row_forgets_the_leg_it_was_on():
    policy = WanderPolicy(SPACE, np.random.default_rng(0))
    still = picture(0)[None]
    actions = [policy(still, np.ones(1, bool))[0] for _ in range(50)]
    assert not any(abs(action[4]) == 1 for action in actions)  # a first frame is nobody's wall


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.MultiBinary(4),
        gym.spaces.Dict({**SPACE.spaces, "fire": gym.spaces.Discrete(2)}),
    ],
)
def test_other_action_spaces_are_refused_in_one_sentence(space):
    with pytest.raises(ValueError, match="policy=wander plays games of Dict") as error:
        find_policy("wander")(space, np.random.default_rng(0))
    assert "\n" not in str(error.value)


def test_it_drives_a_dream():
    env = WorldModelEnv(FakeWorld(action_space=SPACE, end=0.0))
    policy = WanderPolicy(env.action_space, np.random.default_rng(0))
    frame, _ = env.reset(seed=0)
    for step in range(60):
        frame, *_ = env.step(unpack(env.action_space, policy(frame[None], np.array([step == 0]))[0]))
    assert env.observation_space.contains(frame)


def rooms_per_episode(kind, num_episodes: int, num_steps: int) -> float:
    """Returns how many of the maze's 18 rooms and passages an episode sees on average."""
    env, counts = DoomMaze(), []
    policy = kind(env.action_space, np.random.default_rng(0))
    for seed in range(num_episodes):
        frame, _ = env.reset(seed=seed)
        seen, over, step = set(), False, 0
        while not over and step < num_steps:
            names = ("POSITION_X", "POSITION_Y")
            x, y = (env._doom.game.get_game_variable(getattr(vizdoom.GameVariable, name)) for name in names)
            seen |= {i for i, (left, low, right, high) in enumerate(ROOMS) if left <= x < right and low <= y < high}
            packed = policy(frame[None], np.array([step == 0]))[0]
            frame, _, over, _, _ = env.step(unpack(env.action_space, packed))
            step += 1
        counts.append(len(seen))
    env.close()
    return float(np.mean(counts))


@pytest.mark.slow
def test_it_sees_more_of_the_maze_than_held_random_actions():
    wander, sticky = (rooms_per_episode(kind, 5, 1000) for kind in (WanderPolicy, StickyPolicy))
    assert wander > sticky + 0.5
