"""Any Gymnasium action space as vectors: packed rows for disk and keymaps, encoded vectors for networks.

Here so that games, recorder, models, environments and the keyboard speak of actions in one way.
Leaves out learning: the null action is the last channel of the vector, so the first linear layer learns what it means.

A **packed action** is a float64 row `[k]` of the action's own numbers (a Discrete is one number, a Dict the
concatenation of its parts in the space's order): lossless. An **encoded action** is a float32 vector `[a]`: one-hot for
choices, 0/1 for buttons, [-1, 1] for bounded boxes, and one more channel that is 1 where the action is unknown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor

from worldsim.messages import one_line

Leaf = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box
_TABLE_LIMIT = 64  # more combinations than this are not offered as one Discrete
KEY_CODES = {  # pygame's codes of the keys whose names are longer than a character; env and agents need no pygame
    "backspace": 8, "tab": 9, "return": 13, "escape": 27, "space": 32, "delete": 127,
    "right": 1073741903, "left": 1073741904, "down": 1073741905, "up": 1073741906,
    "left ctrl": 1073742048, "left shift": 1073742049, "left alt": 1073742050,
    "right ctrl": 1073742052, "right shift": 1073742053, "right alt": 1073742054,
}  # fmt: skip


def leaves(space: gym.Space) -> list[Leaf]:
    """Returns the simple spaces a space is made of, in its own order."""
    if isinstance(space, spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaves(part)]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaves(part)]
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)):
        raise ValueError(
            f"expected an action space of Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple, found {space}; "
            "wrap the game so that its actions are one of these"
        )
    return [space]


def leaf_shape(leaf: Leaf) -> tuple[int, ...]:
    """Returns the shape of a simple space's values, which Gymnasium does not promise of a Discrete."""
    return () if isinstance(leaf, spaces.Discrete) else leaf.shape


def _size(leaf: Leaf) -> int:
    return math.prod(leaf_shape(leaf))


def packed_width(space: gym.Space) -> int:
    """Returns k, the length of a packed action."""
    return sum(map(_size, leaves(space)))


def pack(space: gym.Space, action: Any, rows: int | None = None) -> np.ndarray:
    """Returns an action as float64 `[k]`, or a batch as Gymnasium batches it as `[rows k]`.

    Raises ValueError where the action is not in the space; the message says what was expected and found.
    """
    packed = np.concatenate([_pack_leaf(leaf, value, rows) for leaf, value in walk(space, action)], axis=1)
    return packed[0] if rows is None else packed


def walk(space: gym.Space, action: Any) -> Iterator[tuple[Leaf, Any]]:
    """Yields each simple space with its part of an action. Raises ValueError where a Dict or Tuple does not fit."""
    if isinstance(space, spaces.Dict):
        if not hasattr(action, "keys") or set(action.keys()) != set(space.spaces):
            raise ValueError(f"expected an action with the keys {list(space.spaces)}, found {one_line(action)}")
        for key, part in space.spaces.items():
            yield from walk(part, action[key])
    elif isinstance(space, spaces.Tuple):
        if not isinstance(action, (tuple, list)) or len(action) != len(space.spaces):
            raise ValueError(f"expected an action of {len(space.spaces)} parts, found {one_line(action)}")
        for part, value in zip(space.spaces, action, strict=True):
            yield from walk(part, value)
    else:
        yield leaves(space)[0], action


def _pack_leaf(leaf: Leaf, value: Any, rows: int | None) -> np.ndarray:
    """Returns a simple space's values as float64 `[rows n]`, one row where `rows` is None."""
    shape = leaf_shape(leaf) if rows is None else (rows, *leaf_shape(leaf))
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers for {leaf}, found {one_line(value)}") from error
    if array.shape != shape:
        raise ValueError(f"expected an action of shape {shape} for {leaf}, found shape {array.shape}")
    flat = array.reshape(1 if rows is None else rows, _size(leaf))
    low, high = _bounds(leaf)
    if not (np.isfinite(flat).all() and (flat >= low).all() and (flat <= high).all()):
        raise ValueError(f"expected an action in {leaf}, found {one_line(array.tolist())}")
    if np.issubdtype(leaf.dtype, np.integer) and not (flat == np.round(flat)).all():
        raise ValueError(f"expected whole numbers for {leaf}, found {one_line(array.tolist())}")
    return flat


def _bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest value of each number, float64 `[n]` each."""
    if isinstance(leaf, spaces.Discrete):
        return np.array([leaf.start], float), np.array([leaf.start + leaf.n - 1], float)
    if isinstance(leaf, spaces.MultiDiscrete):
        return leaf.start.ravel().astype(float), (leaf.start + leaf.nvec - 1).ravel().astype(float)
    if isinstance(leaf, spaces.MultiBinary):
        return np.zeros(_size(leaf)), np.ones(_size(leaf))
    return leaf.low.ravel().astype(float), leaf.high.ravel().astype(float)


def bounds(space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest value of each number of a packed action, float64 `[k]` each."""
    low, high = zip(*map(_bounds, leaves(space)), strict=True)
    return np.concatenate(low), np.concatenate(high)


