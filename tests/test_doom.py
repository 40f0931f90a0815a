"""The two Doom games: seeds, rewards, keys and mouse, states."""

import json
import math
import sys
import warnings
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pygame
import pytest
import vizdoom
from gymnasium.utils.env_checker import check_env

from worldsim.actions import ActionCodec, Keymap, unpack
from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.data.policies import StickyPolicy
from worldsim.envs.doom import WALL_ROWS, DoomMaze, DoomTakeCover, wall_shift
from worldsim.play.human import HumanPolicy

STAY, LEFT, RIGHT = 0, 1, 2


@pytest.fixture(scope="module")
def cover():
    with closing(DoomTakeCover(render_mode="rgb_array")) as env:
        yield env


@pytest.fixture(scope="module")
def maze():
    with closing(DoomMaze(render_mode="rgb_array")) as env:
        yield env


def walk(*keys: str, mouse: float = 0.0) -> dict:
    held = np.array([name in keys for name in "wsad"], np.int8)
    return {"keys": held, "mouse": np.array([mouse], np.float32)}


def place(env) -> tuple[float, float, float]:
    """Where the player is, and which way they look in degrees, counter-clockwise from east."""
    names = ("POSITION_X", "POSITION_Y", "ANGLE")
    return tuple(env._doom.game.get_game_variable(getattr(vizdoom.GameVariable, name)) for name in names)


def actions(env, num_steps: int) -> list:
    policy = StickyPolicy(env.action_space, np.random.default_rng(0))
    return [unpack(env.action_space, policy(np.zeros((1, 1)), np.zeros(1, bool))[0]) for _ in range(num_steps)]


def play(env, seed: int, chosen: list) -> tuple[list[bytes], list[tuple]]:
    """Returns the frames and all else that the steps say, up to the episode's end."""
    frames, rest = [env.reset(seed=seed)[0].tobytes()], []
    for action in chosen:
        frame, *others = env.step(action)
        frames.append(frame.tobytes())
        rest.append(tuple(others[:3]))
        if others[1] or others[2]:
            break
    return frames, rest


@pytest.mark.parametrize("game", ["cover", "maze"])
def test_gymnasium_checks_both_games_without_a_warning(request, game):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(request.getfixturevalue(game), skip_render_check=True)


@pytest.mark.parametrize(("game", "kind"), [("cover", DoomTakeCover), ("maze", DoomMaze)])
def test_a_seed_and_actions_give_the_same_bytes_in_any_process_and_after_any_episode(request, game, kind):
    env = request.getfixturevalue(game)
    chosen = actions(env, 60)
    first, other, again = play(env, 5, chosen), play(env, 6, chosen), play(env, 5, chosen)
    with closing(kind()) as elsewhere:
        assert first == again == play(elsewhere, 5, chosen)
    assert len(first[0]) > 20 and first != other


@pytest.mark.parametrize(("game", "kind"), [("cover", DoomTakeCover), ("maze", DoomMaze)])
def test_a_state_goes_on_exactly_in_another_process_and_after_json(request, game, kind):
    env = request.getfixturevalue(game)
    chosen = actions(env, 60)
    frames, rest = play(env, 5, chosen[:30])
    assert len(frames) == 31
    state = json.loads(json.dumps(env.get_state()))
    ahead = [env.step(action) for action in chosen[30 : 30 + len(rest)]][:5]
    with closing(kind()) as elsewhere:
        assert elsewhere.set_state(state).tobytes() == frames[-1]
        for action, expected in zip(chosen[30:], ahead, strict=False):
            found = elsewhere.step(action)
            assert np.array_equal(found[0], expected[0]) and found[1:] == expected[1:]


def test_every_tic_alive_counts_one_and_death_ends_the_episode(cover):
    cover.reset(seed=3)
    rewards, over = [], False
    while not over:
        frame, reward, over, truncated, _ = cover.step(STAY)
        rewards.append(reward)
        assert not truncated
    assert set(rewards[:-1]) == {2.0} and rewards[-1] in (0.0, 1.0)
    assert sum(rewards) == cover._doom.game.get_episode_time() - 2  # the clock starts at 1, and death is no tic alive
    with pytest.raises(gym.error.ResetNeeded):
        cover.step(STAY)
    assert np.array_equal(cover.set_state(cover.get_state()), frame)


