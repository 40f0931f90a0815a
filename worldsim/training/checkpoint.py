"""Checkpoints that a kill at any moment cannot spoil: written beside, synced, renamed.

Here on top of Accelerate's `save_state`, which knows what a run consists of.
Leaves out weights for use, which are the bundle's.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_NAME = re.compile(r"checkpoint-(\d+)")


def latest(folder: Path) -> Path | None:
    """Returns the newest whole checkpoint in `folder`, or None."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Writes `checkpoint-<step>` and removes the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary, final = folder / "checkpoint.tmp", folder / f"checkpoint-{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    with full_disk_is_an_os_error(temporary):
        accelerator.save_state(str(temporary))
    sync_folder(temporary)
    if final.exists():  # the same step saved twice: the same state
        shutil.rmtree(temporary)
        return
    os.rename(temporary, final)
    for path in folder.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and path != final:
            shutil.rmtree(path)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with full_disk_is_an_os_error(temporary):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def full_disk_is_an_os_error(path: Path) -> Iterator[None]:
    """Makes OSError, which it is, of what torch and safetensors raise where a file cannot be written."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise OSError(f"cannot write {path} ({reason}); free some space and run the same command again") from error


def sync_folder(folder: Path) -> None:
    """Forces a folder's files, and their names, to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