def unpack(space: gym.Space, packed: np.ndarray) -> Any:
    """Returns the native action of a packed row `[k]`: the inverse of `pack`."""
    action, rest = _unpack(space, np.asarray(packed, dtype=np.float64))
    if len(rest):
        raise ValueError(f"expected a packed action of {packed_width(space)} numbers, found {len(packed)}")
    return action


def _unpack(space: gym.Space, row: np.ndarray) -> tuple[Any, np.ndarray]:
    if isinstance(space, spaces.Dict):
        parts = {}
        for key, part in space.spaces.items():
            parts[key], row = _unpack(part, row)
        return parts, row
    if isinstance(space, spaces.Tuple):
        values = []
        for part in space.spaces:
            value, row = _unpack(part, row)
            values.append(value)
        return tuple(values), row
    shape = leaf_shape(leaves(space)[0])
    size = math.prod(shape)
    value = row[:size].reshape(shape).astype(space.dtype)
    return (np.int64(value) if isinstance(space, spaces.Discrete) else value), row[size:]


def unpack_rows(space: gym.Space, packed: np.ndarray) -> Any:
    """Returns packed rows `[n k]` as Gymnasium batches native actions: the inverse of `pack` with `rows`."""
    batch = create_empty_array(space, len(packed))
    assert batch is not None  # it is None for spaces of other kinds than ours
    return concatenate(space, [unpack(space, row) for row in packed], batch)


def space_to_json(space: gym.Space) -> dict:
    """Returns a space as plain data; `space_from_json` is its inverse."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    leaf = leaves(space)[0]
    if isinstance(leaf, spaces.Discrete):
        return {"type": "Discrete", "n": int(leaf.n), "start": int(leaf.start)}
    if isinstance(leaf, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": leaf.nvec.tolist(), "start": leaf.start.tolist()}
    if isinstance(leaf, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(leaf.shape)}
    bounds = {name: [repr(x) for x in getattr(leaf, name).ravel().tolist()] for name in ("low", "high")}
    return {"type": "Box", **bounds, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def space_from_json(data: dict) -> gym.Space:
    """Returns the space that `space_to_json` wrote. Raises ValueError for a kind it does not know."""
    kind = data["type"]
    if kind == "Dict":
        return spaces.Dict([(key, space_from_json(part)) for key, part in data["spaces"].items()])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in data["spaces"]])
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(data["nvec"]), start=np.array(data["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"][0] if len(data["n"]) == 1 else data["n"])
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (np.array([float(x) for x in data[name]]).astype(dtype).reshape(shape) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    raise ValueError(f"expected a space of a known type, found {kind!r}; the file may come from a newer worldsim")


class ActionCodec:
    """Encodes packed actions as vectors for networks, and keeps the table of actions for agents that take a Discrete.

    `space` None stands for recordings without actions: the vector is the null channel alone.
    """

    def __init__(self, space: gym.Space | None, table: np.ndarray | None = None, device: torch.device | str = "cpu"):
        """`device` is where actions will come from, if they come as tensors: its constants wait there."""
        self.space = space
        self._leaves = leaves(space) if space is not None else []
        self._bounds = [[torch.from_numpy(side).to(device) for side in _bounds(leaf)] for leaf in self._leaves]
        self.width = sum(sum(_sizes(leaf)) for leaf in self._leaves) + 1
        self.null = torch.zeros(self.width, device=device)
        self.null[-1] = 1
        self.table = default_table(space) if table is None else np.asarray(table, dtype=np.float64)

    def encode(self, packed: np.ndarray | Tensor) -> Tensor:
        """Encodes packed actions `[... k]` as float32 `[... a]`."""
        packed = torch.as_tensor(packed)
        parts, start = [], 0
        for leaf, bound in zip(self._leaves, self._bounds, strict=True):
            size = _size(leaf)
            parts.append(_encode_leaf(leaf, packed[..., start : start + size], *(x.to(packed.device) for x in bound)))
            start += size
        parts.append(torch.zeros(*packed.shape[:-1], 1, device=packed.device))
        return torch.cat(parts, -1)


def _sizes(leaf: Leaf) -> list[int]:
    """Returns how many channels each number of a simple space takes."""
    if isinstance(leaf, spaces.Discrete):
        return [int(leaf.n)]
    return leaf.nvec.ravel().tolist() if isinstance(leaf, spaces.MultiDiscrete) else [1] * _size(leaf)


def _encode_leaf(leaf: Leaf, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Encodes one simple space's numbers `[... n]`, whose bounds are `[n]` each."""
    if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)):
        choices = zip((values - low).unbind(-1), _sizes(leaf), strict=True)
        # Compared, not scattered: on a GPU a value out of range is a row of zeros, and nothing waits for a check.
        hot = [choice[..., None] == torch.arange(size, device=values.device) for choice, size in choices]
        return torch.cat(hot, -1).float()
    if isinstance(leaf, spaces.MultiBinary):
        return values.float()
    bounded = torch.isfinite(low) & torch.isfinite(high) & (high > low)
    scaled = 2 * (values - low) / (high - low) - 1
    compressed = values.sign() * values.abs().log1p()  # unbounded boxes: large values must not drown the rest
    return torch.where(bounded, scaled, compressed).float()


