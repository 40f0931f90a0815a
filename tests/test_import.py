"""`worldsim import` of videos, pictures and action files: which frame a row means, and an import that was killed."""

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from import_sources import NUM_FRAMES, grey_frames, write_csv, write_pictures, write_video
from PIL import Image
from tiny_world import record

from worldsim import pixels
from worldsim.actions import unpack
from worldsim.cli.main import main
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.frame_files import VIDEOS, find_files, open_takes, read_picture
from worldsim.data.importer import episode_spans, import_frames
from worldsim.data.whole_folder import write_import
from worldsim.envs.arena import Arena


def run(capsys, **arguments) -> tuple[int, str, str]:
    code = main(["import", *(f"{key}={value}" for key, value in arguments.items())])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def video(shared):
    return write_video(shared / "play.mp4", grey_frames())


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8))


# Frames.


@pytest.mark.parametrize("suffix", [suffix for suffix in VIDEOS if suffix != ".gif"])
def test_a_video_becomes_its_frames_at_its_rate(tmp_path, suffix):
    write_video(tmp_path / f"play{suffix}", grey_frames(), fps=20)
    assert import_frames(tmp_path / f"play{suffix}", tmp_path / "data", size=16) == NUM_FRAMES
    store = EpisodeStore(tmp_path / "data")
    assert store.info.fps == 20 and store.info.game == "play" and store.info.action_space is None
    assert store.records[0].policy == f"import:play{suffix}" and store.records[0].truncated
    frames = store.observations(0).astype(int)
    assert frames.shape == (NUM_FRAMES, 16, 16, 3)
    assert np.abs(frames - grey_frames(NUM_FRAMES, 16, 16)).max() <= 4  # H.264 and VP9 lose a little


def test_a_long_video_gives_every_frame_once_and_is_cut(tmp_path):
    frames = np.zeros((1100, 16, 16, 3), np.uint8)
    assert import_frames(write_video(tmp_path / "long.mp4", frames), tmp_path / "data", size=None) == 1101
    assert [record.num_observations for record in EpisodeStore(tmp_path / "data").records] == [550, 551]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_of_a_folder_come_in_natural_order(tmp_path, suffix):
    write_pictures(tmp_path / "mine", grey_frames(), suffix)
    (tmp_path / "mine/notes.txt").write_text("not a picture")
    import_frames(tmp_path / "mine", tmp_path / "data", size=None)
    store = EpisodeStore(tmp_path / "data")
    assert (store.observations(0) == grey_frames()).all() and store.info.fps == 15


def test_grey_and_transparent_pictures_are_read_as_rgb(tmp_path):
    (tmp_path / "mine").mkdir()
    iio.imwrite(tmp_path / "mine/1.png", np.full((8, 8), 7, np.uint8))
    iio.imwrite(tmp_path / "mine/2.png", np.full((8, 8, 4), 9, np.uint8))
    import_frames(tmp_path / "mine", tmp_path / "data", size=None)
    assert (EpisodeStore(tmp_path / "data").observations(0) == np.array([7, 9])[:, None, None, None]).all()


def test_frames_are_resized_as_those_of_a_recorded_game_whatever_their_aspect_ratio(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 48, 3), np.uint8)
    import_frames(write_pictures(tmp_path / "wide", frames), tmp_path / "data", size=16)
    expected = pixels.resize(torch.from_numpy(frames), 16, 16).numpy()
    assert (EpisodeStore(tmp_path / "data").observations(0) == expected).all()


def test_a_folder_of_videos_is_a_data_set_of_all_of_them(tmp_path):
    videos, actions = tmp_path / "videos", tmp_path / "actions"
    videos.mkdir()
    actions.mkdir()
    for name, count, key in (("run2", 5, 1), ("run10", 7, 3)):
        write_video(videos / f"{name}.mp4", grey_frames(count))
        write_csv(actions / f"{name}.csv", "action", [[key]] * count)
    import_frames(videos, tmp_path / "data", actions)
    store = EpisodeStore(tmp_path / "data")
    assert [record.policy for record in store.records] == ["import:run2.mp4", "import:run10.mp4"]
    assert [record.num_observations for record in store.records] == [5, 7]
    assert store.info.action_space == spaces.Discrete(4)
    assert (store.actions(0) == 1).all() and (store.actions(1) == 3).all()


