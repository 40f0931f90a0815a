"""The window, driven by posted events, and play without one, on the fake world."""

import json
import os
import time
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
from fake_world import ACTION, AGE, EPISODE, FakeWorld
from gymnasium import spaces
from omegaconf import OmegaConf
from posted import press
from tiny_world import record, tiny_world

from worldsim import bundle
from worldsim.actions import Keymap
from worldsim.cli import play
from worldsim.dream.env import WorldModelEnv
from worldsim.play import picture
from worldsim.play import window as window_module
from worldsim.play.script import ScriptPolicy, read_script
from worldsim.play.session import Session
from worldsim.play.video import VideoWriter, enlarge
from worldsim.play.window import PlayWindow

MOUSE = {
    "rest": [0, 0],
    "bindings": [{"keys": ["w"], "set": {"0": 1}}, {"keys": ["mouse left"], "set": {"0": -1}}],
    "mouse": [{"axis": "x", "component": 1, "scale": 0.1}],
}


def test_play_starts_from_a_recorded_frame_or_a_picture(tmp_path):
    store, world = record(tmp_path / "data"), tiny_world()
    window = world.prompts.latents.shape[1]
    prompt = play._read_start(f"{tmp_path / 'data'}:1:6", world)
    assert np.array_equal(prompt["frames"], store.observations(1, 7 - window, 7))
    assert np.array_equal(prompt["actions"], np.array(store.actions(1, 7 - window, 6)))
    session = Session(WorldModelEnv(world), seed=0, prompt=prompt)
    assert np.array_equal(session.frame, WorldModelEnv(world).reset(seed=1, options={"prompt": prompt})[0])
    imageio.imwrite(tmp_path / "a.png", store.observations(0)[2])
    assert np.array_equal(play._read_start(str(tmp_path / "a.png"), world), store.observations(0)[2])
    for wrong, message in ((f"{tmp_path / 'data'}:1:60", "to be a frame of"), (f"{tmp_path}/b.png", "cannot read")):
        with pytest.raises(ValueError, match=message):
            play._read_start(wrong, world)


@pytest.fixture
def without_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


def opened(policy=None, **facts):
    return PlayWindow(WorldModelEnv(FakeWorld(**({"end": 0} | facts))), policy, seed=0)


def shown(window, band=ACTION):
    """Reads a band of the picture on the screen, as an eye would."""
    x, y = window.screen.get_width() // 2, (8 * band + 1) * window.scale
    return window.screen.get_at((x, y))[0]


def config(**given):
    return OmegaConf.merge(OmegaConf.load("configs/play.yaml"), given)


@pytest.fixture
def worlds(monkeypatch):
    """Makes `world=fake` and `world=endless` worlds that ship."""
    made = {"fake": lambda: FakeWorld(fps=30.0), "endless": lambda: FakeWorld(fps=30.0, end=0)}
    monkeypatch.setattr(bundle, "load", lambda world, *_, **__: made[world]())


def test_held_keys_act_until_they_are_let_go(dummy):
    with opened() as window:
        press(dummy, "d")
        window.advance()
        window.advance()
        assert (shown(window), shown(window, AGE)) == (16, 2)
        press(dummy, "d", up=True)
        window.advance()
        assert (shown(window), shown(window, AGE)) == (0, 3)


def test_a_tap_within_one_frame_acts_once(dummy):
    with opened() as window:
        press(dummy, "a")
        press(dummy, "a", up=True)
        window.advance()
        assert shown(window) == 8
        window.advance()
        assert shown(window) == 0


def test_mouse_movement_and_buttons_act(dummy):
    world = {"action_space": spaces.Box(-1, 1, (2,), np.float32), "keymap": MOUSE}
    with opened(**world) as window:
        seen = []
        window.session.step = seen.append
        for rel in ((2, 9), (3, 0)):
            dummy.event.post(dummy.event.Event(dummy.MOUSEMOTION, rel=rel, pos=(0, 0), buttons=(0, 0, 0)))
        dummy.event.post(dummy.event.Event(dummy.MOUSEBUTTONDOWN, button=1, pos=(0, 0)))
        window.advance()
        dummy.event.post(dummy.event.Event(dummy.MOUSEBUTTONUP, button=1, pos=(0, 0)))
        window.advance()
    assert np.allclose(seen, [[-1, 0.5], [0, 0]])


