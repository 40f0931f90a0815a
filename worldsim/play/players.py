"""Players who share a world: each has keys, a row and a past of its own, and one batch dreams the next frames of all.

Here so that rows come, go and pause without a word to the others: a row that stands still is a value.
Leaves out the network (`server.py`) and what keys mean (`controls.py`).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from worldsim import noise
from worldsim.actions import Keymap, unpack_rows
from worldsim.dream.action_reader import ActionReader
from worldsim.dream.rows import draw_prompt
from worldsim.play.controls import COMMANDS, REWIND, Controls
from worldsim.play.session import MEMORY, num_bytes
from worldsim.play.window import END_SECONDS, REWINDABLE, SLOW
from worldsim.types import map_rows
from worldsim.world_model import WorldModel, WorldState

OBEYED = ("pause", "reset", "seed", "step", "slow")  # by the row
OF_THE_PAGE = ("quit", "figures", "larger", "smaller")  # the page obeys the last three itself
FARTHEST = 1e4  # pixels of the mouse in one message; more is nonsense


@dataclass(frozen=True)
class Start:
    """A row's next frame is the first of an episode."""

    seed: int
    episode: int


@dataclass(frozen=True)
class Moment:
    """What a player's row stands at; a value."""

    start: Start
    state: WorldState  # of one row
    picture: bytes  # WebP without loss
    age: int = 0
    total_reward: float = 0.0
    ended: bool = False


@dataclass(frozen=True)
class Step:
    """A row's next frame follows a moment, by a packed action `[k]`."""

    moment: Moment
    action: np.ndarray


def advance(world: WorldModel, reader: ActionReader, jobs: Sequence[Start | Step]) -> list[Moment]:
    """Returns what each job leads to; the steps are one batch."""
    steps = [job for job in jobs if isinstance(job, Step)]
    stepped = iter(_step(world, reader, steps) if steps else ())
    return [next(stepped) if isinstance(job, Step) else _start(world, job) for job in jobs]


def _start(world: WorldModel, start: Start) -> Moment:
    address = noise.address_of([start.seed], world.device)
    address[:, 1] = start.episode
    state = world.initial(draw_prompt(address, world.num_prompts), address)
    return Moment(start, state, _encode(world.observe(state)[0].cpu().numpy()))


def _step(world: WorldModel, reader: ActionReader, steps: list[Step]) -> list[Moment]:
    moments = [step.moment for step in steps]
    actions = unpack_rows(reader.space, np.stack([step.action for step in steps]))
    before = map_rows(lambda *rows: torch.cat(rows), *(moment.state for moment in moments))
    state, outcome = world.step(before, reader.read(actions, len(steps)))
    rows = (state.select(row[None]) for row in torch.arange(len(steps), device=world.device))
    pictures = map(_encode, world.observe(state).cpu().numpy())
    outcomes = zip(outcome.reward.tolist(), outcome.terminated.tolist(), strict=True)
    return [
        Moment(was.start, row, picture, was.age + 1, was.total_reward + reward, ended)
        for was, row, picture, (reward, ended) in zip(moments, rows, pictures, outcomes, strict=True)
    ]


def _encode(frame: np.ndarray) -> bytes:
    # The quickest method: a frame of 256 x 256 takes 2 ms, and by the default 43.
    return iio.imwrite("<bytes>", frame, extension=".webp", plugin="pillow", lossless=True, method=0)


class Player:
    """One player: what the page reports goes in, what the row does next comes out."""

    def __init__(self, keymap: Keymap, seeds: Iterator[int], fps: float, room: Callable[[], int] = lambda: MEMORY):
        """The seed is the next one of `seeds`; `room()` is how many bytes an episode may be gone back through."""
        self.commands = {
            key: command
            for key, command in COMMANDS.items()
            if command in OBEYED + OF_THE_PAGE and (key == "escape" or key not in keymap.keys)
        }
        self.moment: Moment | None = None  # before the first frame
        self._controls, self._seeds, self._fps, self._room = Controls(None, keymap), seeds, fps, room
        self._keys = {REWIND, *keymap.keys}
        self._past: deque[Moment] = deque()
        self._paused = self._slow = self._steps_once = False
        self._ticks = self._ticks_of_end = 0
        self._obey("seed")

    def hear(self, message: str) -> str | None:
        """Takes in a message of the page; returns "shown" and "quit", which are not for the row.

        Raises ValueError for a bad one.
        """
        match json.loads(message):
            case ["down", str(key)] if key in self.commands:
                return self._obey(self.commands[key])
            case ["down", str(key)] if key in self._keys:
                self._controls.press(key)
            case ["up", str(key)]:
                self._controls.lift(key)
            case ["move", int() | float() as right, int() | float() as down] if abs(right) + abs(down) < FARTHEST:
                self._controls.move(right, down)
            case ["release"]:
                self._controls.release()
            case ["shown"]:
                return "shown"
            case _:
                raise ValueError(f"expected down, up, move, release or shown, found {message}")
        return None

    def _obey(self, command: str) -> str | None:
        if command == "pause":
            self._paused = not self._paused
            self._controls.release()
        elif command == "reset":
            self._begins = True
        elif command == "seed":
            self._next = Start(next(self._seeds), 0)
            self._begins = True
        elif command == "step":
            self._paused = self._steps_once = True
        elif command == "slow":
            self._slow = not self._slow
        return command if command == "quit" else None

    def choose(self) -> Start | Step | None:
        """Returns what the row does in this tick of the world's rate; None where it stands still or has gone back."""
        self._ticks += 1
        if self.moment is None or self._begins:
            return self._start()
        if self._slow and self._ticks % SLOW:
            return None
        if self._controls.rewinds:
            self.moment = self._past.pop() if self._past else self.moment
            self._controls.take()
            return None
        if self._paused and not self._steps_once:
            return None
        is_asked, self._steps_once = self._steps_once, False
        if not self.moment.ended:
            self._ticks_of_end = 0
            return Step(self.moment, self._controls.take())
        self._ticks_of_end += 1
        return self._start() if is_asked or self._ticks_of_end > END_SECONDS * self._fps else None

    def _start(self) -> Start:
        self._begins = self._steps_once = False
        self._controls.take()  # what was typed before is not meant for the beginning
        start, self._next = self._next, replace(self._next, episode=self._next.episode + 1)
        return start

    def show(self, job: Start | Step, moment: Moment) -> None:
        """Takes what a job of this player led to."""
        if isinstance(job, Step):
            self._past.append(job.moment)
        else:
            most = int(REWINDABLE * min(self._fps, 30))
            self._past = deque(maxlen=min(most, self._room() // num_bytes(moment.state)))
        self.moment = moment

    def facts(self) -> dict[str, Any]:
        """Returns what the page writes beside the picture."""
        if self.moment is None:
            return {}
        moment, start = self.moment, self.moment.start
        words = {"back": self._controls.rewinds, "paused": self._paused, "the end": moment.ended}
        word = next((word for word, holds in words.items() if holds), "")
        facts = {"reward": moment.total_reward, "age": moment.age, "seed": str(start.seed), "episode": start.episode}
        return facts | {"word": word}
