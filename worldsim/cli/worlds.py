"""`worldsim worlds`: lists what ships and what each world can do.

Here so that a user finds a name to play or to `gym.make`, in a moment.
Leaves out weights and torch: it reads only each bundle's world.json.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from worldsim.dream import registration


def main(config: DictConfig) -> None:
    """Prints every shipped world."""
    folders = registration.shipped_folders(registration.WORLDS)
    if not folders:
        print("no worlds ship with this installation; worldsim train makes one, worldsim play world=<folder> plays it")
    for folder in folders:
        print(describe(folder))


def describe(folder: Path) -> str:
    """Returns a world's name, id, game, actions, training minutes and measurements as a few lines."""
    facts = _read(folder)
    minutes = _minutes(facts.get("provenance", {}))
    lines = [
        f"{folder.name}",
        f'  gym.make("{registration.gym_id(folder.name)}")    worldsim play world={folder.name}',
        f"  game     {facts['game']}, {facts['fps']:g} frames a second",
        f"  actions  {describe_space(facts.get('action_space'))}",
        *([f"  trained  {minutes:g} minutes"] if minutes else []),
        *([f"  measured {measured}"] if (measured := describe_metrics(facts.get("metrics", {}))) else []),
    ]
    return "\n".join(lines)


def _minutes(provenance: dict[str, Any]) -> float:
    """Returns for how long a world was trained, with the worlds that it began from."""
    before = provenance.get("begun_from")
    return (provenance.get("minutes") or 0) + (_minutes(before) if before else 0)


def describe_space(space: dict[str, Any] | None) -> str:
    """Returns a space, as `worldsim.actions.space_to_json` writes it, in words."""
    if space is None:
        return "none"
    kind = space["type"]
    if kind == "Dict":
        return "Dict(" + ", ".join(f"{key}: {describe_space(part)}" for key, part in space["spaces"].items()) + ")"
    if kind == "Tuple":
        return "Tuple(" + ", ".join(describe_space(part) for part in space["spaces"]) + ")"
    size = {"Discrete": "n", "MultiDiscrete": "nvec", "MultiBinary": "n", "Box": "shape"}[kind]
    value = space[size]
    return f"{kind}({', '.join(map(str, value)) if isinstance(value, list) else value})"


def describe_metrics(metrics: dict[str, Any]) -> str:
    """Returns the PSNRs of metrics.json that a reader asks for first; empty where nothing was measured."""
    places = {
        "codec": ("codec",),
        "one step": ("one_step",),
        "copying the last frame": ("copy_last", "1"),
        "open loop at 16": ("open_loop", "16"),
    }
    found = {name: _mean(metrics, path) for name, path in places.items()}
    return ", ".join(f"{name} {value:.1f} dB" for name, value in found.items() if value is not None)


def _mean(metrics: dict[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = metrics
    for key in (*path, "psnr", "mean"):
        found = found.get(key, {})
    return found or None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "world.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); install worldsim-rl again") from error
    missing = [key for key in ("game", "fps") if key not in facts]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; install worldsim-rl again")
    return facts