@pytest.mark.parametrize("key", ["p", "space"])
def test_pause_stops_the_dream_and_goes_on_where_it_was(dummy, key):
    with opened() as window:
        window.advance()
        press(dummy, key)
        for _ in range(5):
            window.advance()
        assert window.paused and shown(window, AGE) == 1
        press(dummy, key)
        window.advance()
        assert shown(window, AGE) == 2


def test_backspace_goes_back_while_it_is_held_and_the_same_keys_give_the_same_frames_again(dummy):
    with opened() as window:
        press(dummy, "d")
        seen = []
        for _ in range(8):
            window.advance()
            seen.append(window.session.frame.copy())
        press(dummy, "d", up=True)
        press(dummy, "backspace")
        for age in (7, 6, 5):
            window.advance()
            assert shown(window, AGE) == age
        press(dummy, "backspace", up=True)
        press(dummy, "d")
        again = []
        for _ in range(3):
            window.advance()
            again.append(window.session.frame.copy())
        assert np.array_equal(again, seen[5:])


def test_a_hundred_frames_back_and_forth_are_the_same_to_the_bit_in_a_world_of_networks():
    session = Session(WorldModelEnv(tiny_world()), seed=0, rewindable=100)
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(130, 4)).astype(float)

    def play(taken):
        frames, rewards = [], []
        for action in taken:
            session.step(action)
            frames.append(session.frame.copy())
            rewards.append(session.total_reward)
        return np.array(frames), rewards

    play(actions[:30])
    frames, rewards = play(actions[30:])
    assert all(session.rewind() for _ in range(100)) and not session.rewind()
    again, rewards_again = play(actions[30:])
    assert np.array_equal(frames, again) and rewards == rewards_again
    for _ in range(100):
        session.rewind()
    other, _ = play(1 - actions[30:])  # another future of the same past
    assert not np.array_equal(frames, other)


def test_going_back_stops_at_the_episode_s_beginning_and_undoes_its_end(dummy):
    with opened(end=1) as window:
        window.advance()
        assert window.session.ended
        press(dummy, "backspace")
        for _ in range(4):
            window.advance()
        assert not window.session.ended and shown(window, AGE) == 0 and window.session.total_reward == 0


def test_one_frame_at_a_time_and_slow_motion(dummy):
    with opened(fps=200.0) as window:
        window.advance()
        press(dummy, ".")
        window.advance()
        assert window.paused and shown(window, AGE) == 2
        window.advance()
        assert shown(window, AGE) == 2
        press(dummy, "d", ".")
        window.advance()
        assert (shown(window, AGE), shown(window)) == (3, 16)
        press(dummy, ",")
        window.advance()
        began = time.perf_counter()
        for _ in range(5):
            window.advance()
        assert window.slow and time.perf_counter() - began > 5 * 3.5 / 200


def test_a_paused_window_waits_for_its_clock(dummy):
    with opened(fps=100.0) as window:
        window.paused = True
        began, worked = time.perf_counter(), time.process_time()
        for _ in range(20):
            window.advance()
        assert time.perf_counter() - began > 0.17
        assert time.process_time() - worked < 0.15


def test_reset_starts_the_next_episode(dummy):
    with opened() as window:
        window.advance()
        press(dummy, "r")
        window.advance()
        assert (shown(window, EPISODE), shown(window, AGE)) == (1, 1)


def test_a_key_that_the_game_uses_is_no_command_but_escape_is(dummy):
    bindings = [{"keys": [key], "set": {"0": 1}} for key in ("space", "r", "escape")]
    with opened(keymap={"bindings": bindings}) as window:
        press(dummy, "space", "r")
        window.advance()
        assert not window.paused and shown(window, EPISODE) == 0 and shown(window) == 8
        press(dummy, "escape")
        window.advance()
        assert window.closed


@pytest.mark.parametrize("how", ["escape", "closed window"])
def test_quit_ends_the_run(dummy, how):
    with opened() as window:
        window.run(frames=3)
        assert not window.closed and window.session.age == 3
        press(dummy, "escape") if how == "escape" else dummy.event.post(dummy.event.Event(dummy.QUIT))
        window.run()
        assert window.closed and window.session.age == 3


