"""Fine detail: its energy is that of the Haar transform, and blur and noise show in the ratio."""

import numpy as np
import pytest
import torch
from tiny_world import record, tiny_world

from worldsim.evaluation.detail import haar_energy
from worldsim.evaluation.fidelity import fidelity
from worldsim.evaluation.subject import Dream


def test_a_checkerboard_is_all_detail_and_flat_blocks_have_none():
    y, x = np.mgrid[:8, :8]
    board = np.repeat((100 * ((x + y) % 2))[None, ..., None], 3, axis=3).astype(np.uint8)
    blocks = np.repeat((100 * ((x // 2 + y // 2) % 2))[None, ..., None], 3, axis=3).astype(np.uint8)
    assert haar_energy(np.concatenate((board, blocks))).tolist() == [2500, 0]


def test_the_energy_is_that_of_the_three_orthonormal_subbands():
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 10, 3)).astype(np.uint8)
    p, q, r, s = (frames[:, i::2, j::2].astype(float) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    bands = [(p - q + r - s) / 2, (p + q - r - s) / 2, (p - q - r + s) / 2]
    expected = sum(np.square(band).sum((1, 2, 3)) for band in bands) / (16 * 10 * 3)
    assert haar_energy(frames) == pytest.approx(expected, rel=1e-12)


def test_averaging_neighbours_loses_three_quarters_or_more_of_the_detail_of_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 20, (8, 64, 64, 3))
    blurred = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))) / 4
    assert haar_energy(noise).mean() == pytest.approx(400 * 3 / 4, rel=0.02)
    # Each mean of 4 keeps a quarter of the variance; within a block of those, correlations leave 7/16 of it as detail.
    assert (haar_energy(blurred) / haar_energy(noise)).mean() == pytest.approx(1 / 4 * 7 / 16 / (3 / 4), rel=0.05)


def test_a_worlds_detail_is_reported_for_every_horizon(tmp_path, monkeypatch):
    store, world = record(tmp_path / "data", episodes=2, steps=40), tiny_world()
    stripes = np.broadcast_to((np.arange(16) % 2)[None, :, None], (16, 16, 3))
    monkeypatch.setattr(store, "observations", lambda index, start=0, stop=None: real[start:stop])
    real = np.tile((100 + 20 * stripes).astype(np.uint8), (41, 1, 1, 1))
    dream = lambda state: torch.from_numpy(np.tile((100 + 10 * stripes).astype(np.uint8), (len(state.latent), 1, 1, 1)))  # noqa: E731
    monkeypatch.setattr(world, "observe", dream)
    metrics = fidelity(Dream(world), store, [0, 1], starts=2)
    for figure in (metrics["one_step"], *metrics["open_loop"].values()):
        assert figure["detail"] == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_a_comparison_counts_pixels_and_lost_things(tmp_path):
    store = record(tmp_path / "data", episodes=1, steps=40)
    answers = iter([1.0, -2.0, 3.0, None] * 6)
    compare = lambda real, dreamed: {"wall": next(answers)}  # noqa: E731
    found = fidelity(Dream(tiny_world()), store, [0], starts=4, compare=compare)["positions"]["wall/16"]
    assert found == {"within_1px": 0.25, "within_2px": 0.5, "median_px": 2.5}
