"""Who acts, by name: an agent's folder, or a policy of the recorder's.

Here because record, play and agent eval all take one. Leaves out the human, who needs a window.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np

from worldsim.agents.agent import FILE, Agent
from worldsim.data.policies import Policy, find_policy


def is_agent(name: str) -> bool:
    """Returns whether a name is the folder of an agent."""
    return (Path(name) / FILE).is_file()


def find_actor(name: str, space: gym.Space | None, rng: np.random.Generator, greedy: bool | None = None) -> Policy:
    """Returns who acts. Raises ValueError, in one sentence, for one that is not there or knows other actions."""
    if is_agent(name):
        return Agent.load(name, greedy, int(rng.integers(2**31))).check(space)
    if Path(name).is_dir():
        raise ValueError(f"expected an agent in {name}, found no {FILE}; train one: worldsim agent train")
    if space is None:
        raise ValueError("expected a world with actions, found one without")
    return find_policy(name)(space, rng)
