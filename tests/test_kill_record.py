"""`kill -9` at random moments of `worldsim record`: what was finished is there, and the same command goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from worldsim.actions import unpack
from worldsim.data.episodes import EpisodeStore
from worldsim.envs.arena import Arena

NUM_KILLS = 10
pytestmark = pytest.mark.slow


def command(folder: Path, frames: int) -> list[str]:
    settings = f"game=arena policy=sticky num_envs=4 max_episode_steps=40 frames={frames} out={folder}"
    return [sys.executable, "-m", "worldsim", "record", *settings.split()]


def kill_while_recording(folder: Path, delay: float) -> int:
    """Runs the command until its first new episode and `delay` seconds more; returns how many episodes it had then."""
    index = folder / "episodes.jsonl"
    size = index.stat().st_size if index.exists() else 0
    process = subprocess.Popen(command(folder, frames=10**7), stderr=subprocess.DEVNULL)
    while process.poll() is None and (not index.exists() or index.stat().st_size <= size):
        time.sleep(0.01)
    time.sleep(delay)
    seen = index.read_bytes().count(b"\n")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return seen


def assert_every_episode_replays(store: EpisodeStore, first: int) -> None:
    """Plays episodes from their seeds and actions; the game itself says whether the frames are right."""
    for index in range(first, len(store)):
        entry, env = store.records[index], Arena()
        frames, rewards = [env.reset(seed=entry.seed)[0]], []
        for action in store.actions(index):
            frame, reward, *_ = env.step(unpack(env.action_space, action))
            frames.append(frame)
            rewards.append(reward)
        assert (np.stack(frames) == store.observations(index)).all()
        assert (np.array(rewards) == store.rewards(index)).all()


def test_ten_kills_lose_no_finished_episode_and_recording_goes_on(tmp_path):
    folder, rng, before = tmp_path / "data", random.Random(0), []
    for _ in range(NUM_KILLS):
        seen = kill_while_recording(folder, delay=rng.uniform(0, 0.6))
        store = EpisodeStore(folder)
        assert len(store) >= seen > len(before)
        assert store.records[: len(before)] == before
        assert_every_episode_replays(store, first=len(before))
        before = store.records
    frames = store.num_frames + 500
    subprocess.run(command(folder, frames), check=True, capture_output=True)
    store = EpisodeStore(folder)
    assert frames <= store.num_frames <= frames + 8 and store.records[: len(before)] == before
    assert_every_episode_replays(store, first=0)
    assert len({entry.seed for entry in store.records}) == len(store)
