"""Recording the screen: what was done between two frames, with a screen and devices that a test plays."""

import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore, EpisodeWriter
from worldsim.play.held import STILL, Held, see
from worldsim.play.preview import Preview, free_corner
from worldsim.play.screen import Grabber, ScreenGame, _known, key_name, layout_of, record_screen, without_unused

FPS = 200


class Desk:
    """A screen whose frame n is of brightness n, and devices that do what is written for the time before frame n."""

    def __init__(self, events, slow=()):
        self.events, self.slow, self.count, self.stopped = events, slow, 0, False

    def start(self, heard, moved):
        self.heard, self.moved = heard, moved
        self._play()

    def _play(self):
        for kind, *what in self.events.get(self.count, ()):
            if kind == "move":
                self.moved(*what)
            else:
                self.heard(what[0], kind == "down")

    def grab(self):
        if self.count in self.slow:
            time.sleep(5 / FPS)
        frame = np.full((16, 16, 3), self.count, np.uint8)
        self.count += 1
        self._play()  # between this frame and the next
        return frame

    def stop(self):
        self.stopped = True


def recorded(folder, desk, keys=("w", "space"), mouse=False, frames=12, longest=1000, **how):
    game = ScreenGame(region=[0, 0, 16, 16], fps=FPS, size=16, keys=",".join(keys), mouse=mouse)
    said = []
    with EpisodeWriter(folder, game.info()) as writer:
        held = Held(keys, mouse)
        pace = record_screen(desk.grab, desk, writer, held, frames, longest, say=said.append, waits=False, **how)
    assert desk.stopped
    return EpisodeStore(folder), pace, said


def test_an_action_is_what_was_held_or_tapped_between_its_two_frames(tmp_path):
    events = {3: [("down", "w")], 5: [("up", "w"), ("down", "space"), ("up", "space")]}
    store, _, _ = recorded(tmp_path / "data", Desk(events))
    assert store.observations(0)[:, 0, 0, 0].tolist() == list(range(12)) and len(store) == 1
    w, space = store.actions(0).T.tolist()
    assert w == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]  # down behind frame 2, up behind frame 4: it led to frames 3 to 5
    assert space == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert store.info.action_space == spaces.MultiBinary(2) and not store.info.has_rewards


def test_the_mouses_ways_add_up(tmp_path):
    events = {0: [("move", 10, 10)], 2: [("move", 13, 9), ("move", 20, 9)], 4: [("move", 1000, 9)]}
    store, _, _ = recorded(tmp_path / "data", Desk(events), mouse=True)
    assert store.actions(0)[:5, :2].tolist() == [[0, 0], [10, -1], [0, 0], [200, 0], [0, 0]]
    assert store.info.action_space["axes"].high.tolist() == [200, 200]
    assert {axis["axis"] for axis in store.info.keymap["mouse"]} == {"x", "y"}


def test_hotkeys_end_pause_and_stop(tmp_path):
    press = lambda key: [("down", key), ("up", key)]  # noqa: E731
    store, _, said = recorded(tmp_path / "data", Desk({4: press("f9"), 8: press("f10")}), frames=100)
    assert [record.num_observations for record in store.records] == [4, 4]
    assert [(record.terminated, record.truncated) for record in store.records] == [(True, False), (False, True)]
    assert said == ["F8 pauses, F9 ends an episode, F10 stops"]


def test_a_pause_cuts_the_episode_and_leaves_nothing_between(tmp_path):
    desk = Desk({4: [("down", "f8"), ("up", "f8")]})
    waited = []

    def say(text):
        waited.append(text)
        if text == "paused":
            desk.heard("f8", True)
            desk.heard("f8", False)

    game = ScreenGame(region=[0, 0, 16, 16], fps=FPS, size=16)
    with EpisodeWriter(tmp_path / "data", game.info()) as writer:
        record_screen(desk.grab, desk, writer, Held(game.names, False), 10, 1000, say=say, waits=False)
    assert waited[1:] == ["paused", "recording"]
    assert [record.num_observations for record in EpisodeStore(tmp_path / "data").records] == [4, 6]


def test_long_episodes_are_cut_and_share_the_frame(tmp_path):
    store, _, _ = recorded(tmp_path / "data", Desk({}), longest=4)
    assert [store.observations(i)[:, 0, 0, 0].tolist() for i in (0, 1)] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_frames_that_came_too_late_are_counted(tmp_path):
    _, pace, _ = recorded(tmp_path / "data", Desk({}, slow=(5,)), frames=12)
    assert pace.missed >= 3 and len(pace.seconds) == 11 and "frames missed" in pace.in_words()


