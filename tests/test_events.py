"""Predicting an episode's end: average precision has its known values, and the dream's probability is used right."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_world import record, tiny_world

from worldsim.evaluation.events import WITHIN, average_precision, termination


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


def foretell(monkeypatch, world, ends_at):
    """Lets the dream say how likely each of its steps ends, by the real position it stands for."""

    def foresee(state, action):
        seen.append(action.clone())
        position = state["first"] + state["step"]
        outcome = SimpleNamespace(end_probability=torch.tensor([ends_at(int(p)) for p in position]))
        return {"first": state["first"], "step": state["step"] + 1}, outcome

    seen = []
    begin = lambda prompt, address: {"first": address[:, 0].numpy(), "step": 0}  # noqa: E731 (row seed: the position)
    monkeypatch.setattr(world, "initial", begin)
    monkeypatch.setattr(world, "foresee", foresee)
    return seen


def test_a_dream_that_knows_the_last_step_is_perfect_and_one_that_knows_nothing_gets_the_base_rate(
    tmp_path, monkeypatch
):
    store, world = record(tmp_path / "data", episodes=3, steps=30), tiny_world()  # the first and the third terminate
    foretell(monkeypatch, world, lambda position: 0.9 if position == 30 else 0.0)
    found = termination(world, store, [0, 2], starts=100)
    assert found["average_precision"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["starts"] == 2 * 28 and found["ends"] == 2 * WITHIN  # first dreamed positions 3 to 30; 23 to 30 end
    assert found["base_rate"] == pytest.approx(16 / 56, abs=1e-4)
    foretell(monkeypatch, world, lambda position: 0.1)
    found = termination(world, store, [0, 2], starts=100)
    assert found["average_precision"]["mean"] == pytest.approx(found["base_rate"], abs=1e-3)


def test_a_truncated_episode_is_only_measured_where_its_future_is_known(tmp_path, monkeypatch):
    store, world = record(tmp_path / "data", episodes=3, steps=30), tiny_world()
    foretell(monkeypatch, world, lambda position: 0.5)
    assert termination(world, store, [1], starts=100) is None
    assert termination(world, store, [0, 1], starts=100)["starts"] == 28 + 28 - (WITHIN - 1)


def test_behind_the_end_the_last_action_is_held(tmp_path, monkeypatch):
    store, world = record(tmp_path / "data", episodes=1, steps=30), tiny_world()
    seen = foretell(monkeypatch, world, lambda position: 0.5)
    termination(world, store, [0], starts=100)
    actions = world.action_codec.encode(np.array(store.actions(0)))
    assert len(seen) == WITHIN
    for step, action in enumerate(seen):
        assert torch.equal(action[0], actions[2 + step])  # action 2 leads to frame 3
        assert torch.equal(action[-1], actions[29])


def test_the_real_network_gives_a_probability(tmp_path):
    store = record(tmp_path / "data", episodes=1, steps=20)
    found = termination(tiny_world(), store, [0], starts=4)
    assert found["starts"] == 4 and 0 < found["average_precision"]["mean"] <= 1
