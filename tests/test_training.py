"""The training loop: a killed run goes on as it would have, and what it writes is whole."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from worldsim.training import checkpoint
from worldsim.training.ema import GAMMA, averaged
from worldsim.training.loop import Budget, Rhythm, Stage, train
from worldsim.training.optim import adamw, schedule
from worldsim.types import Loss


class Stop(Exception):
    """Stands in for a kill: the loop gets no chance to save."""


def stage(stop_at=None, log=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def batch(step):
        if step == stop_at:
            raise Stop
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))

    def objective(model, average, x, progress, generator):
        if log is not None:
            log.append(progress)
        noise = torch.randn(8, 1, generator=generator)
        return Loss((model(x) - x.sum(1, keepdim=True) + 0.1 * noise).square().mean())

    return Stage("toy", model, batch, objective, 8, 1e-2)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


OFTEN = Rhythm(checkpoint_seconds=0.0, preview_seconds=1e9, log_steps=5)


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    expected = train(stage(), Budget(steps=40), tmp_path / "whole", 0, OFTEN, "cpu")
    with pytest.raises(Stop):
        train(stage(stop_at=23), Budget(steps=40), tmp_path / "killed", 0, OFTEN, "cpu")
    resumed = train(stage(), Budget(steps=40), tmp_path / "killed", 0, OFTEN, "cpu")
    assert torch.equal(weights(resumed), weights(expected))
    whole, killed = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert [line["step"] for line in killed] == [line["step"] for line in whole] == list(range(5, 41, 5))
    assert killed[-1]["loss"] == whole[-1]["loss"]


def test_the_log_drops_what_a_kill_left_after_the_checkpoint(tmp_path):
    seldom = Rhythm(checkpoint_seconds=1e9, preview_seconds=1e9, log_steps=5)
    with pytest.raises(Stop):
        train(stage(stop_at=12), Budget(steps=20), tmp_path, 0, seldom, "cpu")  # no checkpoint, two lines
    assert len(lines(tmp_path)) == 2
    train(stage(), Budget(steps=20), tmp_path, 0, seldom, "cpu")
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 15, 20]


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = train(stage(), Budget(steps=5), tmp_path, 0, OFTEN, "cpu")
    again = train(stage(stop_at=0), Budget(steps=5), tmp_path, 0, OFTEN, "cpu")
    assert torch.equal(weights(first), weights(again))


def test_the_schedule_follows_the_budget_from_warm_up_to_decay(tmp_path):
    seen = []
    train(stage(log=seen), Budget(steps=10), tmp_path, 0, OFTEN, "cpu")
    assert seen == [step / 10 for step in range(10)]
    assert schedule(0) < 0.05 and schedule(0.5) == 1 and schedule(0.85) == pytest.approx(0.525) and schedule(1) == 0.05


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(tmp_path):
    broken = stage()
    good = train(stage(), Budget(steps=5), tmp_path / "good", 0, OFTEN, "cpu")
    object.__setattr__(broken, "objective", lambda model, *_: Loss(weights(model).sum() * float("nan")))
    with pytest.raises(ValueError, match="finite loss"):
        train(broken, Budget(steps=10), tmp_path / "bad", 0, OFTEN, "cpu")
    assert checkpoint.latest(tmp_path / "bad") is None and torch.isfinite(weights(good)).all()


def test_weights_that_a_finite_loss_broke_spoil_no_checkpoint(tmp_path):
    broken = stage()
    endless = lambda model, *_: Loss((weights(model) * 0).abs().sqrt().sum())  # noqa: E731 (0, and its slope infinite)
    object.__setattr__(broken, "objective", endless)
    with pytest.raises(ValueError, match="finite weights"):
        train(broken, Budget(steps=1), tmp_path, 0, OFTEN, "cpu")
    assert checkpoint.latest(tmp_path) is None and not (tmp_path / "final.safetensors").exists()


@pytest.mark.parametrize("wrong", [{}, {"seconds": 0}, {"steps": -1}, {"seconds": 1, "steps": 1}])
def test_a_budget_is_seconds_or_steps_above_zero(wrong):
    with pytest.raises(ValueError, match="above 0"):
        Budget(**wrong)


def test_a_full_disk_is_an_os_error_that_leaves_the_older_checkpoint_alone(tmp_path):
    class FullDisk:
        def save_state(self, folder):
            Path(folder).mkdir()
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1526464 vs 1526356")

    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(OSError, match="free some space"):
        checkpoint.save(FullDisk(), tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    (tmp_path / "checkpoint.tmp").mkdir()
    assert checkpoint.latest(tmp_path) is None
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-10").mkdir()
    assert checkpoint.latest(tmp_path).name == "checkpoint-10"


def test_the_average_of_constant_weights_is_the_constant():
    model = nn.Linear(2, 2)
    average = averaged(model)
    for _ in range(5):
        average.update_parameters(model)
    assert torch.allclose(weights(average.module), weights(model))


def test_the_average_is_the_power_function_profile():
    model = nn.Linear(1, 1, bias=False)
    average, history = averaged(model), []
    for step in range(1, 60):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update_parameters(model)
        history.append(float(step))
    t = torch.arange(1, 60, dtype=torch.float64)
    profile = t ** (GAMMA + 1) - (t - 1) ** (GAMMA + 1)  # what weight t gets if beta_t = (1 - 1/t)^(gamma + 1)
    expected = (profile * torch.tensor(history, dtype=torch.float64)).sum() / profile.sum()
    assert average.module.weight.item() == pytest.approx(expected.item(), rel=0.01)


def test_only_matrices_decay():
    groups = adamw(nn.Sequential(nn.Linear(2, 3), nn.GroupNorm(1, 3)), 1e-3).param_groups
    assert [(g["weight_decay"] > 0, len(g["params"])) for g in groups] == [(True, 1), (False, 3)]