# What a row means.


def test_row_t_led_from_frame_t_to_the_next_one(tmp_path):
    env, frames, keys = Arena(), [], []
    frames.append(env.reset(seed=3)[0])
    for key in (3, 3, 1, 1, 0, 2):
        keys.append(np.eye(4, dtype=int)[key])
        frames.append(env.step(keys[-1])[0])
    actions = write_csv(tmp_path / "keys.csv", "w,s,a,d", [*keys, np.zeros(4, int)])
    import_frames(write_pictures(tmp_path / "arena", frames), tmp_path / "data", actions)
    store, game = EpisodeStore(tmp_path / "data"), Arena()
    frame, _ = game.reset(seed=3)
    for step, action in enumerate(store.actions(0)):
        assert (store.observations(0)[step] == frame).all()
        frame = game.step(unpack(store.info.action_space, action))[0]
    assert (store.observations(0)[-1] == frame).all()


def test_a_row_for_the_last_frame_may_be_missing(tmp_path, video):
    rows = [[i % 3] for i in range(NUM_FRAMES)]
    for name, count in (("all", NUM_FRAMES), ("steps", NUM_FRAMES - 1)):
        actions = write_csv(tmp_path / f"{name}.csv", "action", [*rows[:count]])
        import_frames(video, tmp_path / name, actions)
    both = [EpisodeStore(tmp_path / name) for name in ("all", "steps")]
    assert both[0].records == both[1].records
    assert both[0].actions(0)[:, 0].tolist() == [row[0] for row in rows[:-1]]


def test_rewards_and_ends_and_episodes_are_columns(tmp_path, pictures):
    rows = [(i % 2, 0.5 * i, int(i in (4, 10)), 0 if i < 5 else 1) for i in range(12)]
    actions = write_csv(tmp_path / "a.csv", "jump,reward,terminated,episode", rows)
    import_frames(pictures, tmp_path / "data", actions, size=None)
    store = EpisodeStore(tmp_path / "data")
    assert [record.num_observations for record in store.records] == [5, 7]
    assert [record.terminated for record in store.records] == [
        True,
        True,
    ]  # said of the last frame, and of the last step
    assert [record.truncated for record in store.records] == [False, False]
    assert store.rewards(0).tolist() == [0, 0.5, 1, 1.5] and store.rewards(1).tolist() == [2.5, 3, 3.5, 4, 4.5, 5]
    assert store.actions(1)[:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert store.info.has_rewards and store.info.action_space == spaces.MultiBinary(1)


def test_rewards_without_actions_are_kept(tmp_path, pictures):
    import_frames(pictures, tmp_path / "data", write_csv(tmp_path / "r.csv", "reward", [[i] for i in range(11)]))
    store = EpisodeStore(tmp_path / "data")
    assert store.info.action_space is None and store.actions(0) is None and store.rewards(0).tolist() == [*range(11)]


def test_without_actions_an_import_has_none(tmp_path, pictures):
    import_frames(pictures, tmp_path / "data")
    store = EpisodeStore(tmp_path / "data")
    assert store.actions(0) is None and store.rewards(0) is None and not store.info.has_rewards


@settings(deadline=None)
@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=6), longest=st.one_of(st.none(), st.integers(1, 12)))
def test_cutting_loses_no_step_and_crosses_no_episode(lengths, longest):
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    spans = episode_spans(starts, sum(lengths), longest, "mine")
    steps = [step for first, last in spans for step in range(first, last)]
    within = [start + i for start, length in zip(starts, lengths, strict=True) for i in range(length - 1)]
    assert steps == within
    assert all(1 <= last - first <= (longest or 30) for first, last in spans)


def test_a_long_take_is_cut_and_both_sides_have_the_frame(tmp_path, pictures):
    actions = write_csv(tmp_path / "a.csv", "action,terminated", [(i, int(i == 11)) for i in range(12)])
    import_frames(pictures, tmp_path / "data", actions, size=None, max_episode_steps=4)
    store = EpisodeStore(tmp_path / "data")
    whole = np.stack([iio.imread(pictures / f"frame{i}.png") for i in range(12)])
    assert [record.total_steps for record in store.records] == [3, 4, 4]
    assert [record.terminated for record in store.records] == [False, False, True]
    for index, first in enumerate((0, 3, 7)):
        steps = store.records[index].total_steps
        assert (store.observations(index) == whole[first : first + steps + 1]).all()
        assert store.actions(index)[:, 0].tolist() == [*range(first, first + steps)]