def test_what_was_recorded_is_kept_where_the_screen_goes(tmp_path):
    desk = Desk({})
    grab, game = desk.grab, ScreenGame(region=[0, 0, 16, 16], fps=FPS, size=16)

    def fails():
        if desk.count == 6:
            raise OSError("the screen is gone")
        return grab()

    with pytest.raises(OSError), EpisodeWriter(tmp_path / "data", game.info()) as writer:
        record_screen(fails, desk, writer, Held(game.names, False), 50, 1000, waits=False)
    assert desk.stopped and EpisodeStore(tmp_path / "data").num_frames == 6


def test_keys_that_nobody_pressed_are_left_out_with_a_word(tmp_path):
    keys = ("w", "a", "space")
    recorded(tmp_path / "raw", Desk({2: [("down", "a")], 5: [("down", "f9"), ("up", "f9")]}), keys, True)
    said = []
    without_unused(tmp_path / "raw", tmp_path / "data", keys, True, said.append)
    store = EpisodeStore(tmp_path / "data")
    assert said == ["never used, and left out of the action: w, space, the mouse"]
    assert store.info.action_space == spaces.MultiBinary(1) and len(store) == 2
    assert store.actions(0)[:, 0].tolist() == [0, 1, 1, 1]
    assert store.info.keymap["bindings"] == [{"keys": ["a"], "set": {"0": 1.0}}] and not (tmp_path / "raw").exists()
    assert [record.terminated for record in store.records] == [True, False]


def test_a_recording_that_uses_all_is_moved_as_it_is(tmp_path):
    recorded(tmp_path / "raw", Desk({1: [("down", "w")], 2: [("down", "space")]}))
    without_unused(tmp_path / "raw", tmp_path / "data", ("w", "space"), False, pytest.fail)
    assert EpisodeStore(tmp_path / "data").info.action_space == spaces.MultiBinary(2)


@pytest.fixture
def clock(monkeypatch):
    """A list whose only number is what time it is."""
    now = [0.0]
    monkeypatch.setattr("worldsim.play.held.time.perf_counter", lambda: now[0])
    return now


def test_what_comes_after_a_picture_was_drawn_leads_to_the_next_one(clock):
    held = Held(("w", "a"), True)
    for at, key, down in ((1.0, "w", True), (3.0, "a", True), (3.5, "a", False)):
        clock[0] = at
        held.heard(key, down)
        held.moved(at, 0)
    assert held.take(until=2.0).tolist() == [0, 0, 1, 0]
    assert held.take(until=4.0).tolist() == [2.5, 0, 1, 1]  # a tap counts, and w is still held
    assert held.take(until=5.0).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("up", "counts"), [(1.2, False), (1.4, True)])
def test_a_key_that_went_up_before_the_game_looked_again_was_not_held_for_it(clock, up, counts):
    held = Held(("w",), False)
    for at, down in ((0.5, True), (up, False)):
        clock[0] = at
        held.heard("w", down)
    assert held.take(until=1.0).tolist() == [1]
    assert held.take(until=2.0, looked=1.3).tolist() == [counts]
    assert held.take(until=3.0).tolist() == [0]


def test_a_frame_is_as_old_as_its_last_drawing(clock):
    clock[0], frame = 10.0, np.zeros((2, 2, 3))

    def seen(times, before, shown=frame):
        return see(lambda: frame, lambda: times, before, shown)[1:]

    assert seen((), 9.0) == (10.0, 9.0)  # nobody tells
    assert seen((9.0, 9.97, 9.98, 9.99), 9.96) == (9.99, 9.97)
    assert seen((1.0, 2.0), 9.0) == (10.0 - STILL, 9.0)  # still since long ago
    assert seen((1.0, 2.0), 9.0, frame + 1) == (10.0, 9.0)  # it changed all the same: nobody tells
    assert seen((9.98, 9.99), 9.0) == (9.99, 9.0)  # what came before is forgotten


@pytest.mark.parametrize(("took", "grabs"), [(0.001, 2), (0.02, 1)])
def test_what_is_drawn_while_it_is_grabbed_is_grabbed_again_where_that_is_quick(clock, took, grabs):
    clock[0], count = 10.0, []
    drawings = iter([(9.0,), (9.0, 9.99), (9.0, 9.99), (9.0, 9.99)])

    def grab():
        clock[0] += took
        count.append(1)
        return np.zeros(1)

    assert see(grab, lambda: next(drawings), 8.0, None)[1] == (9.99 if grabs == 2 else 10.0 - STILL)
    assert len(count) == grabs