def test_plus_and_minus_change_the_scale_by_whole_numbers_within_the_screen(dummy):
    with opened() as window:
        assert window.scale == 13 and window.screen.get_width() == 48 * 13
        for key, expected in (("-", 12), ("=", 13), ("+", 14)):
            press(dummy, key)
            window.advance()
            assert window.scale == expected and window.screen.get_width() == 48 * expected
        for key in "+-":
            press(dummy, *(key * 40))
            window.advance()
            assert window.scale >= 1 and 40 * window.scale < dummy.display.get_desktop_sizes()[0][1]
        assert shown(window, AGE) == window.session.age


def test_the_figures_tell_speed_reward_age_seed_and_episode_and_h_hides_them(dummy):
    with opened() as window:
        press(dummy, "d")
        window.run(frames=5)
        first, second, third = window.lines()
        total = window.session.total_reward
        assert first == f"reward {total:+.2f}   age 5   seed 0   episode 0" and total > 10
        assert second.startswith("d   K 1   past's noise 0") and " fps   ms p50 / p95: network " in third
        height = window.screen.get_height()
        assert window.screen.subsurface((0, 40 * window.scale, 300, 40)).get_bounding_rect().width > 0
        press(dummy, "h")
        window.advance()
        assert window.screen.get_height() == 40 * window.scale < height


def test_an_end_is_shown_and_then_the_next_episode_begins(dummy, monkeypatch):
    monkeypatch.setattr(window_module, "END_SECONDS", 0.004)  # four frames
    with opened(end=2) as window:
        ages = []
        for _ in range(8):
            window.advance()
            ages.append((window.session.env.episode, window.session.age, window.session.ended))
        assert ages == [(0, 1, True)] * 5 + [(1, 0, False)] + [(1, 1, True)] * 2


def test_an_agent_plays_while_the_player_touches_no_key(dummy):
    with opened(policy=lambda observations, started: np.array([[2.0]])) as window:
        window.advance()
        assert shown(window) == 16
        press(dummy, "a")
        window.advance()
        assert shown(window) == 8


def test_lost_focus_lets_go_of_every_key(dummy):
    with opened() as window:
        press(dummy, "d")
        window.advance()
        dummy.event.post(dummy.event.Event(dummy.WINDOWFOCUSLOST))
        window.advance()
        assert shown(window) == 0


def test_a_world_without_actions_can_be_watched(dummy):
    with opened(action_space="none", keymap=None) as window:
        press(dummy, "w")
        window.run(frames=3)
        assert window.session.age == 3


def test_a_narrow_picture_is_centred_beside_its_hud(dummy):
    with PlayWindow(WorldModelEnv(FakeWorld(end=0)), seed=0, scale=2) as window:
        window.run(frames=7)
        assert window.screen.get_width() == 420 and shown(window, AGE) == 7
        assert window.screen.get_at((210 - 48 - 1, 2))[:3] == picture.BACKGROUND


def test_without_a_display_play_says_so_writes_300_frames_and_exits_0(without_display, worlds, tmp_path, capsys):
    out = tmp_path / "new" / "seen.mp4"
    assert play.main(config(world="fake", out=str(out))) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("no display found: playing 300 frames")
    assert "p50" in last and "p95" in last and " ms" in last and str(out) in last
    frames = np.array(imageio.mimread(out, memtest=False))
    assert frames.shape == (300, 280, 336, 3)
    assert [path.name for path in out.parent.iterdir()] == ["seen.mp4"]


