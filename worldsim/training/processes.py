"""Several processes that train as one, each on its own share of every step's batches; gradients are added up.

Here on torch.distributed, as torchrun begins it: no objective knows of it, and on one process nothing
happens. Leaves out models that do not fit one device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """How many there are, and which one this is; the first writes what is written."""

    count: int = 1
    index: int = 0

    @classmethod
    def found(cls, device: torch.device) -> Self:
        """Returns the processes that torchrun (or `accelerate launch`) began, joined; one, where nobody did."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        state = PartialState(cpu=device.type == "cpu")
        return cls(state.num_processes, state.process_index)

    @property
    def first(self) -> bool:
        return self.index == 0

    @contextmanager
    def first_first(self) -> Iterator[None]:
        """Lets the others do what is inside after the first one has: they find its files."""
        if not self.first:
            dist.barrier()
        yield
        if self.first and self.count > 1:
            dist.barrier()

    def same(self, value: float, device: torch.device) -> float:
        """Returns the first one's value."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(told, 0)
        return told.item()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over all processes, in one exchange."""
        if self.count == 1:
            return
        flat = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(flat)
        for x, total in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(total.view_as(x))
