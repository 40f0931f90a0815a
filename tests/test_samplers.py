"""Every solver of the probability flow: its order measured on an exact mixture, its ends, its rows, its step count."""

import math
from dataclasses import replace

import pytest
import torch
from exact import MIXTURE, PROCESSES, CutGrid, column, ends

from worldsim.diffusion import samplers
from worldsim.diffusion.flow import count_evaluations
from worldsim.diffusion.grids import KarrasGrid, UniformGrid
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPLinear
from worldsim.diffusion.samplers import (
    AdamsBashforthSampler,
    DPMSolverMultiSampler,
    DPMSolverSingleSampler,
    EulerSampler,
    HeunSampler,
    MidpointSampler,
    RungeKuttaSampler,
    adams_weights,
)

ORDERS = [  # sampler, its order, how near to it, measured from how many steps to twice as many
    (EulerSampler(), 1, 0.1, 64),
    (HeunSampler(), 2, 0.15, 32),
    (MidpointSampler(), 2, 0.15, 32),
    (DPMSolverSingleSampler(), 2, 0.15, 32),
    (DPMSolverMultiSampler(order=2), 2, 0.15, 64),
    (DPMSolverMultiSampler(order=3), 3, 0.2, 64),
    (AdamsBashforthSampler(order=2), 2, 0.2, 64),
    (AdamsBashforthSampler(order=3), 3, 0.2, 64),
    (AdamsBashforthSampler(order=4), 4, 0.2, 64),
    (RungeKuttaSampler(), 4, 0.2, 32),
]
SAMPLERS = [sampler for sampler, *_ in ORDERS]
NAMES = [f"{type(s).__name__}{getattr(s, 'order', '')}" for s in SAMPLERS]


def error(sampler, process):
    """Root mean square distance to where the flow takes 33 quantiles of the mixture."""
    (alpha, sigma), last = ends(sampler, process)
    start = column(MIXTURE.quantiles(alpha, sigma)) / sigma
    found = sampler(MIXTURE.denoiser(process), process, start.shape, lambda index: start)
    return (found.flatten() - MIXTURE.quantiles(*last)).square().mean().sqrt().item()


def slope(sampler, process, grid, steps=64):
    coarse, fine = (error(replace(sampler, steps=n, grid=grid), process) for n in (steps, 2 * steps))
    return math.log2(coarse / fine)


@pytest.mark.parametrize(("sampler", "order", "tolerance", "steps"), ORDERS, ids=NAMES)
def test_a_sampler_converges_with_its_order(sampler, order, tolerance, steps):
    """Rectified flow, away from its ends."""
    assert slope(sampler, RectifiedFlow(), CutGrid(), steps) == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize(("sampler", "order", "tolerance", "steps"), ORDERS, ids=NAMES)
def test_a_sampler_keeps_its_order_from_pure_noise_to_clean(sampler, order, tolerance, steps):
    """VP from level 1 to level 0, by steps that end in one to clean."""
    assert slope(sampler, VPLinear(), KarrasGrid(ratio_min=0.0), steps) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("sampler", "order"), [(s, order) for s, order, *_ in ORDERS if "DPMSolver" not in type(s).__name__]
)
def test_equal_steps_of_rectified_flow_keep_the_order_at_both_ends(sampler, order):
    """alpha is 0 at the first point and sigma at the last."""
    assert slope(sampler, RectifiedFlow(), UniformGrid(), 32) > order - 0.2


def test_equal_steps_of_rectified_flow_cost_a_third_order_dpm_solver_its_order():
    """Log-SNR is infinite at level 1, and its steps next to it do not shrink: the docstring says so."""
    assert 1.5 < slope(DPMSolverMultiSampler(order=3), RectifiedFlow(), UniformGrid()) < 2.3


def test_the_third_order_needs_the_factor_two(monkeypatch):
    """Without it, as some implementations have it, DPM-Solver++(3M) is of order 2."""

    def second_difference_halved(past, end):
        d0, d1, d2 = (visit.clean for visit in reversed(past[-3:]))
        marks = [visit.point.half_log_snr for visit in past[-3:]] + [end.half_log_snr]
        h1, h0, h = marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]
        step = h0 / h + h1 / h
        curve = (d0 - d1) * h / h0 - (d1 - d2) * h / h1
        phi2 = math.expm1(-h) / h + 1
        return right(past, end) + (1 - end.time) * (phi2 / h - 0.5) * curve / step

    right = samplers.dpm_solver_3m
    monkeypatch.setattr(samplers, "dpm_solver_3m", second_difference_halved)
    assert slope(DPMSolverMultiSampler(order=3), RectifiedFlow(), CutGrid()) == pytest.approx(2, abs=0.2)


def test_the_fourth_order_needs_its_start(monkeypatch):
    """Started with lower orders, Adams and Bashforth's method falls back towards order 2."""
    right = samplers.adams
    monkeypatch.setattr(samplers, "runge_kutta", lambda flow, first, end: right(flow.past, end))
    assert slope(AdamsBashforthSampler(order=4), RectifiedFlow(), CutGrid(), steps=128) < 3


