"""Any game on the screen as the recorder's: frames of a window or region, and what keyboard and mouse did between them.

Here because most games are no environments. Frames come by `mss`, keys and mouse by `pynput` (the extra `screen`).
Leaves out sound, and games that hold the pointer in place: their mouse is not seen to move.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from worldsim import pixels
from worldsim.data.action_files import AXIS, KEY, ActionLayout, Column
from worldsim.data.action_files import key_name as named
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.index import FACTS, check_continues, read_info
from worldsim.data.whole_folder import write_import
from worldsim.play.drawn import Drawn
from worldsim.play.held import END, FARTHEST, START, STOP, Held, see
from worldsim.play.preview import Area, Preview, free_corner, window_side
from worldsim.play.tape import Tape

NAMES = {  # pynput's names of keys to pygame's
    **{f"{key}{side}": f"left {key}" for key in ("shift", "ctrl", "alt") for side in ("", "_l")},
    **{f"{key}_r": f"right {key}" for key in ("shift", "ctrl", "alt")},
    **{"alt_gr": "right alt", "enter": "return", "esc": "escape"},
}


SHIFTED = dict(zip('!@#$%^&*()_+{}|:"<>?~', "1234567890-=[]\\;',./`", strict=True))


class Inputs(Protocol):
    """What keyboard and mouse do, from another thread."""

    def start(self, heard: Callable[[str, bool], None], moved: Callable[[float, float], None]) -> None: ...

    # heard(key, down) for keys and "mouse left", ...; moved(x, y) for where the pointer is, in pixels

    def stop(self) -> None: ...


def layout_of(keys: tuple[str, ...], mouse: bool) -> ActionLayout:
    """Returns the action of so many keys, and of the mouse where it counts."""
    columns = [Column(name, AXIS, FARTHEST) for name in ("mouse_x", "mouse_y")] if mouse else []
    columns += [Column(key, KEY, 1.0) for key in keys]
    parts: list[tuple[str, gym.Space]] = []
    if mouse:
        parts.append(("axes", gym.spaces.Box(-FARTHEST, FARTHEST, (2,), np.float32)))
    if keys:
        parts.append(("keys", gym.spaces.MultiBinary(len(keys))))
    return ActionLayout(parts[0][1] if len(parts) == 1 else gym.spaces.Dict(parts), columns)


@dataclass
class Pace:
    """How evenly frames came."""

    seconds: list[float] = field(default_factory=list)  # between two frames
    missed: int = 0

    def in_words(self) -> str:
        """Returns the figures as a line."""
        if not self.seconds:
            return "no frames"
        middle, late = np.percentile(self.seconds, [50, 95]) * 1e3
        return f"interval p50 {middle:.1f} ms, p95 {late:.1f} ms, {self.missed} frames missed"


def record_screen(
    grab: Callable[[], np.ndarray],
    inputs: Inputs,
    writer: EpisodeWriter,
    held: Held,
    frames: int,
    max_episode_steps: int,
    progress: Callable[[int], Any] = lambda frames: None,
    say: Callable[[str], Any] = print,
    waits: bool = True,
    show: Callable[[np.ndarray, int], Any] = lambda frame, frames: None,
    drawn: Callable[[], tuple[float, ...]] = tuple,
) -> Pace:
    """Records until `writer` holds so many frames or F10 is pressed; F8 starts and pauses, F9 ends an episode.

    The action of a step is what happened between its two frames. With `waits` nothing is recorded until F8. `show`
    gets every frame and how many there are. `drawn` tells when the screen was drawn, if anything does.
    """
    pace, running, period = Pace(), not waits, 1 / writer.info.fps
    tape = Tape(writer, max_episode_steps)
    inputs.start(held.heard, held.moved)
    say(f"{START.upper()} {'starts' if waits else 'pauses'}, {END.upper()} ends an episode, {STOP.upper()} stops")
    due = time.perf_counter()
    last, until, shown = None, -np.inf, None
    try:
        while writer.num_frames + tape.pending < frames:
            asked = held.asked()
            if END in asked:
                tape.close(terminated=True)
            if STOP in asked:
                break
            if asked.count(START) % 2:
                running = not running
                tape.close()
                say("recording" if running else "paused")
                due, last = time.perf_counter(), None
            time.sleep(max(0.0, due - time.perf_counter()) if running else period)
            if not running:
                held.take()
                continue
            frame, until, looked = see(grab, drawn, until, shown)
            action, now, shown = held.take(until, looked), time.perf_counter(), frame
            if tape.pending:
                tape.add(action, None, frame, terminated=False)
            else:
                tape.begin(frame)
            pace.seconds += [now - last] if last is not None else []
            last, due = now, due + period
            if late := int((now - due) / period):  # whole frames behind: they are gone
                pace.missed += late
                due += late * period
            count = writer.num_frames + tape.pending
            progress(count)
            show(frame, count)
    finally:
        inputs.stop()
        tape.close()
    return pace


def without_unused(recorded: Path, out: Path, keys: tuple[str, ...], mouse: bool, say: Callable[[str], Any]) -> None:
    """Makes the data folder `out` of a recording, without the keys that nobody pressed; the recording goes."""
    store = EpisodeStore(recorded)
    actions = [np.array(store.actions(index)) for index in range(len(store))]
    used = (np.concatenate(actions) != 0).sum(0)
    first = 2 if mouse else 0
    moved = mouse and bool(used[:first].any())
    pressed = tuple(key for key, x in zip(keys, used[first:], strict=True) if x)
    if len(pressed) == len(keys) and moved == mouse:
        os.replace(recorded, out)
        return
    unused = [*(key for key in keys if key not in pressed), *(["the mouse"] if mouse and not moved else [])]
    say(f"never used, and left out of the action: {', '.join(unused)}")
    layout = layout_of(pressed, moved) if pressed or moved else ActionLayout(None, [])
    columns = [*([0, 1] if moved else []), *(first + i for i, key in enumerate(keys) if key in pressed)]
    info = replace(store.info, action_space=layout.space, keymap=layout.keymap())
    episodes = (
        Episode(
            np.array(store.observations(i)), part[:, columns] if columns else None, None, record.terminated,
            record.truncated, None, record.policy,
        )
        for i, (part, record) in enumerate(zip(actions, store.records, strict=True))
    )  # fmt: skip
    write_import(out, info, episodes)
    shutil.rmtree(recorded)


@dataclass(frozen=True)
class ScreenGame:
    """A game on the screen: which part of it, how often, and which keys count."""

    window: str | None = None  # the window whose title holds this
    region: Any = None  # [x, y, width, height] of the screen, in its pixels
    fps: float = 20.0
    size: int = 64
    keys: Any = "w,a,s,d,space"
    mouse: bool = False
    preview: bool = True

    def __post_init__(self):
        if (self.window is None) == (self.region is None):
            raise ValueError("expected game.window= (part of its title) or game.region=[x,y,width,height], one of them")
        if not (isinstance(self.fps, (int, float)) and 0 < self.fps <= 240):
            raise ValueError(f"expected game.fps above 0 and at most 240, found {self.fps}")
        if not (isinstance(self.size, int) and self.size >= 8):
            raise ValueError(f"expected game.size to be a whole number of at least 8, found {self.size}")
        if not self.names and not self.mouse:
            raise ValueError("expected game.keys= or game.mouse=true, found neither; name what the game is played with")

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that count, by pygame's names."""
        given = str(self.keys).split(",") if isinstance(self.keys, (str, int)) else list(self.keys or [])
        found = {str(key).strip(): named(str(key).strip()) for key in given if str(key).strip()}
        if unknown := [key for key, name in found.items() if name is None]:
            raise ValueError(
                f"expected game.keys= names of keys (w, space, left_shift, mouse_left), found {unknown[0]}"
            )
        return tuple(dict.fromkeys(str(name) for name in found.values()))

    @property
    def layout(self) -> ActionLayout:
        """The action of these keys and the mouse."""
        return layout_of(self.names, self.mouse)

    def info(self) -> DatasetInfo:
        """Returns what a data folder says of the game."""
        shape, name = (self.size, self.size, 3), self.window or "screen"
        return DatasetInfo(name, shape, self.layout.space, float(self.fps), self.layout.keymap(), has_rewards=False)

    def record(self, out: Path, frames: int, max_episode_steps: int, progress: Any, say: Callable[[str], Any]) -> Pace:
        """Records into `out`, which appears when the recording is whole; killed, it goes on by the same command."""
        place = self._place()
        grabber, inputs = Grabber(place, self.size), Devices()
        if (out / FACTS).exists():
            keys, mouse = _known(out, self)
            info, folder = read_info(out), out
            if other := [key for key in self.names if key not in keys]:
                say(f"{out} records {', '.join(keys) or 'no key'}, and not {', '.join(other)}; another out= can")
        else:
            check_continues(out, self.info())
            keys, mouse, info, folder = self.names, self.mouse, self.info(), out.with_name(f"{out.name}.recording")
        with (
            EpisodeWriter(folder, info) as writer,
            self._preview(grabber.screen, place, say) as show,
            closing(Drawn(place)) as drawn,
        ):
            held = Held(keys, mouse)
            pace = record_screen(
                grabber, inputs, writer, held, frames, max_episode_steps, progress, say, show=show, drawn=drawn
            )
            empty = not writer.records
        if empty:
            raise ValueError("nothing was recorded: F8 starts, and a recording wants two frames at least")
        if folder != out:
            without_unused(folder, out, keys, mouse, say)
        return pace

    @contextmanager
    def _preview(self, screen: Area, place: Area, say: Callable[[str], Any]) -> Iterator[Callable[..., Any]]:
        """Gives what shows the frames: a small window beside what is recorded, where there is room for one."""
        at = free_corner(screen, place, window_side(self.size)) if self.preview else None
        if at is None:
            if self.preview:
                say("the game leaves no room on the screen for a preview")
            yield lambda frame, frames: None
            return
        preview = Preview(at, self.size)
        try:
            yield preview
        finally:
            preview.close()

    def _place(self) -> Area:
        if self.window is not None:
            return find_window(self.window)
        try:
            x, y, width, height = (int(str(part)) for part in self.region)
            if min(width, height) < 8:
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError(f"expected game.region=[x,y,width,height] in pixels, found {self.region}") from None
        return x, y, width, height


