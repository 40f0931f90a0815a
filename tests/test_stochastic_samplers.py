"""Stochastic samplers on Gaussian data: affine there, so that mean and variance follow without chance."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from exact import MIXTURE, PROCESSES, CutGrid, column, ends, gaussian_denoiser, propagate

from worldsim.diffusion.discrete import DiscreteVP
from worldsim.diffusion.flow import Flow, count_evaluations
from worldsim.diffusion.grids import KarrasGrid
from worldsim.diffusion.process import RectifiedFlow, VPLinear
from worldsim.diffusion.samplers import DPMSolverMultiSampler, EulerSampler, HeunSampler
from worldsim.diffusion.stochastic import (
    AncestralSampler,
    ChurnSampler,
    DDIMSampler,
    EulerMaruyamaSampler,
    LangevinSampler,
    SDEDPMSolverSampler,
)

MEAN, STD = 0.4, 0.6
CHURN = ChurnSampler(churn=4.0)
ORDERS = [  # sampler, the order of its variance
    (DDIMSampler(eta=0.0), 1),
    (DDIMSampler(eta=0.5), 1),
    (DDIMSampler(eta=1.0), 1),
    (AncestralSampler(), 1),
    (AncestralSampler(clean_std=1.0), 1),
    (SDEDPMSolverSampler(order=1), 1),
    (SDEDPMSolverSampler(order=2), 2),
    (SDEDPMSolverSampler(order=2, eta=0.5), 2),
    (EulerMaruyamaSampler(), 1),
    (CHURN, 2),
]
SAMPLERS = [sampler for sampler, _ in ORDERS]
NAMES = [repr(sampler).replace("steps=16, ", "") for sampler in SAMPLERS]


def errors(sampler, process, mean=MEAN, std=STD):
    """How far mean and variance are from those that x should have where the sampler stops."""
    _, (alpha, sigma) = ends(sampler, process)
    found = propagate(sampler, process, gaussian_denoiser(process, mean, std), mean, std, draws=sampler.steps * 2 + 2)
    return found[0] - alpha * mean, found[1] - (alpha**2 * std**2 + sigma**2)


def slope(sampler, process, grid, steps=64):
    coarse, fine = (abs(errors(replace(sampler, steps=n, grid=grid), process)[1]) for n in (steps, 2 * steps))
    return math.log2(coarse / fine)


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=NAMES)
def test_the_variance_converges_with_its_order(sampler, order):
    """Rectified flow, away from its ends."""
    assert slope(sampler, RectifiedFlow(), CutGrid()) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("sampler", "order"), ORDERS[:-1], ids=NAMES[:-1])
def test_the_variance_converges_from_pure_noise_to_clean(sampler, order):
    assert slope(sampler, VPLinear(), KarrasGrid(ratio_min=0.0)) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_equal_steps_of_rectified_flow_converge_too(sampler):
    """alpha is 0 at the first point and sigma at the last."""
    coarse, fine = (abs(errors(replace(sampler, steps=n), RectifiedFlow())[1]) for n in (16, 64))
    assert fine < coarse / 2.5 and fine < 0.035


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_the_mean_is_exact(sampler):
    """All but Euler and Maruyama's steps are exact in the mean: the noise of a Gaussian is affine."""
    off = abs(errors(replace(sampler, steps=8, grid=CutGrid()), VPLinear())[0])
    assert off > 1e-3 if isinstance(sampler, EulerMaruyamaSampler) else off < 1e-12


def test_asking_at_the_level_before_the_churn_costs_an_order(monkeypatch):
    """The bug that published code has: x is churned, but the denoiser is told the level it had before."""
    right, found = Flow.between, []

    for steps in (64, 128):

        def labelled_as_before(flow, time, share=1 + CHURN.churn / steps):
            ratio = time / (1 - time) / share
            return replace(right(flow, time), level=right(flow, ratio / (1 + ratio)).level)

        monkeypatch.setattr(Flow, "between", labelled_as_before)
        found.append(abs(errors(replace(CHURN, steps=steps, grid=CutGrid()), RectifiedFlow())[1]))
    assert math.log2(found[0] / found[1]) == pytest.approx(1, abs=0.15)


def test_too_much_churned_noise_stays_in_the_result():
    sampler = replace(CHURN, churn=30.0, noise_scale=1.01, grid=CutGrid())
    assert all(errors(replace(sampler, steps=steps), RectifiedFlow())[1] > 4e-3 for steps in (32, 128))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ancestral_sampling_with_the_data_s_spread_is_exact_at_any_number_of_steps(process, steps):
    found = errors(AncestralSampler(steps, clean_std=STD, grid=CutGrid()), process)
    assert max(map(abs, found)) < 1e-12


