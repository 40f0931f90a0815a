"""Minari data sets in both directions: what Minari wrote reads right, and what worldsim writes comes back."""

import json
import warnings

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import tiny_world
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from worldsim.actions import pack
from worldsim.cli.main import main
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.data.minari_sets import export_minari, import_minari
from worldsim.envs.arena import Arena


@pytest.fixture(autouse=True)
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def collect(dataset_id="arena/random-v0", episodes=3, **settings):
    """Plays the arena under Minari's own collector; returns what was seen and done, seed by seed."""
    env = minari.DataCollector(Arena(max_episode_steps=8), **settings)
    env.action_space.seed(0)
    seen = []
    for seed in range(40, 40 + episodes):
        frames, actions, rewards, ended = [env.reset(seed=seed)[0]], [], [], False
        while not ended:
            actions.append(env.action_space.sample())
            frame, reward, terminated, truncated, _ = env.step(actions[-1])
            frames.append(frame)
            rewards.append(reward)
            ended = terminated or truncated
        seen.append((seed, np.stack(frames), np.stack(actions), np.array(rewards), terminated, truncated))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari advises on author, description, ...
        env.create_dataset(dataset_id)
    return seen


def test_a_data_set_of_minaris_own_collector_reads_as_it_was_played(tmp_path):
    seen = collect(jpeg_encoding=False)
    assert import_minari("arena/random-v0", tmp_path / "data") == sum(len(frames) for _, frames, *_ in seen)
    store = EpisodeStore(tmp_path / "data")
    assert len(store) == len(seen)
    for index, (seed, frames, actions, rewards, terminated, truncated) in enumerate(seen):
        record = store.records[index]
        assert (record.seed, record.terminated, record.truncated) == (seed, terminated, truncated)
        assert (store.observations(index) == frames).all()
        assert (store.actions(index) == actions).all()
        assert (store.rewards(index) == rewards.astype(np.float32)).all()
        assert record.policy == "import:arena/random-v0"
    assert store.info.game == "worldsim-real/Arena-v0" and store.info.env_spec["id"] == "worldsim-real/Arena-v0"
    assert store.info.action_space == Arena().action_space and store.info.fps == 15
    assert store.info.keymap["bindings"]


def test_jpeg_which_is_minaris_default_loses_little(tmp_path):
    seen = collect()
    import_minari("arena/random-v0", tmp_path / "data")
    error = EpisodeStore(tmp_path / "data").observations(0).astype(float) - seen[0][1]
    assert 0 < np.sqrt((error**2).mean()) < 12


def test_frames_become_the_size_that_is_asked_for(tmp_path):
    collect(jpeg_encoding=False)
    import_minari("arena/random-v0", tmp_path / "data", size=16, fps=8)
    info = EpisodeStore(tmp_path / "data").info
    assert info.observation_shape == (16, 16, 3) and info.fps == 8


