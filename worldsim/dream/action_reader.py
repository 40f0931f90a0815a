"""What an agent hands in as an action, to the vectors that a world takes.

Here because both envs and their reset options read actions, on the host or, as tensors, where they are.
Leaves out spaces and encodings, which are `actions.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldsim.actions import ActionCodec, Leaf, bounds, leaf_shape, leaves, pack, rest_action, unpack, walk

ACTIONS = ("native", "discrete")


class ActionReader:
    """Turns what an agent hands in into the vectors a world takes; `space` is what the agent sees."""

    def __init__(self, codec: ActionCodec, actions: str, device: torch.device):
        if actions not in ACTIONS:
            raise ValueError(f"expected actions= one of {', '.join(ACTIONS)}, found {actions!r}")
        self._native = codec
        self._codec = ActionCodec(codec.space, codec.table, device)
        self._table = self.null[None] if codec.space is None else self._codec.encode(codec.table).to(device)
        # A world without actions is a table of one: the null.
        discrete = actions == "discrete" or codec.space is None
        self.space: spaces.Space = (
            spaces.Discrete(len(codec.table)) if codec.space is None or discrete else deepcopy(codec.space)
        )
        self._is_table = discrete
        whole = [
            np.full(leaf_shape(leaf), np.issubdtype(leaf.dtype, np.integer)).ravel() for leaf in leaves(self.space)
        ]
        self._whole = torch.from_numpy(np.concatenate(whole)).to(device)
        self._low, self._high = (torch.from_numpy(side).to(device) for side in bounds(self.space))
        self._rest = torch.from_numpy(rest_action(self.space)).to(device)

    @property
    def null(self) -> Tensor:
        """The vector `[a]` of an action that nobody knows, on the world's device."""
        return self._codec.null

    def read(self, action: Any, rows: int | None = None) -> Tensor:
        """Encodes an action `[1 a]`, or `rows` as Gymnasium batches them `[b a]`. Raises ValueError for bad ones."""
        packed = np.atleast_2d(pack(self.space, to_host(action), rows))
        return self._encode(torch.from_numpy(packed).to(self.null.device))

    def read_tensors(self, action: Any, rows: int) -> tuple[Tensor, Tensor]:
        """Encodes a batch of tensors `[b a]` without waiting for their values; returns which rows are good `[b]` too.

        Shapes raise ValueError as in `read`. A row whose values are not in the space is encoded as the null action.
        """
        parts = [_flat(leaf, value, rows) for leaf, value in walk(self.space, action)]
        packed = torch.cat([part.to(self.null.device, torch.float64) for part in parts], 1)
        is_good = (packed >= self._low) & (packed <= self._high) & packed.isfinite()
        is_good = (is_good & (~self._whole | (packed == packed.round()))).all(1)
        encoded = self._encode(torch.where(is_good[:, None], packed, self._rest))
        return torch.where(is_good[:, None], encoded, self.null), is_good

    def from_native(self, packed: np.ndarray) -> Any | None:
        """Returns the agent's action for a packed native one `[k]`; None where its table has none."""
        if not self._is_table:
            return unpack(self.space, packed)
        matches = np.flatnonzero((self._native.table == packed).all(-1))
        return int(matches[0]) if len(matches) else None

    def _encode(self, packed: Tensor) -> Tensor:
        """Encodes packed actions `[b k]` of the agent's space."""
        return self._table[packed[:, 0].long()] if self._is_table else self._codec.encode(packed)


def are_tensors(action: Any) -> bool:
    """Returns whether an action's numbers are tensors, all of them."""
    if isinstance(action, Mapping):
        action = tuple(action.values())
    return all(map(are_tensors, action)) if isinstance(action, tuple) else isinstance(action, Tensor)


def to_host(action: Any) -> Any:
    """Returns an action whose tensors, wherever they are, are NumPy arrays."""
    if isinstance(action, Tensor):
        return action.detach().cpu().numpy()
    if isinstance(action, Mapping):
        return {key: to_host(part) for key, part in action.items()}
    return tuple(map(to_host, action)) if isinstance(action, tuple) else action


def _flat(leaf: Leaf, value: Tensor, rows: int) -> Tensor:
    """Returns a simple space's tensor as `[rows n]`."""
    if tuple(value.shape) != (rows, *leaf_shape(leaf)) or value.is_complex():
        found = f"{value.dtype} of shape {tuple(value.shape)}"
        raise ValueError(f"expected an action of shape {(rows, *leaf_shape(leaf))} for {leaf}, found {found}")
    return value.detach().reshape(rows, -1)
