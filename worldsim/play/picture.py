"""What the window shows: the frame, the real game beside it, lines of figures, small pictures, and words over all.

Here as drawing alone: everything it shows is handed to it. Leaves out when something is drawn (`window.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

ORDINARY = 1080  # pixels of a display's shorter side; of twice as many, all that is written is twice as large
NARROWEST = 420  # pixels; the lines must fit
LINE = 22  # pixels of one line
SMALL = 72  # pixels of a small picture's longer side
GAP = 4
TEXT, BACKGROUND = (235, 235, 235), (20, 20, 24)

Small = tuple[str, np.ndarray]
"""A small picture, uint8 `[H W 3]`, and what stands under it."""


@dataclass(frozen=True)
class Shown:
    """What is to be seen."""

    frames: Sequence[np.ndarray]  # uint8 [H W 3], beside one another
    names: Sequence[str] = ()  # of the frames
    word: str = ""  # over the last one
    lines: Sequence[str] = ()
    rows: Sequence[Sequence[Small]] = ()
    legend: Sequence[tuple[str, str]] = field(default=())
    scale: int = 1
    smooth: bool = False


class Picture:
    """The window's surface. Its size follows from what it shows."""

    def __init__(self, pygame: ModuleType):
        self._pygame = pygame
        self._largest = pygame.display.get_desktop_sizes()[0]
        self.dense = max(1, round(min(self._largest) / ORDINARY))  # pixels where an ordinary display has one
        self._line, self._small, self._narrowest = (self.dense * size for size in (LINE, SMALL, NARROWEST))
        self._font = pygame.font.Font(None, self._line)
        self.screen: Any = None

    def largest_scale(self, shape: tuple[int, ...], count: int) -> int:
        """Returns by how much `count` frames of a shape `[H W 3]` can be enlarged to fit the display."""
        height, width = shape[:2]
        return max(1, min(self._largest[0] // (width * count), (self._largest[1] - 4 * self._line) // height))

    def draw(self, shown: Shown) -> None:
        """Draws everything, and makes the window as large as that wants."""
        pygame = self._pygame
        height, width = (side * shown.scale for side in shown.frames[0].shape[:2])
        self._fit(shown, width, height)
        self.screen.fill(BACKGROUND)
        left = (self.screen.get_width() - width * len(shown.frames)) // 2
        for index, frame in enumerate(shown.frames):
            self.screen.blit(self._enlarged(frame, (width, height), shown.smooth), (left + index * width, 0))
        middle = left + width // 2
        words = [(name, (middle + index * width, self._line)) for index, name in enumerate(shown.names)]
        for word, place in [*words, (shown.word, (middle + (len(shown.frames) - 1) * width, height // 2))]:
            text = self._font.render(word, True, TEXT, BACKGROUND)
            self.screen.blit(text, text.get_rect(center=place))
        top = height + GAP
        for line in shown.lines:
            self.screen.blit(self._font.render(line, True, TEXT), (6 * self.dense, top))
            top += self._line
        for row in shown.rows:
            self._draw_row(row, top)
            top += self._small + self._line
        if shown.legend:
            self._draw_legend(shown.legend)
        pygame.display.flip()

    def _fit(self, shown: Shown, width: int, height: int) -> None:
        below = self._line * len(shown.lines) + (self._small + self._line) * len(shown.rows)
        widest = max((len(row) for row in shown.rows), default=0) * (self._small + GAP) + GAP
        size = (max(width * len(shown.frames), self._narrowest, widest), height + (below + GAP if below else 0))
        if self.screen is None or self.screen.get_size() != size:
            self.screen = self._pygame.display.set_mode(size)

    def _enlarged(self, frame: np.ndarray, size: tuple[int, int], smooth: bool) -> Any:
        scale = self._pygame.transform.smoothscale if smooth else self._pygame.transform.scale
        return scale(self._pygame.image.frombuffer(frame.tobytes(), frame.shape[1::-1], "RGB"), size)

    def _draw_row(self, row: Sequence[Small], top: int) -> None:
        for index, (word, frame) in enumerate(row):
            factor = self._small / max(frame.shape[:2])
            size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
            left = GAP + index * (self._small + GAP)
            self.screen.blit(self._enlarged(frame, size, smooth=True), (left, top))
            text = self._font.render(word, True, TEXT)
            self.screen.blit(text, text.get_rect(midtop=(left + self._small // 2, top + size[1] + 2)))

    def _draw_legend(self, legend: Sequence[tuple[str, str]]) -> None:
        """Draws a list over everything, made smaller where it is too long."""
        screen, height = self.screen.get_rect(), self._line * len(legend) + 2 * GAP
        listed = self._pygame.Surface((max(self._narrowest, screen.width), max(height, screen.height)))
        listed.fill(BACKGROUND)
        for index, line in enumerate(legend):
            for left, text in zip((2 * GAP, 130 * self.dense), line, strict=True):
                listed.blit(self._font.render(text, True, TEXT), (left, GAP + index * self._line))
        self.screen.blit(self._pygame.transform.smoothscale(listed, screen.size), (0, 0))
