"""Where samplers stop: the ends, the formulas, and that no sampler on any grid makes NaN of finite numbers."""

import math
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from exact import PROCESSES
from hypothesis import given, settings

from worldsim.diffusion import samplers, stochastic
from worldsim.diffusion.discrete import DiscreteVP
from worldsim.diffusion.grids import KarrasGrid, LogSNRGrid, TrailingGrid, UniformGrid, alpha_sigma
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPLinear

GRIDS = [UniformGrid(), TrailingGrid(), TrailingGrid(50), KarrasGrid(), KarrasGrid(3.0, 0.0), LogSNRGrid()]
ALL_PROCESSES = [*PROCESSES, DiscreteVP(), DiscreteVP("cosine", 100, zero_terminal_snr=True)]
SAMPLERS = [
    samplers.EulerSampler(),
    samplers.HeunSampler(),
    samplers.MidpointSampler(),
    samplers.RungeKuttaSampler(),
    *(samplers.AdamsBashforthSampler(order=order) for order in (2, 3, 4)),
    samplers.DPMSolverSingleSampler(),
    *(samplers.DPMSolverMultiSampler(order=order) for order in (2, 3)),
    *(stochastic.DDIMSampler(eta=eta) for eta in (0.0, 0.5, 1.0)),
    *(stochastic.AncestralSampler(clean_std=std) for std in (0.0, 1.0)),
    *(stochastic.SDEDPMSolverSampler(order=order, eta=eta) for order in (1, 2) for eta in (0.0, 1.0)),
    stochastic.EulerMaruyamaSampler(),
    stochastic.ChurnSampler(),
    stochastic.LangevinSampler(corrections=2),
]


def ratios(grid, steps, process):
    pairs = (alpha_sigma(process, level) for level in grid.levels(steps, process))
    return [sigma / alpha if alpha else math.inf for alpha, sigma in pairs]


@settings(deadline=None)
@given(st.sampled_from(GRIDS), st.sampled_from(ALL_PROCESSES), st.integers(1, 50))
def test_every_grid_falls_from_pure_noise_to_clean(grid, process, steps):
    levels = grid.levels(steps, process)
    assert len(levels) == steps + 1
    assert levels[0] == 1 and levels[-1] == 0
    assert all(after < before for before, after in pairwise(levels))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(SAMPLERS),
    st.sampled_from(GRIDS),
    st.sampled_from(ALL_PROCESSES),
    st.integers(1, 9),
    st.floats(-1e3, 1e3, width=32),
    st.floats(-10, 10, width=32),
)
def test_no_sampler_makes_nan_of_finite_numbers(sampler, grid, process, steps, offset, gain):
    """Whatever the network says, as long as it is finite: here clean = tanh(gain x) + offset, in float32."""
    generator = torch.Generator().manual_seed(steps)
    start = torch.randn(2, 1, 2, 2, generator=generator)
    sampler = replace(sampler, steps=steps, grid=grid)
    found = sampler(lambda x, *_: (gain * x).tanh() + offset, process, start.shape, lambda index: start)
    assert found.isfinite().all()


def test_equal_levels_of_the_edm_process_are_karras_grid():
    process = VarianceExploding(sigma_max=80.0, rho=7.0)
    assert UniformGrid().levels(9, process) == pytest.approx(KarrasGrid(7.0, 0.0, 80.0).levels(9, process), abs=1e-12)


@pytest.mark.parametrize("process", [VarianceExploding(), VPLinear()], ids=repr)
def test_karras_grid_is_the_papers(process):
    found, n = ratios(KarrasGrid(7.0, 0.01, 50.0), 6, process), 6
    paper = [(50 ** (1 / 7) + i / (n - 1) * (0.01 ** (1 / 7) - 50 ** (1 / 7))) ** 7 for i in range(n)]
    assert found[1:] == pytest.approx([*paper[1:], 0.0])


def test_equal_steps_in_log_snr_are_equal_factors():
    found = ratios(LogSNRGrid(0.01, 100.0), 5, RectifiedFlow())
    assert found == pytest.approx([math.inf, 10.0, 1.0, 0.1, 0.01, 0.0])


def test_a_trailing_grid_stands_on_the_table_from_its_noisiest_entry():
    assert TrailingGrid(1000).levels(3, RectifiedFlow()) == [1.0, 0.667, 0.333, 0.0]
    with pytest.raises(ValueError, match="at most 10 steps"):
        TrailingGrid(10).levels(11, RectifiedFlow())


@pytest.mark.parametrize(
    "make", [lambda: KarrasGrid(rho=0), lambda: KarrasGrid(7, 2, 1), lambda: LogSNRGrid(0.0), lambda: TrailingGrid(0)]
)
def test_numbers_that_make_no_grid_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_grid_that_ends_above_the_process_start_is_refused():
    with pytest.raises(ValueError, match="ratio_min below 5"):
        KarrasGrid(7.0, 10.0, 80.0).levels(4, VarianceExploding(sigma_max=5.0))