def _known(out: Path, game: ScreenGame) -> tuple[tuple[str, ...], bool]:
    """Returns the keys and whether the mouse counts in a folder that is there. Raises ValueError for another game."""
    info = read_info(out)
    facts = ("game", "observation_shape", "fps", "has_rewards")
    expected, found = ({name: getattr(x, name) for name in facts} for x in (game.info(), info))
    if expected != found:
        raise ValueError(f"expected {out} to hold {expected}, found {found}; choose another out=")
    keymap = info.keymap or {"bindings": [], "mouse": []}
    mouse = bool(keymap["mouse"])
    places = {int(next(iter(b["set"]))): b["keys"][0] for b in keymap["bindings"]}
    return tuple(places[i] for i in sorted(places)), mouse


class Grabber:
    """Frames of a part of the screen, uint8 `[size size 3]`."""

    def __init__(self, place: tuple[int, int, int, int], size: int):
        try:
            import mss
            import mss.exception
        except ImportError as error:
            raise ImportError('recording the screen needs mss: pip install "worldsim-rl[screen]"') from error
        if sys.platform.startswith("linux") and os.environ.get("WAYLAND_DISPLAY") and not os.environ.get("DISPLAY"):
            raise ValueError(
                "expected an X11 screen, found Wayland, which shows programs nothing of others; log in to X11"
            )
        self._size = size
        self._area = dict(zip(("left", "top", "width", "height"), place, strict=True))
        try:
            self._screen = mss.mss()
            self._screen.grab(self._area)
            self.screen: Area = tuple(self._screen.monitors[0][side] for side in ("left", "top", "width", "height"))
        except mss.exception.ScreenShotError as error:
            raise ValueError(f"expected {place} to be on the screen, found: {error}") from error

    def __call__(self) -> np.ndarray:
        shot = self._screen.grab(self._area)
        frame = np.frombuffer(shot.rgb, np.uint8).reshape(shot.height, shot.width, 3)
        return pixels.resize(torch.from_numpy(frame.copy()), self._size, self._size).numpy()