def default_table(space: gym.Space | None) -> np.ndarray:
    """Returns packed actions `[n k]`: every combination where at most 64 exist, else rest and one change at a time."""
    if space is None:
        return np.zeros((1, 0))
    choices = [values for leaf in leaves(space) for values in _choices(leaf)]
    if np.prod([float(len(values)) for values in choices]) <= _TABLE_LIMIT:
        return np.array(list(itertools.product(*choices)), dtype=np.float64)
    rest = rest_action(space)
    changes = [(i, v) for i, values in enumerate(choices) for v in values if v != rest[i]]
    table = np.tile(rest, (len(changes) + 1, 1))
    for row, (index, value) in enumerate(changes, start=1):
        table[row, index] = value
    return table


def _choices(leaf: Leaf) -> list[list[float]]:
    """Returns the values each number of a simple space may take in a table."""
    low, high = _bounds(leaf)
    if isinstance(leaf, spaces.Box):
        low = np.where(np.isfinite(low), low, np.minimum(-1e3, high))
        high = np.where(np.isfinite(high), high, np.maximum(1e3, low))
        return [sorted({a, b, float(np.clip(0.0, a, b))}) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    return [[float(x) for x in range(int(a), int(b) + 1)] for a, b in zip(low, high, strict=True)]


def choices(packed: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the number `[n]` of the action in a table `[m k]` that is nearest to each packed one `[n k]`."""
    return np.abs(packed[:, None] - table[None]).sum(-1).argmin(1)


def rest_action(space: gym.Space) -> np.ndarray:
    """Returns the packed action `[k]` of doing nothing: each number as near to 0 as its space allows."""
    return np.clip(0.0, *bounds(space))


class Keymap:
    """Held keys and mouse movement to packed actions.

    `plain` is JSON-able: `{"rest": packed row, "bindings": [{"keys": ["w"], "set": {"0": 1}}, …], "mouse":
    [{"axis": "x", "component": 4, "scale": 0.05}]}`. Bindings whose keys are all held apply in order of their number
    of keys, so that a binding of two keys wins over those of one; a key combination without one falls back sensibly.
    """

    def __init__(self, space: gym.Space, plain: dict):
        self._low, self._high = bounds(space)
        self._rest = np.asarray(plain.get("rest", rest_action(space)), dtype=np.float64)
        if len(self._rest) != packed_width(space):
            raise ValueError(f"expected a keymap with a rest of {packed_width(space)} numbers, found {len(self._rest)}")
        self._bindings = sorted(plain.get("bindings", []), key=lambda binding: len(binding["keys"]))
        self._mouse = plain.get("mouse", [])
        self.keys = {key for binding in self._bindings for key in binding["keys"]}

    @property
    def uses_mouse(self) -> bool:
        """Whether mouse movement means anything, so that the window should grab it."""
        return bool(self._mouse)

    def packed(self, held: set[str], mouse: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """Returns the packed action `[k]` for the held keys and the mouse movement (pixels right, pixels down)."""
        row = self._rest.copy()
        for binding in self._bindings:
            if held.issuperset(binding["keys"]):
                for component, value in binding["set"].items():
                    row[int(component)] = value
        for axis in self._mouse:
            row[axis["component"]] += axis["scale"] * mouse["xy".index(axis["axis"])]
        return np.clip(row, self._low, self._high)


def default_keymap(space: gym.Space) -> dict:
    """Returns a keymap for a game that brings none: digits for choices, arrows and W S A D for the first numbers."""
    rest, bindings = rest_action(space), []
    low, high = bounds(space)
    pairs = iter((("a", "d"), ("s", "w"), ("left", "right"), ("down", "up"), ("q", "e"), ("f", "g")))
    digits = iter("123456789")
    numbers = [leaf for leaf in leaves(space) for _ in range(_size(leaf))]
    for index, leaf in enumerate(numbers):
        if isinstance(leaf, spaces.Box):
            keys = list(next(pairs, ()))
            values = [max(low[index], -1.0), min(high[index], 1.0)]
        else:
            values = [v for v in np.arange(low[index], high[index] + 1) if v != rest[index]]
            keys = [key for _, key in zip(values, digits, strict=False)]
        bindings += [
            {"keys": [key], "set": {str(index): float(value)}} for key, value in zip(keys, values, strict=False)
        ]
    return {"rest": rest.tolist(), "bindings": bindings, "mouse": []}
