"""Every control of the window beyond the game's own keys, by posted events, on the fake world."""

import threading
import time
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import psutil
import pytest
from fake_world import ACTION, AGE, PAST, PROMPT, FakeWorld, read
from gymnasium import spaces
from omegaconf import OmegaConf
from posted import press
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.actions import Keymap
from worldsim.cli import play
from worldsim.data.episodes import DatasetInfo, EpisodeStore, EpisodeWriter
from worldsim.dream.env import WorldModelEnv
from worldsim.play.beside import Beside
from worldsim.play.controls import COMMANDS, LEGEND, Controls
from worldsim.play.session import AHEAD, Session
from worldsim.play.tape import Tape, dream_info
from worldsim.play.window import PlayWindow

CONFIGS = Path(__file__).parents[1] / "configs"


class CountingGame(gym.Env):
    """A real game of the fake world's kind, whose frame shows its step and the last action."""

    observation_space = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self, length=1000):
        self._length, self.closed = length, False

    def _frame(self, action):
        frame = np.zeros((40, 48, 3), np.uint8)
        frame[:8], frame[8:16] = self._steps, action
        return frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._frame(0), {}

    def step(self, action):
        self._steps += 1
        return self._frame(action), 0.0, self._steps >= self._length, False, {}

    def close(self):
        self.closed = True


def opened(world=None, **given):
    return PlayWindow(WorldModelEnv(world or FakeWorld(end=0)), seed=0, **given)


def tap(pygame, window, *keys):
    press(pygame, *keys)
    press(pygame, *keys, up=True)
    window.advance()


def advance(window, times):
    for _ in range(times):
        window.advance()


def test_two_branches_give_two_futures_of_one_past(dummy):
    with opened() as window:
        advance(window, 3)
        past = window.session.frame
        tap(dummy, window, "p", "b")
        assert [row[0][0] for row in window._rows()] == ["F1"]
        futures = []
        for keys in ("d", "a"):
            tap(dummy, window, "f1")
            assert np.array_equal(window.session.frame, past)
            press(dummy, "p", keys)
            advance(window, 4)
            futures.append(window.session.frame)
            press(dummy, keys, up=True)
            tap(dummy, window, "p")
        assert read(futures[0], AGE) == read(futures[1], AGE) == 7
        assert read(futures[0], PAST) != read(futures[1], PAST)


def test_going_to_a_moment_can_be_undone_and_a_missing_one_is_left_alone(dummy):
    with opened() as window:
        tap(dummy, window, "b", "p")
        press(dummy, "p")
        advance(window, 5)
        tap(dummy, window, "p", "f8")
        assert window.session.age == 5
        tap(dummy, window, "f1")
        assert window.session.age == 0
        tap(dummy, window, "backspace")
        assert window.session.age == 5


def test_only_the_newest_moments_are_kept(dummy):
    with opened() as window:
        for _ in range(11):
            tap(dummy, window, "b")
        assert [read(moment.frame, AGE) for moment in window.session.branches] == [*range(3, 11)]


def test_a_seed_is_typed_and_enter_alone_takes_the_next_one(dummy):
    with opened() as window:
        press(dummy, "n", "4", "3", "backspace", "2", "a")
        window.advance()
        assert window.session.env.row_seed == 0
        press(dummy, "return")
        window.advance()
        assert window.session.env.row_seed == 42 and window.session.env.episode == 0
        press(dummy, "n", "return")
        window.advance()
        assert window.session.env.row_seed == 43
        press(dummy, "n", "7", "escape")
        window.advance()
        assert window.session.env.row_seed == 43 and not window.closed


def test_paused_choices_show_where_each_leads_and_change_nothing(dummy):
    with opened() as window:
        advance(window, 2)
        tap(dummy, window, "p", "c")
        ((*shown,),) = window._rows()
        assert [word for word, _ in shown] == ["-", "a", "d", "left"]
        assert [(read(frame, ACTION), read(frame, AGE)) for _, frame in shown] == [(8 * i, 2 + AHEAD) for i in range(4)]
        again = window._futures[1]
        window.advance()
        assert window._futures[1] is again
        tap(dummy, window, "d", ".")
        assert read(window._rows()[0][0][1], AGE) == 3 + AHEAD
        press(dummy, "p")
        window.advance()
        assert window.session.age == 4 and window._rows() == []


