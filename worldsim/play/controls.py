"""Keyboard, mouse and gamepad events to actions and commands.

Here so that one place knows which keys belong to the game and which to the window. Leaves out the window.
"""

from __future__ import annotations

from itertools import chain, combinations
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from worldsim.actions import Keymap

LEGEND = (  # the window's keys, as it tells them; the game's own come first
    ("space", "pause"), (".", "one frame"), (",", "slow motion"), ("backspace", "back, while held"),
    ("b", "keep this moment"), ("f1 ... f8", "go to a kept moment"), ("c", "what each choice does, while paused"),
    ("r", "next episode"), ("n", "another seed"), ("t", "take over from the real game"), ("g", "agent on or off"),
    ("v", "record a video"), ("[ ]", "network evaluations a frame"), ("; '", "noise on the past"),
    ("\\", "guidance"), ("m", "let go of the mouse"), ("i", "smooth picture"), ("h", "figures"), ("+ -", "size"),
    ("l", "this list"), ("escape", "quit"),
)  # fmt: skip
COMMANDS = {  # a key that the game uses is no command, but for escape
    "escape": "quit", "p": "pause", "space": "pause", "r": "reset", "n": "seed", "h": "figures", "l": "legend",
    ".": "step", ",": "slow", "b": "branch", "c": "choices", "t": "take over", "g": "agent", "v": "video",
    "[": "fewer", "]": "more", ";": "less noise", "'": "more noise", "\\": "guidance", "m": "mouse", "i": "smooth",
    "+": "larger", "=": "larger", "[+]": "larger", "-": "smaller", "[-]": "smaller",
    **{f"f{i + 1}": f"go to {i}" for i in range(8)},
}  # fmt: skip
REWIND = "backspace"  # as long as it is held
BUTTONS = {1: "mouse left", 2: "mouse middle", 3: "mouse right"}  # a keymap may bind them like keys
# A gamepad presses whichever of these keys the game uses.
STICK = {(0, -1): ("a", "left"), (0, 1): ("d", "right"), (1, -1): ("w", "up"), (1, 1): ("s", "down")}
PAD = (("space", "f", "mouse left"), ("e", "return", "mouse right"), ("left shift", "q"), ("left ctrl", "g"))
DEAD, LOOK = 0.35, 12.0  # how far a stick must be from its middle; pixels a frame that the right one moves the mouse


def legend(keymap: Keymap) -> list[tuple[str, str]]:
    """Returns all keys and what they do, the game's first."""
    game = " ".join(sorted(keymap.keys)) or "none"
    return [("the game's", game + (" mouse" if keymap.uses_mouse else "")), *LEGEND]


def names_of(table: np.ndarray, keymap: Keymap) -> list[str]:
    """Returns the keys that press each packed action of a table `[n k]`, or its number where none do."""
    names = {tuple(keymap.packed(set())): "-"}
    keys = sorted(keymap.keys, key=lambda key: (len(key), key))
    for held in chain.from_iterable(combinations(keys, count) for count in (1, 2, 3)):
        names.setdefault(tuple(keymap.packed({*held})), " ".join(held))
    return [names.get(tuple(row), str(i)) for i, row in enumerate(table)]


