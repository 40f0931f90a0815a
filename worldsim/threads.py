"""How many threads torch computes with: no more than the cores that other programs leave.

Here because threads meet at every layer: one that waits for a busy core holds up all (measured on two cores: a step of
15 ms takes 180 beside one busy process, and 17 with one thread). Only our own long loops adjust; `env.step` never.
Leaves out how threads wait, which the command line sets before torch loads.
"""

from __future__ import annotations

import time
from typing import Any, Self

import psutil
import torch

EVERY = 1.0  # seconds between two looks; the system counts in hundredths
SPARED = 0.25  # of a core that others may take before a thread is given up


def threads_for(cores: float, others: float, most: int) -> int:
    """Returns how many threads to compute with, 1 to `most`, where others keep so many of the cores busy."""
    return max(1, min(most, int(cores - others + SPARED)))


class Threads:
    """Adjusts the number of torch's threads, at most once a second, from within a loop; afterwards it is as before."""

    def __enter__(self) -> Self:
        self._most, self._process = torch.get_num_threads(), psutil.Process()
        self._mark = self._look()
        return self

    def __exit__(self, *exception: Any) -> None:
        torch.set_num_threads(self._most)

    def adjust(self) -> None:
        """Takes as many threads as there are cores that others left idle since the last look."""
        if time.monotonic() - self._mark[0] < EVERY:
            return
        before, self._mark = self._mark, self._look()
        seconds, busy, own = (now - then for now, then in zip(self._mark, before, strict=True))
        wanted = threads_for(len(self._cores()), max(0.0, busy - own) / seconds, self._most)
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)

    def _cores(self) -> list[int]:
        """Returns the cores that this process may use."""
        if hasattr(self._process, "cpu_affinity"):  # not on macOS
            return self._process.cpu_affinity()
        return list(range(psutil.cpu_count() or 1))

    def _look(self) -> tuple[float, float, float]:
        """Returns the time, the seconds that our cores were busy so far, and this process' share of them."""
        every, own = psutil.cpu_times(percpu=True), self._process.cpu_times()
        busy = sum(_busy(every[core]._asdict()) for core in self._cores())
        return time.monotonic(), busy, own.user + own.system


def _busy(seconds: dict[str, float]) -> float:
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests count among user and nice
    return sum(value for name, value in seconds.items() if name not in idle)
