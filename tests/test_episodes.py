"""The episode store: what is finished is there, whatever happened to the process."""

import errno
import json
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.data import episodes as store_module
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter, hash_episode

SHAPE = (4, 6, 3)
INFO = DatasetInfo(
    game="test",
    observation_shape=SHAPE,
    action_space=spaces.MultiBinary(4),
    fps=15.0,
    keymap={"rest": [0, 0, 0, 0], "bindings": [], "mouse": []},
    discrete_table=np.eye(4),
    env_spec={"id": "Test-v0"},
)


def episode(number: int, num_steps: int = 5) -> Episode:
    rng = np.random.default_rng(number)
    return Episode(
        observations=rng.integers(0, 256, (num_steps + 1, *SHAPE), dtype=np.uint8),
        actions=rng.integers(0, 2, (num_steps, 4)).astype(np.float64),
        rewards=rng.normal(size=num_steps).astype(np.float32),
        terminated=number % 2 == 0,
        truncated=number % 2 == 1,
        seed=number,
        policy="test",
    )


def write(folder, numbers, info=INFO, num_steps=5):
    with EpisodeWriter(folder, info) as writer:
        for number in numbers:
            writer.append(episode(number, num_steps))


def assert_holds(folder, numbers, num_steps=5):
    store = EpisodeStore(folder)
    assert [record.seed for record in store.records] == list(numbers)
    for index, number in enumerate(numbers):
        expected = episode(number, num_steps)
        assert (store.observations(index) == expected.observations).all()
        assert (store.actions(index) == expected.actions).all()
        assert (store.rewards(index) == expected.rewards).all()


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_OBSERVATIONS", 16)


def test_episodes_come_back_as_they_were_written(tmp_path):
    write(tmp_path / "data", range(3))
    assert_holds(tmp_path / "data", range(3))
    store = EpisodeStore(tmp_path / "data")
    record, expected = store.records[2], episode(2)
    assert (record.terminated, record.truncated, record.policy) == (True, False, "test")
    assert record.total_reward == pytest.approx(float(expected.rewards.sum()), abs=1e-6)
    assert record.hash == hash_episode(expected) and len(record.hash) == 16


def test_an_episode_of_t_steps_has_one_observation_more_than_actions(tmp_path):
    write(tmp_path / "data", [0], num_steps=7)
    store = EpisodeStore(tmp_path / "data")
    assert store.records[0].total_steps == store.num_steps == 7 and store.num_frames == 8
    assert len(store.observations(0)) == 8 and len(store.actions(0)) == len(store.rewards(0)) == 7


def test_facts_come_back_as_they_were_written(tmp_path):
    write(tmp_path / "data", [0])
    info = EpisodeStore(tmp_path / "data").info
    assert info.to_json() == INFO.to_json()
    assert info.action_space == INFO.action_space and (info.discrete_table == INFO.discrete_table).all()


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), reopen=st.integers(0, 8))
def test_any_lengths_over_any_shards_come_back(tmp_path_factory, lengths, reopen):
    folder = tmp_path_factory.mktemp("store") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "SHARD_OBSERVATIONS", 16)
        for part in (range(len(lengths))[:reopen], range(len(lengths))[reopen:]):
            with EpisodeWriter(folder, INFO) as writer:
                for i in part:
                    writer.append(episode(i, lengths[i]))
    store = EpisodeStore(folder)
    for i, length in enumerate(lengths):
        assert (store.observations(i) == episode(i, length).observations).all()
        assert (store.actions(i) == episode(i, length).actions).all()
    assert store.num_frames == sum(lengths) + len(lengths)


def test_shards_are_plain_arrays_that_other_tools_load(tmp_path, small_shards):
    write(tmp_path / "data", range(6))
    store = EpisodeStore(tmp_path / "data")
    assert store.num_shards == 2
    for shard in range(2):
        array = np.load(tmp_path / f"data/shards/{shard:06d}/observations.npy", allow_pickle=False)
        assert (array == store.shard_observations(shard)).all() and len(array) == 18


