"""Any Gymnasium game as frames."""

from typing import ClassVar

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
        return {(): 0, (ord("d"),): 1, (ord("a"), ord(" ")): 0, "w": 1, 1073741904: 1, (13,): 0, (1073741000,): 1}


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
            {"keys": ["left"], "set": {"0": 1}},
            {"keys": ["return"], "set": {"0": 0}},
        ],
        "mouse": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "CartPol-v1"}, "found 'CartPol-v1'; did you mean CartPole-v1"),
        ({"id": "no_such_module:Game-v0"}, "there is no no_such_module here"),
        ({"id": "worldsim-test/Blind-v0"}, r"expected pictures \[H W 3\].*or render mode rgb_array"),
        ({"id": "worldsim-test/Striped-v0", "colour": 3}, "does not take these settings"),
        ({"id": "CartPole-v1", "size": 0}, "expected game.size to be a whole number of at least 8"),
    ],
)
def test_wrong_settings_are_named_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


class Shows(gym.Env):
    """Shows one array, as its observation or as what it renders."""

    action_space = gym.spaces.Discrete(2)
    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"]}

    def __init__(self, array, space=None, render_mode=None):
        self.array, self.render_mode = array, render_mode
        self.observation_space = space or gym.spaces.Box(-np.inf, np.inf, (2,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        shown = isinstance(self.observation_space, gym.spaces.Box) and self.observation_space.shape == self.array.shape
        return (self.array if shown else np.zeros(2, np.float32)), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}

    def render(self):
        return self.array


def seen(array, space=None, **settings):
    """The first frame of a game that shows an array whose left half is dark and right half bright."""
    gym.register("worldsim-test/Any-v0", entry_point=Shows)
    try:
        return make("worldsim-test/Any-v0", size=64, array=array, space=space, **settings).reset(seed=0)[0]
    finally:
        gym.registry.pop("worldsim-test/Any-v0")


def halves(dark, bright, dtype, shape=(64, 64, 3)):
    array = np.full(shape, dark, dtype)
    array[:, 32:] = bright
    return array


def box(low, high, array):
    return gym.spaces.Box(low, high, array.shape, array.dtype)


@pytest.mark.parametrize(
    ("array", "bounds", "dark", "bright"),
    [
        (halves(0.2, 1.0, np.float32), (0, 1), 51, 255),
        (halves(-1.0, 0.2, np.float32), (-1, 1), 0, 153),
        (halves(10, 200, np.float64), (0, 255), 10, 200),
        (halves(0, 32768, np.uint16), (0, 65535), 0, 128),
        (halves(3, 200, np.int64), (0, 255), 3, 200),
        (halves(0, 1, np.uint8), (0, 1), 0, 255),
        (halves(0.2, 1.0, np.float32), (-np.inf, np.inf), 51, 255),  # here the values tell
        (halves(-0.6, 0.2, np.float32), (-np.inf, np.inf), 51, 153),
        (halves(10, 200, np.float32), (-np.inf, np.inf), 10, 200),
        (halves(0.2, 1.0, np.float32, (64, 64)), (0, 1), 51, 255),
        (halves(20, 200, np.uint8, (64, 64, 1)), (0, 255), 20, 200),
    ],
)
def test_values_of_observations_are_read_as_their_space_or_they_themselves_say(array, bounds, dark, bright):
    frame = seen(array, box(*bounds, array))
    assert frame.shape == (64, 64, 3) and (frame[:, :32] == dark).all() and (frame[:, 32:] == bright).all()


def test_colours_that_come_first_are_read_as_colours():
    array = np.zeros((3, 64, 64), np.uint8)
    array[0], array[2, :, 32:] = 200, 90
    frame = seen(array, box(0, 255, array))
    assert (frame[:, :32] == [200, 0, 0]).all() and (frame[:, 32:] == [200, 0, 90]).all()


@pytest.mark.parametrize(
    ("array", "dark", "bright"),
    [
        (halves(0.2, 1.0, np.float32), 51, 255),
        (halves(-1.0, 0.2, np.float64), 0, 153),
        (halves(0, 65535, np.uint16), 0, 255),
        (halves(False, True, bool), 0, 255),
        (halves(7, 70, np.uint8, (64, 64, 4)), 7, 70),  # the fourth is opacity
    ],
)
def test_values_of_what_is_rendered_tell_for_themselves(array, dark, bright):
    frame = seen(array)
    assert (frame[:, :32] == dark).all() and (frame[:, 32:] == bright).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (halves(0.0, 1.0, np.float32), "cannot tell black from white"),  # or the darkest of 0 to 255
        (halves(0, 200, np.uint16), "cannot tell black from white"),  # of 255, or of 65535?
        (halves(0.0, np.nan, np.float32), "cannot tell black from white"),
        (halves(0.1, 0.9, np.float32, (4, 64, 64)), r"found float32 of shape \[4, 64, 64\]"),
    ],
)
def test_pictures_that_could_mean_two_things_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        seen(array)


