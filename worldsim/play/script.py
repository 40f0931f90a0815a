"""A script that plays: keys and mouse movement, read from a JSON file.

Here so that a session can be repeated without a person, in a window or without. Leaves out policies (`data.policies`).

The file holds a list of `{"keys": ["w", "d"], "mouse": [dx, dy], "frames": 30}`; each part may be left out.
"""

from __future__ import annotations

import json
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.actions import Keymap

_REST: dict[str, Any] = {"keys": [], "mouse": [0, 0], "frames": 1}


class ScriptPolicy:
    """Plays a script's entries in order, again and again."""

    def __init__(self, entries: list[dict], keymap: Keymap):
        self.num_frames = sum(entry["frames"] for entry in entries)
        rows = ((keymap.packed(set(entry["keys"]), tuple(entry["mouse"])), entry["frames"]) for entry in entries)
        self._rows = chain.from_iterable(repeat(row, count) for row, count in cycle(list(rows)))

    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        """Returns the next packed action for the one row there is, float64 `[1 k]`."""
        return next(self._rows)[None]


def read_script(path: str | Path, keymap: Keymap) -> list[dict]:
    """Returns a script's entries, whole. Raises ValueError naming the entry that is wrong."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected script= a JSON file, found {path}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"expected script= a JSON list of at least one entry, found {entries!r:.60} in {path}")
    return [_read_entry(entry, index, keymap) for index, entry in enumerate(entries)]


def _read_entry(entry: Any, index: int, keymap: Keymap) -> dict:
    whole = _REST | entry if isinstance(entry, dict) else {}
    if whole.keys() != _REST.keys() or not (
        _is_list_of(whole["keys"], str) and _is_list_of(whole["mouse"], int | float)
    ):
        raise ValueError(f"expected keys, mouse and frames in entry {index} of the script, found {entry!r:.80}")
    if not isinstance(whole["frames"], int) or whole["frames"] < 1 or len(whole["mouse"]) != 2:
        raise ValueError(f"expected frames >= 1 and mouse [dx, dy] in entry {index} of the script, found {entry!r:.80}")
    if unknown := set(whole["keys"]) - keymap.keys:
        known = ", ".join(sorted(keymap.keys)) or "none"
        raise ValueError(f"expected keys of this world ({known}) in entry {index}, found {', '.join(sorted(unknown))}")
    return whole


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