class Controls:
    """Tracks held keys and mouse movement by their events, so that injected events count like real ones."""

    def __init__(self, pygame: ModuleType | None, keymap: Keymap):
        """`pygame` may be None where no window feeds events: `press`, `lift` and `move` take pygame's names of keys."""
        self._pygame, self._keymap = pygame, keymap
        self._held: set[str] = set()
        self._tapped: set[str] = set()  # pressed since the last action: a quick tap must not fall between two frames
        self._tilted: dict[tuple[str, int], int] = {}  # to which side each axis of a gamepad's stick and hat is
        self._mouse, self._look = np.zeros(2), np.zeros(2)
        self._since: float | None = None  # when the oldest input came that no action was taken for
        self.typed: str | None = None  # a seed, while the player types it

    @property
    def pressed(self) -> list[str]:
        """The game's keys that are held or were tapped."""
        return sorted((self._held | self._tapped) & self._keymap.keys)

    @property
    def touched(self) -> bool:
        """Whether the player does anything that means something to the game."""
        return bool(self.pressed) or (self._keymap.uses_mouse and bool((self._mouse + self._look).any()))

    @property
    def rewinds(self) -> bool:
        """Whether the key that goes back in time is held, or was tapped."""
        return REWIND in self._held | self._tapped and REWIND not in self._keymap.keys

    def feed(self, event: Any) -> str | None:
        """Takes one event; returns the command it stands for, if any."""
        pygame = self._pygame
        assert pygame is not None
        if event.type == pygame.QUIT:
            return "quit"
        if event.type == pygame.KEYDOWN:
            key = pygame.key.name(event.key)
            return self.press(key) if self.typed is None else self._type(key)
        if event.type == pygame.MOUSEBUTTONDOWN:
            return self.press(BUTTONS.get(event.button, ""))
        if event.type == pygame.KEYUP:
            self._held.discard(pygame.key.name(event.key))
        elif event.type == pygame.MOUSEBUTTONUP:
            self._held.discard(BUTTONS.get(event.button, ""))
        elif event.type == pygame.MOUSEMOTION:
            self._mouse += event.rel
        elif event.type == pygame.JOYBUTTONDOWN and event.button < len(PAD):
            self._hold(PAD[event.button])
        elif event.type == pygame.JOYBUTTONUP and event.button < len(PAD):
            self._held.difference_update(PAD[event.button])
        elif event.type == pygame.JOYHATMOTION:
            self._tilt("hat", 0, event.value[0])
            self._tilt("hat", 1, -event.value[1])  # a hat counts upwards
        elif event.type == pygame.JOYAXISMOTION:
            value = event.value if abs(event.value) > DEAD else 0.0
            if event.axis in (0, 1):
                self._tilt("stick", event.axis, value)
            elif event.axis in (2, 3):
                self._look[event.axis - 2] = LOOK * value
        elif event.type == pygame.WINDOWFOCUSLOST:
            self.release()  # the window will not hear of keys let go elsewhere
        return None

    def lift(self, key: str) -> None:
        """Takes a key or button that went up."""
        self._held.discard(key)

    def move(self, right: float, down: float) -> None:
        """Takes a movement of the mouse, in pixels."""
        self._mouse += (right, down)

    def take(self) -> np.ndarray:
        """Returns the packed action `[k]` of what was held, tapped and moved since the last call."""
        right, down = (self._mouse + self._look).tolist()
        packed = self._keymap.packed(self._held | self._tapped, (right, down))
        self._forget_moment()
        return packed

    def waited(self) -> float | None:
        """Returns when the oldest input came that no action was taken for yet; None where there is none."""
        return self._since

    def release(self) -> None:
        """Lets go of everything."""
        self._held.clear()
        self._tilted.clear()
        self._look[:] = 0
        self._forget_moment()

    def _type(self, key: str) -> str | None:
        """Takes a key into the seed that is being typed: digits, Enter or Escape."""
        typed, digit = self.typed or "", key.strip("[]")
        if key in ("return", "enter", "escape"):
            self.typed = None
            return None if key == "escape" else f"seed {typed[-18:]}"
        if key == "backspace":
            self.typed = typed[:-1]
        elif digit.isdecimal():
            self.typed = typed + digit
        return None

    def press(self, key: str) -> str | None:
        """Takes a key or button that went down; returns the command it stands for, if any."""
        if key in COMMANDS and (key == "escape" or key not in self._keymap.keys):
            if COMMANDS[key] == "seed":
                self.typed = ""
                return None
            return COMMANDS[key]
        self._hold((key,))
        return None

    def _hold(self, keys: tuple[str, ...]) -> None:
        self._held.update(keys)
        self._tapped.update(keys)
        if self._since is None and self._keymap.keys.intersection(keys):
            self._since = perf_counter()

    def _tilt(self, part: str, axis: int, value: float) -> None:
        before, side = self._tilted.get((part, axis), 0), int(np.sign(value))
        if side != before:  # a stick that rests lets go of no key
            self._held.difference_update(STICK.get((axis, before), ()))
            self._hold(STICK.get((axis, side), ()))
            self._tilted[part, axis] = side

    def _forget_moment(self) -> None:
        self._tapped.clear()
        self._mouse[:] = 0
        self._since = None
