"""`worldsim record`, as it is called."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pygame
import pytest

from worldsim.actions import unpack
from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.envs.arena import Arena
from worldsim.play.human import HumanPolicy


def record(capsys, folder, *arguments) -> tuple[int, str, str]:
    given = {"game": "arena", "policy": "sticky", "frames": "300", "out": str(folder)}
    given |= dict(argument.split("=", 1) for argument in arguments)
    code = main(["record", *(f"{key}={value}" for key, value in given.items())])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_recording_the_arena_says_what_it_wrote_and_how_long_actions_were_held(tmp_path, capsys):
    code, out, _ = record(capsys, tmp_path / "data", "num_envs=4")
    store = EpisodeStore(tmp_path / "data")
    assert code == 0 and out.count("\n") == 2 and "\nactions held, median and most steps: " in out
    assert f"{len(store)} episodes, {store.num_frames} frames, mean return" in out and "frames/s" in out
    assert 300 <= store.num_frames <= 308
    assert store.info.game == "worldsim-real/Arena-v0" and store.info.fps == 15
    assert {entry.policy for entry in store.records} == {"sticky"}


def test_the_same_command_continues_and_then_has_nothing_to_do(tmp_path, capsys):
    record(capsys, tmp_path / "data")
    first = EpisodeStore(tmp_path / "data")
    record(capsys, tmp_path / "data", "frames=700")
    second = EpisodeStore(tmp_path / "data")
    assert second.records[: len(first)] == first.records and 700 <= second.num_frames <= 702
    assert len({entry.seed for entry in second.records}) == len({entry.hash for entry in second.records}) == len(second)
    code, out, _ = record(capsys, tmp_path / "data", "frames=700")
    assert code == 0 and "already holds" in out
    assert EpisodeStore(tmp_path / "data").records == second.records


def test_one_seed_records_the_same_frames_and_another_does_not(tmp_path, capsys):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1000)):
        record(capsys, tmp_path / name, f"seed={seed}", "num_envs=2")
        hashes.append([entry.hash for entry in EpisodeStore(tmp_path / name).records])
    assert hashes[0] == hashes[1] and not set(hashes[0]) & set(hashes[2])


def test_an_episode_replays_from_its_seed_and_actions(tmp_path, capsys):
    record(capsys, tmp_path / "data", "num_envs=3")
    store = EpisodeStore(tmp_path / "data")
    for index, entry in enumerate(store.records):
        env = Arena()
        frames = [env.reset(seed=entry.seed)[0]]
        frames += [env.step(unpack(env.action_space, action))[0] for action in store.actions(index)]
        assert (np.stack(frames) == store.observations(index)).all()


def test_any_gymnasium_game_is_recorded_from_what_it_renders(tmp_path, capsys):
    code, _, _ = record(
        capsys, tmp_path / "data", "game=gym", "game.id=CartPole-v1", "game.size=32", "policy=random", "frames=60"
    )
    store = EpisodeStore(tmp_path / "data")
    assert code == 0 and store.info.game == "CartPole-v1" and store.info.observation_shape == (32, 32, 3)
    assert store.info.env_spec["id"] == "CartPole-v1" and store.records[0].terminated


def test_a_function_of_ones_own_acts(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_policy.py").write_text(
        "import numpy as np\n"
        "def right(observation, rng, action_space):\n"
        "    assert observation.shape == (64, 64, 3)\n"
        "    return np.array([0, 0, 0, 1], np.int8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, _, _ = record(capsys, tmp_path / "data", "policy=my_policy:right", "frames=40")
    assert code == 0
    assert (EpisodeStore(tmp_path / "data").actions(0) == [0, 0, 0, 1]).all()


def test_long_episodes_are_cut_where_the_command_says(tmp_path, capsys):
    record(capsys, tmp_path / "data", "game.max_episode_steps=null", "max_episode_steps=20")
    assert max(entry.total_steps for entry in EpisodeStore(tmp_path / "data").records) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["game=arna"], "unknown game 'arna'; expected one of arena, doom_maze, doom_take_cover, dream, gym"),
        (["policy=stick"], "unknown policy 'stick'; expected one of random, sticky, held, wander, mix, human"),
        (["frames=0"], "expected frames to be a whole number of at least 1, found 0"),
        (["frames=many"], "expected frames to be a whole number of at least 1, found many"),
        (["num_envs=0"], "expected num_envs to be a whole number of at least 1, found 0"),
        (["seed=-1"], "expected seed to be a whole number of at least 0, found -1"),
        (["policy=human", "num_envs=2"], "expected num_envs=1 with policy=human, found num_envs=2"),
        (["game=gym", "game.id=Nothing-v9"], "found 'Nothing-v9'"),
    ],
)
def test_wrong_arguments_are_one_line_and_nothing_is_written(tmp_path, capsys, arguments, message):
    code, out, err = record(capsys, tmp_path / "data", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "data").exists()


def test_another_game_into_the_same_folder_is_refused(tmp_path, capsys):
    record(capsys, tmp_path / "data")
    before = EpisodeStore(tmp_path / "data").records
    code, _, err = record(capsys, tmp_path / "data", "game=gym", "game.id=CartPole-v1")
    assert code == 2 and "worldsim-real/Arena-v0" in err and "CartPole-v1" in err
    assert EpisodeStore(tmp_path / "data").records == before


def test_without_a_display_a_person_cannot_record_and_is_told_so(tmp_path, capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = record(capsys, tmp_path / "data", "policy=human")
    assert code == 2 and "policy=human needs a display" in err
    assert not (tmp_path / "data").exists()


def test_a_person_records_by_keys_until_escape(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    script = iter([[], ["+w"], ["+right"], ["-w"], ["+up", "-up", "-right"], ["+escape"]])  # one list for each frame
    show = HumanPolicy._show

    def show_and_press(policy, frame):
        show(policy, frame)
        for sign, *name in next(script):
            kind = pygame.KEYDOWN if sign == "+" else pygame.KEYUP
            pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code("".join(name))))

    monkeypatch.setattr(HumanPolicy, "_show", show_and_press)
    code, _, _ = record(capsys, tmp_path / "data", "policy=human")
    store = EpisodeStore(tmp_path / "data")
    assert code == 0 and len(store) == 1 and store.records[0].policy == "human"
    # The last action: up was pressed and let go between two frames, and counts all the same.
    assert store.actions(0).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_interrupting_keeps_the_finished_episodes(tmp_path):
    command = [sys.executable, "-m", "worldsim", "record", "game=arena", "policy=sticky", "frames=1000000"]
    command += ["max_episode_steps=30", f"out={tmp_path / 'data'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    index = tmp_path / "data/episodes.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not index.exists() or index.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.splitlines()[-1].endswith("interrupted") and "Traceback" not in err
    assert len(EpisodeStore(tmp_path / "data")) >= 3


def test_a_folder_s_name_may_be_a_number(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert record(capsys, "20261129")[0] == 0 and len(EpisodeStore(tmp_path / "20261129")) > 0