def test_a_window_is_a_view_of_a_memory_map(tmp_path):
    write(tmp_path / "data", range(3), num_steps=40)
    store = EpisodeStore(tmp_path / "data")
    window = store.observations(1, 5, 29)
    assert (window == episode(1, 40).observations[5:29]).all()
    assert isinstance(window, np.memmap) and np.shares_memory(window, store.shard_observations(0))
    assert not window.flags.writeable and not window.flags.owndata


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (-1, 3), (4, 3)])
def test_a_window_never_crosses_an_episode(tmp_path, start, stop):
    write(tmp_path / "data", range(3))
    with pytest.raises(IndexError, match=r"expected a window within 0\.\.6"):
        EpisodeStore(tmp_path / "data").observations(1, start, stop)


def test_a_store_sent_to_another_process_sends_its_path_only(tmp_path):
    write(tmp_path / "data", range(2))
    sent = pickle.dumps(EpisodeStore(tmp_path / "data"))
    assert len(sent) < 300
    assert (pickle.loads(sent).observations(1) == episode(1).observations).all()


def test_a_recording_without_actions_and_rewards_has_none(tmp_path):
    info = replace(INFO, action_space=None, keymap=None, discrete_table=None, has_rewards=False)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        writer.append(replace(episode(0), actions=None, rewards=None))
    store = EpisodeStore(tmp_path / "data")
    assert store.actions(0) is None and store.rewards(0) is None and store.records[0].total_reward is None
    assert [path.name for path in (tmp_path / "data/shards/000000").iterdir()] == ["observations.npy"]


# Killed processes. What a kill leaves behind is written by hand; tests/test_kill_record.py kills for real.


def test_a_torn_index_line_is_ignored_by_readers_and_cut_by_the_writer(tmp_path):
    write(tmp_path / "data", range(3))
    index = tmp_path / "data/episodes.jsonl"
    whole = index.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in range(1, len(lines[2])):
        index.write_bytes(b"".join(lines[:2]) + lines[2][:torn])
        assert len(EpisodeStore(tmp_path / "data")) == 2
    write(tmp_path / "data", [7])
    assert_holds(tmp_path / "data", [0, 1, 7])


def test_half_a_slab_behind_the_indexed_rows_is_overwritten(tmp_path):
    write(tmp_path / "data", range(2))
    with open(tmp_path / "data/shards/000000/observations.npy", "ab") as file:
        file.write(b"\xff" * 100)
    assert_holds(tmp_path / "data", [0, 1])
    write(tmp_path / "data", [5])
    assert_holds(tmp_path / "data", [0, 1, 5])


def test_a_header_that_counts_more_than_the_index_is_harmless(tmp_path):
    write(tmp_path / "data", range(3), num_steps=20)
    index = tmp_path / "data/episodes.jsonl"
    index.write_bytes(b"".join(index.read_bytes().splitlines(keepends=True)[:2]))
    assert_holds(tmp_path / "data", [0, 1], num_steps=20)
    with EpisodeWriter(tmp_path / "data", INFO) as writer:
        writer.append(episode(9, num_steps=3))  # shorter than what it overwrites
    array = np.load(tmp_path / "data/shards/000000/observations.npy", allow_pickle=False)
    assert len(array) == 21 + 21 + 4 and (array[42:] == episode(9, 3).observations).all()


def test_a_process_killed_before_its_first_episode_leaves_a_folder_to_continue(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "shards/000000").mkdir(parents=True)
    (folder / "shards/000000/observations.npy").write_bytes(b"\x93NUM")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", lambda *paths: signal.raise_signal(signal.SIGINT))
        write(folder, [0])
    assert not (folder / "dataset.json").exists() and len([*folder.iterdir()]) == 3  # shards, the lock, half the facts
    write(folder, [0])
    assert_holds(folder, [0])


@pytest.mark.parametrize("place", range(24))
def test_a_kill_at_any_write_or_sync_leaves_the_finished_episodes(tmp_path, place):
    """A child process kills itself before its n-th write or sync, so that nothing of its buffers is written later."""
    folder = tmp_path / "data"
    write(folder, range(2))
    child = os.fork()
    if child == 0:
        _append_and_die(folder, place)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = len(EpisodeStore(folder))
    assert (
        2 <= found <= 2 + (place + 7) // 7
    )  # an episode takes seven: three files written and synced, the index synced
    assert_holds(folder, range(found))
    write(folder, [50])
    assert_holds(folder, [*range(found), 50])


