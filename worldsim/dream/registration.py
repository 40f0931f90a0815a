"""Registers the Gymnasium ids: one for any world, one for each world that ships, one for each real game.

Here so that `gym.make` finds them after `import worldsim`, by string entry point: nothing heavy is imported.
Leaves out reading bundles: a folder with a world.json is a shipped world.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym

WORLDS = Path(__file__).parents[1] / "worlds"
ARENA = "worldsim-real/Arena-v0"
TAKE_COVER = "worldsim-real/DoomTakeCover-v0"
MAZE = "worldsim-real/DoomMaze-v0"
REAL_GAMES = {
    ARENA: "worldsim.envs.arena:Arena",
    TAKE_COVER: "worldsim.envs.doom:DoomTakeCover",
    MAZE: "worldsim.envs.doom:DoomMaze",
}

_DREAM = {
    "entry_point": "worldsim.dream.env:WorldModelEnv",
    "vector_entry_point": "worldsim.dream.vector_env:WorldModelVectorEnv",
}


def shipped_folders(root: Path = WORLDS) -> list[Path]:
    """Returns the bundle folders of the worlds that ship, sorted by name."""
    return sorted(path.parent for path in root.glob("*/world.json"))


def gym_id(name: str) -> str:
    """Returns the Gymnasium id of a shipped world: doom-take-cover is worldsim/DoomTakeCover-v0."""
    words = name.replace("_", "-").split("-")
    return f"worldsim/{''.join(word[:1].upper() + word[1:] for word in words)}-v0"


def register() -> None:
    """Registers every id that is not registered yet."""
    entries: dict[str, dict[str, Any]] = {"worldsim/World-v0": _DREAM}
    entries |= {gym_id(path.name): {**_DREAM, "kwargs": {"world": path.name}} for path in shipped_folders()}
    entries |= {name: {"entry_point": entry_point} for name, entry_point in REAL_GAMES.items()}
    for name, arguments in entries.items():
        if name not in gym.registry:
            gym.register(id=name, **arguments)


def endless(name: str) -> gym.Env:
    """Returns a game of the library's that only ends by itself.

    The limit is taken away from the game: `gym.make(max_episode_steps=None)` keeps it to itself.
    """
    game: Any = gym.make(name).unwrapped
    game.max_episode_steps = None
    return game
