"""Are recordings fit to be learned from: each fault is planted, and found by the sentence that names it."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.cli.main import main
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.lag import measure_lag
from worldsim.data.soundness import check_data
from worldsim.envs.arena import Arena

INFO = DatasetInfo("test", (16, 16, 3), spaces.Discrete(3), 15.0)


def walk(steps=600, seed=0, hold=6):
    """A texture that moves by the action: 1 and 2 scroll it to the sides; returns frames and actions."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(40, 255, (4, 40)), np.ones((4, 4))).astype(np.uint8)
    actions = np.repeat(rng.integers(3, size=steps), rng.integers(1, 2 * hold, steps))[:steps]
    place = np.r_[0, np.cumsum(np.array([0, 1, -1])[actions])]
    frames = np.stack([np.roll(picture, x, 1)[:, :16] for x in place])
    return np.repeat(frames[..., None], 3, -1), actions[:, None].astype(np.float64)


def store(folder, *episodes, info=INFO, terminated=True):
    with EpisodeWriter(folder, info) as writer:
        for number, (frames, actions) in enumerate(episodes):
            rewards = np.zeros(len(actions), np.float32) if info.has_rewards else None
            kept = actions if info.action_space is not None else None
            writer.append(Episode(frames, kept, rewards, terminated, not terminated, number, "test"))
    return EpisodeStore(folder)


def found(folder, *episodes, **more):
    return " ".join(check_data(store(folder, *episodes, **more)).warnings)


def lag_of(data):
    return measure_lag(data, range(len(data)), 20_000)


def test_sound_recordings_are_not_warned_of(tmp_path):
    sound = check_data(store(tmp_path / "data", *(walk(seed=i, hold=20) for i in range(4))))
    assert sound.warnings == []
    assert sound.lag.shift == sound.lag.low == sound.lag.high == 0


@pytest.mark.parametrize("shift", [-2, 1, 3])
def test_actions_that_come_late_or_early_are_found_and_a_shifted_copy_is_right(tmp_path, shift, capsys):
    episodes = [walk(seed=i) for i in range(4)]
    late = [(frames, np.roll(actions, shift, 0)) for frames, actions in episodes]
    assert f"shift={shift} mends it" in found(tmp_path / "late", *late)
    assert main(["import", f"source={tmp_path / 'late'}", f"out={tmp_path / 'mended'}", f"shift={shift}"]) == 0
    mended = EpisodeStore(tmp_path / "mended")
    assert lag_of(mended).shift == 0
    first = max(-shift, 0)
    count = 600 - abs(shift)
    for index, (frames, actions) in enumerate(episodes):
        assert np.array_equal(mended.observations(index), frames[first : first + count + 1])
        assert np.array_equal(mended.actions(index), actions[first : first + count])
        assert mended.records[index].terminated == (shift < 0)


def test_the_arena_s_actions_lead_to_the_next_frame_and_a_late_copy_s_come_three_frames_late(tmp_path):
    rng, episodes = np.random.default_rng(0), []
    for seed in range(24):
        env = Arena(max_episode_steps=None)
        frames, actions = [env.reset(seed=seed)[0]], []
        while len(actions) < 500:
            actions.append(rng.integers(2, size=4))
            frame, _, ended, _, _ = env.step(actions[-1])
            frames.append(frame)
            if ended:
                break
        episodes.append((np.array(frames), np.array(actions, np.float64)))
    info = replace(INFO, observation_shape=(64, 64, 3), action_space=spaces.MultiBinary(4))
    assert lag_of(store(tmp_path / "right", *episodes, info=info)).shift == 0
    late = [(frames, np.roll(actions, 3, 0)) for frames, actions in episodes]
    assert lag_of(store(tmp_path / "late", *late, info=info)).shift == 3


def test_actions_that_mean_nothing_are_told_and_too_few_steps_are_not_judged(tmp_path):
    frames = walk(2000)[0]
    others = np.random.default_rng(9).integers(3, size=(2000, 1)).astype(np.float64)
    assert "tell nothing" in found(tmp_path / "noise", (frames, others))
    few = check_data(store(tmp_path / "few", walk(200)))
    assert few.lag is None and "tell nothing" not in " ".join(few.warnings)
    silent = check_data(store(tmp_path / "silent", walk(), info=replace(INFO, action_space=None, has_rewards=False)))
    assert silent.lag is None and silent.actions == [] and silent.warnings == []


def test_a_quick_check_looks_on_where_its_first_steps_tell_nothing(tmp_path):
    steps, episodes = 2100, [walk(2100, seed=i) for i in range(4)]
    others = np.random.default_rng(9).integers(3, size=(steps, 1)).astype(np.float64)
    data = store(tmp_path / "data", *((frames, others) for frames, _ in episodes[:2]), *episodes, *episodes)
    assert not measure_lag(data, [0, 1], 4000).tells
    sound = check_data(data, quick=True)
    assert sound.lag.tells and sound.lag.shift == 0 and "tell nothing" not in " ".join(sound.warnings)


