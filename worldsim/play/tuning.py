"""What a player turns while a dream goes on: evaluations a frame, noise on the past, guidance by the action.

Here because they are values of the loaded world, to be changed between two frames only. Leaves out keys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from worldsim.diffusion.guidance import Guidance
from worldsim.world_model import WorldModel

STEPS = (1, 2, 3, 4, 6, 8, 16, 32)
NOISE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # levels of committed frames
GUIDANCE = (1.0, 1.5, 2.0, 3.0)


class Tuning:
    """Changes how a world is sampled, one notch at a time."""

    def __init__(self, world: WorldModel):
        self._world: Any = world

    def change(self, command: str) -> None:
        """Turns what a command of the window names."""
        world = self._world
        if command in ("fewer", "more"):
            steps = _notch(STEPS, world.sampler.steps, command == "more")
            world.sampler = replace(world.sampler, steps=steps)
        elif command in ("less noise", "more noise"):
            world.context_level = _notch(NOISE, world.context_level, command == "more noise")
        elif command == "guidance":
            now = GUIDANCE.index(self._scale()) if self._scale() in GUIDANCE else -1
            scale = GUIDANCE[(now + 1) % len(GUIDANCE)]
            world.guidance = None if scale == 1 else Guidance(scale)

    def in_words(self) -> str:
        """Returns the settings as a line."""
        scale = self._scale()
        guided = "" if scale == 1 else f"   guidance {scale:g}"
        return f"K {self._world.steps}   past's noise {self._world.context_level:g}{guided}"

    def _scale(self) -> float:
        return 1.0 if self._world.guidance is None else self._world.guidance.scale


def _notch(notches: tuple[Any, ...], now: Any, up: bool) -> Any:
    """Returns the next notch above or below; the last one stays."""
    if up:
        return next((x for x in notches if x > now), now)
    return next((x for x in reversed(notches) if x < now), now)