# Whole or not at all.


def contents(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", range(5))
def test_an_import_that_was_killed_goes_on_and_ends_with_the_same_data(tmp_path, pictures, place, monkeypatch):
    import_frames(pictures, tmp_path / "whole", max_episode_steps=3)
    append, countdown = EpisodeWriter.append, iter(range(place))

    def mortal(writer, episode):
        if next(countdown, None) is None:
            raise Killed
        return append(writer, episode)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, "append", mortal)
        if place < 4:  # the fifth time nothing is left to write
            with pytest.raises(Killed):
                import_frames(pictures, tmp_path / "data", max_episode_steps=3)
            assert not (tmp_path / "data").exists()
    new = import_frames(pictures, tmp_path / "data", max_episode_steps=3)
    sizes = [record.num_observations for record in EpisodeStore(tmp_path / "whole").records]
    assert new == sum(sizes[place:]) if place < 4 else sum(sizes)
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert not (tmp_path / "data.partial").exists()


def test_the_same_command_finds_everything_there(tmp_path, pictures, capsys):
    code, out, _ = run(capsys, source=pictures, out=tmp_path / "data")
    assert code == 0 and "1 episodes, 12 frames of pictures" in out and "frames/s" in out
    before = contents(tmp_path / "data")
    code, out, _ = run(capsys, source=pictures, out=tmp_path / "data")
    assert code == 0 and "there already" in out and contents(tmp_path / "data") == before


@pytest.mark.parametrize("change", ["actions", "reward", "fewer", "fps"])
def test_another_import_into_the_same_folder_is_refused(tmp_path, pictures, capsys, change):
    actions = write_csv(tmp_path / "a.csv", "w,reward", [(0, 1)] * 11)
    run(capsys, source=pictures, out=tmp_path / "data", actions=actions, max_episode_steps=4)
    before = contents(tmp_path / "data")
    if change == "fewer":
        for index in range(4, 12):
            (pictures / f"frame{index}.png").unlink()
    rows = [(int(change == "actions"), 2 if change == "reward" else 1)] * (3 if change == "fewer" else 11)
    write_csv(tmp_path / "a.csv", "w,reward", rows)
    fps = {"fps": 30} if change == "fps" else {}
    code, _, err = run(capsys, source=pictures, out=tmp_path / "data", actions=actions, max_episode_steps=4, **fps)
    assert code == 2 and err.count("\n") == 1 and "choose another out=" in err
    assert contents(tmp_path / "data") == before


def test_more_videos_continue_a_data_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/1.mp4", grey_frames(4))
    assert import_frames(tmp_path / "videos", tmp_path / "data") == 4
    write_video(tmp_path / "videos/2.mp4", grey_frames(6))
    assert import_frames(tmp_path / "videos", tmp_path / "data") == 6
    assert EpisodeStore(tmp_path / "data").num_frames == 10


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, pictures, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("important")
    code, _, err = run(capsys, source=pictures, out=tmp_path / "thesis")
    assert code == 2 and "found thesis.txt; choose another out=" in err
    assert contents(tmp_path / "thesis") == {"thesis.txt": b"important"}


def test_two_imports_at_once_are_refused(tmp_path, pictures):
    import_frames(pictures, tmp_path / "other")
    info = EpisodeStore(tmp_path / "other").info
    with EpisodeWriter(tmp_path / "data.partial", info), pytest.raises(ValueError, match="written by another process"):
        import_frames(pictures, tmp_path / "data")
    assert (tmp_path / "data.partial").exists()
    assert import_frames(pictures, tmp_path / "data") == 12


