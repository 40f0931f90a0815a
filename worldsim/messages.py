"""What was found, in one line, for errors.

Here because an error is one sentence whatever it is about: arrays and other libraries' errors have many lines.
Leaves out what was expected, which the code that checks knows.
"""

from __future__ import annotations

from typing import Any


def one_line(value: Any, limit: int = 80) -> str:
    """Returns the start of a value's repr, or of an error's message, without line breaks."""
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return " ".join(text.split())[:limit]


class GameError(RuntimeError):
    """A game that is recorded raised an error of its own: nobody's wrong input here, and no fault of the library."""