def _append_and_die(folder, place) -> None:
    countdown = iter(range(place))

    def mortal(function):
        def act(*arguments):
            if next(countdown, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return act

    os.fsync, store_module.write_rows = mortal(os.fsync), mortal(store_module.write_rows)
    with EpisodeWriter(folder, INFO) as writer:
        for number in range(2, 100):
            writer.append(episode(number))


def test_a_full_disk_raises_and_the_store_stays_whole(tmp_path, monkeypatch):
    write(tmp_path / "data", range(2))

    class Full:
        """An index whose disk takes ten more bytes."""

        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[:10])

        def __getattr__(self, name):
            return getattr(self.file, name)

    with EpisodeWriter(tmp_path / "data", INFO) as writer:
        index, writer._index = writer._index, Full(writer._index)
        with pytest.raises(OSError) as error:
            writer.append(episode(2))
        assert error.value.errno == errno.ENOSPC
        writer._index = index
        writer.append(episode(3))  # space was freed
    assert_holds(tmp_path / "data", [0, 1, 3])


# Bad input: one sentence.


def refused(function, *arguments) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    assert f"expected a data folder at {tmp_path / 'nothing'}" in refused(EpisodeStore, tmp_path / "nothing")


def test_an_empty_recording_is_refused(tmp_path):
    write(tmp_path / "data", [])
    assert "found none finished" in refused(EpisodeStore, tmp_path / "data")


def test_a_shard_shorter_than_the_index_is_refused_by_reader_and_writer(tmp_path):
    write(tmp_path / "data", range(3))
    for name in ("observations", "actions", "rewards"):
        path = tmp_path / f"data/shards/000000/{name}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert f"{name}.npy, found {len(whole) - 1}: it is truncated" in refused(EpisodeStore, tmp_path / "data")
        assert "it is truncated" in refused(EpisodeWriter, tmp_path / "data", INFO)
        path.write_bytes(whole)
    assert_holds(tmp_path / "data", range(3))


def test_a_missing_shard_is_refused(tmp_path):
    write(tmp_path / "data", [0])
    (tmp_path / "data/shards/000000/actions.npy").unlink()
    assert "actions.npy, found 0" in refused(EpisodeStore, tmp_path / "data")


def test_a_shard_with_other_rows_is_refused(tmp_path):
    write(tmp_path / "data", [0])
    np.save(tmp_path / "data/shards/000000/rewards.npy", np.zeros((50, 2), np.float32))
    assert "expected <f4 rows of shape [] in" in refused(EpisodeStore, tmp_path / "data")
    (tmp_path / "data/shards/000000/rewards.npy").write_bytes(b"x" * 5000)
    assert "found another file" in refused(EpisodeStore, tmp_path / "data")


def test_a_newer_format_is_refused(tmp_path):
    write(tmp_path / "data", [0])
    path = tmp_path / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    assert "it has format 2, this worldsim reads up to 1; update worldsim" in refused(EpisodeStore, tmp_path / "data")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '{"format_version": "one"}'])
def test_unreadable_facts_are_refused(tmp_path, text):
    write(tmp_path / "data", [0])
    (tmp_path / "data/dataset.json").write_text(text)
    assert "cannot read" in refused(EpisodeStore, tmp_path / "data")


@pytest.mark.parametrize("line", [b"rubbish\n", b"{}\n", b"[1, 2]\n", b'{"id": 1, "extra": 2}\n'])
def test_a_damaged_index_line_is_refused(tmp_path, line):
    write(tmp_path / "data", [0])
    index = tmp_path / "data/episodes.jsonl"
    index.write_bytes(line + index.read_bytes())
    assert "line 1 of" in refused(EpisodeStore, tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ({"action_space": spaces.Discrete(3)}, "MultiBinary", "Discrete"),
        ({"observation_shape": (8, 8, 3)}, "[4, 6, 3]", "[8, 8, 3]"),
        ({"game": "other"}, "test", "other"),
        ({"fps": 30.0}, "15.0", "30.0"),
        ({"has_rewards": False}, "true", "false"),
    ],
)
def test_continuing_with_other_facts_names_both_sides(tmp_path, change, old, new):
    write(tmp_path / "data", [0])
    message = refused(EpisodeWriter, tmp_path / "data", replace(INFO, **change))
    assert next(iter(change)) in message and old in message and new in message
    assert_holds(tmp_path / "data", [0])


