"""When a part of the screen was drawn, as an X server tells (its DAMAGE extension).

Here because a key that comes after the picture was drawn is no part of what led to it: it belongs to the next one.
Leaves out Windows and macOS, which tell nobody: there a picture counts as drawn when it is grabbed.
"""

from __future__ import annotations

import select
import sys
import threading
from time import perf_counter
from typing import Any

from worldsim.play.preview import Area

KEPT = 256  # drawings
MADE = 0.0015  # seconds from looking at keys to showing what came of them, of a small game; others take longer


class Drawn:
    """Call it for when the game looked at its keys for each of the last drawings, by `time.perf_counter`.

    There are none where nobody tells.
    """

    def __init__(self, place: Area):
        self._place, self._open = place, True
        self._times: tuple[float, ...] = ()
        self._thread = threading.Thread(target=self._listen, daemon=True) if sys.platform.startswith("linux") else None
        if self._thread:
            self._thread.start()

    def __call__(self) -> tuple[float, ...]:
        return self._times

    def close(self) -> None:
        """Stops listening."""
        self._open = False
        if self._thread:
            self._thread.join()

    def _listen(self) -> None:
        try:
            from Xlib import display, error
            from Xlib.ext import damage
        except ImportError:
            return  # whoever listens to the keys says what is missing
        try:
            screen = display.Display()
            if screen.query_extension(damage.extname) is None:
                return
            screen.damage_query_version()
            screen.screen().root.damage_create(damage.DamageReportRawRectangles)
            screen.flush()
            while self._open:
                if not screen.pending_events():
                    select.select([screen.fileno()], [], [], 0.1)
                while screen.pending_events():
                    event = screen.next_event()
                    if event.type == screen.extension_event.DamageNotify and _touch(event.area, self._place):
                        self._times = (*self._times[1 - KEPT :], perf_counter() - MADE)
            screen.close()
        except (error.DisplayError, error.ConnectionClosedError, error.XError, OSError):
            pass  # there is no such screen, or no longer: whoever grabs it says so
        finally:
            self._times = ()


def _touch(area: Any, place: Area) -> bool:
    x, y, width, height = place
    return x < area.x + area.width and area.x < x + width and y < area.y + area.height and area.y < y + height
