"""LeRobot data sets: read in the layout in which they are published, written so that they can be read back."""

import json

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from import_sources import grey_frames, write_video

from worldsim.actions import leaves
from worldsim.cli.main import main
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.importer import import_lerobot

LENGTHS, FPS = (5, 7, 4), 15
CAMERA = "observation.images.front"


def published(folder, kind="video", version="v3.0", cameras=(CAMERA,), change=lambda rows, episodes: None):
    """Writes three episodes as LeRobot does: two in one video and table, the third in others."""
    rng = np.random.default_rng(0)
    frames = grey_frames(sum(LENGTHS[:2])), grey_frames(LENGTHS[2])
    episodes, tables, start = [], [[], []], 0
    for index, length in enumerate(LENGTHS):
        file = index // 2
        offset = sum(LENGTHS[:index]) if file == 0 else 0
        row = {
            "episode_index": index,
            "tasks": ["drive"],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": file,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            "stats/action/mean": [0.0, 0.0],
        }
        for camera in cameras:
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            row |= {f"videos/{camera}/from_timestamp": offset / FPS}
            row |= {f"videos/{camera}/to_timestamp": (offset + length) / FPS}
        episodes.append(row)
        for t in range(length):
            cells = {"action": rng.uniform(-1, 1, 2).astype(np.float32).tolist(), "episode_index": index}
            cells |= {"next.reward": float(t), "next.done": t == length - 1, "frame_index": t, "timestamp": t / FPS}
            cells["observation.state"] = [0.5] * 3
            if kind == "image":
                picture = iio.imwrite("<bytes>", frames[file][offset + t], extension=".png")
                cells |= {camera: {"bytes": picture, "path": None} for camera in cameras}
            tables[file].append(cells)
        start += length
    change(tables, episodes)
    one = {"shape": [1], "names": None}
    features = {camera: {"dtype": kind, "shape": [32, 32, 3], "names": None} for camera in cameras}
    features |= {"action": {"dtype": "float32", "shape": [2], "names": {"motors": ["steer", "gas"]}}}
    features |= {"next.reward": {"dtype": "float32", **one}, "next.done": {"dtype": "bool", **one}}
    info = {"codebase_version": version, "fps": FPS, "features": features}
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    info |= {"data_path": f"data/{place}.parquet", "video_path": f"videos/{{video_key}}/{place}.mp4"}
    for file, rows in enumerate(tables):
        for path, table in (("data", rows), ("meta/episodes", episodes[:2] if file == 0 else episodes[2:])):
            target = folder / path / "chunk-000" / f"file-{file:03d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(table), target)
        for camera in cameras if kind == "video" else ():
            video = folder / "videos" / camera / "chunk-000" / f"file-{file:03d}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            write_video(video, frames[file], FPS)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder, tables


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_published_set_becomes_a_data_folder(kind, tmp_path):
    source, tables = published(tmp_path / "set", kind)
    assert import_lerobot(source, tmp_path / "data", size=None) == sum(LENGTHS)
    store = EpisodeStore(tmp_path / "data")
    assert [record.num_observations for record in store.records] == list(LENGTHS)
    assert all(record.terminated for record in store.records) and store.info.fps == FPS
    assert isinstance(store.info.action_space, gym.spaces.Box) and store.info.action_space.shape == (2,)
    rows = [row for table in tables for row in table]
    for index, length in enumerate(LENGTHS):
        mine = [row for row in rows if row["episode_index"] == index]
        assert np.allclose(store.actions(index), [row["action"] for row in mine[:-1]])
        assert np.array_equal(store.rewards(index), np.arange(length - 1))
    grey = [store.observations(i)[:, 16, 16, 0].astype(int) for i in range(3)]
    told = np.array([*grey_frames(12)[:, 0, 0, 0], *grey_frames(4)[:, 0, 0, 0]], int)
    assert np.abs(np.concatenate(grey) - told).max() <= 3


def test_one_of_several_cameras_is_named(tmp_path):
    source, _ = published(tmp_path / "set", cameras=(CAMERA, "observation.images.wrist"))
    with pytest.raises(ValueError, match=r"give camera= one of observation\.images\.front, observation\.images\.wrist"):
        import_lerobot(source, tmp_path / "data")
    assert import_lerobot(source, tmp_path / "data", CAMERA) == sum(LENGTHS)


def shorten(tables, episodes):
    tables[0].pop()


def lengthen(tables, episodes):
    episodes[2]["length"] += 1