def test_a_range_that_is_given_is_taken_and_values_beyond_it_are_refused():
    frame = seen(halves(0.0, 1.0, np.float32), range=[0, 2])
    assert (frame[:, :32] == 0).all() and (frame[:, 32:] == 128).all()
    with pytest.raises(ValueError, match=r"values from 0 to 0.5, found 0 to 1; give game.range"):
        seen(halves(0.0, 1.0, np.float32), range=[0, 0.5])
    with pytest.raises(ValueError, match="two rising numbers, found 3"):
        seen(halves(0.0, 1.0, np.float32), range=3)


def test_a_stack_of_grey_frames_is_rendered_instead_or_refused():
    stack = np.zeros((4, 84, 84), np.uint8)
    with pytest.raises(ValueError, match=r"found uint8 of shape \[4, 84, 84\]"):
        seen(stack, box(0, 255, stack))  # rendered, as it is no picture; and what this game renders is no picture


MINE = """
import gymnasium as gym, numpy as np

class Mine(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8), gym.spaces.Discrete(2)
    def __init__(self, bright=200, breaks_at=None):
        self.bright, self.breaks_at, self.steps = bright, breaks_at, 0
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((40, 40, 3), self.bright, np.uint8), {}
    def step(self, action):
        self.steps += 1
        if self.steps == self.breaks_at:
            raise RuntimeError("the disc is\\nscratched")
        return np.full((40, 40, 3), (self.bright + self.steps) % 256, np.uint8), 0.0, self.steps % 6 == 0, False, {}

nothing = lambda: 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_own_games.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_class_that_was_never_registered_is_recorded_under_its_name(tmp_path, mine):
    assert (make("my_own_games:Mine", size=16, bright=77).reset(seed=0)[0] == 77).all()
    words = ["record", "game=gym", "game.id=my_own_games:Mine", "policy=random", f"out={tmp_path / 'data'}"]
    assert main([*words, "frames=20"]) == 0 == main([*words, "frames=40"])
    store = EpisodeStore(tmp_path / "data")
    assert store.info.game == "my_own_games:Mine" and store.num_frames >= 40
    assert store.info.env_spec["entry_point"] == "my_own_games:Mine"


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("no_such_games:Mine", "there is no no_such_games here"),
        ("my_own_games:Yours", "found 'my_own_games:Yours'; module:Id-v0 imports"),
        ("my_own_games:nothing", "to make a gymnasium.Env, found int"),
    ],
)
def test_what_makes_no_game_is_named_in_one_sentence(mine, id, message):
    with pytest.raises(ValueError, match=message):
        make(id)


def test_a_game_that_fails_keeps_what_was_seen_and_says_where_its_traceback_is(tmp_path, mine, capsys):
    words = ["record", "game=gym", "game.id=my_own_games:Mine", "policy=random", f"out={tmp_path / 'data'}"]
    assert main([*words, "frames=100", "+game.breaks_at=10"]) == 1
    said, log = capsys.readouterr().err.strip().splitlines()[-1], tmp_path / "data.error.log"
    assert "the game raised RuntimeError: the disc is scratched; 11 frames are kept in" in said and str(log) in said
    assert "in step" in log.read_text() and "scratched" in log.read_text()
    store = EpisodeStore(tmp_path / "data")
    assert [(r.total_steps, r.terminated, r.truncated) for r in store.records] == [(6, True, False), (3, False, True)]
    assert main([*words, "frames=100", "+game.breaks_at=10"]) == 1  # goes on, to the same place
    assert EpisodeStore(tmp_path / "data").num_frames == 2 * 11