SPACES = (
    spaces.Discrete(4, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.Box(-2, 3, (2,), np.float32),
    spaces.Dict([("mouse", spaces.Box(-1, 1, (1,))), ("keys", spaces.MultiBinary(3))]),
    spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
)


def record(folder, space, rewards=True):
    """Writes a recording of random play in a game of 40 x 32 pixels."""
    rng = np.random.default_rng(0)
    space.seed(0)
    spec = json.loads(EnvSpec("Mine-v0", entry_point="mine:Mine", max_episode_steps=9).to_json())
    keymap, table = {"rest": [], "bindings": [], "mouse": []}, np.zeros((2, 3))
    info = DatasetInfo("mine", (40, 32, 3), space, 17.5, keymap, table, spec, has_rewards=rewards)
    with EpisodeWriter(folder, info) as writer:
        for number, steps in enumerate((4, 1, 7)):
            frames = rng.integers(0, 256, (steps + 1, 40, 32, 3), np.uint8)
            actions = np.stack([pack(space, space.sample()) for _ in range(steps)])
            given = rng.normal(size=steps).astype(np.float32) if rewards else None
            ends = (number == 0, number == 1)
            writer.append(Episode(frames, actions, given, *ends, 7 * number if number else None, f"policy {number}"))
    return EpisodeStore(folder)


def assert_equal(found: EpisodeStore, expected: EpisodeStore):
    assert found.info.to_json() == expected.info.to_json()
    assert found.records == expected.records
    for index in range(len(expected)):
        assert (found.observations(index) == expected.observations(index)).all()
        assert (found.actions(index) == expected.actions(index)).all()
        assert expected.rewards(index) is None or (found.rewards(index) == expected.rewards(index)).all()


@pytest.mark.parametrize("space", SPACES, ids=[type(space).__name__ for space in SPACES])
def test_to_minari_and_back_gives_the_same_data_folder(tmp_path, space):
    store = record(tmp_path / "data", space)
    export_minari(store, "mine-v0")
    import_minari("mine-v0", tmp_path / "back", size=None)
    assert_equal(EpisodeStore(tmp_path / "back"), store)


def test_minari_reads_what_worldsim_writes(tmp_path):
    store = record(tmp_path / "data", SPACES[3])
    export_minari(store, "games/mine/random-v2")
    dataset = minari.load_dataset("games/mine/random-v2")
    assert "games/mine/random-v2" in minari.list_local_datasets()
    assert dataset.total_episodes == 3 and dataset.total_steps == 12
    assert dataset.env_spec.id == "Mine-v0" and dataset.action_space == SPACES[3]
    for index, episode in enumerate(dataset):
        assert (episode.observations == store.observations(index)).all() and episode.observations.dtype == np.uint8
        assert (episode.rewards == store.rewards(index)).all()
        assert (episode.actions["keys"] == store.actions(index)[:, 1:]).all()
        assert episode.terminations.tolist() == [False] * (len(episode) - 1) + [index == 0]
        assert episode.truncations.tolist() == [False] * (len(episode) - 1) + [index == 1]
    assert [label.get("seed") for label in dataset.storage.get_episode_metadata(range(3))] == [None, 7, 14]


def test_rewards_that_nobody_recorded_are_nan_in_minari_and_none_again_here(tmp_path):
    store = record(tmp_path / "data", SPACES[0], rewards=False)
    export_minari(store, "mine-v0")
    assert np.isnan(minari.load_dataset("mine-v0")[0].rewards).all()
    import_minari("mine-v0", tmp_path / "back", size=None)
    assert_equal(EpisodeStore(tmp_path / "back"), store)


def test_the_two_commands(tmp_path, capsys):
    tiny_world.record(tmp_path / "data")
    assert main(["export", f"data={tmp_path / 'data'}", "out=tiny/counting-v0"]) == 0
    assert "tiny/counting-v0: 3 episodes, 30 frames" in capsys.readouterr().out
    arguments = ["import", "source=tiny/counting-v0", f"out={tmp_path / 'back'}", "size=null"]
    assert main(arguments) == 0 and "3 episodes, 30 frames of counting" in capsys.readouterr().out
    assert_equal(EpisodeStore(tmp_path / "back"), EpisodeStore(tmp_path / "data"))
    assert main(arguments) == 0 and "there already" in capsys.readouterr().out


class Killed(BaseException):
    pass


def test_an_export_that_was_killed_leaves_nothing_that_minari_sees(tmp_path, minari_folder):
    store = tiny_world.record(tmp_path / "data")

    def die(frames):
        raise Killed

    with pytest.raises(Killed):
        export_minari(store, "tiny-v0", die)
    assert not minari.list_local_datasets() and not list(minari_folder.iterdir())
    (minari_folder / ".tiny-v0.partial/data").mkdir(parents=True)  # as kill -9 leaves it
    export_minari(store, "tiny-v0")
    assert list(minari.list_local_datasets()) == ["tiny-v0"]


# Wrong input: one line, exit code 2.


def failure_of(capsys, *arguments) -> str:
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def refused_import(capsys, tmp_path, dataset_id, *arguments) -> str:
    line = failure_of(capsys, "import", f"source={dataset_id}", f"out={tmp_path / 'data'}", *arguments)
    assert not (tmp_path / "data").exists() and not (tmp_path / "data.partial").exists()
    return line


def test_a_data_set_that_is_not_there_is_named(tmp_path, capsys):
    line = refused_import(capsys, tmp_path, "atari/pong-v3")
    assert "found none; minari download atari/pong-v3 fetches one" in line


def test_actions_beside_a_minari_data_set_are_refused(tmp_path, capsys):
    assert "has its own, found a.csv" in refused_import(capsys, tmp_path, "arena-v0", "actions=a.csv")


def write_buffers(dataset_id, observation_space, action_space=SPACES[0]):
    """Writes a data set of one step by Minari's own function."""
    buffer = minari.data_collector.EpisodeBuffer(
        observations=np.stack([observation_space.sample()] * 2), actions=np.zeros(1, int), rewards=[0.0],
        terminations=[True], truncations=[False],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"observation_space": observation_space, "action_space": action_space}
        return minari.create_dataset_from_buffers(dataset_id, [buffer], **given)


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (40, 40), np.uint8), spaces.Box(0, 1, (40, 40, 3))]
)
def test_observations_that_are_no_rgb_pictures_are_refused(tmp_path, capsys, space):
    write_buffers("vector-v0", space)
    line = refused_import(capsys, tmp_path, "vector-v0")
    assert "expected RGB pictures, uint8 [H W 3], as observations of vector-v0, found Box(" in line


