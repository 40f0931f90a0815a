"""The window: shows a session, obeys keyboard, mouse and gamepad, and says how fast and how well it goes.

Frames are dreamed in a thread of their own, so that the window answers while one is computed. Here as the place where a
person meets a world. Leaves out what keys mean (`controls.py`), the episode (`session.py`) and drawing (`picture.py`).
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import torch

from worldsim import pixels
from worldsim._pygame import import_pygame
from worldsim.actions import Keymap
from worldsim.data.frame_files import read_picture
from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv
from worldsim.play.beside import Beside
from worldsim.play.controls import Controls, legend, names_of
from worldsim.play.human import INVISIBLE
from worldsim.play.picture import Picture, Shown, Small
from worldsim.play.session import Session
from worldsim.play.tape import Tape
from worldsim.play.tuning import Tuning
from worldsim.play.video import VideoWriter
from worldsim.threads import Threads

SIZE = 640  # pixels of the picture's longer side at first, about
REWINDABLE = 20.0  # seconds that can be gone back
SLOW = 4  # times as slow as the world's rate
END_SECONDS = 1.0  # how long "the end" stands before the next episode
LOOKS = 1 / 120  # seconds between two looks at the player's input
AT_ONCE = ("quit", "pause", "slow", "figures", "legend", "smooth", "mouse", "larger", "smaller", "agent", "choices")


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
    """A window on a world; a context manager. A policy, if any, acts while the player touches no key of the game.

    `beside` is the real game, which is played along; `tape` keeps what is played; videos go beside `video`. The first
    episode starts from a `prompt`, see `Session.begin`.
    """

    def __init__(
        self,
        env: WorldModelEnv,
        policy: Policy | None = None,
        seed: int | None = None,
        scale: int | None = None,
        keymap: Keymap | None = None,
        beside: Beside | None = None,
        tape: Tape | None = None,
        video: Path = Path("worldsim-play.mp4"),
        prompt: Any = None,
    ):
        self._policy, self._fps, self._beside, self._tape = policy, env.metadata["render_fps"], beside, tape
        self._keymap, self._seed = keymap or env.keymap, seed
        self.session = Session(env, seed, rewindable=int(REWINDABLE * min(self._fps, 30)), prompt=prompt)
        self.tuning = Tuning(env.world)
        self.paused = self.closed = self.slow = self.smooth = self.legend = False
        self.figures, self.acts, self._asked, self.scale = True, policy is not None, scale, 1
        self.choices = env.world.takes_latent_actions
        self.video: VideoWriter | None = None
        self._video_path, self._resources = video, ExitStack()
        self._commands: list[str] = []
        self._ticks_of_end, self._due = 0.0, 0.0
        self._futures: tuple[Any, np.ndarray] | None = None
        self._choices = names_of(env.world.action_codec.table, self._keymap)
        self._films = ExitStack()
        self.latencies: deque[float] = deque(maxlen=600)  # seconds from a key to the frame it led to
        self._screens: deque[float] = deque(maxlen=60)  # seconds that drawing took
        self._times: deque[float] = deque(maxlen=60)  # when frames were shown

    def __enter__(self) -> PlayWindow:
        self._pygame: ModuleType = import_pygame()
        pygame = self._pygame
        pygame.display.init()
        pygame.font.init()
        if getattr(pygame, "joystick", None):
            pygame.joystick.init()
            self._pads = [pygame.joystick.Joystick(i) for i in range(pygame.joystick.get_count())]
        self._controls, self._picture = Controls(pygame, self._keymap), Picture(pygame)
        self._worker = self._resources.enter_context(ThreadPoolExecutor(1, "dream"))
        self._threads = self._resources.enter_context(Threads())
        self.scale = max(
            1,
            min(self._largest_scale(), self._asked or self._picture.dense * SIZE // max(self.session.frame.shape[:2])),
        )
        name = self.session.env.world.info.name
        pygame.display.set_caption(f"{name}: L lists the keys, Esc quits")
        if self._beside is not None:
            self._do(self.session.begin, self._seed, self._beside.prompt())
        self._mark()
        self._draw()
        self._grab_mouse(True)  # there is a window now
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._worker.shutdown()  # it may be in the middle of a step
            if self._tape is not None:
                self._tape.close()
        finally:
            self._resources.close()  # a video that is being recorded ends here
            self._pygame.display.quit()

    @property
    def screen(self) -> Any:
        """The window's surface."""
        return self._picture.screen

    def run(self, frames: int | None = None) -> None:
        """Plays until the player quits, or for `frames` frames."""
        while not self.closed and frames != 0:
            self.advance()
            frames = None if frames is None else frames - 1

    def advance(self) -> None:
        """Waits until the next frame is due, then reads the newest input, dreams the frame and shows it at once."""
        while not self.closed and (left := self._due - perf_counter()) > 0:
            self._pygame.time.wait(round(1e3 * min(left, LOOKS)))
            self._listen()
        self._listen()
        period = (SLOW if self.slow else 1) / self._fps
        self._due = max(self._due + period, perf_counter())  # what is late is not made up for
        pressed = self._controls.waited()
        while self._commands and not self.closed:
            self._obey(self._commands.pop(0))
        if self._controls.rewinds and not self.closed:
            self._do(self._rewind)
            self._controls.take()
        elif not (self.paused or self.closed):
            over = self._is_over()  # then keys lead to nothing
            self._play()
            self._draw()
            self._times.append(perf_counter())
            self.latencies.extend([self._times[-1] - pressed] if pressed is not None and not over else [])
            return
        if self.paused and self.choices and not self.closed:
            self._look_ahead()
        self._draw()

    def _do(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Has the worker do something, and listens meanwhile; returns its result.

        Everything that touches the session is done there: two threads that compute would hold each other up.
        """

        def work() -> Any:
            self._threads.adjust()
            return what(*arguments)

        job: Future[Any] = self._worker.submit(work)
        while wait([job], timeout=LOOKS).not_done:
            if self._listen():
                self._draw()
        return job.result()

    def _listen(self) -> bool:
        """Reads what the player did; returns whether the window looks otherwise by it."""
        look = lambda: (self.paused, self.figures, self.legend, self.smooth, self.scale, self._controls.typed)  # noqa: E731
        before = look()
        for event in self._pygame.event.get():
            if event.type == self._pygame.DROPFILE:
                self._commands.append(f"open {event.file}")
            command = self._controls.feed(event)
            if command in AT_ONCE:
                self._obey_at_once(command)
            elif command is not None:
                self._commands.append(command)
        return look() != before

    def _obey_at_once(self, command: str) -> None:
        """Does what needs no worker."""
        if command == "quit":
            self.closed = True
        elif command == "pause":
            self.paused = not self.paused
            self._controls.release()
            self._grab_mouse(not self.paused)
        elif command == "mouse":
            self._grab_mouse(not self._has_mouse)
        elif command in ("slow", "figures", "legend", "smooth", "choices"):
            setattr(self, command, not getattr(self, command))
        elif command == "agent":
            self.acts = self._policy is not None and not self.acts
        else:
            self.scale = max(1, min(self._largest_scale(), self.scale + (1 if command == "larger" else -1)))

    def _obey(self, command: str) -> None:
        """Does what changes the session."""
        name, _, rest = command.partition(" ")
        if command == "reset":
            self._begin()
        elif command == "step":
            self.paused = True
            self._grab_mouse(False)
            self._ticks_of_end = END_SECONDS * self._fps  # one press is enough, also at the end
            self._play()
        elif command == "branch":
            self._do(self.session.branch)
        elif name == "go":
            self._do(self._go_to, int(rest.removeprefix("to ")))
        elif name == "seed":
            self._begin(int(rest) if rest else (self.session.env.row_seed + 1) % 2**63)
        elif name == "open":
            self._open(rest)
        elif command == "take over":
            if self._beside is not None and not self._beside.ended:
                self._do(self._restart, None, self._beside.prompt())
        elif command == "video":
            self._film()
        else:
            self.tuning.change(command)
            self._futures = None

    def _play(self) -> None:
        if not self._is_over():
            packed = self._do(self.session.choose, self._policy) if self._agent_acts() else self._controls.take()
            self._do(self._step, packed)
            self._ticks_of_end = 0
        elif self._ticks_of_end < END_SECONDS * self._fps:
            self._ticks_of_end += 1
        else:
            self._begin()

    def _is_over(self) -> bool:
        """Whether the episode has ended: of two games the later end counts."""
        return self.session.ended and (self._beside is None or self._beside.ended)

    def _agent_acts(self) -> bool:
        return self.acts and not self._controls.touched

    def _step(self, packed: np.ndarray) -> None:
        if not self.session.ended:
            reward = self.session.step(packed)
            if self._tape is not None:
                self._tape.add(packed, reward, self.session.frame, self.session.ended)
        if self._beside is not None:
            self._beside.step(packed)
        if self.video is not None:
            self.video.append(np.concatenate(self._frames(), 1))

    def _rewind(self) -> None:
        if self.session.rewind() and self._tape is not None:
            self._tape.back(self.session.frame)

    def _go_to(self, index: int) -> None:
        if self.session.go_to(index):
            self._mark()

    def _begin(self, seed: int | None = None) -> None:
        self._controls.take()  # what was typed at the end is not meant for the beginning
        self._do(self._restart, seed, None)

    def _restart(self, seed: int | None, prompt: Any) -> None:
        """Begins an episode: from a prompt, or where the real game begins one too."""
        if prompt is None and self._beside is not None:
            prompt = self._beside.begin(seed)
        self.session.begin(seed, prompt)
        self._mark()

    def _mark(self) -> None:
        """Begins an episode of what is kept."""
        if self._tape is not None:
            self._tape.begin(self.session.frame)

    def _open(self, path: str) -> None:
        """Starts from a picture; one that cannot be read is left alone."""
        height, width = self.session.frame.shape[:2]
        try:
            picture = pixels.resize(torch.from_numpy(read_picture(Path(path))), height, width).numpy()
        except ValueError as error:
            print(error, file=sys.stderr)
            return
        self._do(self._restart, None, picture)

    def _film(self) -> None:
        """Begins to record a video, or ends it."""
        if self.video is not None:
            self._films.close()
            self.video = None
            return
        named = (self._video_path.with_stem(f"{self._video_path.stem}-{i}") for i in count(1))
        path = next(path for path in named if not path.exists())
        self._films = self._resources.enter_context(ExitStack())
        self.video = self._films.enter_context(VideoWriter(path, self._fps))
        self.video.append(np.concatenate(self._frames(), 1))  # a film without a frame is none

    def _look_ahead(self) -> None:
        """Dreams what each choice leads to from here, once for every moment."""
        here = self.session.frame  # another array for every moment
        if self._futures is None or self._futures[0] is not here:
            self._futures = here, self._do(self.session.futures)

    def _frames(self) -> list[np.ndarray]:
        return [*([self._beside.frame] if self._beside is not None else []), self.session.frame]

    def _draw(self) -> None:
        began = perf_counter()
        words = {
            f"seed: {self._controls.typed}_": self._controls.typed is not None, "back": self._controls.rewinds,
            "paused": self.paused, "the end": self.session.ended,
        }  # fmt: skip
        shown = Shown(
            frames=self._frames(),
            names=("the game", "the dream") if self._beside is not None else (),
            word=next((word for word, holds in words.items() if holds), ""),
            lines=self.lines() if self.figures else (),
            rows=self._rows(),
            legend=legend(self._keymap) if self.legend else (),
            scale=self.scale,
            smooth=self.smooth,
        )
        self._picture.draw(shown)
        self._screens.append(perf_counter() - began)

    def _rows(self) -> list[list[Small]]:
        """Returns the small pictures: kept moments, and what each choice leads to while the dream is paused."""
        kept = [(f"F{i + 1}", moment.frame) for i, moment in enumerate(self.session.branches)]
        ahead: list[Small] = []
        if self._futures is not None and self.paused and self.choices:
            ahead = [*zip(self._choices, self._futures[1], strict=False)]
        return [row for row in (kept, ahead) if row]

    def lines(self) -> tuple[str, ...]:
        """Returns what is written below the picture."""
        session, facts = self.session, self.session.facts
        unsure = f"   unsure {facts['uncertainty']:.2f}" if "uncertainty" in facts else ""
        marks = [f"agent {'on' if self.acts else 'off'}"] if self._policy is not None else []
        marks += ["video"] if self.video is not None else []
        marks += ["kept"] if self._tape is not None else []
        drawn = np.percentile(self._screens, (50, 95)) * 1e3 if self._screens else np.full(2, np.nan)
        times = self._times
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        stages = [
            f"{name} {session.milliseconds(50, stage):.1f} / {session.milliseconds(95, stage):.1f}"
            for stage, name in enumerate(("network", "decoder"))
        ]
        return (
            f"reward {session.total_reward:+.2f}   age {session.age}   seed {session.env.row_seed}"
            f"   episode {session.env.episode}{unsure}",
            f"{' '.join(self._controls.pressed) or '-'}   {self.tuning.in_words()}   {'   '.join(marks)}",
            f"{rate:.0f} fps   ms p50 / p95: {'   '.join(stages)}   screen {drawn[0]:.1f} / {drawn[1]:.1f}",
        )

    def _largest_scale(self) -> int:
        return self._picture.largest_scale(self.session.frame.shape, len(self._frames()) if self._beside else 1)

    def _grab_mouse(self, wanted: bool) -> None:
        """Takes or lets go of the mouse, where the game uses it."""
        self._has_mouse = self._keymap.uses_mouse and wanted
        self._pygame.event.set_grab(self._has_mouse)
        self._pygame.mouse.set_visible(not self._has_mouse)
