"""Fewer frames, and less of each: `frame_skip=` and `crop=` mean the same in every format."""

import numpy as np
import pytest
from gymnasium import spaces
from import_sources import grey_frames, write_csv, write_pictures, write_video

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.data.importer import import_frames

COLUMNS = "w,steer,mouse_x,gear,reward"
ROWS = [[int(i == 4), 0.1 * i, i, i % 4, 1] for i in range(12)]


def shown(store, index=0):
    return store.observations(index)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("rows", [12, 11])
def test_one_frame_of_three_is_kept_and_what_was_done_between_counts(rows, tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    actions = write_csv(tmp_path / "a.csv", COLUMNS, ROWS[:rows])
    assert import_frames(pictures, tmp_path / "data", actions, size=None, frame_skip=3) == 4
    store = EpisodeStore(tmp_path / "data")
    assert shown(store) == [20, 80, 140, 200] and store.info.fps == 5
    steer, mouse, gear, key = store.actions(0).T  # axes, choices, keys
    assert np.allclose(steer, [0.1, 0.4, 0.7]) and mouse.tolist() == [3, 12, 21]
    assert gear.tolist() == [0, 3, 2] and key.tolist() == [0, 1, 0]
    assert store.rewards(0).tolist() == [3, 3, 3]


def test_a_lone_choice_of_two_is_a_choice_and_a_whole_axis_has_a_mean(tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    actions = write_csv(tmp_path / "a.csv", "action", [[int(i in (1, 3, 4))] for i in range(12)])
    import_frames(pictures, tmp_path / "choice", actions, size=None, frame_skip=3)
    store = EpisodeStore(tmp_path / "choice")
    assert store.info.action_space == spaces.Discrete(2) and store.actions(0)[:, 0].tolist() == [0, 1, 0]
    actions = write_csv(tmp_path / "b.csv", "steer,gear", [[i % 3 - 1 + (i == 2), i // 6] for i in range(12)])
    import_frames(pictures, tmp_path / "axis", actions, size=None, frame_skip=3)
    steer, _ = EpisodeStore(tmp_path / "axis").actions(0).T
    assert np.allclose(steer, [1 / 3, 0, 0])


def test_an_episode_of_which_one_frame_is_left_goes(tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    actions = write_csv(tmp_path / "a.csv", "w,episode", [[0, int(i > 8)] for i in range(12)])
    import_frames(pictures, tmp_path / "data", actions, size=None, frame_skip=4)
    store = EpisodeStore(tmp_path / "data")
    assert [shown(store, i) for i in range(len(store))] == [[20, 100, 180]]


def test_an_end_stays_and_a_cut_does_not(tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    rows = [[0, int(i == 4), int(i > 4)] for i in range(12)]
    actions = write_csv(tmp_path / "a.csv", "w,terminated,episode", rows)
    import_frames(pictures, tmp_path / "data", actions, size=None, frame_skip=3)
    store = EpisodeStore(tmp_path / "data")
    assert [shown(store, i) for i in (0, 1)] == [[20, 80, 100], [120, 180, 240]]
    assert [record.terminated for record in store.records] == [True, False]


def pictured(count=6):
    """Frames whose left half is their number, and whose right half is white."""
    frames = np.full((count, 16, 32, 3), 255, np.uint8)
    frames[:, :, :16] = 20 * np.arange(1, count + 1)[:, None, None, None]
    return frames


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_a_frame_is_cropped_before_it_is_resized(kind, tmp_path):
    if kind == "video":
        source = write_video(tmp_path / "p.mkv", pictured())
    else:
        source = write_pictures(tmp_path / "p", pictured())
    import_frames(source, tmp_path / "data", size=8, crop=[2, 0, 12, 16])
    frames = EpisodeStore(tmp_path / "data").observations(0)
    assert frames.shape == (6, 8, 8, 3)
    assert np.abs(frames.astype(int) - 20 * np.arange(1, 7)[:, None, None, None]).max() <= 4


@pytest.mark.parametrize("crop", ["[0,0,33,16]", "[0,0,4,4]", "[-1,0,16,16]", "[0,0,16]", "left"])
def test_a_crop_that_is_not_in_view_is_refused(crop, tmp_path, capsys):
    source = write_pictures(tmp_path / "p", pictured())
    assert main(["import", f"source={source}", f"out={tmp_path / 'data'}", f"crop={crop}"]) == 2
    assert "expected crop=[x,y,width,height], whole pixels within 32x16" in capsys.readouterr().err


def test_both_by_command(tmp_path):
    source, out = write_pictures(tmp_path / "p", pictured()), tmp_path / "data"
    assert main(["import", f"source={source}", f"out={out}", "crop=[0,0,16,16]", "frame_skip=2", "size=16"]) == 0
    assert shown(EpisodeStore(out)) == [20, 60, 100]
    assert main(["import", f"source={source}", f"out={tmp_path / 'x'}", "frame_skip=0"]) == 2


def test_episodes_whose_numbers_are_alike_stay_apart_when_the_one_between_goes(tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    numbers = [0] * 5 + [1] * 2 + [0] * 5
    actions = write_csv(tmp_path / "a.csv", "w,episode", [[0, number] for number in numbers])
    import_frames(pictures, tmp_path / "data", actions, size=None, frame_skip=4)
    store = EpisodeStore(tmp_path / "data")
    assert [shown(store, i) for i in range(len(store))] == [[20, 100], [160, 240]]


def test_points_that_are_true_or_not_add_up(tmp_path):
    pictures = write_pictures(tmp_path / "p", grey_frames())
    (tmp_path / "a.jsonl").write_text('{"w": 0, "reward": true}\n' * 12)
    import_frames(pictures, tmp_path / "data", tmp_path / "a.jsonl", size=None, frame_skip=4)
    assert EpisodeStore(tmp_path / "data").rewards(0).tolist() == [4, 4]
