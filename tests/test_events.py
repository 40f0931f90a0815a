"""Predicting an episode's end: average precision has its known values, and the dream's probability is used right."""

import numpy as np
import pytest
from tiny_world import record, tiny_world

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation import events
from worldsim.evaluation.events import WITHIN
from worldsim.evaluation.statistics import average_precision
from worldsim.evaluation.subject import Dream, Step


def brute_force(scores: np.ndarray, labels: np.ndarray) -> float:
    """The sum over thresholds of precision times the recall gained."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        now = labels[chosen].sum() / labels.sum()
        total, recall = total + (now - recall) * labels[chosen].mean(), now
    return total


def test_average_precision_of_known_orders():
    labels = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 2, 3, 1]), labels) == 1
    assert average_precision(np.array([4.0, 3, 2, 1]), labels) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([1.0, 3, 2, 4]), labels) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(np.zeros(4), labels) == 0.5  # knows nothing: the base rate
    assert np.isnan(average_precision(np.zeros(3), np.zeros(3, bool)))


def test_average_precision_agrees_with_all_thresholds_one_by_one_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 6, 30) / 6, rng.random(30) < 0.3
        labels[0] = True
        assert average_precision(scores, labels) == pytest.approx(brute_force(scores, labels))


class Foreteller:
    """A subject that says, by the real position it stands for, how likely each of its steps ends and what it brings."""

    window = 3

    def __init__(self, ends_at=lambda position: 0.0, brings=lambda position: 0.0):
        self.ends_at, self.brings, self.seen = ends_at, brings, []

    def reset(self, starts, seed=0):
        self.positions = np.array([start.position for start in starts])

    def step(self, actions, look=True):
        self.seen.append(actions)
        at, self.positions = self.positions, self.positions + 1
        return Step(None, np.array([self.brings(p) for p in at]), np.array([self.ends_at(p) for p in at]))


def ends(subject, store, episodes):
    return events.termination(events.foresee(subject, store, episodes, starts=100))


def test_a_dream_that_knows_the_last_step_is_perfect_and_one_that_knows_nothing_gets_the_base_rate(tmp_path):
    store = record(tmp_path / "data", episodes=3, steps=30)  # the first and the third terminate
    found = ends(Foreteller(lambda position: 0.9 if position == 30 else 0.0), store, [0, 2])
    assert found["average_precision"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["starts"] == 2 * 28 and found["ends"] == 2 * WITHIN  # first dreamed positions 3 to 30; 23 to 30 end
    assert found["base_rate"] == pytest.approx(16 / 56, abs=1e-4)
    assert found["brier_skill"]["mean"] == pytest.approx(1 - 16 / 56 * 0.1**2 / (16 / 56 * 40 / 56), abs=1e-4)
    assert found["calibration"] == [[0.0, 0.0, 40], [0.9, 1.0, 16]]
    found = ends(Foreteller(lambda position: 0.1), store, [0, 2])
    assert found["average_precision"]["mean"] == pytest.approx(found["base_rate"], abs=1e-3)
    assert found["brier_skill"]["mean"] < 0  # 0.57 within 8 steps, twice the base rate


def test_a_truncated_episode_is_only_measured_where_its_future_is_known(tmp_path):
    store, subject = record(tmp_path / "data", episodes=3, steps=30), Foreteller(lambda position: 0.5)
    assert ends(subject, store, [1]) is None
    assert ends(subject, store, [0, 1])["starts"] == 28 + 28 - (WITHIN - 1)


def test_behind_the_end_the_last_action_is_held(tmp_path):
    store, subject = record(tmp_path / "data", episodes=1, steps=30), Foreteller()
    events.foresee(subject, store, [0], starts=100)
    assert len(subject.seen) == WITHIN
    for step, actions in enumerate(subject.seen):
        assert np.array_equal(actions[0], store.actions(0)[2 + step])  # action 2 leads to frame 3
        assert np.array_equal(actions[-1], store.actions(0)[29])


def test_rewards_that_are_known_explain_all_and_their_mean_explains_nothing(tmp_path):
    store = record(tmp_path / "data", episodes=3, steps=40)  # the reward that led to frame p is p
    wise = Foreteller(brings=lambda position: position if position <= 40 else 0)
    skill = events.reward(events.foresee(wise, store, [1], starts=16))
    assert skill["skill"]["mean"] == skill["correlation"]["mean"] == 1
    dull = events.reward(events.foresee(Foreteller(brings=lambda position: 2.0), store, [1], starts=16))
    assert dull["skill"]["mean"] < 0.01 and dull["correlation"] is None


def test_the_real_network_gives_a_probability(tmp_path):
    store = record(tmp_path / "data", episodes=1, steps=20)
    found = ends(Dream(tiny_world()), store, [0])
    assert found["starts"] == 18 and 0 < found["average_precision"]["mean"] <= 1


def test_episodes_too_short_to_begin_in_are_left_out(tmp_path):
    record(tmp_path / "long", episodes=1, steps=30)
    info = record(tmp_path / "short", episodes=2, steps=6, seed=9).info  # the second is cut: 3 of 6 steps are known
    store = EpisodeStore(tmp_path / "long", tmp_path / "short")
    assert info.has_rewards and not store.records[2].terminated
    foreseen = events.foresee(Foreteller(lambda position: 0.1), store, [0, 2], starts=100)
    assert len(foreseen) == 1
    assert events.termination(foreseen)["ends"] == WITHIN and events.reward(foreseen)["skill"] is not None
    assert events.termination([]) is events.reward([]) is None
