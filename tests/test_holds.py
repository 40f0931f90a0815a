"""How long recorded actions are held, counted and said."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.data import holds
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter

INFO = DatasetInfo("test", (4, 4, 3), spaces.Discrete(3), 15.0, None, None, None)


def write(folder, *episodes, info=INFO):
    with EpisodeWriter(folder, info) as writer:
        for number, taken in enumerate(episodes):
            frames = np.full((len(taken) + 1, 4, 4, 3), number, np.uint8)
            actions = np.array(taken, np.float64).reshape(len(taken), -1)
            writer.append(Episode(frames, actions, np.zeros(len(taken), np.float32), True, False, number, "test"))
    return EpisodeStore(folder)


def test_each_action_s_runs_are_counted_and_end_with_the_episode(tmp_path):
    store = write(tmp_path / "data", [0, 0, 0, 2, 0], [0, 0, 2, 2])
    actions, lengths = holds.holds(store)
    assert actions.tolist() == [[0], [2]] and [sorted(x) for x in lengths] == [[1, 2, 3], [1, 2]]
    assert [holds.longest(holds.holds(store), np.array([a])) for a in (0, 1, 2)] == [3, 0, 2]
    assert holds.in_words(store) == "actions held, median and most steps: 0: 2, 3; 2: 2, 2"


def test_many_actions_are_told_together_and_none_not_at_all(tmp_path):
    store = write(tmp_path / "data", np.arange(20) / 7, info=replace(INFO, action_space=spaces.Box(-9, 9, (1,))))
    assert holds.in_words(store) == "actions held, median and most steps: 1, 1"
    silent = replace(INFO, action_space=None, has_rewards=False)
    with EpisodeWriter(tmp_path / "silent", silent) as writer:
        writer.append(Episode(np.zeros((3, 4, 4, 3), np.uint8), None, None, True, False, 0, "test"))
    assert holds.in_words(EpisodeStore(tmp_path / "silent")) is None


@pytest.mark.parametrize("length", [1, 6])
def test_one_action_for_a_whole_episode_is_one_hold(tmp_path, length):
    assert holds.longest(holds.holds(write(tmp_path / "data", [1] * length)), np.array([1.0])) == length