def test_left_and_right_move_the_player_sideways(cover):
    sides = []
    for action in (LEFT, RIGHT, STAY):
        cover.reset(seed=3)
        start = place(cover)
        for _ in range(12):
            cover.step(action)
        sides.append(place(cover)[1] - start[1])  # the player looks east
        assert place(cover)[2] == start[2] == 0
    assert sides[0] > 20 and sides[1] == pytest.approx(-sides[0], abs=0.1) and sides[2] == 0


def test_an_imp_throws_something_bright(cover):
    frames = [np.frombuffer(frame, np.uint8) for frame in play(cover, 3, [STAY] * 100)[0]]
    assert frames[0].max() < 200 and max(frame.max() for frame in frames) > 240


def test_the_mouse_turns_twelve_degrees_a_step_right_at_plus_one_and_half_of_it_in_each_tic(maze):
    maze.reset(seed=3)
    for mouse, degrees in ((1.0, -12), (-1.0, 12), (0.5, -6), (0.0, 0)):
        before = place(maze)[2]
        maze.step(walk(mouse=mouse))
        turned = (place(maze)[2] - before + 180) % 360 - 180
        assert turned == pytest.approx(degrees, abs=0.01)
    before = place(maze)[2]
    maze._doom.game.make_action([0, 0, 0, 0, 6.0], 1)
    assert (before - place(maze)[2]) % 360 == pytest.approx(6, abs=0.01)


@pytest.mark.parametrize(("key", "side"), [("w", 0), ("a", 90), ("s", 180), ("d", 270)])
def test_keys_walk_where_they_say_relative_to_the_view(maze, key, side):
    maze.reset(seed=4)  # stands in the open
    x, y, angle = place(maze)
    for _ in range(3):
        maze.step(walk(key))
    dx, dy = place(maze)[0] - x, place(maze)[1] - y
    assert math.hypot(dx, dy) > 10
    assert (math.degrees(math.atan2(dy, dx)) - angle - side + 180) % 360 - 180 == pytest.approx(0, abs=3)


