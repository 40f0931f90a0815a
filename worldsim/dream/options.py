"""What `reset` is handed: seeds, and options that say which rows start, and from what.

Here so that both envs refuse the same things in the same words, before anything has changed.
Leaves out states (`saved_state.py`) and drawing a prompt where none is named (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.dream.action_reader import ActionReader, to_host
from worldsim.dream.saved_state import read_state
from worldsim.messages import one_line
from worldsim.types import Clip, map_rows

Start = Any
"""Where episodes start: prompt indices `[b]`, a `Clip` or a world's state, of b rows; None lets the address draw."""


def read_seed(seed: Any) -> int | None:
    """Returns a seed as it was handed in. Raises ValueError for what is not an integer in [0, 2**63)."""
    if seed is not None and (not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63):
        raise ValueError(f"expected a seed from 0 to 2**63 - 1, found {one_line(seed)}")
    return None if seed is None else int(seed)


def read_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """Returns each row's seed: seed + row, or one of the sequence. Raises ValueError for bad ones."""
    if seed is None or isinstance(seed, (int, np.integer)):
        seed = [None if seed is None else int(seed) + row for row in range(rows)]
    listed = (
        seed.ndim == 1 if isinstance(seed, np.ndarray) else isinstance(seed, Sequence) and not isinstance(seed, str)
    )
    if not listed or len(seed) != rows:
        raise ValueError(f"expected an integer or {rows} seeds, one for each row, found {one_line(seed)}")
    return [read_seed(row) for row in seed]


def read_options(
    options: Mapping | None, known: Sequence[str], world: Any, reader: ActionReader, rows: int
) -> tuple[Tensor | None, Start]:
    """Returns which rows start (bool `[b]` on the world's device, None for all) and from what; `options` stay as is.

    Raises ValueError, in one sentence, for what is not among the `known` keys or is not a value of theirs.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"expected reset options as a dict, found {one_line(options)}")
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"expected reset options out of {', '.join(known)}, found {one_line(unknown)}")
    mask, prompt, state = (options.get(key) for key in ("reset_mask", "prompt", "state"))
    if prompt is not None and state is not None:
        raise ValueError("expected options['prompt'] or options['state'], found both; leave one out")
    mask = None if mask is None else _read_mask(mask, rows, world.device)
    if state is not None:
        state = read_state(state, world, tuple({1, rows})).world
        return mask, map_rows(lambda x: x.expand(rows, *x.shape[1:]), state)
    return mask, None if prompt is None else _read_prompt(prompt, world, reader, rows)


def read_plans(actions: Any, reader: ActionReader) -> Tensor:
    """Returns plans, an agent's actions with a row and a step in front, encoded: `[b H a]`. Raises ValueError."""
    leaf = actions
    while isinstance(leaf, (Mapping, tuple)):
        leaf = next(iter(leaf.values() if isinstance(leaf, Mapping) else leaf), None)
    shape = _array(leaf).shape
    if len(shape) < 2 or 0 in shape[:2]:
        raise ValueError(f"expected plans, actions in rows and steps [b H ...], found {one_line(actions)}")
    rows, count = shape[:2]
    return reader.read(_flatten(actions, rows, count), rows * count).unflatten(0, (rows, count))


def _read_mask(mask: Any, rows: int, device: torch.device) -> Tensor:
    """Returns a mask on the device; one that is a tensor is not looked at, so that nothing waits for it."""
    is_mask = isinstance(mask, (np.ndarray, Tensor)) and mask.dtype in (np.bool_, torch.bool)
    if not is_mask or tuple(mask.shape) != (rows,) or (isinstance(mask, np.ndarray) and not mask.any()):
        raise ValueError(f"expected options['reset_mask'] {rows} booleans, at least one True, found {one_line(mask)}")
    return torch.as_tensor(mask).to(device, copy=True)


def _read_prompt(prompt: Any, world: Any, reader: ActionReader, rows: int) -> Tensor | Clip:
    if isinstance(prompt, Mapping):
        return _read_clip(prompt, world, reader, rows)
    array = _array(prompt)
    if array.ndim >= 3:
        return _clip(_read_frames(np.expand_dims(array, -4), world, rows), None, world, reader, rows)
    is_valid = np.issubdtype(array.dtype, np.integer) and array.shape in ((), (rows,))
    if not (is_valid and (array >= 0).all() and (array < world.num_prompts).all()):
        expected = f"an index from 0 to {world.num_prompts - 1}, an image or a clip"
        raise ValueError(f"expected options['prompt'] {expected}, found {one_line(prompt)}")
    return torch.from_numpy(np.broadcast_to(array, rows).astype(np.int64)).to(world.device)


def _read_clip(clip: Mapping, world: Any, reader: ActionReader, rows: int) -> Clip:
    """Reads `frames [t H W 3]` and the `actions` between them, t - 1 of them; or `[b t …]`, a clip for each row."""
    if not {"frames"} <= set(clip) <= {"frames", "actions"}:
        raise ValueError(f"expected a clip with the keys frames and actions, found {one_line([*clip])}")
    frames = _read_frames(_array(clip["frames"]), world, rows)
    if clip.get("actions") is None:
        return _clip(frames, None, world, reader, rows)
    count, clips = frames.shape[-4] - 1, len(frames) if frames.ndim == 5 else 1
    actions = clip["actions"] if frames.ndim == 4 else _flatten(clip["actions"], rows, count)
    vectors = reader.read(actions, clips * count).reshape(clips, count, len(reader.null))
    return _clip(frames, vectors, world, reader, rows)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(to_host(value))
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected numbers, found {one_line(value)}") from error


def _read_frames(frames: np.ndarray, world: Any, rows: int) -> np.ndarray:
    """Returns frames `[t H W 3]` or `[b t H W 3]`, checked."""
    shape = world.info.frame_shape
    is_frames = frames.dtype == np.uint8 and frames.shape[-3:] == shape and 0 not in frames.shape
    if not is_frames or frames.ndim not in (4, 5) or (frames.ndim == 5 and len(frames) != rows):
        found = f"{frames.dtype} {frames.shape}"
        raise ValueError(f"expected prompt frames uint8 {shape}, or such for each row or step, found {found}")
    return frames


def _flatten(actions: Any, rows: int, count: int) -> Any:
    """Joins the first two dimensions, row and step, of every part of an action."""
    if isinstance(actions, Mapping):
        return {key: _flatten(part, rows, count) for key, part in actions.items()}
    if isinstance(actions, tuple):
        return tuple(_flatten(part, rows, count) for part in actions)
    array = _array(actions)
    if array.shape[:2] != (rows, count):
        raise ValueError(f"expected {rows} rows of {count} actions each, found an array of shape {array.shape}")
    return array.reshape(rows * count, *array.shape[2:])


def _clip(frames: np.ndarray, vectors: Tensor | None, world: Any, reader: ActionReader, rows: int) -> Clip:
    """Returns the clip of frames `[t H W 3]` or `[b t H W 3]` and the vectors of the actions between, `[b t-1 a]`."""
    latents = world.encode(torch.from_numpy(np.ascontiguousarray(frames)))
    latents = latents if frames.ndim == 5 else latents[None]
    action = reader.null.repeat(*latents.shape[:2], 1)
    if vectors is not None:
        action[:, 1:] = vectors
    off = torch.zeros(latents.shape[:2], dtype=torch.bool, device=latents.device)
    clip = Clip(latents, action, ~off, off.float(), off, off)
    return map_rows(lambda x: x.expand(rows, *x.shape[1:]), clip)
