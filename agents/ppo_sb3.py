"""Stable-Baselines3's PPO, taught in the dream or in the real game, and judged in the real game.

    python -m worldsim.agents.ppo_sb3 --world arena --train dream --timesteps 200000

What it learns in a dream it learns without the game: only the judging plays that. Needs the extra agents.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import worldsim
from worldsim.agents.random_policy import dream_envs, interval, real_envs, returns
from worldsim.dream.sb3 import SB3VecEnv


def training_envs(world: worldsim.WorldModel, where: str, rows: int, limit: int) -> VectorEnv:
    """Returns envs that start anew in the same step, as SB3 expects; both kinds take the game's own actions."""
    if where == "dream":
        return dream_envs(world, rows, limit, autoreset_mode="SameStep")
    return gym.make_vec(
        world.info.game, rows, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, max_episode_steps=limit
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="arena", help="a shipped world's name or a bundle's path (%(default)s)")
    parser.add_argument("--train", choices=["dream", "real"], default="dream", help="(%(default)s)")
    parser.add_argument("--timesteps", type=int, default=200_000, help="steps of all rows (%(default)s)")
    parser.add_argument("--num-envs", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="network evaluations a dreamed frame (%(default)s)")
    parser.add_argument("--limit", type=int, default=100, help="steps after which an episode is cut (%(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="of judging (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of world and agent (%(default)s)")
    parser.add_argument("--out", default=None, help="file to save the agent in (.zip)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(arguments)
    world = worldsim.load(args.world, args.device, args.steps)
    if isinstance(world.info.action_space, gym.spaces.Dict):
        raise SystemExit(f"expected a world whose actions Stable-Baselines3 takes, found {world.info.action_space}")
    envs = VecMonitor(SB3VecEnv(training_envs(world, args.train, args.num_envs, args.limit)))
    model = PPO(
        "CnnPolicy", envs, n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4, ent_coef=0.01, gamma=0.97,
        seed=args.seed, device=args.device,
    )  # fmt: skip
    model.learn(args.timesteps)
    if args.out:
        model.save(args.out)
    taught = np.mean([episode["r"] for episode in model.ep_info_buffer or [{"r": np.nan}]])
    real = real_envs(world, args.episodes, args.limit)
    real.action_space.seed(args.seed)
    learned = returns(real, lambda seen: model.predict(seen)[0], args.seed)
    chance = returns(real, lambda _: real.action_space.sample(), args.seed)
    print(f"in the {args.train} at the end of training: return {taught:+.2f}, mean of the last 100 episodes")
    print(f"in the real game: PPO {interval(learned)}, random {interval(chance)}; {args.episodes} episodes")


if __name__ == "__main__":
    main()
