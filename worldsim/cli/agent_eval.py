"""`worldsim agent eval`: plays an agent in the real game or in a dream, and says what it earns.

Here as the place where names become games and an agent. Leaves out learning (`worldsim agent train`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from worldsim import bundle
from worldsim.actions import unpack_rows
from worldsim.agents.agent import Agent
from worldsim.cli.agents import agent_folder, check_actor, check_game, find_actor
from worldsim.data.policies import Policy
from worldsim.dream.registration import REAL_GAMES, endless
from worldsim.dream.vector_env import WorldModelVectorEnv
from worldsim.envs.doom import TICS
from worldsim.evaluation.statistics import interval
from worldsim.files import write_json
from worldsim.messages import check_whole

TOO_GOOD = 1.2  # times what the game gives: a dream that promises more is warned of


def main(config: DictConfig) -> int:
    """Plays as `configs/agent_eval.yaml` says, prints what was earned and writes it to `agent.json`."""
    for key in ("episodes", "max_episode_steps", "num_envs"):
        check_whole(key, config[key], 1)
    if not (isinstance(config.seed, int) and config.seed >= 0):
        raise ValueError(f"expected a seed of at least 0, found {config.seed!r}")
    if config.greedy not in (None, True, False):
        raise ValueError(f"expected greedy=true, greedy=false or none, found {config.greedy}")
    name = str(config.agent)
    folder = agent_folder(name)
    facts = Agent.load(folder).facts if folder else {}
    check_actor(name)
    bundle.read_dtype(config.dtype)  # which the real game has no use for
    envs, played = _envs(config, facts)
    try:
        rng = np.random.default_rng(config.seed)
        latent = isinstance(envs, WorldModelVectorEnv) and envs.world.takes_latent_actions
        policy = find_actor(name, envs.single_action_space, rng, config.greedy, latent)
        horizon = facts.get("how", {}).get("horizon", config.max_episode_steps)
        lives = play(envs, policy, config.episodes, config.seed, config.max_episode_steps, horizon)
    finally:
        envs.close()
    figures = _figures(lives, played)
    if config.world is None and facts.get("promised") is not None and horizon <= config.max_episode_steps:
        figures["imagined"] = _imagined(facts["promised"], horizon, lives)
    write_json(Path(str(config.out)) / "agent.json", {"agent": name, "seed": config.seed, **figures})
    print(_sentence(name, figures))
    if "imagined" in figures and (warning := _warning(figures["imagined"])):
        print(warning)
    return 0


def _envs(config: DictConfig, facts: dict[str, Any]) -> tuple[VectorEnv, str]:
    """Returns games that leave resets to the caller, and what they are called."""
    rows = min(config.num_envs, config.episodes)
    if config.world is not None:
        if config.get("game") is not None:
            raise ValueError("expected game= or world=, found both; leave one out")
        dream = WorldModelVectorEnv(
            str(config.world), rows, device=config.device, steps=config.steps, dtype=config.dtype,
            autoreset_mode="Disabled",
        )  # fmt: skip
        world = dream.world
        return dream, f"the dream of {world.info.name}, K = {world.steps}, {world.dtype_name}"
    if config.get("game") is not None:
        check_game(config.game)
        make = lambda: instantiate(config.game, _convert_="all")  # noqa: E731 (a name for what follows)
        one = make()
        name = one.spec.id
        one.close()
    elif facts.get("game") in REAL_GAMES:
        name = facts["game"]
        make = partial(endless, name)
    else:
        raise ValueError("expected game= or world= to play in, found neither; game=gym game.id=... names any game")
    return SyncVectorEnv([make] * rows, autoreset_mode=AutoresetMode.DISABLED), name


def play(
    envs: Any, policy: Policy, episodes: int, seed: int, limit: int, horizon: int
) -> list[tuple[float, int, float]]:
    """Plays episodes seeded `seed`, `seed + 1`, …; returns of each its return, its steps and the return to `horizon`.

    Rows that have nothing left to play go on unheard, so that no episode counts for being short.
    """
    number = np.arange(envs.num_envs)
    observations, _ = envs.reset(seed=[seed + int(i) for i in number])
    started, following = np.ones(len(number), bool), len(number)
    total, early, steps = np.zeros(len(number)), np.zeros(len(number)), np.zeros(len(number), int)
    lives: dict[int, tuple[float, int, float]] = {}
    with tqdm(total=episodes, unit="episode", desc="agent eval") as bar:
        while len(lives) < episodes:
            packed = policy(np.asarray(observations), started)
            actions = unpack_rows(envs.single_action_space, packed)
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            early += np.where(steps < horizon, rewards, 0)
            total, steps = total + rewards, steps + 1
            started = np.asarray(terminated) | np.asarray(truncated) | (steps >= limit)
            for row in np.flatnonzero(started):
                if number[row] < episodes:
                    lives[int(number[row])] = (float(total[row]), int(steps[row]), float(early[row]))
                    bar.update()
                number[row], following = following, following + 1
            if started.any():
                total[started], early[started], steps[started] = 0, 0, 0
                seeds = [seed + int(i) if fresh else None for i, fresh in zip(number, started, strict=True)]
                observations, _ = envs.reset(seed=seeds, options={"reset_mask": started.copy()})
    return [lives[i] for i in range(episodes)]


def _figures(lives: list[tuple[float, int, float]], game: str) -> dict[str, Any]:
    returns, steps = ([life[i] for life in lives] for i in (0, 1))
    figures: dict[str, Any] = {
        "game": game,
        "episodes": len(lives),
        "mean": float(np.mean(returns)),
        "interval": interval(returns),
        "sd": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        "median": float(np.median(returns)),
        "steps": float(np.mean(steps)),
        "returns": returns,
    }
    return figures | ({"tics": float(TICS * np.mean(steps))} if "Doom" in game else {})


def _imagined(promised: float, horizon: int, lives: list[tuple[float, int, float]]) -> dict[str, Any]:
    """Returns what the agent earned in dreams that begin as the game does, and in as many steps of the game."""
    return {"steps": horizon, "dream": promised, "real": interval([early for *_, early in lives])}


def _sentence(name: str, figures: dict[str, Any]) -> str:
    span = figures["interval"]
    tics = f", {figures['tics']:.0f} tics" if "tics" in figures else ""
    return (
        f"{name} in {figures['game']}: return {figures['mean']:.2f} [{span['low']:.2f}, {span['high']:.2f}], "
        f"median {figures['median']:.2f}, sd {figures['sd']:.2f}; {figures['steps']:.0f} steps{tics}; "
        f"{figures['episodes']} episodes"
    )


def _warning(imagined: dict[str, Any]) -> str | None:
    dream, real = imagined["dream"], imagined["real"]
    if dream - real["high"] <= (TOO_GOOD - 1) * abs(real["high"]):
        return None
    return (
        f"its dreams promise more than the game gives: {dream:.2f} in {imagined['steps']} steps, {real['mean']:.2f} in "
        "the game; it may live by the world's faults (record what it does, train the world on with that as well, and "
        "teach an agent anew)"
    )