def test_an_action_outside_its_space_is_refused(tmp_path, capsys):
    write_buffers("wrong-v0", spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Discrete(3, start=1))
    line = refused_import(capsys, tmp_path, "wrong-v0")
    assert "cannot read the Minari data set wrong-v0" in line and "expected an action in Discrete(3, start=1)" in line


@pytest.mark.parametrize("damage", ["cut", "emptied", "no metadata", "no spaces", "an episode too few"])
def test_a_damaged_data_set_is_named(tmp_path, minari_folder, capsys, damage):
    collect(jpeg_encoding=False)
    data, facts = (minari_folder / "arena/random-v0/data" / name for name in ("main_data.hdf5", "metadata.json"))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "emptied":
        data.write_bytes(b"")
    elif damage == "no metadata":
        facts.unlink()
    elif damage == "no spaces":
        facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if "space" not in k}))
    else:
        with h5py.File(data, "a") as file:
            del file["episode_1"]
    assert "cannot read the Minari data set arena/random-v0: " in refused_import(capsys, tmp_path, "arena/random-v0")


def test_reading_a_data_set_never_makes_its_game(tmp_path, minari_folder, capsys, monkeypatch):
    collect(jpeg_encoding=False)
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: pytest.fail("made a game"))
    import_minari("arena/random-v0", tmp_path / "data")
    facts = minari_folder / "arena/random-v0/data/metadata.json"
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if "space" not in k}))
    with pytest.raises(ValueError, match="its metadata has no action_space and no observation_space"):
        import_minari("arena/random-v0", tmp_path / "other")


def test_an_id_that_is_taken_or_none_at_all_is_refused(tmp_path, capsys):
    export_minari(tiny_world.record(tmp_path / "data"), "tiny-v0")
    assert "choose another name or version" in failure_of(capsys, "export", f"data={tmp_path / 'data'}", "out=tiny-v0")
    line = failure_of(capsys, "export", f"data={tmp_path / 'data'}", "out=tiny")
    assert "expected a Minari id like (namespace/)name-v0, found 'tiny'" in line


def test_a_recording_without_actions_is_not_exported(tmp_path, capsys):
    info = DatasetInfo("film", (8, 8, 3), None, 15.0, has_rewards=False)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        writer.append(Episode(np.zeros((3, 8, 8, 3), np.uint8), None, None, False, True, None, "film"))
    line = failure_of(capsys, "export", f"data={tmp_path / 'data'}", "out=film-v0")
    assert "expected a recording with actions" in line and not minari.list_local_datasets()


def test_without_minari_the_extra_is_named(tmp_path, capsys, monkeypatch):
    for name in ("minari", "minari.storage"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert "pip install 'worldsim-rl[minari]'" in refused_import(capsys, tmp_path, "arena-v0")
