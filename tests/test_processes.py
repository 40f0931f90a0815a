"""Several processes train as one: the same losses and weights as one process with as many batches, also resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import record

from worldsim import bundle

SCRIPT = """
import os, sys, torch
from pathlib import Path
from worldsim.training.loop import Budget, Rhythm, Stage, train
from worldsim.types import Loss

folder, dies = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)

def batch(number):
    print(f"process {os.environ.get('RANK')} batch {number};", flush=True)
    if number == dies:
        raise SystemExit(3)
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(number))

def objective(model, average, x, progress, generator):
    goal = x.flip(1) + torch.randn(x.shape, generator=generator) / 10
    return Loss((model(x) - goal).square().mean(), {"progress": torch.tensor(progress)})

model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
stage = Stage("toy", model, batch, objective, 8, 1e-2)
train(stage, Budget(steps=24), folder, 0, Rhythm(checkpoint_seconds=0, log_steps=1), "cpu", batches=2)
"""
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launched(*arguments, processes):
    command = [sys.executable, *(LAUNCH if processes == 2 else []), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def toy(tmp_path, name, processes, dies=-1):
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    return launched(script, tmp_path / name, dies, processes=processes)


def losses(folder: Path):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_learns_and_a_killed_pair_is_resumed_by_one(tmp_path):
    assert toy(tmp_path, "one", 1).returncode == 0
    both = toy(tmp_path, "two", 2)
    assert both.returncode == 0, both.stderr
    assert "process 0 batch 46;" in both.stdout and "process 1 batch 47;" in both.stdout  # each its own
    assert "process 0 batch 47;" not in both.stdout
    assert toy(tmp_path, "killed", 2, dies=21).returncode != 0  # a batch of the tenth step
    step = max(int(path.name.split("-")[1]) for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert 4 <= step <= 10 and not (tmp_path / "killed" / "final.safetensors").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "moved")  # as to another machine
    assert toy(tmp_path, "moved", 1).returncode == 0
    weights = {name: load_file(tmp_path / name / "final.safetensors") for name in ("one", "two", "moved")}
    for name in ("two", "moved"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), abs=2e-6)
        for key, value in weights["one"].items():
            torch.testing.assert_close(weights[name][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["nano", "pixel"])
def test_two_processes_make_a_world_of_one_folder(tmp_path, preset):
    record(tmp_path / "data", episodes=12, steps=40)
    arguments = ["train", f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", f"preset={preset}", "minutes=0.5"]
    if preset == "pixel":
        arguments.append("preset.backbones.unet.config.widths=[8,16]")
    made = launched("-m", "worldsim", *arguments, processes=2)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("wrote ") == 1 and json.loads((tmp_path / "run" / "run.json").read_text())["batches"] == 2
    assert torch.isfinite(bundle.load(tmp_path / "run" / "world").prompts.latents).all()
    assert launched("-m", "worldsim", *arguments, processes=1).returncode == 0  # finished: returns at once
