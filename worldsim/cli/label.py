"""`worldsim label`: names the actions of recordings that have none, by a world that learned to.

Here so that an old video becomes one with actions: the file is one that `worldsim import actions=` takes.
Leaves out learning (`worldsim train actions=mixed` or `actions=latent`).
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from omegaconf import DictConfig

from worldsim import bundle
from worldsim.actions import leaf_shape, leaves
from worldsim.cli.data import open_data
from worldsim.data.episodes import EpisodeStore
from worldsim.files import write_text
from worldsim.pipeline.latent_actions import named


def main(config: DictConfig) -> int:
    """Labels as `configs/label.yaml` says: one file, or a folder of them where the recordings are several takes."""
    world, store = bundle.load(str(config.world), config.device), open_data(config.data)
    if world.latent is None:
        raise ValueError(
            f"expected a world that learned to name actions, found {world.info.name}; train one with actions=mixed or "
            "actions=latent"
        )
    if tuple(store.info.observation_shape) != tuple(world.info.frame_shape):
        raise ValueError(
            f"expected frames of {tuple(world.info.frame_shape)}, found {tuple(store.info.observation_shape)}; import "
            "them with the world's size="
        )
    space, out, takes = world.info.action_space, Path(str(config.out)), _takes(store)
    named_in = [{*_takes(EpisodeStore(folder))} for folder in store.folders]  # a name in two folders is two takes
    if len({Path(name).stem for name in takes}) < sum(map(len, named_in)):
        raise ValueError(f"expected takes of different names, found {', '.join(takes)}; import them one by one")
    assert space is not None  # a world with latent actions has them
    for name, episodes in takes.items():
        packed = np.concatenate([named(world.latent, store, index) for index in episodes])
        if world.latent.config.completes:
            packed = world.action_codec.table[packed[:, 0].astype(int)]
        path = out if len(takes) == 1 else out / f"{Path(name).stem}.csv"
        write_text(path, _csv(packed, columns(space, world.info.keymap)))
        print(f"{path}: {len(packed)} actions of {name}")
    return 0


def _takes(store: EpisodeStore) -> dict[str, list[int]]:
    """Returns the episodes of each take that was imported, by its name; what was recorded is one take."""
    found: dict[str, list[int]] = {}
    for record in store.records:
        kind, _, name = record.policy.partition(":")
        found.setdefault(name if kind == "import" else store.info.game, []).append(record.id)
    return found


def columns(space: gym.Space, keymap: dict | None) -> list[str]:
    """Returns a name for each number of a packed action: the key that presses it, or what it is."""
    pressed: dict[int, str] = {}
    for binding in (keymap or {}).get("bindings", []):
        if len(binding["keys"]) == 1 and len(binding["set"]) == 1:
            ((component, value),) = binding["set"].items()
            if value == 1:
                pressed.setdefault(int(component), binding["keys"][0].replace(" ", "_"))
    names: list[str] = []
    for leaf in leaves(space):
        kind = {gym.spaces.MultiBinary: "key", gym.spaces.Box: "axis"}.get(type(leaf), "action")
        for _ in range(int(np.prod(leaf_shape(leaf)))):
            place = len(names)
            names.append(pressed.get(place, f"{kind}_{place}") if kind == "key" else f"{kind}_{place}")
    return ["action"] if names == ["action_0"] else names  # of a lone choice, so that 0 and 1 are choices too


def _csv(packed: np.ndarray, names: list[str]) -> str:
    axes = [name.startswith("axis") for name in names]
    rows = (",".join(f"{x:.4f}" if a else f"{x:.0f}" for x, a in zip(row, axes, strict=True)) for row in packed)
    return "\n".join([",".join(names), *rows]) + "\n"
