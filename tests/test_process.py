"""Noise processes: their clock and its inverse, their ends, the tables they come from, and what translates them."""

import math

import pytest
import torch

from worldsim.diffusion.discrete import DiscreteVP, cosine_betas, linear_betas
from worldsim.diffusion.process import (
    RectifiedFlow,
    VarianceExploding,
    VPCosine,
    VPLinear,
    add_noise,
    start,
    translate,
    unit_variance,
)

PROCESSES = {
    "rectified flow": RectifiedFlow(),
    "shifted flow": RectifiedFlow(3.0),
    "vp linear": VPLinear(),
    "vp constant": VPLinear(10.0, 10.0),
    "vp cosine": VPCosine(),
    "vp cosine s=0": VPCosine(0.0),
    "ve": VarianceExploding(),
    "ddpm linear": DiscreteVP("linear"),
    "ddpm cosine": DiscreteVP("cosine"),
    "zero terminal": DiscreteVP("linear", zero_terminal_snr=True),
    "zero terminal cosine": DiscreteVP("cosine", 50, zero_terminal_snr=True),
}
PURE = {"rectified flow", "shifted flow", "vp cosine", "vp cosine s=0", "zero terminal", "zero terminal cosine"}
every_process = pytest.mark.parametrize("name", PROCESSES)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def levels(count=2001):
    return torch.linspace(0, 1, count, dtype=torch.float64)


@every_process
def test_a_level_is_found_again_by_its_log_snr_ends_included(name):
    process, level = PROCESSES[name], levels()
    assert (process.level_at(process.log_snr(level)) - level).abs().max() < 1e-12


@every_process
def test_a_log_snr_is_found_again_by_its_level(name):
    process = PROCESSES[name]
    noisiest = max(process.log_snr(double(1.0)).item(), -12.0)
    log_snr = torch.linspace(noisiest, 8, 1001, dtype=torch.float64)[1:]
    assert (process.log_snr(process.level_at(log_snr)) - log_snr).abs().max() < 1e-12


@every_process
def test_levels_outside_the_range_are_the_ends(name):
    found = PROCESSES[name].level_at(double(math.inf, -math.inf, 1e4, -1e4))
    assert torch.allclose(found, double(0, 1, 0, 1), atol=1e-12)


@every_process
def test_the_ends_are_exactly_clean_and_as_noisy_as_promised(name):
    process = PROCESSES[name]
    alpha, sigma = process.alpha(double(0, 1)), process.sigma(double(0, 1))
    assert (alpha[0] - 1).abs() < 1e-15 and sigma[0] == 0
    assert (alpha[1] == 0) == (name in PURE)
    single = process.alpha(torch.ones(1)), process.sigma(torch.zeros(1))
    assert (single[0] == 0) == (name in PURE) and single[1] == 0


@every_process
def test_the_log_snr_is_that_of_alpha_and_sigma_and_falls(name):
    process, level = PROCESSES[name], levels()[1:-1]
    log_snr = process.log_snr(level)
    assert torch.allclose(log_snr, 2 * (process.alpha(level) / process.sigma(level)).log(), rtol=0, atol=1e-11)
    assert (log_snr.diff() < 0).all()


@pytest.mark.parametrize("name", [name for name in PROCESSES if name.startswith(("vp", "ddpm", "zero"))])
def test_variance_preserving_processes_preserve_it(name):
    process, level = PROCESSES[name], levels()
    assert (process.alpha(level) ** 2 + process.sigma(level) ** 2 - 1).abs().max() < 1e-14


def test_a_time_shift_moves_the_log_snr_by_a_constant_and_is_undone_by_its_inverse():
    level = levels()[1:-1]
    shifted = RectifiedFlow(3.0)
    assert torch.allclose(shifted.log_snr(level), RectifiedFlow().log_snr(level) - 2 * math.log(3))
    moved = shifted.sigma(level)  # as a level of the plain flow
    assert torch.allclose(RectifiedFlow(1 / 3).sigma(moved), level)


def test_ve_levels_are_karras_time_steps_of_a_smallest_sigma_of_zero():
    steps = torch.arange(9, dtype=torch.float64) / 8
    karras = (80 ** (1 / 7) + steps * (0 - 80 ** (1 / 7))) ** 7
    assert torch.allclose(VarianceExploding().sigma(1 - steps), karras)


def test_the_linear_table_is_that_of_ddpm():
    betas = DiscreteVP("linear").betas
    assert betas[0] == 1e-4 and betas[-1] == pytest.approx(0.02) and len(betas) == 1000
    process, signal = DiscreteVP("linear"), (1 - betas).cumprod(0)
    assert torch.allclose(process.alpha(torch.arange(1, 1001).double() / 1000), signal.sqrt(), rtol=1e-12)
    assert torch.equal(process.beta(double(0.001, 0.5, 1.0)), betas[[0, 499, 999]])


