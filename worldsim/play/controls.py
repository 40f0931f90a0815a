"""Keyboard and mouse events to actions and commands.

Here so that one place knows which keys belong to the game and which to the window. Leaves out the window.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from worldsim.actions import Keymap

COMMANDS = {  # the game's keymap comes first: a key that it uses is no command, but for escape
    "escape": "quit", "p": "pause", "space": "pause", "r": "reset", "h": "hud", ".": "step", ",": "slow",
    "+": "larger", "=": "larger", "[+]": "larger", "-": "smaller", "[-]": "smaller",
}  # fmt: skip
REWIND = "backspace"  # as long as it is held
BUTTONS = {1: "mouse left", 2: "mouse middle", 3: "mouse right"}  # a keymap may bind them like keys


class Controls:
    """Tracks held keys and mouse movement by their events, so that injected events count like real ones."""

    def __init__(self, pygame: ModuleType | None, keymap: Keymap):
        """`pygame` may be None where no window feeds events: `press`, `lift` and `move` take pygame's names of keys."""
        self._pygame, self._keymap = pygame, keymap
        self._held: set[str] = set()
        self._tapped: set[str] = set()  # pressed since the last action: a quick tap must not fall between two frames
        self._mouse = np.zeros(2)

    @property
    def touched(self) -> bool:
        """Whether the player does anything that means something to the game."""
        keys = (self._held | self._tapped) & self._keymap.keys
        return bool(keys) or (self._keymap.uses_mouse and bool(self._mouse.any()))

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
            return self.press(pygame.key.name(event.key))
        if event.type == pygame.MOUSEBUTTONDOWN:
            return self.press(BUTTONS.get(event.button, ""))
        if event.type == pygame.KEYUP:
            self._held.discard(pygame.key.name(event.key))
        elif event.type == pygame.MOUSEBUTTONUP:
            self._held.discard(BUTTONS.get(event.button, ""))
        elif event.type == pygame.MOUSEMOTION:
            self._mouse += event.rel
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
        packed = self._keymap.packed(self._held | self._tapped, (float(self._mouse[0]), float(self._mouse[1])))
        self._forget_moment()
        return packed

    def release(self) -> None:
        """Lets go of everything."""
        self._held.clear()
        self._forget_moment()

    def press(self, key: str) -> str | None:
        """Takes a key or button that went down; returns the command it stands for, if any."""
        if key in COMMANDS and (key == "escape" or key not in self._keymap.keys):
            return COMMANDS[key]
        self._held.add(key)
        self._tapped.add(key)
        return None

    def _forget_moment(self) -> None:
        self._tapped.clear()
        self._mouse[:] = 0