def shift(tables, episodes):
    episodes[1][f"videos/{CAMERA}/from_timestamp"] += 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten, "episode 1 has 6 rows, not 7"),
        (lengthen, "has 4 frames, its episodes 5"),
        (shift, "episode 1 begins at 0.8"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(change, message, tmp_path):
    source, _ = published(tmp_path / "set", change=change)
    with pytest.raises(ValueError, match=message):
        import_lerobot(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_damaged_or_older_set_is_named_in_one_line(tmp_path, capsys):
    source, _ = published(tmp_path / "old", version="v2.1")
    assert main(["import", f"source={source}", f"out={tmp_path / 'data'}"]) == 2
    assert "it has format v2.1; lerobot's own script makes v3.0 of it" in capsys.readouterr().err
    source, _ = published(tmp_path / "torn")
    table = source / "data" / "chunk-000" / "file-000.parquet"
    table.write_bytes(table.read_bytes()[:200])
    assert main(["import", f"source={source}", f"out={tmp_path / 'data'}"]) == 2
    line = capsys.readouterr().err
    assert "expected a whole LeRobot data set" in line and line.count("\n") == 1


def recorded(folder, space):
    info = DatasetInfo("game", (32, 32, 3), space, float(FPS))
    rng = np.random.default_rng(0)
    with EpisodeWriter(folder, info) as writer:
        for index, length in enumerate(LENGTHS):
            steps = length - 1
            actions = np.stack([np.atleast_1d(space.sample()) for _ in range(steps)]).astype(float)
            rewards = rng.normal(size=steps).astype(np.float32)
            frames = grey_frames(12)[index : index + length]
            writer.append(Episode(np.array(frames), actions, rewards, index != 1, index == 1, index, "x"))
    return EpisodeStore(folder)


@pytest.mark.parametrize(
    "space", [gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.MultiBinary(3), gym.spaces.Discrete(4)]
)
def test_what_is_exported_is_imported_again(space, tmp_path, capsys):
    space.seed(0)
    store = recorded(tmp_path / "data", space)
    out = tmp_path / "set"
    assert main(["export", f"data={tmp_path / 'data'}", f"out={out}", "format=lerobot"]) == 0
    assert main(["import", f"source={out}", f"out={tmp_path / 'back'}", "size=null"]) == 0
    back = EpisodeStore(tmp_path / "back")
    assert type(back.info.action_space) is type(space) and back.info.action_space.shape == space.shape
    for index in range(3):
        assert np.allclose(back.actions(index), store.actions(index))
        assert np.allclose(back.rewards(index), store.rewards(index))
        assert back.records[index].terminated == store.records[index].terminated
        assert np.abs(back.observations(index).astype(int) - store.observations(index)).max() <= 3
    capsys.readouterr()
    assert main(["export", f"data={tmp_path / 'data'}", f"out={out}", "format=lerobot"]) == 2
    assert "expected a new folder" in capsys.readouterr().err


def test_keys_beside_axes_come_back_as_keys(tmp_path):
    space = gym.spaces.Dict({"keys": gym.spaces.MultiBinary(2), "mouse": gym.spaces.Box(-1, 1, (1,), np.float32)})
    packed = np.array([[0, 1, 0.25], [1, 0, -0.5]])
    with EpisodeWriter(tmp_path / "data", DatasetInfo("game", (32, 32, 3), space, float(FPS))) as writer:
        writer.append(Episode(grey_frames(3), packed, np.zeros(2, np.float32), False, True, 0, "x"))
    assert main(["export", f"data={tmp_path / 'data'}", f"out={tmp_path / 'set'}", "format=lerobot"]) == 0
    assert main(["import", f"source={tmp_path / 'set'}", f"out={tmp_path / 'back'}", "size=null"]) == 0
    back = EpisodeStore(tmp_path / "back")
    assert {type(leaf) for leaf in leaves(back.info.action_space)} == {gym.spaces.MultiBinary, gym.spaces.Box}
    assert np.allclose(back.actions(0), packed[:, [2, 0, 1]])  # axes first


def test_an_export_can_be_read_by_pyarrow_and_ffmpeg_alone(tmp_path):
    recorded(tmp_path / "data", gym.spaces.Box(-1, 1, (2,), np.float32))
    assert main(["export", f"data={tmp_path / 'data'}", f"out={tmp_path / 'set'}", "format=lerobot"]) == 0
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 3, sum(LENGTHS))
    place = {"chunk_index": 0, "file_index": 0}
    table = pq.read_table(tmp_path / "set" / info["data_path"].format(**place))
    assert set(table.column_names) == {n for n, f in info["features"].items() if f["dtype"] != "video"}
    assert table["index"].to_pylist() == list(range(sum(LENGTHS)))
    episodes = pq.read_table(tmp_path / "set" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"]) for e in episodes] == [(0, 5), (5, 12), (12, 16)]
    key = next(n for n, f in info["features"].items() if f["dtype"] == "video")
    video = iio.imread(tmp_path / "set" / info["video_path"].format(video_key=key, **place))
    assert video.shape == (sum(LENGTHS), 32, 32, 3)
    assert pq.read_table(tmp_path / "set" / "meta" / "tasks.parquet")["task"].to_pylist() == ["play"]
