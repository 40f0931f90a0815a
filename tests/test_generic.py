"""Any Gymnasium game as frames."""

import gymnasium as gym
import numpy as np
import pytest

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.envs.generic import make


class Striped(gym.Env):
    """Image observations whose left half is black and right half white."""

    observation_space = gym.spaces.Box(0, 255, (48, 96, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, bright: int = 255):
        self.picture = np.zeros((48, 96, 3), np.uint8)
        self.picture[:, 48:] = bright

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.picture, {}

    def step(self, action):
        return self.picture, np.float64(1), np.bool_(False), False, {}


class Blind(Striped):
    observation_space = gym.spaces.Box(-1, 1, (3,))


class Keyed(Striped):
    def get_keys_to_action(self):
        return {(): 0, (ord("d"),): 1, (ord("a"), ord(" ")): 0, "w": 1}


@pytest.fixture(autouse=True)
def _registered():
    for name, entry in (("Striped", Striped), ("Blind", Blind), ("Keyed", Keyed)):
        gym.register(f"worldsim-test/{name}-v0", entry_point=entry, max_episode_steps=5)
    yield
    for name in ("Striped", "Blind", "Keyed"):
        gym.registry.pop(f"worldsim-test/{name}-v0")


def test_image_observations_are_resized():
    env = make("worldsim-test/Striped-v0", size=24)
    frame, _ = env.reset(seed=0)
    assert frame.shape == env.observation_space.shape == (24, 24, 3) and frame.dtype == np.uint8
    assert (frame[:, :10] == 0).all() and (frame[:, 14:] == 255).all()


def test_settings_reach_the_game():
    assert make("worldsim-test/Striped-v0", bright=100).reset(seed=0)[0].max() == 100


def test_the_time_limit_of_the_registration_holds_and_flags_are_plain_python():
    env = make("worldsim-test/Striped-v0")
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(5)]
    assert [step[3] for step in steps] == [False] * 4 + [True]
    assert all(type(step[1]) is float and type(step[2]) is bool for step in steps)


def test_frames_are_new_storage():
    env = make("worldsim-test/Striped-v0", size=96)
    first, _ = env.reset(seed=0)
    assert not np.shares_memory(first, env.step(0)[0])


def test_a_game_without_image_observations_is_rendered():
    env = make("CartPole-v1")
    frame, _ = env.reset(seed=0)
    assert frame.shape == (64, 64, 3) and env.metadata["render_fps"] == 50
    assert frame.min() < 50 and frame.max() == 255  # a black cart on white


def test_car_racing_keeps_its_own_pictures():
    env = make("CarRacing-v3")
    frame, _ = env.reset(seed=0)
    assert frame.shape == (64, 64, 3) and env.action_space == env.unwrapped.action_space
    env.close()


def test_atari_is_found_and_its_keys_become_a_keymap():
    env = make("ALE/Pong-v5")
    bindings = env.metadata["keymap"]["bindings"]
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    assert {"keys": ["a", "space"], "set": {"0": 5}} in bindings  # LEFTFIRE


@pytest.mark.parametrize(("id", "width"), [("CarRacing-v3", 3), ("ALE/Pong-v5", 1)])
def test_car_racing_and_atari_are_recorded_by_the_command(tmp_path, id, width):
    arguments = ["game=gym", f"game.id={id}", "policy=sticky", "frames=40", f"out={tmp_path / 'data'}"]
    assert main(["record", *arguments, "max_episode_steps=19"]) == 0
    store = EpisodeStore(tmp_path / "data")
    assert store.info.game == id and store.num_frames == 40 and store.actions(0).shape == (19, width)
    assert len(np.unique(np.array(store.observations(0)).reshape(20, -1), axis=0)) > 5  # something moves


def test_a_module_before_the_colon_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_games.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('worldsim-test/Mine-v0', entry_point='gymnasium.envs.classic_control:MountainCarEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make("my_games:worldsim-test/Mine-v0")
    assert env.reset(seed=0)[0].shape == (64, 64, 3) and env.action_space.n == 3


def test_a_game_that_says_its_keys_has_them_as_keymap():
    assert make("worldsim-test/Keyed-v0").metadata["keymap"] == {
        "rest": [0],
        "bindings": [
            {"keys": ["d"], "set": {"0": 1}},
            {"keys": ["a", "space"], "set": {"0": 0}},
            {"keys": ["w"], "set": {"0": 1}},
        ],
        "mouse": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "CartPol-v1"}, "found 'CartPol-v1'; did you mean CartPole-v1"),
        ({"id": "no_such_module:Game-v0"}, "there is no no_such_module here"),
        ({"id": "worldsim-test/Blind-v0"}, "expected image observations or render mode rgb_array"),
        ({"id": "worldsim-test/Striped-v0", "colour": 3}, "does not take these settings"),
        ({"id": "CartPole-v1", "size": 0}, "expected game.size of at least 8 pixels, found 0"),
    ],
)
def test_wrong_settings_are_named_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)
