"""Every script of `demos/` that a user is told of runs and leaves what it says."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import pytest

from worldsim import bundle, load
from worldsim.agents.agent import Agent, AgentConfig, Network
from worldsim.cli.main import main

ROOT = Path(__file__).parents[1]


def run(name, *words, folder=None):
    script = [sys.executable, str(ROOT / "demos" / name), *map(str, words)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dream_is_stepped():
    assert "eight rows: frames (8, 64, 64, 3)" in run("step_a_world.py")


def test_a_dream_is_branched_and_rewound_in_a_film(tmp_path):
    assert "30 frames of one past" in run("branch_a_dream.py", "arena", tmp_path / "a.gif")
    frames = imageio.mimread(tmp_path / "a.gif", memtest=False)
    assert len(frames) == 31 + 30 + 30
    halves = [(frame[:, :256], frame[:, 256:]) for frame in frames]
    same = [abs(a.astype(int) - b).max() < 8 for a, b in halves]
    assert all(same[:31]) and same[-1] and not all(same[31:61])


def test_a_game_is_filmed_beside_its_dream(tmp_path):
    assert "the game on the left" in run("film_beside.py", "arena", tmp_path / "b.mp4", "--frames", 20)
    frames = imageio.mimread(tmp_path / "b.mp4", memtest=False)
    assert len(frames) == 20 and frames[0].shape[1] == 2 * frames[0].shape[0]
    assert abs(frames[0][:, :256].astype(int) - frames[0][:, 256:]).mean() < 4  # both begin alike


def test_an_agent_is_filmed_in_the_game_and_in_the_dream(tmp_path):
    world = load("arena")
    config = AgentConfig(world.info.frame_shape, len(world.action_codec.table), window=2, width=8)
    Agent(Network(config), world.info.action_space, world.action_codec.table, {"by": "a test"}).save(tmp_path / "a")
    run("film_agent.py", tmp_path / "a", "arena", tmp_path / "c.mp4", "--frames", 12)
    frames = imageio.mimread(tmp_path / "c.mp4", memtest=False)
    assert 2 <= len(frames) <= 12 and frames[0].shape[1] == 2 * frames[0].shape[0]


@pytest.mark.slow
def test_a_game_becomes_a_world_to_play(tmp_path):
    words = ("game=arena", "policy=sticky", "--frames", 3000, "--minutes", 0.5, "--preset", "pixel", "--play", 30)
    told = run("my_game.py", tmp_path, *words)
    assert "worldsim play" in told and (tmp_path / "run" / "world" / "world.json").exists()
    assert (tmp_path / "play.mp4").exists() and (tmp_path / "check.html").exists()


def test_an_agent_is_put_beside_the_world_it_was_taught_in_and_beside_no_other(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("ship_agent", ROOT / "demos" / "ship_agent.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    seen, out = tmp_path / "seen", tmp_path / "agent"
    quick = ["q_learning.rows=2", "q_learning.horizon=4", "q_learning.memory=16", "q_learning.trials=1"]
    teach = ["agent", "train", "world=arena", "agent=q_learning", "steps=1", "minutes=0.01", f"data={seen}"]
    assert main(["record", "game=arena", "policy=random", "frames=40", f"out={seen}"]) == 0
    assert main([*teach, f"out={out}", *quick]) == 0
    assert main(["agent", "eval", f"agent={out}", f"out={out}", "episodes=2", "max_episode_steps=5"]) == 0
    for name in ("arena", "doom-take-cover"):
        shutil.copytree(bundle.WORLDS / name, tmp_path / "worlds" / name, ignore=lambda *_: {"agent.safetensors"})
    monkeypatch.setattr(bundle, "WORLDS", tmp_path / "worlds")
    words = ["--data", str(seen), "--command", "worldsim agent train …"]
    monkeypatch.setattr(sys, "argv", ["ship_agent.py", str(out), str(out), "arena", *words])
    script.main()
    card = (tmp_path / "worlds" / "arena" / "AGENT.md").read_text()
    assert Agent.load(tmp_path / "worlds" / "arena").facts == Agent.load(out).facts
    assert (
        "40 recorded frames" in card and "worldsim agent train …" in card and "| worldsim-real/Arena-v0 | 2 |" in card
    )
    monkeypatch.setattr(sys, "argv", ["ship_agent.py", str(out), str(out), "doom-take-cover", *words])
    with pytest.raises(SystemExit):
        script.main()
    assert "found one of another world" in capsys.readouterr().err
    assert not (tmp_path / "worlds" / "doom-take-cover" / "agent.safetensors").exists()