def test_the_smaller_and_the_larger_variance_of_ddpm_bracket_the_data_s():
    small, large = (errors(AncestralSampler(64, std, CutGrid()), VPLinear())[1] for std in (0.0, 1.0))
    assert small < -1e-3 and large > 1e-3


def test_the_larger_variance_of_ddpm_is_beta():
    """On the discrete table: x one step cleaner has variance beta_t around its mean (Ho et al. 2020)."""
    process, step = DiscreteVP(), 500
    levels = [step / process.steps, (step - 1) / process.steps]
    sampler = AncestralSampler(1, clean_std=1.0, grid=SimpleNamespace(levels=lambda *_: levels))
    draws = {0: column([0.0, 0.0]), 1: column([0.0, 1.0])}
    found = sampler(lambda x, *_: 0 * x, process, (2, 1, 1, 1), draws.get)
    assert found.flatten()[1].item() ** 2 == pytest.approx(process.betas[step - 1].item(), rel=1e-9)


def test_langevin_s_steps_stand_where_theory_says():
    """The unadjusted algorithm's variance is V / (1 - size / 2V), for data of variance V, in x / alpha."""
    ratio, strength, corrections, process = 0.8, 0.4, 60, VPLinear()
    sampler = LangevinSampler(1, corrections, strength, CutGrid(high=1.0, low=ratio))
    _, variance = propagate(sampler, process, gaussian_denoiser(process, MEAN, STD), MEAN, STD, corrections + 1)
    (_, (alpha, _)), goal = ends(sampler, process), STD**2 + ratio**2
    size = 2 * (strength * ratio) ** 2
    assert variance / alpha**2 == pytest.approx(goal / (1 - size / (2 * goal)), rel=1e-12)


def sample(sampler, process=None, rows=(0, 1, 2, 3)):
    """Some rows of a sample from a mixture, on fixed noise."""
    process = process or RectifiedFlow()

    def noise(index):
        drawn = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        return drawn[list(rows)]

    return sampler(MIXTURE.denoiser(process), process, (len(rows), 1, 2, 2), noise)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DDIMSampler(6, eta=0.0), EulerSampler(6)),
        (DDIMSampler(6, eta=1.0), AncestralSampler(6)),
        (SDEDPMSolverSampler(6, order=1), AncestralSampler(6)),
        (SDEDPMSolverSampler(6, order=2, eta=0.0), DPMSolverMultiSampler(6)),
        (SDEDPMSolverSampler(6, order=1, eta=0.0), EulerSampler(6)),
        (ChurnSampler(6, churn=0.0), HeunSampler(6)),
        (LangevinSampler(6, corrections=0), EulerSampler(6)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
@pytest.mark.parametrize("process", [RectifiedFlow(), VPLinear()], ids=["flow", "vp"])
def test_samplers_that_are_the_same_in_the_papers_are_the_same_here(one, other, process):
    assert (sample(one, process) - sample(other, process)).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", [*SAMPLERS, LangevinSampler(corrections=2)], ids=repr)
def test_a_row_alone_is_the_row_in_a_batch(sampler):
    sampler = replace(sampler, steps=5)
    assert torch.equal(sample(sampler, rows=[2]), sample(sampler)[2:3])


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (DDIMSampler(4, eta=0.0), [0]),
        (DDIMSampler(4, eta=1.0), [0, 1, 2, 3]),
        (AncestralSampler(4, clean_std=1.0), [0, 1, 2, 3]),
        (SDEDPMSolverSampler(4), [0, 1, 2, 3]),
        (EulerMaruyamaSampler(4), [0, 1, 2, 3]),
        (ChurnSampler(4), [0, 2, 3, 4]),
        (LangevinSampler(4, corrections=2), [0, 1, 2, 3, 4, 5, 6]),
    ],
    ids=repr,
)
def test_every_draw_has_its_own_index(sampler, draws):
    """Churn starts below pure noise, and is the one that draws in the last step."""
    asked = []

    def noise(index):
        asked.append(index)
        return column([0.3])

    sampler(lambda x, *_: x / 2, RectifiedFlow(), (1, 1, 1, 1), noise)
    assert asked == draws


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [(DDIMSampler(4), 4), (ChurnSampler(4), 7), (LangevinSampler(4, corrections=2), 10)],
    ids=lambda value: type(value).__name__,
)
def test_a_sampler_evaluates_the_network_as_often_as_it_says(sampler, evaluations):
    assert count_evaluations(sampler, RectifiedFlow()) == evaluations


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIMSampler(eta=1.5),
        lambda: AncestralSampler(clean_std=-1.0),
        lambda: SDEDPMSolverSampler(order=3),
        lambda: ChurnSampler(churn=-1.0),
        lambda: LangevinSampler(strength=1.0),
        lambda: EulerMaruyamaSampler(0),
    ],
)
def test_numbers_that_make_no_sampler_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
