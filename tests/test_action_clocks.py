"""Clocks in action files: never an action, and what says at which frame a row stands."""

import numpy as np
import pytest
from gymnasium import spaces
from import_sources import NUM_FRAMES, grey_frames, write_csv, write_pictures, write_uneven, write_video

from worldsim.data.action_files import make_layout, read_actions
from worldsim.data.episodes import EpisodeStore
from worldsim.data.importer import import_frames

UNEVEN = [0, 0.1, 0.2, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
SHOWN = [0, 1, 2, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11]  # at 10 frames a second


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def video(shared):
    return write_video(shared / "play.mkv", grey_frames(), fps=10)


@pytest.fixture(scope="module")
def uneven(shared, video):
    return write_uneven(shared / "uneven.mkv", video, UNEVEN)


def read(tmp_path, header, rows):
    return read_actions(write_csv(tmp_path / "a.csv", header, rows))


# Which columns are clocks.


@pytest.mark.parametrize("name", ["timestamp", "Time", "frame", "t", "step", "index", "frame_index", "", '""'])
@pytest.mark.parametrize("first", [0, 1])
def test_a_clock_is_no_action(tmp_path, name, first):
    file = read(tmp_path, f"{name},w", [(first + i, i % 2) for i in range(6)])
    assert file.names == ["w"] and make_layout([file]).space == spaces.MultiBinary(1)
    assert [values.tolist() for values in file.clocks.values()] == [[first + i for i in range(6)]]


def test_a_clock_may_begin_again_with_each_episode(tmp_path):
    file = read(tmp_path, "time,episode,w", [(i % 3 * 0.5, i // 3, 1) for i in range(6)])
    assert file.names == ["w"] and file.clocks["time"].tolist() == [0, 0.5, 1, 0, 0.5, 1]


@pytest.mark.parametrize("name", ["t", "step", "index"])
def test_a_key_called_like_a_clock_is_a_key(tmp_path, name):
    file = read(tmp_path, f"{name},w", [(i % 2, 1) for i in range(6)])
    assert file.names == [name, "w"] and not file.clocks
    keys = [binding["keys"] for binding in make_layout([file]).keymap()["bindings"]]
    assert keys == [["t"] if name == "t" else ["1"], ["w"]]


def test_a_key_t_that_is_held_from_some_time_on_or_never_pressed_is_a_key(tmp_path):
    for rows in ([(0,), (0,), (1,), (1,)], [(0,)] * 4):
        assert read(tmp_path, "t", rows).names == ["t"]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("step", [(i % 4,) for i in range(8)]),
        ("t", [(0.5,), (-1,), (0,), (1,)]),
        ("timestamp", [(7,)] * 5),
        ("", [(i % 3,) for i in range(8)]),
    ],
)
def test_what_is_neither_clock_nor_key_is_refused_by_name(tmp_path, header, rows):
    with pytest.raises(ValueError, match=f"column '{header}' of .* to be a clock, which never decreases"):
        read(tmp_path, f"{header},w", [(*row, 1) for row in rows])


def test_a_clock_by_another_name_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"column 'ms' of .*a\.csv, found a number that rises with every row; call it"):
        read(tmp_path, "ms,w", [(33 * i, 0) for i in range(40)])
    assert read(tmp_path, "throttle", [(min(i, 38) / 38,) for i in range(40)]).names == ["throttle"]


def test_a_file_of_clocks_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected actions or rewards beside the clock 'frame'"):
        read(tmp_path, "frame", [(i,) for i in range(5)])


def test_keys_that_change_with_every_row_are_no_clock(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(40)[:, None] % 2 == [0, 1])
    np.save(tmp_path / "b.npy", (np.arange(40)[:, None] % 2 * 255).astype(np.uint8))
    assert [read_actions(tmp_path / name).names for name in ("a.npy", "b.npy")] == [
        ["column 0", "column 1"],
        ["column 0"],
    ]


def test_what_is_left_out_is_said_in_one_line(tmp_path, video, capsys):
    actions = write_csv(tmp_path / "a.csv", "timestamp,gear", [(1.7e9 + i / 10, i % 5) for i in range(NUM_FRAMES)])
    import_frames(video, tmp_path / "data", actions)
    assert capsys.readouterr().out == "column 'timestamp' is a clock and no action: left out\n"
    store = EpisodeStore(tmp_path / "data")
    assert store.info.action_space == spaces.Discrete(5) and store.actions(0)[:, 0].tolist() == [
        i % 5 for i in range(11)
    ]


# Frame numbers.


@pytest.mark.parametrize(("first", "count"), [(0, 12), (0, 11), (1, 12)])
def test_frame_numbers_that_count_the_rows_agree(tmp_path, video, first, count):
    actions = write_csv(tmp_path / "a.csv", "frame,gear", [(first + i, i % 5) for i in range(count)])
    import_frames(video, tmp_path / "data", actions)
    assert EpisodeStore(tmp_path / "data").actions(0)[:, 0].tolist() == [i % 5 for i in range(11)]


@pytest.mark.parametrize("restarts", [False, True])
def test_frame_numbers_go_on_or_begin_again_with_an_episode(tmp_path, video, restarts):
    rows = [(i % 6 if restarts else i, i // 6, i % 5) for i in range(NUM_FRAMES)]
    import_frames(video, tmp_path / "data", write_csv(tmp_path / "a.csv", "frame,episode,gear", rows))
    assert [record.total_steps for record in EpisodeStore(tmp_path / "data").records] == [5, 5]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([0, 1, 2, *range(4, 12)], "column 'frame' of .* to count the rows one by one, found 4 in row 4; give"),
        ([0, 1, 2, 2, *range(3, 11)], "found 2 in row 4"),
        (range(0, 24, 2), "found 2 in row 2"),
        (range(1, 12), "to count from 0, or from 1 with a row for each of 12 frames, found 1 in the first of 11 rows"),
        (range(100, 112), "found 100 in the first of 12 rows"),
    ],
)
def test_frame_numbers_that_do_not_count_the_rows_are_refused(tmp_path, video, numbers, message):
    actions = write_csv(tmp_path / "a.csv", "frame,gear", [(number, 3) for number in numbers])
    with pytest.raises(ValueError, match=message):
        import_frames(video, tmp_path / "data", actions)
    assert not [*tmp_path.glob("data*")]


# Seconds.


def test_rows_of_a_variable_rate_follow_their_seconds(tmp_path, uneven, capsys):
    rows = [(time, i, i % 3, i) for i, time in enumerate(UNEVEN)]
    actions = write_csv(tmp_path / "a.csv", "timestamp,gear,reward,mouse_x", rows)
    assert import_frames(uneven, tmp_path / "data", actions, size=16, fps=10) == 13
    store = EpisodeStore(tmp_path / "data")
    levels = store.observations(0).mean((1, 2, 3))
    assert [round(level / 20) - 1 for level in levels.tolist()] == SHOWN
    mouse, gear = store.actions(0).T
    assert gear.tolist() == SHOWN[:-1]  # each frame has the row that led from it
    # Movements and rewards count once, at the step to the next row's frame: those of rows 2 and 3 both lead to row 4's.
    assert mouse.tolist() == [0, 1, 0, 0, 2 + 3, 4, 5, 6, 7, 8, 9, 10]
    assert store.rewards(0).tolist() == [0, 1, 0, 0, 2 + 0, 1, 2, 0, 1, 2, 0, 1]
    assert "a.csv: 12 rows follow their seconds onto 13 frames\n" in capsys.readouterr().out


def test_an_end_at_a_variable_rate_is_the_episodes_last_frame(tmp_path, uneven):
    rows = [(time, int(i > 2), int(i in (1, 10)), 1) for i, time in enumerate(UNEVEN)]
    actions = write_csv(tmp_path / "a.csv", "time,episode,terminated,w", rows)
    import_frames(uneven, tmp_path / "data", actions, size=16, fps=10)
    records = EpisodeStore(tmp_path / "data").records
    assert [(record.num_observations, record.terminated) for record in records] == [(5, True), (8, True)]


def test_two_frames_at_the_very_beginning_are_one_and_nothing_done_then_is_lost(tmp_path, shared, video):
    times = [0, 0.02, *(0.1 * i for i in range(1, 11))]
    early = write_uneven(shared / "early.mkv", video, times)
    actions = write_csv(tmp_path / "a.csv", "time,w,mouse_x", [(time, 1, 1) for time in times])
    import_frames(early, tmp_path / "data", actions, size=16, fps=10)
    store = EpisodeStore(tmp_path / "data")
    mouse = store.actions(0)[:, 0]
    assert len(mouse) == 10 and mouse.sum() == 11 and mouse[0] == 2


def test_more_rows_than_frames_follow_their_seconds(tmp_path, video):
    rows = [(i / 50, i % 7, int(i % 5 == 3)) for i in range(60)]  # five for each frame
    import_frames(video, tmp_path / "data", write_csv(tmp_path / "a.csv", "time,gear,reward", rows))
    store = EpisodeStore(tmp_path / "data")
    assert store.actions(0)[:, 0].tolist() == [(5 * i + 3) % 7 for i in range(11)]  # the fifth is early for the next
    assert store.rewards(0).sum() == 11


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (
            1.7e9 + np.array(UNEVEN),
            "to go from 0, the first frame of uneven.mkv, to the last one at 1.200, found 17000",
        ),
        (np.array(UNEVEN) + 0.2, "found 0.200 to 1.400"),
        (np.array(UNEVEN) * 1000, "found 0.000 to 1200.000"),
        (np.array(UNEVEN) / 2, "found 0.000 to 0.600"),
    ],
)
def test_seconds_that_are_not_the_videos_are_refused(tmp_path, uneven, seconds, message):
    actions = write_csv(tmp_path / "a.csv", "time,gear", [(time, 3) for time in seconds])
    with pytest.raises(ValueError, match=message):
        import_frames(uneven, tmp_path / "data", actions, fps=10)


@pytest.mark.parametrize("header", ["frame,gear", "t,gear"])
def test_a_variable_rate_wants_rows_with_seconds(tmp_path, uneven, header):
    actions = write_csv(tmp_path / "a.csv", header, [(i, 3) for i in range(NUM_FRAMES)])
    with pytest.raises(
        ValueError, match=r"a column 'timestamp' or 'time' in .*, seconds from the first frame of uneven"
    ):
        import_frames(uneven, tmp_path / "data", actions)
    assert not [*tmp_path.glob("data*")]


def test_pictures_have_no_seconds_to_follow(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", grey_frames())
    actions = write_csv(tmp_path / "a.csv", "time,gear", [(i / 10, 3) for i in range(NUM_FRAMES + 5)])
    with pytest.raises(ValueError, match="for the 12 frames of pictures, found 17"):
        import_frames(pictures, tmp_path / "data", actions)
