"""Measuring: known errors give known decibels, and a world never sees the frames it is asked for."""

import numpy as np
import pytest
import torch
from tiny_world import record, tiny_world

from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.evaluation.fidelity import decibels, fidelity
from worldsim.evaluation.peer import Peer
from worldsim.evaluation.sheet import contact_sheet
from worldsim.evaluation.speed import benchmark, flatness
from worldsim.evaluation.subject import Dream


def test_psnr_is_of_each_episodes_mean_error_and_then_averaged():
    figure = decibels([[0.01, 0.03], [0.0002]])
    expected = (-10 * np.log10(0.02) - 10 * np.log10(0.0002)) / 2
    assert figure["mean"] == pytest.approx(expected, abs=1e-3) and figure["low"] <= figure["mean"] <= figure["high"]
    assert decibels([[0.01]] * 3) == {"mean": 20.0, "low": 20.0, "high": 20.0}


def test_copy_last_and_mean_frame_have_their_analytic_scores(tmp_path):
    store = record(tmp_path / "data", episodes=1, steps=40)  # green rises by 1 a step, blue jumps with the action
    metrics = fidelity(Dream(tiny_world()), store, [0], starts=4)
    frames = np.asarray(store.observations(0)).astype(float) / 255
    starts = np.unique(np.linspace(3, 40 - 32 + 1, 4).astype(int))
    for horizon in (1, 8, 32):
        error = np.mean([(frames[p + horizon - 1] - frames[p - 1]) ** 2 for p in starts])
        assert metrics["copy_last"][str(horizon)]["psnr"]["mean"] == pytest.approx(-10 * np.log10(error), abs=1e-2)
    spread = np.mean((frames - frames.mean(0)) ** 2)
    assert metrics["dataset_mean"]["psnr"]["mean"] == pytest.approx(-10 * np.log10(spread), abs=1e-2)


def altered(store: EpisodeStore, folder, first: int) -> EpisodeStore:
    """Copies a store's first episode with other frames from position `first` on."""
    frames = np.array(store.observations(0))
    frames[first:] = 255 - frames[first:]
    with EpisodeWriter(folder, store.info) as writer:
        writer.append(Episode(frames, np.array(store.actions(0)), np.array(store.rewards(0)), False, True, 0, "x"))
    return EpisodeStore(folder)


def test_a_dream_does_not_depend_on_the_frames_it_is_compared_with(tmp_path, monkeypatch):
    store = record(tmp_path / "data", episodes=1, steps=36)
    world, shown = tiny_world(), []
    observe = world.observe
    monkeypatch.setattr(world, "observe", lambda state: shown.append(observe(state)) or shown[-1])
    fidelity(Dream(world), store, [0], starts=1)
    real = [x.clone() for x in shown]
    shown.clear()
    fidelity(Dream(world), altered(store, tmp_path / "altered", 3), [0], starts=1)  # the prompt is frames 0 .. 2
    assert len(real) == 6 and all(torch.equal(a, b) for a, b in zip(real, shown, strict=True))


def test_a_probe_counts_things_within_a_pixel_and_lost_ones(tmp_path):
    store = record(tmp_path / "data", episodes=1, steps=40)
    probe = lambda frame: {"dot": (int(frame[0, 0, 1]), 0) if frame[0, 0, 0] == 10 else None}  # noqa: E731
    positions = fidelity(Dream(tiny_world()), store, [0], starts=4, probe=probe)["positions"]
    assert positions["dot/16"] == {"within_1px": 0.0, "within_2px": 0.0, "median_px": None}


def test_a_contact_sheet_lays_frames_out_row_by_row():
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(frames, columns=2, scale=2, gap=1)
    assert sheet.shape == (9, 13, 3)
    assert sheet[0, 0, 0] == 10 and sheet[0, 7, 0] == 20 and sheet[5, 0, 0] == 30 and sheet[5, 7, 0] == 255


def test_the_long_run_reports_time_and_memory_at_both_ends():
    flat = flatness(tiny_world(steps=1), 120)
    assert set(flat) == {"ms_100", "ms_120", "rss_mb_100", "rss_mb_120"} and min(flat.values()) > 0


def test_bench_s_rows_stand_beside_a_network_of_the_peer_s_shape_and_the_machine_s_rate(monkeypatch):
    for name, value in (("SECONDS", 0), ("ROUNDS", 2), ("BATCHES", (1, 2))):
        monkeypatch.setattr(f"worldsim.evaluation.speed.{name}", value)
    result = benchmark("arena", frames=100)
    assert [(row["batch"], row["k"], row["decode"]) for row in result["rows"]] == [
        (batch, k, decode) for batch in (1, 2) for k in (1, 2, 4) for decode in (True, False)
    ]
    assert all(row["ratio"] > 0 and row["share_of_rate"] > 0 for row in result["rows"])
    assert len(result["hardware"]) == 4 and min(result["hardware"].values()) > 0


def test_the_peer_has_its_published_size_and_dreams_frames():
    peer = Peer(2)
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (peer.denoiser, peer.outcome)]
    assert sizes == [pytest.approx(4.4, abs=0.05), pytest.approx(5.9, abs=0.05)]
    first, second = peer.step(), peer.step()
    assert first.shape == (2, 64, 64, 3) and first.dtype == torch.uint8 and not torch.equal(first, second)


def test_an_empty_data_set_cannot_be_measured(tmp_path):
    info = DatasetInfo("x", (16, 16, 3), None, 15.0)
    EpisodeWriter(tmp_path / "data", info).close()
    with pytest.raises(ValueError, match="expected"):
        EpisodeStore(tmp_path / "data")
