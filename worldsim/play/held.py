"""What was held, tapped or moved between two frames of a screen, and when these were drawn.

Here because what is done after a picture was drawn leads to the next one, whenever it is grabbed.
Leaves out how keys are heard and pictures are grabbed (`screen`), and who tells when they are drawn (`drawn`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

FARTHEST = 200.0  # pixels that the mouse is seen to move in a frame, each way
START, END, STOP = "f8", "f9", "f10"
QUICK = 0.005  # seconds: what takes longer to grab is drawn meanwhile again and again
STILL = 0.05  # seconds: a key this old counts, whether or not it changed the picture


class Held:
    """What was held or tapped since the last frame, and how far the mouse went; nothing between two frames is lost."""

    def __init__(self, keys: tuple[str, ...], mouse: bool):
        self._keys, self._mouse, self._lock = keys, mouse, threading.Lock()
        self._pressed: set[str] = set()  # now
        self._down: set[str] = set()  # as far as taken
        self._place: np.ndarray | None = None
        self._keys_heard: deque[tuple[float, str, bool]] = deque()  # not taken yet
        self._places: deque[tuple[float, np.ndarray]] = deque()
        self._asked: list[str] = []

    def heard(self, key: str, down: bool) -> None:
        """Takes in a key that went down or up."""
        with self._lock:
            if down and key not in self._pressed and key in (START, END, STOP):
                self._asked.append(key)
            (self._pressed.add if down else self._pressed.discard)(key)
            self._keys_heard.append((time.perf_counter(), key, down))

    def moved(self, x: float, y: float) -> None:
        """Takes in where the pointer is."""
        with self._lock:
            self._places.append((time.perf_counter(), np.array([x, y], float)))

    def take(self, until: float = np.inf, looked: float = -np.inf) -> np.ndarray:
        """Returns the packed action from the last call to a moment: the mouse's way where it counts, then the keys.

        A key from before that went up before the game `looked` again was not held for it.
        """
        with self._lock:
            held, pressed, way = set(self._down), set(), np.zeros(2)
            while self._keys_heard and self._keys_heard[0][0] <= until:
                at, key, down = self._keys_heard.popleft()
                pressed |= {key} if down else set()
                held -= {key} if at <= looked else set()
                (self._down.add if down else self._down.discard)(key)
            while self._places and self._places[0][0] <= until:
                _, place = self._places.popleft()
                way += 0 if self._place is None else place - self._place
                self._place = place
        way = np.clip(way, -FARTHEST, FARTHEST) if self._mouse else np.zeros(0)
        return np.concatenate((way, [float(key in held | pressed) for key in self._keys]))

    def asked(self) -> list[str]:
        """Returns the hotkeys pressed since the last call."""
        with self._lock:
            found, self._asked = self._asked, []
        return found


def see(
    grab: Callable[[], np.ndarray], drawn: Callable[[], tuple[float, ...]], before: float, shown: np.ndarray | None
) -> tuple[np.ndarray, float, float]:
    """Returns a frame, when the game looked at its keys for it, and when it first did since `before`, that of `shown`.

    What is done after that leads to the next frame. Where nobody tells, it is as old as it is grabbed.
    """
    for _ in range(3):
        now, times = time.perf_counter(), drawn()
        frame = grab()
        if drawn() == times or time.perf_counter() - now > QUICK:  # not drawn anew meanwhile, or always
            break
    if not times or (times[-1] <= before and shown is not None and not np.array_equal(frame, shown)):
        return frame, now, before
    looked = next((at for at in times if at > before), before) if times[0] <= before else before
    return frame, max(times[-1], now - STILL), looked
