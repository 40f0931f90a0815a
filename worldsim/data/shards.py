"""Files of a data folder that know nothing of episodes: growing .npy arrays, the writer's lock, and getting to disk.

Here because a file that grows by rows and is readable at every instant is a matter of byte offsets.
Leaves out which rows count: that is the index of `episodes`.
"""

from __future__ import annotations

import fcntl
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

LOCK = ".lock"


@dataclass(frozen=True)
class Column:
    """One array of a shard: what a row looks like, and whether it has one row per observation or per step."""

    dtype: str
    shape: tuple[int, ...]
    counts_observations: bool

    def header(self, rows: int) -> bytes:
        """Returns the .npy header; NumPy pads it so that its length does not depend on the number of rows."""
        buffer = io.BytesIO()
        facts = {"descr": self.dtype, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(buffer, facts)
        return buffer.getvalue()

    def size(self, rows: int) -> int:
        """Returns the bytes of a file with this many rows."""
        return len(self.header(rows)) + rows * math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_rows(path: Path, column: Column, start: int, rows: np.ndarray) -> None:
    """Writes rows from row `start` on, then the header that counts them, so that `np.load` reads the file as well.

    Ordinary file writes: a full disk raises OSError here, where a memory map would end the process.
    """
    rows = np.ascontiguousarray(rows, dtype=column.dtype)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        file.seek(column.size(start))
        file.write(rows.reshape(-1).view(np.uint8).data)
        file.flush()
        file.seek(0)
        file.write(column.header(start + len(rows)))
        sync(file)


def check_rows(path: Path, column: Column, rows: int) -> None:
    """Raises ValueError where a file is missing, holds other rows, or fewer. More are fine: nobody has indexed them."""
    expected, found = column.size(rows), path.stat().st_size if path.exists() else 0
    if found < expected:
        raise ValueError(f"expected {expected} bytes or more in {path}, found {found}: it is truncated; copy it again")
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise ValueError(f"expected a NumPy array in {path}, found another file ({error}); copy it again") from None
    if shape[1:] != column.shape or dtype != np.dtype(column.dtype) or fortran:
        raise ValueError(
            f"expected {column.dtype} rows of shape {list(column.shape)} in {path}, found {dtype.str} {list(shape[1:])}"
        )


def sync(file: BinaryIO) -> None:
    """Returns when what was written would survive a crash of the machine."""
    file.flush()
    os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Returns when the names in a folder would survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def acquire_lock(folder: Path) -> BinaryIO:
    """Returns the locked file; the lock ends with the process, however it ends."""
    lock = open(folder / LOCK, "wb")  # noqa: SIM115 (lives as long as the writer)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ValueError(f"{folder} is being written by another process; wait for it or choose another out=") from None
    return lock
