"""A person as the recorder's policy: a window, keyboard and mouse; Esc ends the recording.

Here because it is the one policy that needs a window, and windows live in `worldsim.play`.
Leaves out playing in dreams (`worldsim play`).
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, Self

import gymnasium as gym
import numpy as np

from worldsim._pygame import import_pygame
from worldsim.actions import Keymap
from worldsim.data.policies import EndOfRecording
from worldsim.play.controls import Controls

WINDOW = 640  # pixels, about; frames are scaled by a whole number
INVISIBLE = ("dummy", "offscreen")


def open_window(pygame: ModuleType, size: tuple[int, int]) -> Any:
    """Returns the screen of a new window. Raises ValueError (one sentence) where there is no display to show it.

    SDL falls back to drivers that show nothing; they count only where the environment asks for one by name.
    """
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
        if driver in INVISIBLE and os.environ.get("SDL_VIDEODRIVER") != driver:
            pygame.display.quit()
            raise ValueError("policy=human needs a display, found none; policy=sticky needs none")
        return pygame.display.set_mode(size)
    except pygame.error as error:
        raise ValueError(f"policy=human needs a display, found none ({error}); policy=sticky needs none") from None


class HumanPolicy:
    """Shows each frame for 1/fps s and returns what the keymap makes of the held keys and the mouse's movement.

    The window is open inside `with`; Esc or closing it raises EndOfRecording.
    """

    def __init__(self, space: gym.Space, keymap: dict, fps: float, frame_shape: tuple[int, int, int]):
        self._keymap, self._fps = Keymap(space, keymap), fps
        self._scale = max(1, WINDOW // max(frame_shape[:2]))
        self._size = (frame_shape[1] * self._scale, frame_shape[0] * self._scale)

    def __enter__(self) -> Self:
        self._pygame: ModuleType = import_pygame()
        self._controls = Controls(self._pygame, self._keymap)
        self._screen = open_window(self._pygame, self._size)
        self._pygame.display.set_caption("worldsim record: Esc ends")
        self._pygame.mouse.set_visible(not self._keymap.uses_mouse)
        self._pygame.event.set_grab(self._keymap.uses_mouse)
        self._clock = self._pygame.time.Clock()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pygame.display.quit()

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        self._show(observations[0])
        self._clock.tick(self._fps)  # the action is read after the wait, as late as possible
        for event in self._pygame.event.get():
            if self._controls.feed(event) == "quit":
                raise EndOfRecording
            self._controls.typed = None  # nobody types a seed here
        return self._controls.take()[None]

    def _show(self, frame: np.ndarray) -> None:
        picture = self._pygame.image.frombuffer(np.ascontiguousarray(frame).tobytes(), frame.shape[1::-1], "RGB")
        self._screen.blit(self._pygame.transform.scale(picture, self._size), (0, 0))
        self._pygame.display.flip()