def test_the_linear_table_becomes_the_continuous_process_as_its_steps_shrink():
    at = double(0.1, 0.5, 0.9)

    def gap(steps):
        return (DiscreteVP("linear", steps).log_snr(at) - VPLinear().log_snr(at)).abs().max()

    assert gap(4000) < 0.02 and gap(1000) / gap(4000) == pytest.approx(4, rel=0.05)


def test_the_cosine_table_is_the_continuous_process_but_for_its_clip():
    betas, steps = cosine_betas(1000), torch.arange(1, 1000).double() / 1000
    assert betas.max() == 0.999 and (betas == 0.999).sum() == 1
    assert torch.allclose(DiscreteVP("cosine").alpha(steps), VPCosine().alpha(steps), atol=1e-12)
    assert torch.allclose(DiscreteVP("cosine").sigma(steps), VPCosine().sigma(steps), atol=1e-12)


def test_rescaling_to_zero_terminal_snr_keeps_the_first_step_and_empties_the_last():
    plain, rescaled = DiscreteVP("linear"), DiscreteVP("linear", zero_terminal_snr=True)
    first = double(0.001)
    assert torch.allclose(rescaled.alpha(first), plain.alpha(first), rtol=1e-12)
    assert rescaled.betas[-1] == 1 and rescaled.alpha(double(1.0)) == 0
    middle = torch.arange(1, 1000).double() / 1000  # Lin et al. 2024: sqrt(alpha-bar), shifted and scaled
    linear = (plain.alpha(middle) - plain.alpha(double(1.0))) / rescaled.alpha(middle)
    assert torch.allclose(linear, linear[0].expand_as(linear), rtol=1e-9)


@every_process
def test_samples_start_at_the_scale_of_the_noisiest_level(name):
    process, noise = PROCESSES[name], double(1.0, -2.0)
    assert torch.equal(start(process, noise), add_noise(process, torch.zeros(2).double(), noise, double(1.0, 1.0)))


@every_process
def test_inputs_have_unit_variance_where_latents_have(name):
    process, level = PROCESSES[name], levels(11)
    variance = process.alpha(level) ** 2 + process.sigma(level) ** 2
    assert torch.allclose(unit_variance(process, level) ** 2 * variance, torch.ones(11).double())


def exact(process):
    """The denoiser of Gaussian data N(0.7, 0.5^2) under a process; it ignores where it steps to."""

    def denoise(x, level, target_level):
        alpha, sigma = (value(level)[:, None, None, None] for value in (process.alpha, process.sigma))
        return 0.7 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * 0.7)

    return denoise


@pytest.mark.parametrize("trained", ["rectified flow", "shifted flow", "vp cosine", "zero terminal"])
@pytest.mark.parametrize("sampled", ["rectified flow", "vp linear", "vp cosine", "ve", "ddpm cosine", "zero terminal"])
def test_a_denoiser_of_one_process_is_one_of_another(trained, sampled):
    level = levels(13)
    x = torch.linspace(-2, 2, 13, dtype=torch.float64)[:, None, None, None]
    translated = translate(exact(PROCESSES[trained]), PROCESSES[trained], PROCESSES[sampled])(x, level, level)
    assert torch.allclose(translated, exact(PROCESSES[sampled])(x, level, level), rtol=0, atol=1e-12)


def test_translation_tells_where_the_step_goes_and_stops_at_the_noisiest_level():
    seen = []

    def denoise(x, level, target_level):
        seen.append((level.item(), target_level.item(), x.item()))
        return x

    translate(denoise, VPLinear(), VPCosine())(torch.ones(1, 1, 1, 1), torch.ones(1), torch.tensor([0.5]))
    (level, target, x), vp = seen[0], VPLinear()
    assert level == 1 and x == pytest.approx(1, abs=1e-4)
    assert vp.log_snr(torch.tensor(target)).item() == pytest.approx(
        VPCosine().log_snr(torch.tensor(0.5)).item(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("process", "values"),
    [(RectifiedFlow, (0.0,)), (VPLinear, (2.0, 1.0)), (VPCosine, (-0.1,)), (VarianceExploding, (0.0,))],
)
def test_a_process_refuses_numbers_that_make_none(process, values):
    with pytest.raises(ValueError, match=r"expected .*found"):
        process(*values)


@pytest.mark.parametrize("values", [("square",), ("linear", 5), ("linear", 100.0)])
def test_a_table_refuses_what_it_cannot_be(values):
    with pytest.raises(ValueError, match=r"expected .*found"):
        DiscreteVP(*values)


def test_a_shorter_linear_table_holds_as_much_noise():
    short, long = (torch.log1p(-linear_betas(steps)).sum().item() for steps in (500, 1000))
    assert short == pytest.approx(long, rel=0.02)