def test_choices_are_those_of_the_moment_and_the_settings_shown(dummy):
    with opened() as window:
        advance(window, 4)
        tap(dummy, window, "p", "c")
        before = window._futures[1]
        tap(dummy, window, "[")
        assert window._futures[1] is not before
        press(dummy, "p")
        advance(window, 2)
        press(dummy, "backspace")
        window.advance(), window.advance()
        press(dummy, "backspace", up=True)
        tap(dummy, window, "a", "p")
        assert window._futures[0] is window.session.frame and window._futures[1] is not before


def test_a_future_that_ends_shows_its_end():
    session = Session(WorldModelEnv(FakeWorld(end=1)), seed=0)
    assert [read(frame, AGE) for frame in session.futures()] == [1] * 4
    assert session.age == 0


def test_futures_leave_a_world_of_networks_as_it_was():
    session = Session(WorldModelEnv(tiny_world(), obs="latent", render_mode="rgb_array"), seed=0)
    other = Session(WorldModelEnv(tiny_world()), seed=0)
    for step in range(6):
        action = np.array([step % 2, 0, 1, 0.0])
        session.step(action)
        other.step(action)
        assert session.futures().shape == (16, *session.frame.shape)
    assert np.array_equal(session.frame, other.frame)
    assert session.milliseconds(50, 0) > 0 < session.milliseconds(50, 1)


def test_k_noise_and_guidance_are_turned_while_it_plays(dummy):
    world = FakeWorld(end=0)
    with opened(world) as window:
        for keys in ("]", "]", "]", "[", "'", "'", "'", ";", "\\"):
            tap(dummy, window, keys)
        assert (world.sampler.steps, world.context_level, world.guidance.scale) == (3, 0.02, 1.5)
        assert "past's noise 0.02   guidance 1.5" in window.lines()[1]
        for keys in (*"[[[", *"\\\\\\"):
            tap(dummy, window, keys)
        assert world.sampler.steps == 1 and world.guidance is None


def test_an_agent_is_handed_the_game_and_hands_it_back_without_a_reset(dummy):
    with opened(policy=lambda observations, started: np.array([[2.0]])) as window:
        window.advance()
        assert read(window.session.frame, ACTION) == 16
        tap(dummy, window, "g")
        assert read(window.session.frame, ACTION) == 0 and "agent off" in window.lines()[1]
        tap(dummy, window, "g")
        assert read(window.session.frame, ACTION) == 16 and window.session.age == 3


