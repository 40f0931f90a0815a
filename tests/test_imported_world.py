"""From a video with its keys, a video alone, or a Minari data set to a world that plays, by the documented commands."""

import imageio.v3 as iio
import minari
import numpy as np
import pytest
from import_sources import write_csv, write_video

from worldsim.actions import unpack
from worldsim.bundle import load
from worldsim.cli.main import main
from worldsim.data.policies import StickyPolicy
from worldsim.dream.env import WorldModelEnv
from worldsim.envs.arena import Arena

pytestmark = pytest.mark.slow
NUM_STEPS = 400


def play_arena(env):
    """Plays held random keys, two games of 200 steps; returns frames `[n 64 64 3]` and, for each, keys and the game."""
    policy = StickyPolicy(env.action_space, np.random.default_rng(0))
    frames, rows = [], []
    for game in range(2):
        frame, _ = env.reset(seed=game)
        for step in range(NUM_STEPS // 2):
            action = unpack(env.action_space, policy(frame[None], np.array([step == 0]))[0])
            frames.append(frame)
            rows.append([*action, game])
            frame, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        frames.append(frame)
        rows.append([0, 0, 0, 0, game])
    return frames, rows


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Makes a video, its CSV, and a data set by Minari's own collector; returns what `worldsim import` is given."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    frames, rows = play_arena(Arena())
    video = write_video(tmp_path / "play.mp4", frames)
    actions = write_csv(tmp_path / "keys.csv", "w,s,a,d,episode", rows)
    collector = minari.DataCollector(Arena(), jpeg_encoding=False)
    play_arena(collector)
    collector.create_dataset("arena/sticky-v0", algorithm_name="sticky", description="the arena")
    return {
        "video and keys": [f"source={video}", f"actions={actions}"],
        "video": [f"source={video}"],
        "minari": ["source=arena/sticky-v0"],
    }


@pytest.mark.parametrize("kind", ["video and keys", "video", "minari"])
@pytest.mark.filterwarnings("ignore:`eval_env`:UserWarning")
def test_an_import_becomes_a_world_that_plays(sources, tmp_path, kind):
    data, run, film = tmp_path / "data", tmp_path / "run", tmp_path / "film.mp4"
    assert main(["import", *sources[kind], f"out={data}"]) == 0
    assert main(["train", f"data={data}", f"out={run}", "preset=nano", "minutes=1"]) == 0
    assert main(["play", f"world={run / 'world'}", "headless=true", "frames=20", f"out={film}"]) == 0
    assert len(iio.imread(film, plugin="FFMPEG")) == 20
    world = load(run / "world")
    if kind == "video":
        assert world.info.action_space is None
    else:
        assert world.info.action_space == Arena().action_space
        keymap = WorldModelEnv(world).keymap
        right = [b for b in world.info.keymap["bindings"] if b["keys"] == ["d"]]
        assert kind == "minari" or right == [{"keys": ["d"], "set": {"3": 1.0}}]
        assert keymap.keys
