"""HDF5 files: the Counter-Strike layout as published, and arrays by name, to the last frame; damage in one line."""

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore

WIDTH = 11 + 2 + 23 + 15


def frames(count, seed=0, shape=(12, 20)):
    return np.random.default_rng(seed).integers(256, size=(count, *shape, 3), dtype=np.uint8)


def counter_strike(path, count=10, deaths=(), seed=0, **changed):
    """Writes a file as published; returns its pictures, red first."""
    rng, pictures = np.random.default_rng(seed), frames(count, seed)
    with h5py.File(path, "w") as file:
        for i in range(count):
            done = np.zeros(WIDTH)
            done[:13] = rng.integers(2, size=13)
            done[13 + (3 * i) % 23] = done[36 + i % 15] = 1
            for name, value in {
                "x": pictures[i, ..., ::-1],  # OpenCV's order
                "y": done,
                "xaux": np.zeros(54),
                "helperarr": np.array([i == 4, i in deaths], float),
            }.items():
                file[f"frame_{i}_{name}"] = changed.get(name, value)
    return pictures


def run(*arguments):
    return main(["import", *(str(a) for a in arguments), "size=null"])


def test_the_counter_strike_layout_is_imported_with_its_keys_mouse_kills_and_deaths(tmp_path):
    pictures = counter_strike(tmp_path / "hdf5_dm_1.hdf5", deaths=(5,))
    counter_strike(tmp_path / "hdf5_dm_2.hdf5", seed=1)
    assert run(f"source={tmp_path}", f"out={tmp_path / 'out'}") == 0
    store = EpisodeStore(tmp_path / "out")
    assert store.info.fps == 16 and store.info.observation_shape == (12, 20, 3)
    assert [record.total_steps for record in store.records] == [5, 3, 9]
    assert [record.terminated for record in store.records] == [True, False, False]
    assert np.array_equal(store.observations(0), pictures[:6]) and np.array_equal(store.observations(1), pictures[6:])
    assert isinstance(store.info.action_space, spaces.Dict) and store.info.action_space["keys"].n == 13
    x, y = store.actions(0)[:, :2].T  # axes first
    assert x.tolist() == [-1000, -200, -30, -4, 2] and y.tolist() == [-200, -100, -50, -20, -10]
    assert store.rewards(0).tolist() == [0, 0, 0, 1, 0]  # the step that led to frame 4
    bound = {key for binding in store.info.keymap["bindings"] for key in binding["keys"]}
    assert {"w", "a", "s", "d", "space", "left ctrl", "left shift", "r", "mouse left"} <= bound
    assert len(store.info.keymap["mouse"]) == 2


def test_arrays_are_imported_by_their_names_and_episodes_end_where_they_say(tmp_path):
    pictures = frames(9)
    with h5py.File(tmp_path / "game.h5", "w") as file:
        file["obs/rgb"], file["act"] = pictures, np.array([0, 1, 2, 0, 1, 2, 0, 1, 2], np.uint8)
        file["reward"], file["done"] = np.arange(9, dtype=np.float32), np.isin(np.arange(9), (3,))
    names = ["arrays.frames=obs/rgb", "arrays.actions=act", "arrays.rewards=reward", "arrays.ends=done"]
    assert run(f"source={tmp_path / 'game.h5'}", f"out={tmp_path / 'out'}", *names, "fps=20") == 0
    store = EpisodeStore(tmp_path / "out")
    assert store.info.action_space == spaces.Discrete(3) and store.info.fps == 20
    assert [(r.total_steps, r.terminated) for r in store.records] == [(3, True), (4, False)]
    assert np.array_equal(store.observations(1), pictures[4:]) and store.actions(1)[:, 0].tolist() == [1, 2, 0, 1]
    assert store.rewards(0).tolist() == [0, 1, 2]


def test_an_end_in_the_last_frame_s_row_counts_where_actions_have_none(tmp_path):
    with h5py.File(tmp_path / "game.h5", "w") as file:
        file["x"], file["a"], file["e"] = frames(9), np.zeros(8, np.int64), np.isin(np.arange(9), (3, 8))
    named = ["arrays.frames=x", "arrays.actions=a", "arrays.ends=e"]
    assert run(f"source={tmp_path / 'game.h5'}", f"out={tmp_path / 'out'}", *named) == 0
    assert [(r.total_steps, r.terminated) for r in EpisodeStore(tmp_path / "out").records] == [(3, True), (4, True)]