def test_a_dropped_picture_begins_an_episode_and_a_broken_one_does_not(dummy, tmp_path, capsys):
    imageio.imwrite(tmp_path / "seen.png", np.full((80, 96, 3), 77, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with opened() as window:
        advance(window, 3)
        dummy.event.post(dummy.event.Event(dummy.DROPFILE, file=str(tmp_path / "seen.png")))
        window.advance()
        assert read(window.session.frame, PROMPT) == 77 and window.session.age == 1
        dummy.event.post(dummy.event.Event(dummy.DROPFILE, file=str(tmp_path / "broken.png")))
        window.advance()
        assert window.session.age == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_real_game_is_played_beside_the_dream_which_begins_with_its_frames(dummy):
    world = FakeWorld(end=0)
    with opened(world, beside=Beside(CountingGame(), world)) as window:
        assert window.screen.get_width() == 2 * 48 * window.scale
        assert read(window._beside.frame, 0) == read(window.session.frame, PROMPT) == 2
        press(dummy, "d")
        advance(window, 4)
        real, dream = window._frames()
        assert (read(real, 0), read(real, 1)) == (6, 2) and (read(dream, AGE), read(dream, ACTION)) == (4, 16)
        left = window.screen.get_at((window.screen.get_width() // 4, 2))[0]
        assert left == 6
        tap(dummy, window, "t")
        assert read(window.session.frame, PROMPT) == 6 and window.session.age == 1


def test_the_game_s_end_waits_for_the_dream_s_and_both_begin_anew(dummy, monkeypatch):
    monkeypatch.setattr("worldsim.play.window.END_SECONDS", 0.0)
    world = FakeWorld(end=0)
    with opened(world, beside=Beside(CountingGame(length=5), world)) as window:
        advance(window, 6)
        assert window._beside.ended and window.session.age == 6
        world.end = 1
        advance(window, 3)
        assert not window._beside.ended and read(window._beside.frame, 0) <= 3


def test_a_game_of_other_frames_is_refused():
    game = CountingGame()
    game.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="expected a game of frames and actions like the world's"):
        Beside(game, FakeWorld())


def test_what_is_played_is_kept_without_what_was_taken_back(dummy, tmp_path):
    env = WorldModelEnv(FakeWorld(end=0))
    folder = tmp_path / "data"
    with EpisodeWriter(folder, dream_info(env)) as writer, PlayWindow(env, seed=0, tape=Tape(writer)) as window:
        press(dummy, "d")
        advance(window, 6)
        press(dummy, "d", up=True)
        press(dummy, "backspace")
        advance(window, 2)
        press(dummy, "backspace", up=True)
        press(dummy, "a")
        advance(window, 3)
        press(dummy, "a", up=True)
        tap(dummy, window, "r")
        advance(window, 4)
    store = EpisodeStore(folder)
    assert store.info.game == "worldsim/Fake-v0"
    assert [record.num_observations for record in store.records] == [8, 6]
    assert np.array_equal(np.array(store.actions(0))[:, 0], [2, 2, 2, 2, 1, 1, 1])
    assert [read(frame, AGE) for frame in np.array(store.observations(0))] == [*range(8)]


@pytest.mark.parametrize("what", ["a branch", "an end", "a cut"])
def test_what_follows_going_back_past_what_is_written_is_an_episode_of_its_own(dummy, tmp_path, monkeypatch, what):
    env, folder = WorldModelEnv(FakeWorld(end=0)), tmp_path / "data"
    with EpisodeWriter(folder, dream_info(env)) as writer:
        tape = Tape(writer, longest=4 if what == "a cut" else 1000)
        with PlayWindow(env, seed=0, tape=tape) as window:
            advance(window, 3)
            env.world.end = 1 if what == "an end" else 0
            if what == "a branch":
                tap(dummy, window, "p", "b")
                press(dummy, "p")
                advance(window, 2)
                tap(dummy, window, "p", "f1")
            else:
                window.advance()
            env.world.end = 0
            press(dummy, "backspace")
            advance(window, 2)
            press(dummy, "backspace", up=True)
            if window.paused:
                press(dummy, "p")
            advance(window, 2)
    store = EpisodeStore(folder)
    for index, record in enumerate(store.records):
        ages = [read(frame, AGE) for frame in np.array(store.observations(index))]
        assert ages == [*range(ages[0], ages[0] + len(ages))], ages
        assert record.total_steps == len(ages) - 1
    assert len(store) >= 2


def test_play_without_actions_is_kept(tmp_path):
    info = DatasetInfo("film", (40, 48, 3), None, 10.0)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        tape = Tape(writer)
        tape.begin(np.zeros((40, 48, 3), np.uint8))
        tape.add(np.zeros(1), 1.0, np.ones((40, 48, 3), np.uint8), terminated=True)
    store = EpisodeStore(tmp_path / "data")
    assert store.actions(0) is None and store.rewards(0).tolist() == [1]


def test_an_end_is_kept_as_one_and_long_play_is_cut(tmp_path):
    frame = np.zeros((40, 48, 3), np.uint8)
    with EpisodeWriter(tmp_path / "data", dream_info(WorldModelEnv(FakeWorld()))) as writer:
        tape = Tape(writer)
        tape.begin(frame)
        for step in range(1500):
            tape.add(np.array([1.0]), 1.0, frame, terminated=step == 1499)
            assert len(tape._frames) <= 1001
        tape.close()
    records = EpisodeStore(tmp_path / "data").records
    assert [(r.num_observations, r.terminated) for r in records] == [(1001, False), (501, True)]


def test_videos_are_begun_and_ended_by_v_and_the_last_by_closing(dummy, tmp_path):
    with opened(FakeWorld(end=0, fps=30.0), video=tmp_path / "seen.mp4") as window:
        tap(dummy, window, "v")
        advance(window, 9)
        assert "video" in window.lines()[1]
        tap(dummy, window, "v")
        assert window.video is None
        tap(dummy, window, "v")
        advance(window, 4)
    lengths = [len(imageio.mimread(tmp_path / f"seen-{i}.mp4", memtest=False)) for i in (1, 2)]
    assert lengths == [11, 6] and len([*tmp_path.iterdir()]) == 2


def test_a_video_that_is_ended_at_once_is_one_of_the_frame_on_screen(dummy, tmp_path):
    with opened(FakeWorld(end=0, fps=30.0), video=tmp_path / "seen.mp4") as window:
        tap(dummy, window, "p", "v")
        tap(dummy, window, "v")
        tap(dummy, window, "v")
    assert [len(imageio.mimread(path, memtest=False)) for path in sorted(tmp_path.iterdir())] == [1, 1]


def test_the_mouse_is_let_go_of_and_taken_again(dummy, monkeypatch):
    taken = []  # SDL's dummy driver takes none, and grabs want a window
    monkeypatch.setattr(
        dummy.event, "set_grab", lambda wanted: taken.append((wanted, bool(dummy.display.get_surface())))
    )
    keymap = {"rest": [0], "bindings": [], "mouse": [{"axis": "x", "component": 0, "scale": 0.01}]}
    with opened(FakeWorld(spaces.Box(-1, 1, (1,), np.float32), keymap, end=0)) as window:
        for key in ("m", "m", "p", "p"):
            tap(dummy, window, key)
    assert taken == [(wanted, True) for wanted in (True, False, True, False, True)]


@pytest.mark.parametrize("given", [{"record": "mine"}, {"game": {"_target_": "x"}}])
def test_what_wants_a_window_is_refused_without_one(tmp_path, monkeypatch, given):
    monkeypatch.setattr(bundle, "load", lambda *_, **__: FakeWorld())
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.merge(
        OmegaConf.load(f"{CONFIGS}/play.yaml"), {"world": "fake", "headless": True, "frames": 2, **given}
    )
    with pytest.raises(ValueError, match="with a window"):
        play.main(config)
    assert list(tmp_path.iterdir()) == []


def test_the_window_answers_while_a_frame_is_computed(dummy):
    world, seen = FakeWorld(end=0), []
    with opened(world) as window:
        step = world.step

        def slow(state, action):
            press(dummy, "h")
            until = time.monotonic() + 10
            while window.screen.get_height() != 40 * window.scale and time.monotonic() < until:
                time.sleep(0.005)
            seen.append(window.screen.get_height())
            return step(state, action)

        window.session.env._dream._step = slow
        window.advance()
        assert seen == [40 * window.scale] and window.session.age == 1
        assert threading.current_thread() is threading.main_thread()


def test_a_dream_that_fails_says_so_in_the_main_thread(dummy):
    with pytest.raises(RuntimeError, match="no more"), opened() as window:

        def fail(state, action):
            raise RuntimeError("no more")

        window.session.env._dream._step = fail
        window.advance()


def test_a_gamepad_presses_the_game_s_keys(dummy):
    controls = Controls(dummy, Keymap(spaces.Discrete(4), FakeWorld().info.keymap))
    event = lambda kind, **facts: controls.feed(dummy.event.Event(kind, **facts))  # noqa: E731
    event(dummy.JOYAXISMOTION, axis=0, value=0.9)
    assert controls.pressed == ["d"] and controls.take()[0] == 2
    event(dummy.JOYAXISMOTION, axis=0, value=0.1)
    assert controls.take()[0] == 0 and not controls.touched
    event(dummy.JOYHATMOTION, value=(-1, 0))
    assert controls.pressed == ["a", "left"]
    event(dummy.JOYAXISMOTION, axis=0, value=0.01)  # a stick that drifts lets go of no hat
    assert controls.pressed == ["a", "left"]
    event(dummy.JOYHATMOTION, value=(0, 1))
    controls.take()
    assert controls.take()[0] == 0
    event(dummy.JOYAXISMOTION, axis=2, value=1.0)
    assert not controls.touched  # this game knows no mouse


def test_a_stick_that_rests_lets_go_of_no_key(dummy):
    controls = Controls(dummy, Keymap(spaces.Discrete(4), FakeWorld().info.keymap))
    tilt = lambda value: controls.feed(dummy.event.Event(dummy.JOYAXISMOTION, axis=0, value=value))  # noqa: E731
    controls.press("d")
    tilt(0.004)
    controls.take()
    assert controls.pressed == ["d"]
    tilt(-0.9), controls.lift("d"), tilt(-0.8)
    assert controls.pressed == ["a", "left"] or "a" in controls.pressed
    tilt(0.0), controls.take()
    assert controls.pressed == []


def test_a_right_stick_turns_as_long_as_it_is_held(dummy):
    plain = {"rest": [0], "bindings": [], "mouse": [{"axis": "x", "component": 0, "scale": 0.01}]}
    controls = Controls(dummy, Keymap(spaces.Box(-1, 1, (1,), np.float32), plain))
    controls.feed(dummy.event.Event(dummy.JOYAXISMOTION, axis=2, value=1.0))
    assert [controls.take()[0] for _ in range(2)] == [0.12, 0.12]
    controls.feed(dummy.event.Event(dummy.JOYAXISMOTION, axis=2, value=0.0))
    assert controls.take()[0] == 0


def test_the_list_of_keys_names_every_command(dummy):
    told = {
        key for keys, _ in LEGEND for key in keys.replace("f1 ... f8", " ".join(f"f{i}" for i in range(1, 9))).split()
    }
    assert {*COMMANDS} - {"p", "=", "[+]", "[-]"} <= told
    with opened() as window:
        window.advance()
        before = dummy.surfarray.array3d(window.screen)
        tap(dummy, window, "l")
        assert (dummy.surfarray.array3d(window.screen) != before).mean() > 0.5


def test_on_a_dense_display_all_is_twice_as_large(dummy, monkeypatch):
    with opened() as window:
        window.advance()
        scale, (width, height), line = window.scale, window.screen.get_size(), window._picture._font.get_height()
    monkeypatch.setattr(dummy.display, "get_desktop_sizes", lambda: [(3840, 2160)])
    with opened() as window:
        window.advance()
        assert window.scale in (2 * scale, 2 * scale + 1) and window._picture._font.get_height() >= 2 * line - 2
        assert window.screen.get_width() >= 2 * width - 2 and window.screen.get_height() >= 2 * height - 10


def test_a_smooth_picture_has_colours_between(dummy):
    with opened() as window:
        advance(window, 9)
        coarse = len(np.unique(dummy.surfarray.array3d(window.screen)[5, : 40 * window.scale, 0]))
        tap(dummy, window, "i")
        smooth = len(np.unique(dummy.surfarray.array3d(window.screen)[5, : 40 * window.scale, 0]))
    assert smooth > coarse


def test_minutes_of_play_take_no_more_memory(dummy):
    process = psutil.Process()
    with opened(FakeWorld(end=0, fps=1e6)) as window:
        advance(window, 1500)
        before = process.memory_info().rss
        advance(window, 1500)
        assert process.memory_info().rss - before < 8 * 2**20
        assert len(window._screens) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bindings: [{keys: [x], set: {'0': 3}}]", None),
        ("- 1", "other parts"),
        ("keys: {}", "other parts"),
        ("bindings: [{set: {'0': 1}}]", "keys"),
        ("bindings: [{keys: [x], set: {'4': 1}}]", "out of bounds"),
        ("rest: [0, 0]", "rest of 1"),
        ("bindings: [{keys: left, set: {'0': 1}}]", "no list"),
        ("a: [", "expected"),
    ],
)
def test_a_keymap_in_yaml_replaces_the_world_s(dummy, tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(bundle, "load", lambda *_, **__: FakeWorld(end=0))
    (tmp_path / "keys.yaml").write_text(text)
    config = OmegaConf.merge(
        OmegaConf.load("configs/play.yaml"), {"world": "fake", "frames": 2, "keymap": str(tmp_path / "keys.yaml")}
    )
    if message is None:
        assert play.main(config) == 0
        assert play.read_keymap(tmp_path / "keys.yaml", spaces.Discrete(4)).packed({"x"})[0] == 3
    else:
        with pytest.raises(ValueError, match=message) as found:
            play.main(config)
        assert "\n" not in str(found.value)


def test_the_command_keeps_what_is_played_and_closes_the_real_game(dummy, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "load", lambda *_, **__: FakeWorld(end=0))
    games = []
    monkeypatch.setattr(play, "instantiate", lambda *_, **__: games.append(CountingGame()) or games[-1])
    config = OmegaConf.merge(
        OmegaConf.load("configs/play.yaml"),
        {"world": "fake", "frames": 7, "game": {"_target_": "x"}, "record": str(tmp_path / "mine")},
    )
    assert play.main(config) == 0
    assert games[0].closed and EpisodeStore(tmp_path / "mine").num_frames == 8


def test_the_real_game_s_frame_is_there_while_it_begins_anew(dummy):
    world = FakeWorld(end=0)
    game = CountingGame()
    beside = Beside(game, world)
    reset, seen = game.reset, []
    game.reset = lambda **how: seen.append(beside.frame) or reset(**how)
    beside.begin()
    assert len(seen) == 1


def test_a_seed_is_the_dream_s_and_the_real_game_s(dummy):
    world, seeds = FakeWorld(end=0), []
    game = CountingGame()
    reset = game.reset
    game.reset = lambda seed: seeds.append(seed) or reset(seed=seed)
    with opened(world, beside=Beside(game, world)) as window:
        tap(dummy, window, "n"), tap(dummy, window, "7"), tap(dummy, window, "²"), tap(dummy, window, "return")
        advance(window, 2)
        assert seeds[-1] == 7 and window.session.env.row_seed == 7


def test_what_a_choice_leads_to_at_the_end_is_the_end():
    session = Session(WorldModelEnv(FakeWorld(end=1)), seed=0)
    session.step(np.array([1.0]))
    assert session.ended and all(np.array_equal(frame, session.frame) for frame in session.futures())


def test_videos_of_earlier_sessions_stay(dummy, tmp_path):
    (tmp_path / "seen-1.mp4").write_bytes(b"yesterday")
    with opened(FakeWorld(end=0, fps=30.0), video=tmp_path / "seen.mp4") as window:
        tap(dummy, window, "v")
        advance(window, 3)
    assert (tmp_path / "seen-1.mp4").read_bytes() == b"yesterday" and (tmp_path / "seen-2.mp4").exists()


def test_an_agent_begins_anew_where_the_player_was_in_between(dummy):
    told = []
    policy = lambda observations, started: told.append(bool(started[0])) or np.array([[2.0]])  # noqa: E731
    with opened(policy=policy) as window:
        advance(window, 2)
        press(dummy, "d")
        advance(window, 2)
        dummy.event.post(dummy.event.Event(dummy.KEYUP, key=dummy.K_d))
        advance(window, 3)
        assert told == [True, False, True, False, False]
        window.session.rewind()
        advance(window, 2)
    assert told[5:] == [True, False]


def test_a_tape_that_fails_writes_nothing_twice(tmp_path):
    frame = np.zeros((40, 48, 3), np.uint8)
    with EpisodeWriter(tmp_path / "data", dream_info(WorldModelEnv(FakeWorld()))) as writer:
        tape, append = Tape(writer), writer.append
        tape.begin(frame)
        tape.add(np.array([1.0]), 1.0, frame, False)
        writer.append = lambda episode: append(episode) and (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            tape.close()
        writer.append = append
        tape.close()
    assert len(EpisodeStore(tmp_path / "data")) == 1
