"""The recorder: whichever way an environment resets its rows, episodes are whole and hold nothing else."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim.actions import unpack
from worldsim.data.episodes import EpisodeStore, EpisodeWriter
from worldsim.data.policies import (
    EndOfRecording,
    FunctionPolicy,
    HeldPolicy,
    MixedPolicy,
    RandomPolicy,
    StickyPolicy,
    find_policy,
)
from worldsim.data.recorder import Recorder, dataset_info
from worldsim.envs.arena import Arena
from worldsim.messages import GameError

MODES = list(AutoresetMode)


class Counter(gym.Env):
    """Writes its seed, the episode's number, the step and the last action into the pixels.

    Row i's episodes last 3 + (i + number) % 4 steps; even ones end terminated, odd ones truncated.
    """

    metadata = {"render_modes": [], "render_fps": 12, "discrete_table": [[0], [2]]}  # noqa: RUF012 (Gymnasium's way)
    observation_space = gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gym.spaces.Discrete(5)

    def __init__(self, row: int = 0, length: int | None = None):
        self.row, self.length, self.number, self.seed = row, length, -1, 255

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = 255 if seed is None else seed
        self.number, self.step_index, self.action = self.number + 1, 0, 9
        return self.frame(), {}

    def step(self, action):
        self.step_index, self.action = self.step_index + 1, int(action)
        ended = self.step_index >= (self.length or 3 + (self.row + self.number) % 4)
        even = self.number % 2 == 0
        return self.frame(), float(self.step_index), ended and even, ended and not even, {}

    def frame(self) -> np.ndarray:
        frame = np.zeros((2, 2, 3), np.uint8)
        frame[0, 0] = self.row, self.number, self.step_index
        frame[0, 1] = self.action, self.seed, 0
        return frame


def cycle(observations, started):
    """A policy whose action says what it saw: the step in the pixels, modulo 5."""
    return (observations[:, 0, 0, 2] % 5).astype(float)[:, None]


def record(env, folder, frames, policy=cycle, **settings) -> EpisodeStore:
    with EpisodeWriter(folder, dataset_info(env)) as writer:
        Recorder(env, policy, writer, policy_name="cycle", **settings).record(frames)
    return EpisodeStore(folder)


def counters(num_envs, mode, length=None) -> SyncVectorEnv:
    return SyncVectorEnv([lambda i=i: Counter(i, length) for i in range(num_envs)], autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_whole_and_end_with_their_true_last_frame(mode, tmp_path):
    store = record(counters(3, mode), tmp_path / "data", 200)
    unfinished = 0
    for index, entry in enumerate(store.records):
        frames = store.observations(index)
        row, number = frames[0, 0, 0, 0], frames[0, 0, 0, 1]
        assert (frames[:, 0, 0, 0] == row).all() and (frames[:, 0, 0, 1] == number).all()
        assert (frames[:, 0, 0, 2] == np.arange(entry.total_steps + 1)).all()  # from the reset to the last step
        whole = 3 + (int(row) + int(number)) % 4
        if entry.total_steps < whole:
            unfinished += 1
            assert entry.truncated and not entry.terminated
        else:
            assert entry.total_steps == whole
            assert (entry.terminated, entry.truncated) == (number % 2 == 0, number % 2 == 1)
    assert unfinished <= 3


@pytest.mark.parametrize("mode", MODES)
def test_each_action_and_reward_stands_before_the_frame_it_led_to(mode, tmp_path):
    store = record(counters(3, mode), tmp_path / "data", 100)
    for index, entry in enumerate(store.records):
        frames, actions = store.observations(index), store.actions(index)
        assert (frames[1:, 0, 1, 0] == actions[:, 0]).all()
        assert (actions[:, 0] == frames[:-1, 0, 0, 2] % 5).all()
        assert (store.rewards(index) == np.arange(1, entry.total_steps + 1)).all()


@pytest.mark.parametrize("mode", MODES)
def test_all_modes_record_the_same_number_of_episodes_of_every_row(mode, tmp_path):
    store = record(counters(3, mode), tmp_path / "data", 200)
    first = [store.observations(i, 0, 1)[0, 0, 0] for i in range(len(store))]
    for row in range(3):
        numbers = sorted(int(pixel[1]) for pixel in first if pixel[0] == row)
        assert numbers == list(range(len(numbers))) and len(numbers) >= 8  # none is missing, none twice


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_hears_of_every_episode_start_once(mode, tmp_path):
    heard = []

    def policy(observations, started):
        heard.extend(observations[started, 0, 0].tolist())
        return cycle(observations, started)

    record(counters(2, mode), tmp_path / "data", 100, policy)
    assert all(step == 0 for _, _, step in heard)
    assert len({(row, number) for row, number, _ in heard}) == len(heard) >= 18


def test_recording_holds_at_least_the_frames_asked_for_and_few_more(tmp_path):
    for frames in (1, 2, 17, 100):
        store = record(counters(4, AutoresetMode.DISABLED), tmp_path / str(frames), frames)
        assert frames <= store.num_frames <= frames + 2 * 4


@pytest.mark.parametrize("mode", MODES)
def test_long_episodes_are_cut_as_truncated(mode, tmp_path):
    store = record(counters(2, mode, length=100), tmp_path / "data", 60, max_episode_steps=8)
    assert max(entry.total_steps for entry in store.records) == 8
    cut = [(i, entry) for i, entry in enumerate(store.records) if entry.total_steps == 8]
    assert len(cut) >= 4 and all(entry.truncated and not entry.terminated for _, entry in cut)
    starts = {int(store.observations(i, 0, 1)[0, 0, 0, 2]) for i, _ in cut}
    # Where we may reset, a new game begins; where only the environment may, its game goes on from the same frame.
    assert starts == {0} if mode is AutoresetMode.DISABLED else {0, 8} <= starts


def test_each_episode_has_a_seed_of_its_own_and_continuing_uses_new_ones(tmp_path):
    for frames in (60, 120):
        store = record(counters(3, AutoresetMode.DISABLED), tmp_path / "data", frames, seed=10)
        seeds = [entry.seed for entry in store.records]
        assert min(seeds) == 10 and len(set(seeds)) == len(seeds) and store.num_frames >= frames
        assert all(store.observations(i, 0, 1)[0, 0, 1, 1] == seed for i, seed in enumerate(seeds))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_only_the_first_episodes_of_an_environment_that_resets_itself_have_seeds(mode, tmp_path):
    store = record(counters(2, mode), tmp_path / "data", 60, seed=10)
    seeds = sorted(entry.seed for entry in store.records if entry.seed is not None)
    assert seeds == [10, 11]


def test_continuing_a_finished_recording_changes_nothing(tmp_path):
    one = record(Counter(), tmp_path / "data", 30)
    two = record(Counter(), tmp_path / "data", 30)
    assert one.records == two.records


def test_a_single_environment_is_recorded_like_a_vector_of_one(tmp_path):
    one = record(Counter(), tmp_path / "one", 50)
    vector = record(counters(1, AutoresetMode.DISABLED), tmp_path / "vector", 50)
    assert [entry.hash for entry in one.records] == [entry.hash for entry in vector.records]


def test_who_acts_may_end_the_recording_and_keeps_what_was_played(tmp_path):
    calls = iter(range(7))

    def tired(observations, started):
        if next(calls, None) is None:
            raise EndOfRecording
        return cycle(observations, started)

    store = record(Counter(length=5), tmp_path / "data", 1000, tired)
    assert [entry.total_steps for entry in store.records] == [5, 2]
    assert store.records[1].truncated


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_was_played_is_kept_when_the_policy_fails_or_is_interrupted(error, tmp_path):
    steps = []

    def failing(observations, started):
        if len(steps) == 7:
            raise error
        steps.append(1)
        return cycle(observations, started)

    with pytest.raises(error):
        record(counters(2, AutoresetMode.DISABLED, length=20), tmp_path, 100, failing)
    store = EpisodeStore(tmp_path)
    assert [r.total_steps for r in store.records] == [7, 7] and all(r.truncated for r in store.records)
    assert [store.observations(i)[-1, 0, 0, 2] for i in range(2)] == [7, 7]


def test_a_reward_that_is_none_fails_the_game_and_keeps_what_came_before(tmp_path):
    env = counters(2, AutoresetMode.DISABLED, length=20)
    step = env.step

    def unpaid(actions):
        observations, rewards, *others = step(actions)
        return observations, np.where(rewards == 5, np.nan, rewards), *others

    env.step = unpaid
    with pytest.raises(GameError, match="expected finite rewards, found"):
        record(env, tmp_path / "data", 100)
    assert [r.total_steps for r in EpisodeStore(tmp_path / "data").records] == [4, 4]


def test_an_action_out_of_space_is_refused(tmp_path):
    policy = FunctionPolicy(lambda observation, rng, space: 7, Counter.action_space, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"expected an action in Discrete\(5\), found 7"):
        record(Counter(), tmp_path / "data", 10, policy)


def test_facts_of_the_game_come_from_its_metadata():
    info = dataset_info(counters(2, AutoresetMode.SAME_STEP))
    assert info.fps == 12 and (info.discrete_table == [[0], [2]]).all() and info.observation_shape == (2, 2, 3)
    assert info.game == "Counter" and info.keymap["bindings"][0] == {"keys": ["1"], "set": {"0": 1.0}}
    arena = dataset_info(Arena())
    assert arena.game == "worldsim-real/Arena-v0" and arena.keymap == Arena.metadata["keymap"]
    assert arena.env_spec["kwargs"] == {"max_episode_steps": 500} and arena.discrete_table.shape == (9, 4)


def test_observations_that_are_no_pictures_are_refused():
    with pytest.raises(ValueError, match=r"expected uint8 observations \[H W 3\]"):
        dataset_info(gym.make("CartPole-v1"))


SPACES = [
    gym.spaces.Discrete(4, start=2),
    gym.spaces.MultiDiscrete([3, 2]),
    gym.spaces.MultiBinary(3),
    gym.spaces.Box(-1, 1, (2,)),
    gym.spaces.Dict({"keys": gym.spaces.MultiBinary(4), "mouse": gym.spaces.Box(-9, 9, (2,))}),
    gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(0, 1, (1,)))),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_actions_of_every_kind_of_space_reach_the_game_as_recorded(space, tmp_path):
    received = []

    class Listener(Counter):
        action_space = space

        def step(self, action):
            assert space.contains(action)
            received.append(gym.spaces.flatten(space, action))
            return super().step(0)

    policy = RandomPolicy(space, np.random.default_rng(0))
    store = record(Listener(), tmp_path / "data", 20, policy)
    rows = np.concatenate([store.actions(i) for i in range(len(store))])
    assert len(rows) == len(received)
    for row, native in zip(rows, received, strict=True):
        assert (gym.spaces.flatten(space, unpack(space, row)) == native).all()


def test_sticky_holds_an_action_from_1_to_128_steps_as_often_for_a_few_as_for_many():
    policy = StickyPolicy(gym.spaces.Box(-1, 1, (1,)), np.random.default_rng(0))
    frames, started = np.zeros((40, 2, 2, 3), np.uint8), np.array([True] * 40)
    actions = np.stack([policy(frames, started & (step == 0)) for step in range(2000)])[..., 0]
    holds = np.concatenate([np.diff(np.flatnonzero(np.diff(row))) for row in actions.T])
    assert holds.min() == 1 and 120 < holds.max() <= 128
    short, middle, long = ((holds >= low) & (holds < high) for low, high in ((2, 4), (8, 16), (32, 64)))
    assert all(abs(part.mean() - 1 / 7) < 0.04 for part in (short, middle, long))  # an octave of seven each
    assert (actions[:, 0] != actions[:, 1]).mean() > 0.9


def test_held_keeps_one_action_for_an_episode():
    policy = HeldPolicy(gym.spaces.Box(-1, 1, (1,)), np.random.default_rng(0))
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    first = policy(frames, np.array([True, True]))
    assert (policy(frames, np.array([False, False])) == first).all() and first[0] != first[1]
    later = policy(frames, np.array([True, False]))
    assert later[0] != first[0] and later[1] == first[1]


def test_in_a_mix_one_acts_all_along_or_all_take_turns():
    def one(observation, rng, space):
        return 1

    def two(observation, rng, space):
        return 2

    space, rng = gym.spaces.Discrete(3), np.random.default_rng(0)
    policy = MixedPolicy([FunctionPolicy(function, space, rng) for function in (one, two)], rng)
    frames, drawn = np.zeros((1, 2, 2, 3), np.uint8), []
    for _ in range(200):
        drawn.append([policy(frames, np.array([step == 0])).item() for step in range(128)])
    alone = [steps[0] for steps in drawn if len(set(steps)) == 1]
    assert 80 < len(alone) < 150 and 30 < alone.count(1) < 75
    turns = np.array([steps for steps in drawn if len(set(steps)) > 1])
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(steps))) for steps in turns])
    assert 0.4 < (turns == 1).mean() < 0.6 and (lengths <= 2).mean() > 0.1 and (lengths > 32).mean() > 0.1


def test_sticky_draws_anew_when_an_episode_starts():
    policy = StickyPolicy(gym.spaces.Box(-1, 1, (1,)), np.random.default_rng(0))
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    for _ in range(50):
        before = policy(frames, np.array([False, False]))
        assert policy(frames, np.array([True, False]))[0] != before[0]


@pytest.mark.parametrize("name", ["random", "sticky", "held", "mix"])
def test_one_seed_twice_gives_the_same_actions_and_leaves_the_games_space_alone(name):
    space = gym.spaces.MultiBinary(4)
    space.seed(5)
    expected = gym.spaces.MultiBinary(4, seed=5).sample()
    frames, started = np.zeros((4, 2, 2, 3), np.uint8), np.ones(4, bool)
    runs = []
    for seed in (1, 1, 2):
        policy = find_policy(name)(space, np.random.default_rng(seed))
        runs.append(np.stack([policy(frames, started) for _ in range(10)]))
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()
    assert (space.sample() == expected).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "stick",
            "unknown policy 'stick'; expected one of random, sticky, held, wander, mix, human, an agent's folder, "
            "module:function, or several of them as a+b",
        ),
        ("no_such_module:act", "No module named 'no_such_module'"),
        ("math:no_such_function", "no attribute 'no_such_function'"),
        ("math:pi", "expected policy=math:pi to be a function, found float"),
    ],
)
def test_an_unknown_policy_is_named_in_one_sentence(name, message):
    with pytest.raises(ValueError) as error:
        find_policy(name)
    assert message in str(error.value) and "\n" not in str(error.value)