def test_keys_stand_with_the_frame_that_was_drawn_after_them(tmp_path):
    events, drawn = {3: [("down", "w")]}, [time.perf_counter() - 4 / FPS]

    def show(frame, frames):
        drawn[0] = time.perf_counter() - 4 / FPS  # of the next frame: it is four frames old when it is grabbed

    how = {"keys": ("w",), "frames": 20}
    late, _, _ = recorded(tmp_path / "late", Desk(events), **how, drawn=lambda: (-np.inf, drawn[0]), show=show)
    plain, _, _ = recorded(tmp_path / "plain", Desk(events), **how)
    first, usual = (int(np.flatnonzero(store.actions(0)[:, 0])[0]) for store in (late, plain))
    assert usual == 2 and first >= usual + 2


def test_layouts_hold_what_is_taken():
    held = Held(("w",), True)
    held.heard("w", True)
    held.moved(0, 0)
    held.moved(3, -4)
    assert held.take().tolist() == [3, -4, 1] and held.take().tolist() == [0, 0, 1]
    assert layout_of(("w",), True).space["keys"] == spaces.MultiBinary(1)
    assert layout_of((), True).space.shape == (2,)


def test_a_preview_lies_beside_what_is_recorded(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert free_corner((0, 0, 1000, 800), (0, 0, 700, 800), 200) == (800, 0)
    assert free_corner((0, 0, 1000, 800), (700, 0, 300, 500), 200) == (800, 600)
    assert free_corner((0, 0, 1000, 800), (0, 0, 1000, 800), 200) is None
    preview = Preview((0, 0), 16)
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[0, 1] = (10, 20, 30)
    preview(frame, 7)
    assert preview._screen.get_at((12, 0))[:3] == (10, 20, 30) and preview._screen.get_size() == (192, 192)
    preview(np.zeros_like(frame), 8)  # too soon to be shown
    assert preview._screen.get_at((12, 0))[:3] == (10, 20, 30)
    preview.close()
    preview(frame, 9), preview.close()


def test_keys_go_by_pygames_names():
    named = {"shift": "left shift", "ctrl_r": "right ctrl", "space": "space", "enter": "return", "up": "up", "f8": "f8"}
    assert {name: key_name(type("Key", (), {"name": name})()) for name in named} == named
    chars = {"W": "w", "!": "1", "(": "9", "é": "é"}
    assert {char: key_name(type("KeyCode", (), {"char": char})()) for char in chars} == chars
    game = ScreenGame(region=[0, 0, 16, 16], keys=["w", "shift", "mouse_left"])
    assert game.names == ("w", "left shift", "mouse left")


def test_wayland_is_named(monkeypatch):
    fake = types.ModuleType("mss")
    fake.exception = types.ModuleType("mss.exception")
    monkeypatch.setitem(sys.modules, "mss", fake)
    monkeypatch.setitem(sys.modules, "mss.exception", fake.exception)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="expected an X11 screen, found Wayland, which shows programs nothing"):
        Grabber((0, 0, 16, 16), 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected game.window= (part of its title) or game.region="),
        (["game.region=[0,0,16,16]", "game.window=x"], "one of them"),
        (["game.region=[0,0,16,16]", "game.fps=0"], "expected game.fps above 0"),
        (["game.region=[0,0,16,16]", "game.keys=null"], "name what the game is played with"),
        (["game.region=[0,0,16,16]", "game.keys=[w,sapce]"], "expected game.keys= names of keys"),
        (["game.region=[0,0,16,16]", "policy=random"], "expected policy=human and num_envs=1 with game=screen"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(arguments, message, tmp_path, capsys):
    base = ["record", "game=screen", "policy=human", "frames=10", f"out={tmp_path / 'data'}"]
    assert main([*base, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_another_game_s_recording_is_not_gone_on_with(tmp_path):
    game = ScreenGame(window="Doom", fps=FPS, size=16, keys="w")
    for name, info in (
        ("doom", game.info()),
        ("other", replace(game.info(), game="Chess")),
        ("paid", replace(game.info(), has_rewards=True)),
    ):
        with EpisodeWriter(tmp_path / name, info):
            pass
    assert _known(tmp_path / "doom", game) == (("w",), False)
    for name in ("other", "paid"):
        with pytest.raises(ValueError, match="choose another out="):
            _known(tmp_path / name, game)
