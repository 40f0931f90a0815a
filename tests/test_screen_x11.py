"""The screen recorder under a virtual screen: a game that is no environment, real key events, the game's own log."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.data.lag import measure_lag

pytestmark = pytest.mark.slow
KEYS = ("a", "d", "space")
FRAMES = 2400  # of a minute alone `check` may say that actions tell nothing


@contextmanager
def running(*command, **how):
    process = subprocess.Popen(command, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder with what was recorded (`data`) while keys were pressed at random moments, and the game's `log`."""
    folder = tmp_path_factory.mktemp("screen")
    if shutil.which("Xvfb") is None:
        pytest.fail("expected Xvfb for this test: apt-get install xvfb")
    display = f":{random.randrange(100, 1000)}"
    env = os.environ | {"DISPLAY": display, "SDL_VIDEODRIVER": "x11"}
    env.pop("WAYLAND_DISPLAY", None)
    with running("Xvfb", display, "-screen", "0", "800x600x24", stderr=subprocess.DEVNULL):
        time.sleep(1)
        game = Path(__file__).with_name("screen_game.py")
        with running(sys.executable, str(game), str(folder / "log"), "60", env=env):
            time.sleep(2)
            words = ["record", "game=screen", "game.window=Squares of", "game.keys=[a,d,space]", "game.size=64"]
            words += ["policy=human", f"frames={FRAMES}", f"out={folder / 'data'}"]
            command = [sys.executable, "-m", "worldsim", *words]
            with running(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as recorder:
                presser = [sys.executable, "-c", PRESS, str(folder / "data.recording")]
                subprocess.run(presser, env=env, check=True, timeout=200)
                said, _ = recorder.communicate(timeout=60)
    print(said)
    assert recorder.returncode == 0, said
    return folder, said


PRESS = f"""
import random, sys, time
from pathlib import Path
from Xlib import X, XK, display
from Xlib.ext import xtest

screen, rng = display.Display(), random.Random(0)
game = [w for w in screen.screen().root.query_tree().children if w.get_geometry().width == 256]
game[0].set_input_focus(X.RevertToParent, X.CurrentTime)

def press(name, seconds):
    for kind, pause in ((X.KeyPress, seconds), (X.KeyRelease, 0)):
        xtest.fake_input(screen, kind, screen.keysym_to_keycode(XK.string_to_keysym(name)))
        screen.sync()
        time.sleep(pause)

until = time.time() + 60
while not Path(sys.argv[1]).exists() and time.time() < until:
    time.sleep(0.1)
time.sleep(1)
press("F8", 0.05)
end = time.time() + {FRAMES} / 20 + 1
while time.time() < end:
    press(rng.choice(["a", "d", "space"]), rng.uniform(0.05, 1.0))
    time.sleep(rng.uniform(0.05, 0.5))
"""


def numbers(frames: np.ndarray) -> np.ndarray:
    """Returns the numbers of the game's frames that recorded ones `[n 64 64 3]` show."""
    bits = frames[:, 1:3, :, 0].reshape(len(frames), 2, 16, 4)[:, :, :, 1:3].mean((1, 3)) > 127
    return (bits << np.arange(16)).sum(1)


def test_actions_are_those_that_the_game_saw_before_the_frame(played):
    """Exactly, but for keys that go down or up while the game draws: of them its next frame tells."""
    folder, said = played
    log = {n: set(held) for n, _, held in map(json.loads, (folder / "log").read_text().splitlines())}
    store, exact, near = EpisodeStore(folder / "data"), [], []
    for index in range(len(store)):
        shown = numbers(np.array(store.observations(index)))
        assert (np.diff(shown) >= 0).all()
        for before, after, action in zip(shown[:-1], shown[1:], np.array(store.actions(index)), strict=True):
            told = {key for key, down in zip(KEYS, action, strict=True) if down}
            did = [set().union(*(log[n + late] for n in range(before + 1, after + 1))) for late in (0, 1, -1)]
            exact.append(told == did[0])
            near.append(all(any((key in told) == (key in keys) for keys in did) for key in KEYS))
    print(f"aligned: {np.mean(exact):.4f} exactly, {np.mean(near):.4f} within one of the game's own frames (17 ms)")
    assert len(exact) >= FRAMES - 3 and np.mean(exact) >= 0.99 and np.mean(near) >= 0.999
    middle, late, missed = map(
        float, re.search(r"p50 ([\d.]+) ms, p95 ([\d.]+) ms, (\d+) frames missed", said).groups()
    )
    assert late <= 1.2 * middle and middle == pytest.approx(50, rel=0.05) and missed == 0


@pytest.mark.parametrize("late", [0, 3])
def test_check_finds_how_late_the_actions_come(played, late, tmp_path):
    folder, data = played[0], played[0] / "data"
    if late:
        data = tmp_path / "late"
        assert main(["import", f"source={folder / 'data'}", f"shift={-late}", f"out={data}"]) == 0
    store = EpisodeStore(data)
    lag = measure_lag(store, range(len(store)), 20_000)
    assert lag is not None and lag.tells and lag.low == lag.shift == late