def test_black_and_frozen_stretches_and_repeated_frames_are_found_where_they_are(tmp_path):
    frames, actions = walk()
    black = frames.copy()
    black[100:140] = 3
    assert "6.7%, longest 40 frames, in episode 0 from frame 100" in found(tmp_path / "black", (black, actions))
    frozen = frames.copy()
    frozen[201:251] = frozen[200]
    assert "stands still" in found(tmp_path / "frozen", (frames, actions), (frozen, actions))
    moving = np.stack([np.roll(frames[0], i, 1) for i in range(301)])
    twice = np.repeat(moving, 2, 0)[:601]
    assert "the game draws about 8 a second" in found(tmp_path / "twice", (twice, actions))


def test_actions_never_taken_and_never_held_and_episodes_without_an_end_are_found(tmp_path):
    frames, actions = walk()
    assert "never taken: 2" in found(tmp_path / "never", (frames, np.minimum(actions, 1)))
    buttons = replace(INFO, action_space=spaces.MultiBinary(2))
    pressed = np.concatenate((np.minimum(actions, 1), np.zeros_like(actions)), 1)
    assert "never taken: number 2 other than 0" in found(tmp_path / "buttons", (frames, pressed), info=buttons)
    hasty = (np.arange(600) % 3)[:, None].astype(np.float64)
    assert "held for more than 1 steps" in found(tmp_path / "hasty", (frames, hasty))
    assert "no episode is ended by the game" in found(tmp_path / "endless", (frames, actions), terminated=False)


def test_a_long_pause_is_no_slow_clock_and_an_end_in_any_episode_counts_also_for_the_quick_check(tmp_path):
    moving = np.stack([np.roll(walk()[0][0], i, 1) for i in range(601)])
    paused = moving.copy()
    paused[200:400] = paused[199]
    actions = walk()[1]
    assert "stands still" in found(tmp_path / "paused", (paused, actions))
    data = store(tmp_path / "data", *(walk(2000, seed=i) for i in range(3)), terminated=False)
    with EpisodeWriter(tmp_path / "data", INFO) as writer:
        writer.append(Episode(*walk(50, seed=9), np.zeros(50, np.float32), True, False, 9, "test"))
    assert not any("no episode" in w for w in check_data(EpisodeStore(data.folders[0]), quick=True).warnings)


def test_what_never_changes_is_said_and_not_stumbled_over(tmp_path):
    black = np.zeros((1200, 16, 16, 3), np.uint8)
    data = store(tmp_path / "data", (black, np.ones((1199, 1))))
    assert "frames are black" in " ".join(check_data(data).warnings)
    assert main(["check", f"data={data.folders[0]}"]) == 0


def test_a_mouse_that_moves_holds_no_key_and_many_choices_are_quick(tmp_path):
    frames, actions = walk(1500)
    both = spaces.Dict(axes=spaces.Box(-1, 1, (1,), np.float32), keys=spaces.MultiBinary(2))
    mouse = np.random.default_rng(0).uniform(-1, 1, (1500, 1)).astype(np.float32)
    packed = np.concatenate((mouse, actions == 1, actions == 2), 1).astype(np.float64)
    sound = check_data(store(tmp_path / "both", (frames, packed), info=replace(INFO, action_space=both)))
    assert not any("held" in warning for warning in sound.warnings) and sound.lag.shift == 0
    many = replace(INFO, action_space=spaces.Discrete(200))
    assert check_data(store(tmp_path / "many", (frames, actions), info=many)).lag.shift == 0


def test_the_command_prints_and_draws(tmp_path, capsys):
    frames, actions = walk()
    data = store(tmp_path / "data", (frames, np.minimum(actions, 1))).folders[0]
    assert main(["check", f"data={data}"]) == 0
    printed = capsys.readouterr().out
    assert "! never taken: 2" in printed and "601 of 16x16" in printed
    page = (data / "check.html").read_text()
    assert "never taken: 2" in page and "data:image/png;base64," in page
    assert len(EpisodeStore(data)) == 1  # the page does not harm the folder


def test_a_shift_of_what_is_no_data_folder_or_has_too_short_episodes_is_one_line(tmp_path, capsys):
    short = store(tmp_path / "short", walk(3)).folders[0]
    assert main(["import", f"source={short}", f"out={tmp_path / 'out'}", "shift=3"]) == 2
    assert "expected episodes of more than 3 steps" in capsys.readouterr().err
    assert main(["import", f"source={short}", f"out={tmp_path / 'out'}", "shift=3", "frame_skip=2"]) == 2
    assert "expected shift= alone" in capsys.readouterr().err
    assert main(["import", f"source={tmp_path}", f"out={tmp_path / 'out'}", "shift=3"]) == 2
    assert "expected shift= with a data folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_training_says_it_before_it_begins_and_not_again(tmp_path, capsys, monkeypatch):
    frames, actions = walk()
    data = store(tmp_path / "data", (frames, np.minimum(actions, 1))).folders[0]
    monkeypatch.setattr("worldsim.cli.train.train_world", lambda run, stage: None)
    command = ["train", f"data={data}", f"out={tmp_path / 'run'}", "preset=nano", "minutes=1"]
    assert main(command) == 0
    assert "! never taken: 2" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert main(command) == 0
    assert "never taken" not in capsys.readouterr().out
