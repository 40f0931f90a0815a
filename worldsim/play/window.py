"""The window: shows a session, obeys keyboard and mouse, and says how fast and how well it goes.

Here as the place where a person meets a world. Leaves out what keys mean (`controls.py`) and the episode
(`session.py`).
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from worldsim._pygame import import_pygame
from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv
from worldsim.play.controls import Controls
from worldsim.play.session import Session
from worldsim.threads import Threads

SIZE = 640  # pixels of the picture's longer side at first, about
NARROWEST = 320  # pixels; the HUD's lines must fit
LINE = 22  # pixels of one line of the HUD
REWINDABLE = 20.0  # seconds that can be gone back
SLOW = 4  # times as slow as the world's rate
END_SECONDS = 1.0  # how long "the end" stands before the next episode
INVISIBLE = ("offscreen", "dummy")  # the drivers that SDL falls back to where it finds no screen
TEXT, BACKGROUND = (235, 235, 235), (20, 20, 24)


def has_display() -> bool:
    """Returns whether a window can be opened and seen; what SDL_VIDEODRIVER asks for counts as seen."""
    is_asked_for = bool(os.environ.get("SDL_VIDEODRIVER"))
    is_near = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and not (is_asked_for or is_near):
        return False
    pygame = import_pygame()
    try:
        pygame.display.init()
    except pygame.error:
        return False
    return is_asked_for or pygame.display.get_driver() not in INVISIBLE


class PlayWindow:
    """A window on a world; a context manager. A policy, if any, acts while the player touches no key of the game."""

    def __init__(
        self, env: WorldModelEnv, policy: Policy | None = None, seed: int | None = None, scale: int | None = None
    ):
        self._policy, self._fps = policy, env.metadata["render_fps"]
        self.session = Session(env, seed, rewindable=int(REWINDABLE * min(self._fps, 30)))
        self.paused = self.closed = self.slow = False
        self.hud, self._asked, self.scale = True, scale, 1
        self._ticks_of_end = 0.0

    def __enter__(self) -> PlayWindow:
        self._pygame: ModuleType = import_pygame()
        pygame = self._pygame
        pygame.display.init()
        pygame.font.init()
        self._controls = Controls(pygame, self.session.env.keymap)
        self._clock, self._font = pygame.time.Clock(), pygame.font.Font(None, LINE)
        self._largest = self._largest_scale()
        self.scale = max(1, min(self._largest, self._asked or SIZE // max(self.session.frame.shape[:2])))
        self._resize()
        self._grab_mouse()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pygame.display.quit()

    def run(self, frames: int | None = None) -> None:
        """Plays until the player quits, or for `frames` frames."""
        with Threads() as threads:
            while not self.closed and frames != 0:
                threads.adjust()
                self.advance()
                frames = None if frames is None else frames - 1

    def advance(self) -> None:
        """Waits until the next frame is due, then reads the newest input, dreams the frame and shows it at once."""
        self._clock.tick(self._fps / SLOW if self.slow else self._fps)
        for event in self._pygame.event.get():
            self._obey(self._controls.feed(event))
        if self._controls.rewinds and not self.closed:
            self.session.rewind()
            self._controls.take()
        elif not (self.paused or self.closed):
            self._play()
        self._draw()

    def _play(self) -> None:
        if not self.session.ended:
            self.session.step(self._choose())
            self._ticks_of_end = 0
        elif self._ticks_of_end < END_SECONDS * self._fps:
            self._ticks_of_end += 1
        else:
            self._begin()

    def _begin(self) -> None:
        self._controls.take()  # what was typed at the end is not meant for the beginning
        self.session.begin()

    def _choose(self) -> Any:
        if self._policy is not None and not self._controls.touched:
            return self.session.choose(self._policy)
        return self._controls.take()

    def _obey(self, command: str | None) -> None:
        if command == "quit":
            self.closed = True
        elif command == "pause":
            self.paused = not self.paused
            self._controls.release()
            self._grab_mouse()
        elif command == "reset":
            self._begin()
        elif command == "step":
            self.paused = True
            self._grab_mouse()
            self._ticks_of_end = END_SECONDS * self._fps  # one press is enough, also at the end
            self._play()
        elif command == "slow":
            self.slow = not self.slow
        elif command is not None:
            self.hud ^= command == "hud"
            self.scale = max(1, min(self._largest, self.scale + {"larger": 1, "smaller": -1}.get(command, 0)))
            self._resize()

    def _draw(self) -> None:
        """Draws the picture, a word over it where it stands still, and the HUD below."""
        pygame, frame = self._pygame, self.session.frame
        height, width = (side * self.scale for side in frame.shape[:2])
        picture = pygame.image.frombuffer(frame.tobytes(), frame.shape[1::-1], "RGB")
        left = (self.screen.get_width() - width) // 2
        self.screen.fill(BACKGROUND)
        self.screen.blit(pygame.transform.scale(picture, (width, height)), (left, 0))
        words = ("back" if self._controls.rewinds else "", "paused" if self.paused else "", "the end")
        if word := next((word for word in words[: 2 + self.session.ended] if word), ""):
            self._write_over_picture(word, height)
        for index, line in enumerate(self.lines() if self.hud else ()):
            self.screen.blit(self._font.render(line, True, TEXT), (6, height + 4 + index * LINE))
        pygame.display.flip()

    def lines(self) -> tuple[str, str]:
        """Returns what the HUD says."""
        session, env = self.session, self.session.env
        speed = f"{self._clock.get_fps():.0f} fps   {session.milliseconds(50):.1f} ms"
        return (
            f"{speed}   reward {session.total_reward:+.2f}",
            f"age {session.age}   seed {env.row_seed}   episode {env.episode}",
        )

    def _write_over_picture(self, word: str, height: int) -> None:
        text = self._font.render(word, True, TEXT, BACKGROUND)
        self.screen.blit(text, text.get_rect(center=(self.screen.get_width() // 2, height // 2)))

    def _resize(self) -> None:
        height, width = (side * self.scale for side in self.session.frame.shape[:2])
        size = (max(width, NARROWEST), height + (2 * LINE + 4 if self.hud else 0))
        self.screen = self._pygame.display.set_mode(size)
        name = self.session.env.world.info.name
        self._pygame.display.set_caption(
            f"{name}: P pause, Backspace back, . one frame, , slow, R reset, H numbers, + - size"
        )

    def _largest_scale(self) -> int:
        desktop = self._pygame.display.get_desktop_sizes()[0]
        height, width = self.session.frame.shape[:2]
        return max(1, min(desktop[0] // width, (desktop[1] - 4 * LINE) // height))

    def _grab_mouse(self) -> None:
        """Takes the mouse while a game that uses it is going on."""
        is_taken = self.session.env.keymap.uses_mouse and not self.paused
        self._pygame.event.set_grab(is_taken)
        self._pygame.mouse.set_visible(not is_taken)