def test_frames_alone_and_axes_of_several_numbers_are_imported(tmp_path):
    with h5py.File(tmp_path / "game.hdf5", "w") as file:
        file["x"], file["a"] = frames(130), np.linspace(-1, 1, 129 * 2).reshape(129, 2)
    assert run(f"source={tmp_path / 'game.hdf5'}", f"out={tmp_path / 'silent'}", "arrays.frames=x") == 0
    silent = EpisodeStore(tmp_path / "silent")
    assert silent.info.action_space is None and np.array_equal(silent.observations(0), frames(130))
    assert (
        run(f"source={tmp_path / 'game.hdf5'}", f"out={tmp_path / 'out'}", "arrays.frames=x", "arrays.actions=a") == 0
    )
    assert EpisodeStore(tmp_path / "out").info.action_space.shape == (2,)


@pytest.mark.parametrize(
    ("write", "arguments", "says"),
    [
        (lambda f: f.update({"a": 1}), (), "expected the Counter-Strike layout"),
        (lambda f: None, ("arrays.actions=y",), "expected the array 'y' (actions)"),
        (lambda f: f.create_dataset("x", data=frames(5)), ("arrays.frames=z",), "'z' (frames)"),
        (lambda f: f.create_dataset("x", data=frames(5)[..., :2]), ("arrays.frames=x",), "uint8 [n H W 3]"),
        (lambda f: f.create_dataset("x", data=frames(5)), ("arrays.actions=x", "arrays.frames=x"), "expected numbers"),
        (
            lambda f: [f.create_dataset("x", data=frames(5)), f.create_dataset("a", data=1.0)],
            ("arrays.frames=x", "arrays.actions=a"),
            "expected numbers [n] or [n k]",
        ),
        (lambda f: f.create_dataset("frame_0_x", data=frames(1)[0]), (), "expected the Counter-Strike layout"),
        (lambda f: [f.create_dataset(f"frame_{i}_x", data=frames(1)[0]) for i in (0, 2)], (), "'frame_1_x' (frames)"),
        (
            lambda f: [f.create_dataset("x", data=frames(5)), f.create_dataset("e", data=[0, 2, 0, 0, 0])],
            ("arrays.frames=x", "arrays.ends=e"),
            "expected 0 or 1",
        ),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_one_line(tmp_path, capsys, write, arguments, says):
    with h5py.File(tmp_path / "game.hdf5", "w") as file:
        write(file)
    assert run(f"source={tmp_path / 'game.hdf5'}", f"out={tmp_path / 'out'}", *arguments) == 2
    line = capsys.readouterr().err
    assert says in line and "game.hdf5" in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", [{"y": np.zeros(WIDTH)}, {"y": np.zeros(50)}, {"helperarr": np.zeros(3)}])
def test_a_counter_strike_file_of_other_numbers_is_refused(tmp_path, capsys, changed):
    counter_strike(tmp_path / "dm.hdf5", **changed)
    assert run(f"source={tmp_path / 'dm.hdf5'}", f"out={tmp_path / 'out'}") == 2
    assert "dm.hdf5" in capsys.readouterr().err


def test_a_damaged_file_and_an_action_file_beside_it_are_refused(tmp_path, capsys):
    counter_strike(tmp_path / "dm.hdf5")
    whole = (tmp_path / "dm.hdf5").read_bytes()
    (tmp_path / "dm.hdf5").write_bytes(whole[: len(whole) // 2])
    assert run(f"source={tmp_path / 'dm.hdf5'}", f"out={tmp_path / 'out'}") == 2
    assert "dm.hdf5" in capsys.readouterr().err
    assert run(f"source={tmp_path / 'dm.hdf5'}", f"out={tmp_path / 'out'}", "actions=keys.csv") == 2
    assert "arrays.actions=" in capsys.readouterr().err
