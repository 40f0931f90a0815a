"""`worldsim play`: a window to play a world in; without a display, or with headless=true, a video of a policy's play.

With serve= it is a page for browsers instead. Here as the place where names become a world, a policy, a real game and a
window. Leaves out all that a window does.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from worldsim import bundle, pixels
from worldsim.actions import Keymap, unpack_rows
from worldsim.cli.agents import check_game, find_actor
from worldsim.data.episodes import EpisodeStore, EpisodeWriter
from worldsim.data.frame_files import read_picture
from worldsim.data.policies import Policy, find_policy
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.options import read_seed
from worldsim.messages import check_whole, one_line
from worldsim.play.beside import Beside
from worldsim.play.headless import play_headless
from worldsim.play.script import ScriptPolicy, read_script
from worldsim.play.server import MOST, PlayServer, read_address, read_token
from worldsim.play.tape import Tape, dream_info
from worldsim.play.video import VideoWriter
from worldsim.play.window import PlayWindow, has_display
from worldsim.world_model import WorldModel

FRAMES = 300  # of a video, where neither frames= nor script= says


def main(config: DictConfig) -> int:
    """Plays as `configs/play.yaml` says."""
    _check(config)
    # Latent observations and frames by `render`: so the network's time and the decoder's are told apart.
    env = WorldModelEnv(_load(config), obs="latent", render_mode="rgb_array", uncertainty=config.uncertainty)
    keymap = env.keymap if config.keymap is None else read_keymap(Path(str(config.keymap)), env.action_space)
    if config.serve is not None:
        return _serve(config, env.world, keymap)
    policy = _make_policy(config, env, keymap)
    if not config.headless and has_display():
        return _open_window(config, env, policy, keymap)
    if config.get("game") is not None or config.record is not None:
        raise ValueError("expected game= and record= with a window, found none; leave them out")
    frames = config.frames or getattr(policy, "num_frames", FRAMES)
    if not config.headless:
        print(f"no display found: playing {frames} frames without a window, into {config.out}")
    policy = policy or find_policy("sticky")(env.action_space, _rng(config))
    session = play_headless(env, policy, frames, config.out, config.seed, _read_start(config.start, env.world))
    times = f"p50 {session.milliseconds(50):.1f} ms, p95 {session.milliseconds(95):.1f} ms"
    print(f"{frames} frames, {times} a frame with decode, K = {env.world.steps}, {env.world.device}: {config.out}")
    return 0


def _serve(config: DictConfig, world: WorldModel, keymap: Keymap) -> int:
    host, port = read_address(config.serve)
    server = PlayServer(world, keymap, config.seed, config.players or MOST, read_token(config.token, host))
    asyncio.run(server.run(host, port, partial(print, flush=True)))
    return 0


def _open_window(config: DictConfig, env: WorldModelEnv, policy: Policy | None, keymap: Keymap) -> int:
    with ExitStack() as stack:
        beside = tape = None
        if config.get("game") is not None:
            game = instantiate(config.game, _convert_="all")
            stack.callback(game.close)
            beside = Beside(game, env.world, config.seed or 0)
        if config.record is not None:
            writer = stack.enter_context(EpisodeWriter(Path(str(config.record)), dream_info(env)))
            tape = Tape(writer, policy="script" if config.script else str(config.agent or "human"))
        start = _read_start(config.start, env.world)
        window = PlayWindow(env, policy, config.seed, config.scale, keymap, beside, tape, Path(str(config.out)), start)
        stack.enter_context(window).run(config.frames)
    return 0


def _read_start(start: str | None, world: WorldModel) -> Any:
    """Returns what an episode begins with, as `WorldModelEnv.reset` takes it. Raises ValueError (one sentence)."""
    if start is None:
        return None
    height, width, _ = world.info.frame_shape
    folder, *place = str(start).rsplit(":", 2)
    if len(place) < 2 or not all(number.isdigit() for number in place):
        return pixels.resize(torch.from_numpy(read_picture(Path(str(start)))), height, width).numpy()
    store, (episode, frame) = EpisodeStore(Path(folder)), map(int, place)
    if episode >= len(store) or frame >= store.records[episode].num_observations:
        raise ValueError(f"expected start={start} to be a frame of {folder}, found no such among {len(store)} episodes")
    first = max(0, frame + 1 - world.prompts.latents.shape[1])
    packed, space = store.actions(episode, first, frame), store.info.action_space
    frames = {"frames": np.array(store.observations(episode, first, frame + 1))}
    if packed is None or space is None or space != world.info.action_space or not len(packed):
        return frames
    return frames | {"actions": unpack_rows(space, np.array(packed))}


def read_keymap(path: Path, space: gym.Space) -> Keymap:
    """Returns the keymap of a YAML file, with rest, bindings and mouse as in a world's `world.json`."""
    try:
        plain = OmegaConf.to_object(OmegaConf.load(path))
        if not isinstance(plain, dict) or not {*plain} <= {"rest", "bindings", "mouse"}:
            raise ValueError("it has other parts than rest, bindings and mouse")
        if not all(isinstance(b["keys"], list) for b in plain.get("bindings", [])):
            raise ValueError("it has keys that are no list; write keys: [left]")
        plain = {**plain, "bindings": [{**b, "keys": [*map(str, b["keys"])]} for b in plain.get("bindings", [])]}
        keymap = Keymap(space, plain)
        keymap.packed(keymap.keys, (1.0, 1.0))  # every binding in turn: what it sets must be there
    except (OSError, YAMLError, AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"expected keymap={path} to be a keymap in YAML, found: {one_line(error)}") from error
    return keymap


def _load(config: DictConfig) -> WorldModel:
    how = config.device, config.steps, config.sampler, config.guidance
    return bundle.load(str(config.world), *how, temperature=config.temperature)


def _make_policy(config: DictConfig, env: WorldModelEnv, keymap: Keymap) -> Policy | None:
    """Returns who acts, or None for the player (and, without a window, for the sticky policy)."""
    if config.script is not None:
        return ScriptPolicy(read_script(str(config.script), keymap), keymap)
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
        check_whole(key, config[key], 1, optional=True)
    for key in ("headless", "uncertainty"):
        if not isinstance(config[key], bool):
            raise ValueError(f"expected {key}=true or {key}=false, found {config[key]}")
    VideoWriter(str(config.out), 1)  # says what is wrong with out=
    if config.get("game") is not None:
        check_game(config.game)
        if config.start is not None:
            raise ValueError("expected start= without game=, with whose frames the dream begins; leave one out")
    _check_serve(config)


def _check_serve(config: DictConfig) -> None:
    if config.serve is None:
        for key in ("token", "players"):
            if config[key] is not None:
                raise ValueError(f"expected serve= beside {key}=, found none; give the address, such as 127.0.0.1:8000")
        return
    read_token(config.token, read_address(config.serve)[0])
    for key in ("agent", "script", "frames", "scale", "headless", "game", "record", "uncertainty", "start"):
        if config.get(key):
            raise ValueError(f"expected serve= or {key}=, found both; leave one out")
