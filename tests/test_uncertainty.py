"""What eval says of a world's uncertainty, where the answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_world import record, tiny_world

from worldsim.evaluation.statistics import rank_correlation
from worldsim.evaluation.uncertainty import uncertainty


def test_rank_correlation_is_spearmans():
    pairs = np.random.default_rng(0).normal(size=(50, 2)) @ [[1, 0.6], [0, 1]]
    assert rank_correlation(pairs) == pytest.approx(spearmanr(*pairs.T).statistic)
    tied = np.round(pairs)
    assert rank_correlation(tied) == pytest.approx(spearmanr(*tied.T).statistic)
    assert np.isnan(rank_correlation(pairs[:2]))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_world_that_knows_its_error_correlates_fully(tmp_path, monkeypatch, sign):
    store, world = record(tmp_path / "data", episodes=3, steps=20), tiny_world()

    def knows(before, action, after):
        index, step = after.address[:, 1].tolist(), after.address[:, 0].tolist()
        goal = np.stack([store.observations(i)[s] for i, s in zip(index, step, strict=True)]).astype(np.float32)
        error = np.square(world.observe(after).numpy() - goal).mean((1, 2, 3))
        return torch.from_numpy(sign * error)

    monkeypatch.setattr(world, "uncertainty", knows)
    assert uncertainty(world, store, [0, 1, 2], starts=6) == {"mean": sign, "low": sign, "high": sign}


def test_uncertainty_itself_is_measured_within_its_interval(tmp_path):
    store = record(tmp_path / "data", episodes=3, steps=20)
    figure = uncertainty(tiny_world(), store, [0, 1, 2], starts=6)
    assert -1 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1 and figure["low"] < figure["high"]
