"""Checkpoints that a kill at any moment cannot spoil: written beside, synced, renamed.

Here on top of Accelerate's `save_state`, which knows what a run consists of.
Leaves out weights for use, which are the bundle's.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from worldsim.files import full_disk_is_an_os_error, sync_folder

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
    try:
        with full_disk_is_an_os_error(temporary):
            accelerator.save_state(str(temporary))
        sync_folder(temporary)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # what fills the disk should not stay
        raise
    if final.exists():  # the same step saved twice: the same state
        shutil.rmtree(temporary)
        return
    os.rename(temporary, final)
    for path in folder.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and path != final:
            shutil.rmtree(path)
