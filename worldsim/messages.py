"""What was found, in one line, for errors, and the commonest check.

Here because an error is one sentence whatever it is about: arrays and other libraries' errors have many lines.
Leaves out what was expected, which the code that checks knows.
"""

from __future__ import annotations

from typing import Any


def one_line(value: Any, limit: int = 80) -> str:
    """Returns the start of a value's repr, or of an error's message, without line breaks."""
    text = str(value) if isinstance(value, BaseException) else repr(value)
    return " ".join(text.split())[:limit]


def check_whole(name: str, value: Any, least: int, optional: bool = False) -> None:
    """Raises ValueError where an argument is no whole number of at least `least`, nor None where it is `optional`."""
    if not (value is None and optional) and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        kind = "null or a whole number" if optional else "a whole number"
        raise ValueError(f"expected {name} to be {kind} of at least {least}, found {value}")


class GameError(RuntimeError):
    """A game that is recorded raised an error of its own: nobody's wrong input here, and no fault of the library."""