def test_a_foreign_folder_or_file_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    assert "found thesis.txt" in refused(EpisodeWriter, tmp_path, INFO)
    assert "found a file" in refused(EpisodeWriter, tmp_path / "thesis.txt", INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with EpisodeWriter(tmp_path / "data", INFO):
        assert "being written by another process" in refused(EpisodeWriter, tmp_path / "data", INFO)
    write(tmp_path / "data", [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": np.zeros((6, 8, 8, 3), np.uint8)}, "found uint8 [6, 8, 8, 3]"),
        ({"observations": np.zeros((6, *SHAPE))}, "found float64"),
        ({"observations": np.zeros((1, *SHAPE), np.uint8)}, "expected 2 or more"),
        ({"actions": None}, "expected actions of shape [5, 4] beside 6 frames, found None"),
        ({"actions": np.zeros((6, 4))}, "expected actions of shape [5, 4] beside 6 frames, found [6, 4]"),
        ({"rewards": np.zeros((5, 1))}, "expected rewards of shape [5]"),
        ({"rewards": np.full(5, np.nan)}, "expected finite rewards"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, change, message):
    with EpisodeWriter(tmp_path / "data", INFO) as writer:
        writer.append(episode(0))
        assert message in refused(writer.append, replace(episode(1), **change))
    assert_holds(tmp_path / "data", [0])


def test_folders_of_one_kind_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_OBSERVATIONS", 10)  # two episodes a shard
    write(tmp_path / "a", range(3))
    write(tmp_path / "b", range(7, 12))
    joined = EpisodeStore(tmp_path / "a", tmp_path / "b")
    numbers = [0, 1, 2, 7, 8, 9, 10, 11]
    assert [record.id for record in joined.records] == list(range(8))
    assert [record.seed for record in joined.records] == numbers
    for store in (joined, pickle.loads(pickle.dumps(joined))):
        for index, number in enumerate(numbers):
            expected = episode(number)
            assert (store.observations(index) == expected.observations).all()
            assert (store.actions(index, 1, 4) == expected.actions[1:4]).all()
            assert (store.rewards(index) == expected.rewards).all()
    every = np.concatenate([joined.shard_observations(shard) for shard in range(joined.num_shards)])
    assert (every == np.concatenate([episode(number).observations for number in numbers])).all()
    assert joined.num_shards == 2 + 3 and joined.num_frames == 8 * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 30.0}, r"expected fps 15\.0 in .*b, as in .*a, found 30\.0"),
        ({"game": "other"}, 'expected game "test" in .*b, as in .*a, found "other"'),
        ({"action_space": spaces.MultiBinary(4), "keymap": None}, "expected keymap"),
        ({"discrete_table": None}, "expected discrete_table"),
    ],
)
def test_folders_of_different_kinds_are_not_joined(tmp_path, change, words):
    write(tmp_path / "a", range(3))
    write(tmp_path / "b", range(3, 5), info=replace(INFO, **change))
    with pytest.raises(ValueError, match=words):
        EpisodeStore(tmp_path / "a", tmp_path / "b")


def test_imported_films_of_one_kind_are_joined_whatever_their_files_are_called(tmp_path):
    for name, number in (("a", 0), ("b", 1)):
        with EpisodeWriter(tmp_path / name, replace(INFO, game=name)) as writer:
            writer.append(replace(episode(number), policy=f"import:{name}.mp4", seed=None))
    assert len(EpisodeStore(tmp_path / "a", tmp_path / "b")) == 2


def test_a_folder_of_which_half_is_there_already_is_refused_and_a_few_alike_are_not(tmp_path):
    write(tmp_path / "a", range(3))
    write(tmp_path / "b", range(1, 5))
    with pytest.raises(ValueError, match="found 2 of the same; name a folder once"):
        EpisodeStore(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "c", range(2, 5))
    assert len(EpisodeStore(tmp_path / "a", tmp_path / "c")) == 6
