"""The state of an env as a value, and as bytes: where its rows stand, and of which world.

Here so that a dream can be saved, branched and sent to another process, and a foreign world's state is refused.
Leaves out weights, arguments and who steps it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldsim import noise
from worldsim.messages import one_line
from worldsim.types import Rows, map_rows

_KEY = "worldsim-state-1"  # of the fingerprint in the metadata; one key alone, so that equal states are equal bytes


@dataclass(frozen=True)
class EnvState(Rows):
    """Everything the rows of an env are: what `get_state` returns and `set_state` takes. A value: never written to."""

    fingerprint: str  # of the world
    world: Any  # its WorldState; the address in it says seed, episode and steps since the episode began
    terminated: Tensor  # [b] bool, whether the last step ended the episode

    def to_bytes(self) -> bytes:
        """Returns the state as a safetensors file; `set_state` takes it as it is, on any device."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in _named(self).items()}
        return save(tensors, {_KEY: self.fingerprint})


def read_state(state: EnvState | bytes, world: Any, rows: tuple[int, ...]) -> EnvState:
    """Returns a copy of a state, or of its bytes, on the world's device; `rows` are the numbers of rows it may have.

    Raises ValueError, in one sentence, for anything that is not a state of this world.
    """
    device = world.device
    start = world.initial(torch.zeros(1, dtype=torch.int64, device=device), noise.address_of([0], device))
    like = EnvState(world.fingerprint, start, torch.zeros(1, dtype=torch.bool, device=device))
    if isinstance(state, (bytes, bytearray, memoryview)):
        state = _from_bytes(bytes(state), like)
    if not isinstance(state, EnvState):
        raise ValueError(f"expected a state from get_state() or its bytes, found {type(state).__name__}")
    if state.fingerprint != like.fingerprint:
        expected, found = like.fingerprint[:12], str(state.fingerprint)[:12]
        raise ValueError(f"expected a state of this world ({expected}), found one of another ({found}); load that one")
    _check_kinds(_named(state), _named(like))
    _check_rows(_named(state), rows)
    _check_values(state, world.latent_bound)
    return map_rows(lambda _, value: value.detach().to(device, copy=True), like, state)


def _named(tree: Any, name: str = "") -> dict[str, Any]:
    """Returns the tensors of nested dataclasses and tuples by name: `world.context.keys.0`."""
    if is_dataclass(tree):
        parts = [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    elif isinstance(tree, tuple):
        parts = [(str(index), part) for index, part in enumerate(tree)]
    else:
        return {} if isinstance(tree, str) else {name: tree}
    return {key: value for part, inner in parts for key, value in _named(inner, f"{name}.{part}".strip(".")).items()}


def _from_bytes(data: bytes, like: EnvState) -> EnvState:
    """Returns the state in safetensors bytes, built as `like`."""
    try:
        tensors = load(data)
        facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError) as error:
        found = f"{len(data)} others ({one_line(error)})"
        raise ValueError(f"expected a state's bytes, found {found}; save it again") from error
    if _KEY not in facts:
        raise ValueError(f"expected safetensors with {_KEY} in the metadata, found none; save a state with to_bytes()")
    if facts[_KEY] != like.fingerprint:
        return replace(like, fingerprint=facts[_KEY])  # which the caller refuses
    _check_kinds(tensors, _named(like))
    names = iter(_named(like))
    return map_rows(lambda _: tensors[next(names)], like)


def _check_kinds(found: dict[str, Any], expected: dict[str, Tensor]) -> None:
    if found.keys() != expected.keys():
        raise ValueError(f"expected a state of {', '.join(expected)}, found {', '.join(found) or 'nothing'}")
    for name, like in expected.items():
        is_alike = isinstance(found[name], Tensor) and found[name].dim() == like.dim()
        if not is_alike or (found[name].shape[1:], found[name].dtype) != (like.shape[1:], like.dtype):
            raise ValueError(f"expected the state's {name} {_kind(like)}, found {_kind(found[name])}")


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} [{', '.join(['b', *map(str, value.shape[1:])])}]" if value.dim() else f"{value.dtype} []"


def _check_rows(tensors: dict[str, Tensor], rows: tuple[int, ...]) -> None:
    found = sorted({len(value) for value in tensors.values()})
    if len(found) != 1 or found[0] not in rows:
        expected, others = (" or ".join(map(str, counts)) for counts in (rows, found))
        raise ValueError(f"expected a state of {expected} rows, found {others}; fork(n) makes more rows of one")


def _check_values(state: EnvState, bound: Tensor) -> None:
    """Refuses NaN, counts below 0 and latents that the codec cannot produce; looks at the host once."""
    sound = {
        name: value.isfinite() if value.is_floating_point() else value >= 0 for name, value in _named(state).items()
    }
    low, high = bound.to(state.world.latent.device)
    sound["world.latent"] = (state.world.latent >= low) & (state.world.latent <= high)
    verdicts = torch.stack([value.all() for value in sound.values()]).tolist()
    bad = [name for name, is_sound in zip(sound, verdicts, strict=True) if not is_sound]
    if bad:
        raise ValueError(f"expected a state within its bounds, found NaN or numbers out of them in {', '.join(bad)}")
