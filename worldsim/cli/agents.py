"""Who acts, by name: an agent's folder, or a policy of the recorder's.

Here because record, play and agent eval all take one. Leaves out the human, who needs a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.agents.agent import FILE, Agent
from worldsim.bundle import WORLDS, shipped
from worldsim.data.policies import MixedPolicy, Policy, find_policy


def agent_folder(name: str) -> Path | None:
    """Returns the folder of an agent: itself, or that of the shipped world of this name; None where there is none."""
    folders = [WORLDS / name] if name in shipped() else [Path(name)]
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def check_game(game: Any) -> None:
    """Raises ValueError for a `game=` that is no game to act in."""
    if game.get("_target_") in ("gymnasium.make_vec", "worldsim.play.screen.ScreenGame"):
        raise ValueError("expected a game to play in, found game=dream or game=screen; a dream is world=")


def check_actor(name: str) -> None:
    """Raises ValueError, in one sentence, for a name that is no one's, before games are made."""
    if agent_folder(name) is not None:
        return
    if "+" in name:
        for part in name.split("+"):
            check_actor(part)
    elif name in shipped():
        raise ValueError(f"expected an agent beside the world {name}, found none; train one: worldsim agent train")
    elif Path(name).is_dir():
        raise ValueError(f"expected an agent in {name}, found no {FILE}; train one: worldsim agent train")
    else:
        find_policy(name)


def find_actor(
    name: str, space: gym.Space | None, rng: np.random.Generator, greedy: bool | None = None, latent: bool = False
) -> Policy:
    """Returns who acts, in a game or a dream whose actions are its own or `latent`.

    `a+b` mixes; a name given twice acts twice as often.
    Raises ValueError, in one sentence, for one that is not there or knows other actions.
    """
    check_actor(name)
    if (folder := agent_folder(name)) is not None:
        agent = Agent.load(folder, greedy, int(rng.integers(2**31))).check(space)
        if bool(agent.facts.get("latent_actions")) != latent:
            kinds = ("the game's own", "latent")
            raise ValueError(
                f"expected an agent whose actions are {kinds[latent]}, found {kinds[not latent]} in {name}"
            )
        return agent
    if "+" in name:
        return MixedPolicy([find_actor(part, space, rng, greedy, latent) for part in name.split("+")], rng)
    if space is None:
        raise ValueError("expected a world with actions, found one without")
    return find_policy(name)(space, rng)