def test_even_steps_have_the_textbook_weights():
    assert adams_weights([0, 1, 2, 3], 4) == pytest.approx([-9 / 24, 37 / 24, -59 / 24, 55 / 24])
    assert adams_weights([0, 1, 2], 3) == pytest.approx([5 / 12, -16 / 12, 23 / 12])
    assert adams_weights([2.0], 2.5) == [0.5]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_all_processes_are_one_on_the_same_log_snr(sampler, process):
    """Diffusion is flow matching: from the same start over the same ratios, every process ends in the same place."""
    sampler = replace(sampler, steps=5, grid=CutGrid())
    start = column(torch.linspace(-2, 2, 5))

    def sample(process):
        (alpha, sigma), (alpha_end, _) = ends(sampler, process)
        ratio = sigma / alpha * (1 + start)
        return sampler(MIXTURE.denoiser(process), process, start.shape, lambda i: alpha * ratio / sigma) / alpha_end

    assert (sample(process) - sample(VarianceExploding())).abs().max() < 1e-9


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_exact_flow_map_is_exact_at_any_number_of_steps(process, steps):
    mean, std = 0.7, 0.5

    def flow_map(x, level, target_level):
        """The x-coded step: the clean latent whose Euler step lands where the probability flow does."""
        (a, s), (b, t) = ((w.alpha(v)[0], w.sigma(v)[0]) for w, v in ((process, level), (process, target_level)))
        spread = ((b**2 * std**2 + t**2) / (a**2 * std**2 + s**2)).sqrt()
        landed = b * mean + spread * (x - a * mean)
        return (landed - t / s * x) / (b - t * a / s)

    start = column(torch.linspace(-2, 2, 5))
    found = EulerSampler(steps)(flow_map, process, start.shape, lambda index: start)
    one = torch.ones(1, dtype=torch.float64)
    alpha, sigma = process.alpha(one), process.sigma(one)
    goal = mean + std * (sigma * start - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()
    assert (found - goal).abs().max() < 1e-9


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_only_a_flow_map_is_told_where_the_steps_go(sampler):
    told = []

    def denoise(x, level, target_level):
        told.append((level.unique().item(), target_level.unique().item()))
        return x / 2

    replace(sampler, steps=4)(denoise, RectifiedFlow(), (2, 1, 1, 1), lambda index: column([0.3, -1.0]))
    if isinstance(sampler, EulerSampler):
        assert told == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    else:
        assert all(level == target or target == 0.0 for level, target in told)
        assert all(level == target for level, target in told[:-1])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_a_row_alone_is_the_row_in_a_batch(sampler):
    sampler, process = replace(sampler, steps=6), RectifiedFlow()
    start = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def sample(rows):
        return sampler(MIXTURE.denoiser(process), process, (len(rows), 2, 3, 3), lambda index: start[rows])

    assert torch.equal(sample([3]), sample([0, 1, 2, 3, 4])[3:4])


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    list(zip(SAMPLERS, [8, 15, 16, 16, 8, 8 + 3 * 3, 8 + 3, 8 + 2 * 3, 8 + 3 * 3, 29], strict=True)),
    ids=NAMES,
)
def test_a_sampler_evaluates_the_network_as_often_as_it_says(sampler, evaluations):
    assert count_evaluations(replace(sampler, steps=8), RectifiedFlow()) == evaluations


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_one_step_takes_the_clean_latent_at_pure_noise(sampler):
    """Unless the solver needs a place half-way."""
    start, mean = column([0.3, -1.0]), sum(share * m for share, m in zip(MIXTURE.shares, MIXTURE.means, strict=True))
    found = replace(sampler, steps=1)(MIXTURE.denoiser(RectifiedFlow()), RectifiedFlow(), start.shape, lambda i: start)
    is_mean = torch.allclose(found, torch.full_like(found, mean))
    assert is_mean != isinstance(sampler, (MidpointSampler, DPMSolverSingleSampler))


@pytest.mark.slow
def test_a_sampler_is_one_graph_for_the_compiler():
    sampler, process = HeunSampler(3, KarrasGrid()), VPLinear()

    def sample(start):
        return sampler(
            lambda x, level, target_level: x * level[:, None, None, None], process, start.shape, lambda i: start
        )

    start = column([0.3, -1.0]).float()
    assert torch.allclose(torch.compile(sample, backend="eager", fullgraph=True)(start), sample(start))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
def test_steps_is_a_count(sampler):
    with pytest.raises(ValueError, match="at least 1"):
        replace(sampler, steps=0)


@pytest.mark.parametrize("sampler", [AdamsBashforthSampler, DPMSolverMultiSampler])
def test_an_order_that_does_not_exist_is_refused(sampler):
    with pytest.raises(ValueError, match="order 2"):
        sampler(4, order=5)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        EulerSampler()(lambda x, *_: x, RectifiedFlow(), (3, 1, 1, 1), lambda index: column([0.3, -1.0]))