def test_the_start_is_random_in_place_and_direction(maze):
    starts = [maze.reset(seed=seed) and place(maze) for seed in range(30)]
    assert len({start[:2] for start in starts}) >= 10
    assert len({round(start[2] // 90) for start in starts}) == 4


def test_the_vest_counts_one_and_ends_the_episode(maze):
    seed = next(
        seed for seed in range(100) if maze.reset(seed=seed) and place(maze)[0] > 1030 and place(maze)[1] < -100
    )
    rewards, over = [], False
    for _ in range(60):  # from the last room straight to the vest at (1040, -352)
        x, y, angle = place(maze)
        off = (math.degrees(math.atan2(-352 - y, 1040 - x)) - angle + 180) % 360 - 180
        mouse = float(np.clip(-off / 12, -1, 1))
        _, reward, over, truncated, _ = maze.step(walk(*("w" * (abs(off) < 12)), mouse=mouse))
        rewards.append(reward)
        if over:
            break
    assert over and not truncated, seed
    assert rewards[-1] == 1.0 and set(rewards[:-1]) == {0.0}


def test_the_time_limit_truncates():
    with closing(DoomMaze(max_episode_steps=3)) as env:
        env.reset(seed=0)
        assert [env.step(walk())[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("game", "action"),
    [("cover", 3), ("cover", [0, 1]), ("maze", 1), ("maze", {"keys": np.ones(4, np.int8)}), ("maze", walk(mouse=1.5))],
)
def test_an_action_beyond_the_space_is_refused(request, game, action):
    env = request.getfixturevalue(game)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match="found"):
        env.step(action)


def test_keys_and_mouse_together_make_one_action(maze):
    keymap = Keymap(maze.action_space, maze.metadata["keymap"])
    assert keymap.packed({"w", "d"}, (25.0, 7.0)).tolist() == [1, 0, 0, 1, 0.5]
    assert keymap.packed({"up", "right"}, (0.0, 0.0)).tolist() == [1, 0, 0, 0, 0.5]
    assert keymap.packed(set(), (-400.0, 0.0)).tolist() == [0, 0, 0, 0, -1]


def test_both_are_registered_and_their_specs_make_them_again():
    for name, kind in (("worldsim-real/DoomTakeCover-v0", DoomTakeCover), ("worldsim-real/DoomMaze-v0", DoomMaze)):
        env = gym.make(name)
        assert type(env.unwrapped) is kind and env.metadata["render_fps"] == 17.5
        assert kind().spec.entry_point == gym.spec(name).entry_point


def test_without_vizdoom_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ImportError, match=r"worldsim-rl\[games\]"):
        DoomTakeCover()
    assert main(["record", "game=doom_maze", "policy=sticky", "frames=9", f"out={tmp_path / 'data'}"]) == 2
    error = capsys.readouterr().err
    assert "worldsim-rl[games]" in error and error.count("\n") == 1


def test_recording_keeps_the_discrete_table_and_leaves_nothing_else_behind(tmp_path, monkeypatch, maze):
    monkeypatch.chdir(tmp_path)
    arguments = ["policy=wander", "frames=60", "num_envs=2", "out=data", "max_episode_steps=20"]
    assert main(["record", "game=doom_maze", *arguments]) == 0
    assert [path.name for path in Path().iterdir()] == ["data"]
    store = EpisodeStore("data")
    table = np.array(DoomMaze.metadata["discrete_table"])
    assert store.info.fps == 17.5 and np.array_equal(store.info.discrete_table, table)
    assert len(np.unique(table, axis=0)) == len(table)
    for row in table:
        assert maze.action_space.contains(unpack(maze.action_space, row))
    assert ActionCodec(maze.action_space, store.info.discrete_table).table.shape == table.shape


def test_a_person_records_keyboard_and_mouse(tmp_path, monkeypatch, maze):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script = iter([[], ["+w"], [(50, 3)], [(-10, 0), (-15, 0)], ["-w", "+d"], ["-d", "+escape"]])  # one list a frame
    show = HumanPolicy._show

    def show_and_post(policy, frame):
        show(policy, frame)
        for event in next(script):
            if isinstance(event, tuple):
                pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, rel=event, pos=(0, 0), buttons=(0, 0, 0)))
            else:
                kind = pygame.KEYDOWN if event[0] == "+" else pygame.KEYUP
                pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(event[1:])))

    monkeypatch.setattr(HumanPolicy, "_show", show_and_post)
    data = tmp_path / "data"
    assert main(["record", "game=doom_maze", "policy=human", "frames=100", f"out={data}", "seed=4"]) == 0
    store = EpisodeStore(data)
    expected = [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 1], [1, 0, 0, 0, -0.5], [0, 0, 0, 1, 0]]
    assert store.actions(0).tolist() == expected and store.records[0].policy == "human"
    maze.reset(seed=4)
    for row, frame in zip(expected, store.observations(0)[1:], strict=True):
        assert np.array_equal(maze.step(unpack(maze.action_space, np.array(row)))[0], frame)


def test_the_walls_shift_is_found_and_a_missing_wall_is_named(cover):
    frame, _ = cover.reset(seed=3)
    moved = frame.copy()
    for shift in (-5, -1, 0, 1, 5):
        moved[WALL_ROWS] = np.roll(frame[WALL_ROWS], shift, axis=1)
        assert wall_shift(frame, moved) == {"wall": shift}
    grain = np.random.default_rng(0).integers(0, 256, frame.shape).astype(np.uint8)
    assert wall_shift(frame, grain) == {"wall": None}


def test_stepping_left_shifts_the_wall_to_the_right_as_far_as_the_player_went(cover):
    first, _ = cover.reset(seed=3)
    start = place(cover)[1]
    for _ in range(16):
        frame = cover.step(LEFT)[0]
    expected = (place(cover)[1] - start) * 32 / 544  # 32 pixels at 45 degrees; the wall is 544 map units away
    assert expected > 5 and wall_shift(first, frame)["wall"] == pytest.approx(expected, abs=2)
