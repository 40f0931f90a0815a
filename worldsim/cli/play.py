"""`worldsim play`: a window to play a world in; without a display, or with headless=true, a video of a policy's play.

With serve= it is a page for browsers instead. Here as the place where names become a world, a policy and a window.
Leaves out recording what was played.
"""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
from omegaconf import DictConfig

from worldsim import bundle
from worldsim.cli.agents import find_actor
from worldsim.data.policies import Policy, find_policy
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.options import read_seed
from worldsim.play.headless import play_headless
from worldsim.play.script import ScriptPolicy, read_script
from worldsim.play.server import PlayServer, read_address, read_token
from worldsim.play.video import VideoWriter
from worldsim.play.window import PlayWindow, has_display
from worldsim.world_model import WorldModel

FRAMES = 300  # of a video, where neither frames= nor script= says


def main(config: DictConfig) -> int:
    """Plays as `configs/play.yaml` says."""
    _check(config)
    env = WorldModelEnv(_load(config))
    if config.serve is not None:
        return _serve(config, env)
    policy = _make_policy(config, env)
    if not config.headless and has_display():
        with PlayWindow(env, policy, config.seed, config.scale) as window:
            window.run(config.frames)
        return 0
    frames = config.frames or getattr(policy, "num_frames", FRAMES)
    if not config.headless:
        print(f"no display found: playing {frames} frames without a window, into {config.out}")
    policy = policy or find_policy("sticky")(env.action_space, _rng(config))
    session = play_headless(env, policy, frames, config.out, config.seed)
    times = f"p50 {session.milliseconds(50):.1f} ms, p95 {session.milliseconds(95):.1f} ms"
    print(f"{frames} frames, {times} a frame with decode, K = {env.world.steps}, {env.world.device}: {config.out}")
    return 0


def _serve(config: DictConfig, env: WorldModelEnv) -> int:
    host, port = read_address(config.serve)
    server = PlayServer(env.world, env.keymap, config.seed, config.players, read_token(config.token, host))
    asyncio.run(server.run(host, port, partial(print, flush=True)))
    return 0


def _load(config: DictConfig) -> WorldModel:
    return bundle.load(str(config.world), config.device, config.steps, config.sampler, config.guidance)


def _make_policy(config: DictConfig, env: WorldModelEnv) -> Policy | None:
    """Returns who acts, or None for the player (and, without a window, for the sticky policy)."""
    if config.script is not None:
        return ScriptPolicy(read_script(config.script, env.keymap), env.keymap)
    if config.agent in (None, "human"):
        return None
    return find_actor(str(config.agent), env.action_space, _rng(config), latent=env.world.takes_latent_actions)


def _rng(config: DictConfig) -> np.random.Generator:
    return np.random.default_rng(config.seed)


def _check(config: DictConfig) -> None:
    """Raises ValueError for what can be known to be wrong before a world is loaded."""
    read_seed(config.seed)
    if config.agent is not None and config.script is not None:
        raise ValueError("expected agent= or script=, found both; leave one out")
    for key in ("frames", "scale", "steps", "players"):
        value = config[key]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"expected {key} to be a whole number of at least 1, found {value}")
    if not isinstance(config.headless, bool):
        raise ValueError(f"expected headless=true or headless=false, found {config.headless}")
    VideoWriter(config.out, 1)  # says what is wrong with out=
    _check_serve(config)


def _check_serve(config: DictConfig) -> None:
    if config.serve is None:
        if config.token is not None:
            raise ValueError("expected serve= beside token=, found none; give the address, such as 127.0.0.1:8000")
        return
    read_token(config.token, read_address(config.serve)[0])
    for key in ("agent", "script", "frames", "scale", "headless"):
        if config[key]:
            raise ValueError(f"expected serve= or {key}=, found both; leave one out")
