"""A small window that shows what of the screen is being recorded, and how many frames there are.

Here because who records a game of his own wants to see that it is the right part of the screen.
Leaves out recording (`screen`).
"""

from __future__ import annotations

import os
from time import perf_counter
from types import ModuleType

import numpy as np

from worldsim._pygame import import_pygame

SIDE = 192  # pixels, at least
EVERY = 0.2  # seconds between two pictures: what is recorded matters more

Area = tuple[int, int, int, int]
"""x, y, width and height, in pixels."""


def window_side(frame_side: int) -> int:
    """Returns the window's side for frames of a side, in pixels: the least whole multiple that can be seen."""
    return frame_side * -(-SIDE // frame_side)


def free_corner(screen: Area, recorded: Area, side: int) -> tuple[int, int] | None:
    """Returns where on a screen a square touches nothing that is recorded, None where it would everywhere."""
    x, y, width, height = screen
    left, top, wide, high = recorded
    for at in ((x + width - side, y), (x + width - side, y + height - side), (x, y), (x, y + height - side)):
        if at[0] + side <= left or at[0] >= left + wide or at[1] + side <= top or at[1] >= top + high:
            return at
    return None


class Preview:
    """The window; call it with every frame. Closed by its user, it stays closed."""

    def __init__(self, at: tuple[int, int], frame_side: int):
        self._pygame: ModuleType = import_pygame()
        side = window_side(frame_side)
        self._scale, self._due, self.open = side // frame_side, 0.0, True
        os.environ["SDL_VIDEO_WINDOW_POS"] = f"{at[0]},{at[1]}"
        self._pygame.display.init()
        self._screen = self._pygame.display.set_mode((side, side), self._pygame.NOFRAME)

    def __call__(self, frame: np.ndarray, frames: int) -> None:
        """Shows a frame, uint8 `[H W 3]`, where the last one has been seen for a while."""
        if not self.open or perf_counter() < self._due:
            return
        pygame, self._due = self._pygame, perf_counter() + EVERY
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            return self.close()
        large = frame.repeat(self._scale, 0).repeat(self._scale, 1).swapaxes(0, 1)
        pygame.surfarray.blit_array(self._screen, large)
        pygame.display.set_caption(f"worldsim record: {frames} frames")
        pygame.display.flip()

    def close(self) -> None:
        """Closes the window."""
        if self.open:
            self.open = False
            self._pygame.display.quit()
