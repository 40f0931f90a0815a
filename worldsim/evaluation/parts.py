"""What an evaluation has measured so far, in a file: one that was killed goes on where it was.

Here because a full evaluation takes many minutes. Leaves out what the parts are (`measure`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldsim.files import write_json


class Parts:
    """Keeps every part in `path` as soon as it is measured, with the seconds it took."""

    def __init__(self, path: Path, facts: dict[str, Any], say: Callable[[str], None]):
        """`facts` are what the figures depend on: a file of other facts is not gone on with, but begun anew."""
        self._path, self._say = path, say
        found = json.loads(path.read_text()) if path.exists() else {}
        self._kept = found if found.get("facts") == facts else {"facts": facts, "parts": {}, "seconds": {}}

    @property
    def seconds(self) -> dict[str, float]:
        """How long each part took."""
        return self._kept["seconds"]

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns what `make()` returns, as JSON has it: now, or as it was measured before."""
        if name not in self._kept["parts"]:
            self._say(name)
            start = time.monotonic()
            self._kept["parts"][name] = json.loads(json.dumps(make()))
            self._kept["seconds"][name] = round(time.monotonic() - start, 1)
            write_json(self._path, self._kept)
        return self._kept["parts"][name]

    def forget(self) -> None:
        """Removes the file, once the whole is written elsewhere."""
        self._path.unlink(missing_ok=True)