def test_another_import_that_still_runs_is_left_alone_and_so_is_a_folder_of_that_name(tmp_path):
    info = DatasetInfo("film", (8, 8, 3), None, 15.0, has_rewards=False)
    episode = Episode(np.ones((3, 8, 8, 3), np.uint8), None, None, False, True, None, "x")
    running = EpisodeWriter(tmp_path / "out.partial", replace(info, game="another film"))
    with running, pytest.raises(ValueError, match="written by another process"):
        write_import(tmp_path / "out", info, [episode])
    assert write_import(tmp_path / "out", info, [episode]) == 3
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "notes.txt").write_text("important")
    with pytest.raises(ValueError, match=r"found notes\.txt"):
        write_import(tmp_path / "mine", info, [episode])
    assert (tmp_path / "mine.partial" / "notes.txt").exists()


def test_what_a_killed_recorder_left_before_it_began_is_not_in_the_way(tmp_path):
    info = DatasetInfo("film", (8, 8, 3), None, 15.0, has_rewards=False)
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    episode = Episode(np.ones((3, 8, 8, 3), np.uint8), None, None, False, True, None, "x")
    assert write_import(tmp_path / "out", info, [episode]) == 3
    assert EpisodeStore(tmp_path / "out").num_frames == 3


def test_an_import_holds_one_episode_at_a_time(tmp_path, pictures, monkeypatch):
    """Frames are read as episodes are written: never further ahead than the episode that is being put together."""
    take = open_takes(find_files(pictures))[0]
    read, seen = [], []
    frames = type(take).frames
    monkeypatch.setattr(
        type(take), "frames", lambda self, size: (read.append(0) or frame for frame in frames(self, size))
    )
    append = EpisodeWriter.append
    monkeypatch.setattr(EpisodeWriter, "append", lambda *given: seen.append(len(read)) or append(*given))
    import_frames(pictures, tmp_path / "data", max_episode_steps=3)
    assert seen == [3, 6, 9, 12]


def test_pictures_of_all_kinds_are_read_as_they_look(tmp_path):
    red, grey = Image.new("RGB", (6, 4), (250, 10, 10)), Image.new("LA", (6, 4), (90, 128))
    red.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    grey.save(tmp_path / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    red.save(tmp_path / "turned.jpg", exif=turned)
    assert np.abs(read_picture(tmp_path / "print.jpg").astype(int) - (250, 10, 10)).max() < 12
    assert (read_picture(tmp_path / "grey.png") == 90).all() and read_picture(tmp_path / "turned.jpg").shape == (
        6,
        4,
        3,
    )
    moving = [Image.new("RGB", (6, 4), (i, 0, 0)) for i in (0, 200)]
    moving[0].save(tmp_path / "moving.gif", save_all=True, append_images=moving[1:])
    with pytest.raises(ValueError, match="expected one of 8-bit RGB or grey, found 2"):
        read_picture(tmp_path / "moving.gif")
    assert np.array_equal(
        read_picture(Path("cell"), (tmp_path / "grey.png").read_bytes()), read_picture(tmp_path / "grey.png")
    )


def test_another_import_s_remains_are_not_in_the_way(tmp_path):
    info = DatasetInfo("film", (8, 8, 3), None, 15.0, has_rewards=False)
    with EpisodeWriter(tmp_path / "out.partial", replace(info, observation_shape=(16, 16, 3))) as writer:
        writer.append(Episode(np.zeros((3, 16, 16, 3), np.uint8), None, None, False, True, None, "x"))
    episode = Episode(np.ones((3, 8, 8, 3), np.uint8), None, None, False, True, None, "x")
    assert write_import(tmp_path / "out", info, [episode]) == 3 and not (tmp_path / "out.partial").exists()
    with EpisodeWriter(tmp_path / "again.partial", info) as writer:
        writer.append(replace(episode, observations=episode.observations + 1))
    with pytest.raises(ValueError, match="is removed; run this again"):
        write_import(tmp_path / "again", info, [episode])
    assert write_import(tmp_path / "again", info, [episode]) == 3


@pytest.mark.parametrize("argument", ["size=32", "max_episode_steps=9"])
def test_what_a_shift_leaves_alone_is_refused(tmp_path, argument, capsys):
    record(tmp_path / "data")
    assert main(["import", f"source={tmp_path / 'data'}", "shift=1", argument, f"out={tmp_path / 'out'}"]) == 2
    assert "expected shift= alone" in capsys.readouterr().err
