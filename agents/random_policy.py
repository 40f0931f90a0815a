"""A random policy, in a dream and in the game it was learned from: what any other agent has to beat.

Here also as the way agents are measured: `returns` plays one episode in each row, `interval` says how sure the mean is.

    python -m worldsim.agents.random_policy --world arena --episodes 100
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

import worldsim


def dream_envs(world: Any, rows: int, limit: int, **arguments: Any) -> VectorEnv:
    """Returns `rows` dreams of episodes up to `limit` steps."""
    return worldsim.WorldModelVectorEnv(world, rows, max_episode_steps=limit, **arguments)


def real_envs(world: Any, rows: int, limit: int) -> VectorEnv:
    """Returns as many real games; `world.info.game` has to be a Gymnasium id whose frames are the world's."""
    return gym.make_vec(world.info.game, num_envs=rows, vectorization_mode="sync", max_episode_steps=limit)


def returns(envs: VectorEnv, policy: Callable[[np.ndarray], Any], seed: int) -> np.ndarray:
    """Plays one episode in every row and returns their sums of rewards `[n]`."""
    observations, _ = envs.reset(seed=seed)
    total, alive = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while alive.any():
        observations, rewards, terminated, truncated, _ = envs.step(policy(observations))
        total += rewards * alive
        alive &= ~(terminated | truncated)
    return total


def interval(values: np.ndarray) -> str:
    """Returns a mean with its 95 % interval, a bootstrap over episodes."""
    means = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="arena", help="a shipped world's name or a bundle's path (%(default)s)")
    parser.add_argument("--where", choices=["dream", "real", "both"], default="both", help="(%(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--limit", type=int, default=100, help="steps after which an episode is cut (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(arguments)
    world = worldsim.load(args.world)
    for where, make in (("dream", dream_envs), ("real", real_envs)):
        if args.where in (where, "both"):
            envs = make(world, args.episodes, args.limit)
            envs.action_space.seed(args.seed)
            found = returns(envs, lambda _: envs.action_space.sample(), args.seed)  # noqa: B023 (used at once)
            print(f"random, {where:>5}: return {interval(found)} in {args.episodes} episodes of {args.limit} steps")


if __name__ == "__main__":
    main()