class Devices:
    """Keyboard and mouse by pynput, each in a thread of its own."""

    def start(self, heard: Callable[[str, bool], None], moved: Callable[[float, float], None]) -> None:
        """Begins to listen."""
        try:
            from pynput import keyboard, mouse
        except ImportError as error:  # it is also what pynput raises where there is no display
            raise ImportError(
                f'recording the screen needs pynput ({error}): pip install "worldsim-rl[screen]"'
            ) from error
        click = lambda x, y, button, down: heard(f"mouse {button.name}", down)  # noqa: E731
        self._threads = [
            keyboard.Listener(lambda key: heard(key_name(key), True), lambda key: heard(key_name(key), False)),
            mouse.Listener(on_move=lambda x, y: moved(x, y), on_click=click),
        ]
        for thread in self._threads:
            thread.start()
            thread.wait()

    def stop(self) -> None:
        """Stops listening."""
        for thread in self._threads:
            thread.stop()


def key_name(key: Any) -> str:
    """Returns pygame's name of one of pynput's keys."""
    char = getattr(key, "char", None)
    if char:  # what shift makes of a key is still that key, on an American keyboard
        return SHIFTED.get(str(char), str(char).lower())
    name = str(getattr(key, "name", "") or "")
    return NAMES.get(name, name.replace("_", " "))


def find_window(title: str) -> tuple[int, int, int, int]:
    """Returns x, y, width and height of the window whose title holds a text. Raises ValueError where there is none."""
    if not sys.platform.startswith("linux"):
        raise ValueError("game.window= knows X11 alone so far; give game.region=[x,y,width,height]")
    try:
        from Xlib import X, display, error
    except ImportError as missing:
        raise ImportError(f'game.window= needs pynput ({missing}): pip install "worldsim-rl[screen]"') from missing
    try:
        screen = display.Display()
    except (error.DisplayError, OSError) as failed:
        raise ValueError(f"expected an X11 display, found none ({failed})") from failed
    root, name = screen.screen().root, screen.intern_atom("_NET_WM_NAME")

    def windows(parent: Any) -> Iterator[Any]:
        for window in parent.query_tree().children:
            yield window
            yield from windows(window)

    for window in windows(root):
        told = window.get_full_property(name, X.AnyPropertyType)
        called = told.value.decode(errors="replace") if told is not None else str(window.get_wm_name() or "")
        if title in called and window.get_attributes().map_state == X.IsViewable:
            area, place = window.get_geometry(), root.translate_coords(window, 0, 0)
            return place.x, place.y, area.width, area.height
    raise ValueError(f"expected a window whose title holds {title!r}, found none on the screen")
