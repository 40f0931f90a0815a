"""`kill -9` at random moments of `worldsim import`: the same command goes on and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from import_sources import write_csv, write_video

from worldsim.data.episodes import EpisodeStore

NUM_KILLS, NUM_FRAMES = 3, 800
pytestmark = pytest.mark.slow


def command(source: Path, out: Path) -> list[str]:
    settings = f"import source={source} actions={source.with_suffix('.csv')} out={out} size=16 max_episode_steps=10"
    return [sys.executable, "-m", "worldsim", *settings.split()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_kills_lose_nothing_and_the_import_ends_as_if_there_were_none(tmp_path):
    rng, seen = random.Random(0), []
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, 64, 64, 3), np.uint8)
    source = write_video(tmp_path / "play.mp4", frames)
    write_csv(source.with_suffix(".csv"), "move,reward", [(i % 5, i % 7) for i in range(NUM_FRAMES)])
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    out, index = tmp_path / "data", tmp_path / "data.partial/episodes.jsonl"
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command(source, out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not index.exists() or index.stat().st_size <= sum(seen[-1:])):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        seen.append(index.stat().st_size)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not out.exists()
    assert seen == sorted(set(seen))  # each got further than the one before
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "whole") and not index.parent.exists()
    store = EpisodeStore(out)
    first = store.records[0].total_steps
    assert store.num_steps == NUM_FRAMES - 1 and (store.rewards(1)[:3] == np.arange(first, first + 3) % 7).all()
