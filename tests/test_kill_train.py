"""`kill -9` at ten random moments of training, in every stage: the run resumes and ends in a whole world.

Here as a slow test because only real processes can be killed.
Leaves out recording, which `test_kill_record` kills.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_world import record

from worldsim import bundle

ROOT = Path(__file__).parent.parent
KILLS = 10
STAGES = ("codec", "dynamics", "outcome")


def train(data, out) -> subprocess.Popen:
    arguments = [
        f"data={data}", f"out={out}", "preset=nano", "minutes=0.5", "preset.autoencoder.widths=[8,8]",
        "preset.backbones.conv.config.width=16", "preset.backbones.conv.config.depth=1",
        "rhythm.checkpoint_seconds=0.5", "rhythm.preview_seconds=3", "rhythm.log_steps=5",
    ]  # fmt: skip
    command = [sys.executable, "-m", "worldsim", "train", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def checkpoints(out) -> dict[str, int]:
    """The step of each stage's newest checkpoint."""
    found = {}
    for stage in STAGES:
        steps = [int(path.name.split("-")[1]) for path in (out / stage).glob("checkpoint-*")]
        found[stage] = max(steps, default=0)
    return found


@pytest.mark.slow
def test_training_survives_ten_kills_and_ends_in_a_whole_world(tmp_path):
    record(tmp_path / "data", episodes=12, steps=40)
    out, rng, reached = tmp_path / "run", random.Random(0), dict.fromkeys(STAGES, 0)
    for _ in range(KILLS):
        process = train(tmp_path / "data", out)
        deadline = time.monotonic() + rng.uniform(5, 12)  # imports take three of these seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        now = checkpoints(out)
        assert all(now[stage] >= reached[stage] for stage in STAGES)  # nothing trained is ever lost
        reached = now
    process = train(tmp_path / "data", out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    for stage in STAGES:
        steps = [json.loads(line)["step"] for line in (out / stage / "log.jsonl").read_text().splitlines()]
        assert (
            steps[:-1] == list(range(5, 5 * len(steps) - 4, 5)) and len(steps) > 3
        )  # one curve: no gap, nothing twice
    world = bundle.load(out / "world")
    assert world.num_prompts > 0 and not list(out.glob(".world.tmp"))