def test_headless_play_is_the_same_twice_and_shows_what_the_policy_saw(worlds, tmp_path, capsys):
    entries = [{"keys": ["d"], "frames": 3}, {"frames": 2}, {"keys": ["a"], "mouse": [1, 2]}]
    (tmp_path / "script.json").write_text(json.dumps(entries))
    arguments = {"world": "fake", "headless": True, "script": str(tmp_path / "script.json"), "frames": 9}
    videos = []
    for name in ("one.mp4", "two.mp4"):
        assert play.main(config(**arguments, out=str(tmp_path / name))) == 0
        videos.append(np.array(imageio.mimread(tmp_path / name)))
    assert np.array_equal(*videos)
    session, keymap = Session(WorldModelEnv(FakeWorld()), 0), Keymap(*_space_and_keymap())
    policy = ScriptPolicy(read_script(tmp_path / "script.json", keymap), keymap)
    for frame in videos[0]:
        bands = session.frame[4::8, 0, 0].astype(int)
        assert (abs(frame[4 * 7 :: 8 * 7, 100, 0] - bands) <= 4).all()
        if session.ended:
            session.begin()
        else:
            session.step(session.choose(policy))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_script_plays_its_entries_in_order_again_and_again():
    keymap = Keymap(*_space_and_keymap())
    policy = ScriptPolicy(
        [{"keys": ["a"], "mouse": [0, 0], "frames": 2}, {"keys": ["d"], "mouse": [0, 0], "frames": 1}], keymap
    )
    taken = [policy(np.zeros((1, 2, 2, 3)), np.array([False]))[0, 0] for _ in range(7)]
    assert taken == [1, 1, 2, 1, 1, 2, 1] and policy.num_frames == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON file"),
        ("[]", "at least one entry"),
        ("{}", "at least one entry"),
        ('[{"key": ["a"]}]', "entry 0"),
        ('[{}, {"keys": "a"}]', "entry 1"),
        ('[{"keys": ["x"]}]', r"keys of this world \(a, d, left\)"),
        ('[{"frames": 0}]', "frames >= 1"),
        ('[{"mouse": [1]}]', r"mouse \[dx, dy\]"),
        ("[3]", "entry 0"),
    ],
)
def test_a_bad_script_is_one_sentence(tmp_path, text, message):
    (tmp_path / "script.json").write_text(text)
    with pytest.raises(ValueError, match=message) as found:
        read_script(tmp_path / "script.json", Keymap(*_space_and_keymap()))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"agent": "clever"},
            "expected one of random, sticky, held, wander, mix, human, an agent's folder, module:function, or several",
        ),
        ({"agent": "random", "script": "x.json"}, "found both"),
        ({"script": "no-such.json"}, "JSON file"),
        ({"frames": 0}, "at least 1"),
        ({"scale": 1.5}, "at least 1"),
        ({"seed": -1}, "expected a seed"),
        ({"headless": "maybe"}, "headless=true"),
        ({"out": "seen.avi"}, ".mp4"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(worlds, tmp_path, monkeypatch, given, message):
    arguments = config(**({"world": "fake", "headless": True} | given))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        play.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_of_the_users_module_plays(worlds, tmp_path, monkeypatch):
    (tmp_path / "some_agents.py").write_text("def left(observation, rng, action_space):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "a.mp4"
    arguments = config(world="endless", agent="some_agents:left", headless=True, frames=4, out=str(out))
    assert play.main(arguments) == 0
    # The fourth frame's action band: action 1 is grey 8.
    assert abs(int(np.array(imageio.mimread(out))[3, 7 * 28, 100, 0]) - 8) <= 3


def test_an_interrupted_video_leaves_the_old_one_as_it_was(tmp_path):
    path = tmp_path / "seen.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 30) as video:
        video.append(np.zeros((64, 64, 3), np.uint8))
        raise KeyboardInterrupt
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("seen.mp4", b"old")]


def test_a_video_that_a_full_disk_cut_short_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="free some space"), VideoWriter(tmp_path / "seen.mp4", 30) as video:
        video.append(np.zeros((64, 64, 3), np.uint8))
        writer, partial = video._writer, video._partial
        video._writer = SimpleNamespace(close=lambda: (writer.close(), os.truncate(partial, 300)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "expected"), [((64, 64), (256, 256)), ((33, 51), (264, 408)), ((300, 401), (300, 402))]
)
def test_small_frames_are_enlarged_by_whole_numbers_to_even_sides(shape, expected):
    frame = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    large = enlarge(frame)
    factor = expected[0] // shape[0]
    assert large.shape[:2] == expected
    assert np.array_equal(large[::factor, ::factor][: shape[0], : shape[1]], frame)


def test_no_display_is_seen_without_the_environment_naming_one(without_display, monkeypatch):
    assert not window_module.has_display()
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    assert not window_module.has_display()


def test_the_dummy_driver_counts_as_a_display(dummy):
    assert window_module.has_display()


def test_the_command_opens_a_window_where_there_is_a_display(dummy, worlds, tmp_path, monkeypatch, capsys):
    arguments = config(world="fake", frames=5, agent="sticky")
    monkeypatch.chdir(tmp_path)
    assert play.main(arguments) == 0
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def _space_and_keymap():
    world = FakeWorld()
    return world.info.action_space, world.info.keymap
