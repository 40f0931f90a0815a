"""Imports pygame when it is needed, and says what to run where the installation is broken.

Here because pygame and pygame-ce share one module: either works, and so do both in any order, but uninstalling one
of two deletes files of the other and leaves an empty `pygame`. Leaves out windows: those are `worldsim.play`.
"""

import os
from types import ModuleType

_NEEDED = ("display", "event", "font", "init", "key", "transform")
_REPAIR = "run: python -m pip install --force-reinstall --no-deps pygame"


def import_pygame() -> ModuleType:
    """Returns the module pygame. Raises ImportError, in one sentence, where it is missing or an empty shell."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # a command's output is its own
    try:
        import pygame
    except ImportError as error:
        raise ImportError(f"pygame does not import ({error}); {_REPAIR}") from error
    missing = [name for name in _NEEDED if not getattr(pygame, name, None)]  # a MissingModule is false
    if missing:
        raise ImportError(f"pygame is installed but has no {', '.join(missing)}; {_REPAIR}")
    return pygame
