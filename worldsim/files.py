"""Files that a kill at any moment cannot spoil: written beside, synced, renamed.

Here because everything recorded or trained is written in this way.
Leaves out the episode store's files, which grow in place (`data.shards`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_WRITER_ERRORS = ("PytorchStreamWriter", "unexpected pos", "No space left")  # what torch says where a write fails


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes plain data whole or not at all; makes the folder where it is missing."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_tensors(tensors: dict[str, Tensor], path: Path, facts: dict[str, str] | None = None) -> None:
    """Writes a safetensors file whole or not at all, with `facts` in its header."""
    temporary = path.with_name(f"{path.name}.tmp")
    with full_disk_is_an_os_error(temporary):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, facts)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def full_disk_is_an_os_error(path: Path) -> Iterator[None]:
    """Makes OSError, which it is, of what torch and safetensors raise where a file cannot be written."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _WRITER_ERRORS):
            raise
        reason = " ".join(str(error).split())[:120]
        raise OSError(f"cannot write {path} ({reason}); free some space and run the same command again") from error


def sync_folder(folder: Path) -> None:
    """Forces all of a folder's files, and their names, to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
