"""Weightings are errors in other units, levels are drawn as often as said, all of it finite at both ends."""

import math

import pytest
import torch

from worldsim.diffusion.discrete import DiscreteVP, posterior
from worldsim.diffusion.levels import GridLevels, LogitNormalLevels, LogNormalLevels, PowerLevels, UniformLevels
from worldsim.diffusion.prediction import (
    NoisePrediction,
    PreconditionedPrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
    to_clean,
)
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear, add_noise
from worldsim.diffusion.weighting import (
    MAX_SNR,
    EDMWeight,
    Elbo,
    FlowWeight,
    MinSNR,
    Ramp,
    Sigmoid,
    Simple,
    Uniform,
    check_weight,
    snr,
)

PROCESSES = (RectifiedFlow(), VPLinear(), VPCosine(), VarianceExploding(), DiscreteVP("linear"))
WEIGHTS = (Uniform(), Ramp(), Simple(), Elbo(), EDMWeight(), EDMWeight(0.5), MinSNR(), Sigmoid(-1.0), FlowWeight())
every_process = pytest.mark.parametrize("process", PROCESSES, ids=str)


def levels(process, cleanest=5.9):
    """Levels between pure noise and a log-SNR below the limit."""
    first = process.level_at(torch.tensor(cleanest, dtype=torch.float64)).item()
    return torch.linspace(first, 1, 40, dtype=torch.float64)[:-1]


def own_units(weight, prediction, level, process):
    """The weight of a squared error of the output, where `weight` is that of one of the clean latent."""
    _, scale = prediction.decoding(level, process)
    return weight(level, process) * scale**2


@every_process
@pytest.mark.parametrize(
    ("weight", "prediction"),
    [
        (Simple(), NoisePrediction()), (EDMWeight(1.0), VPrediction()), (EDMWeight(1.0), PreconditionedPrediction()),
        (EDMWeight(0.5), PreconditionedPrediction(0.5)), (FlowWeight(), VelocityPrediction()),
    ],
    ids=str,
)  # fmt: skip
def test_weighted_errors_of_the_clean_latent_are_plain_errors_of_the_output(process, weight, prediction):
    level = levels(process)
    assert torch.allclose(own_units(weight, prediction, level, process), torch.ones_like(level), rtol=1e-10)


@every_process
def test_min_snr_is_what_its_paper_says_in_noise_and_in_v(process):
    level = levels(process)
    ratio = (process.alpha(level) / process.sigma(level)) ** 2
    in_noise = ratio.clamp_max(5) / ratio
    in_v = ratio.clamp_max(5) / (ratio + 1)
    assert torch.allclose(own_units(MinSNR(5.0), NoisePrediction(), level, process), in_noise)
    assert torch.allclose(own_units(MinSNR(5.0), VPrediction(), level, process), in_v)


@every_process
def test_the_sigmoid_weight_is_a_sigmoid_of_the_log_snr_in_noise(process):
    level = levels(process)
    expected = torch.sigmoid(-1.5 - process.log_snr(level))
    assert torch.allclose(own_units(Sigmoid(-1.5), NoisePrediction(), level, process), expected)


def test_the_edm_weight_is_that_of_karras():
    process, s = VarianceExploding(), 0.5
    level = levels(process)
    sigma = process.sigma(level)
    assert torch.allclose(EDMWeight(s)(level, process), (sigma**2 + s**2) / (sigma * s) ** 2)


def test_denoising_score_matching_with_sigma_squared_is_the_simple_loss():
    """Vincent 2011; Song & Ermon 2019: the score of the noised data, each level's error times sigma^2."""
    process = VPLinear()
    level = levels(process)
    clean, noise, output = torch.randn(
        3, len(level), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    x = add_noise(process, clean, noise, level)
    sigma = process.sigma(level)[:, None]
    score_matching = sigma**2 * (output + (x - process.alpha(level)[:, None] * clean) / sigma**2) ** 2
    guess = to_clean(ScorePrediction(), output, x, level, process)
    assert torch.allclose(Simple()(level, process)[:, None] * (guess - clean) ** 2, score_matching)


@pytest.mark.parametrize("process", [RectifiedFlow(), VPLinear(), VPCosine(), VarianceExploding(5.0, 3.0)], ids=str)
def test_the_elbo_weight_adds_up_to_the_fall_of_the_snr(process):
    first, last = levels(process)[[0, -1]]
    nodes = torch.linspace(first, last, 20_001, dtype=torch.float64)
    area = torch.trapezoid(Elbo()(nodes, process), nodes)
    ends = (process.alpha(nodes[[0, -1]]) / process.sigma(nodes[[0, -1]])) ** 2
    assert area.item() == pytest.approx((ends[0] - ends[1]).item() / 2, rel=1e-3)


def test_the_elbo_weight_is_the_divergence_of_ddpm_steps():
    """Ho et al. 2020 compare the posteriors of the true and the guessed clean latent, step by step."""
    process, steps = DiscreteVP("linear"), torch.arange(100, 1001, 100)
    level = steps.double() / 1000
    x, clean, guess = torch.randn(3, len(level), 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    (mean, variance), (guessed, _) = (posterior(process, x, end, level) for end in (clean, guess))
    divergence = (mean - guessed).square().flatten() / (2 * variance)
    expected = Elbo()(level - 0.0005, process) / 1000 * (clean - guess).square().flatten()
    assert torch.allclose(divergence, expected, rtol=0.01)


@every_process
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_weights_are_finite_and_not_negative_at_every_level(weight, process):
    level = torch.linspace(0, 1, 101)
    found = weight(level, process)
    assert found.dtype == torch.float32 and found.isfinite().all() and (found >= 0).all() and (found > 0).any()


@every_process
def test_cleaner_levels_count_like_the_cleanest_that_is_told_apart(process):
    assert snr(torch.zeros(1), process).item() == pytest.approx(400, rel=1e-3)


UNIFORM = torch.arange(20_000, dtype=torch.float64) / 20_000
ALL_LEVELS = (UniformLevels(), PowerLevels(), LogitNormalLevels(), LogNormalLevels(), GridLevels(4))


@every_process
@pytest.mark.parametrize("levels", ALL_LEVELS, ids=str)
def test_drawn_levels_are_levels_and_the_first_number_is_no_exception(levels, process):
    drawn = levels.draw(UNIFORM.float(), process)
    assert ((drawn >= 0) & (drawn <= 1)).all() and drawn.isfinite().all()


def test_uniform_and_power_levels_have_their_means():
    assert UniformLevels().draw(UNIFORM, RectifiedFlow()).mean().item() == pytest.approx(1 / 2, abs=1e-3)
    assert PowerLevels(2.0).draw(UNIFORM, RectifiedFlow()).mean().item() == pytest.approx(2 / 3, abs=1e-3)
    assert torch.equal(PowerLevels(1.0).draw(UNIFORM, VPCosine()), UniformLevels().draw(UNIFORM, VPCosine()))


@every_process
def test_log_normal_levels_have_the_noise_of_karras(process):
    drawn = LogNormalLevels(-1.2, 1.2).draw(UNIFORM[1:], process)
    ratio = -process.log_snr(drawn) / 2
    assert ratio.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert ratio.std().item() == pytest.approx(1.2, abs=0.01)


def test_logit_normal_levels_are_normal_before_the_sigmoid():
    logits = LogitNormalLevels(0.5, 0.8).draw(UNIFORM[1:], RectifiedFlow()).logit()
    assert logits.mean().item() == pytest.approx(0.5, abs=0.01) and logits.std().item() == pytest.approx(0.8, abs=0.01)


def test_grid_levels_are_the_steps_but_not_clean():
    values, counts = GridLevels(4).draw(UNIFORM, RectifiedFlow()).unique(return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75, 1.0] and set(counts.tolist()) == {5000}


@pytest.mark.parametrize(
    ("kind", "values"),
    [(PowerLevels, (0.0,)), (LogitNormalLevels, (0.0, 0.0)), (LogNormalLevels, (0.0, -1.0)), (GridLevels, (0,))],
)
def test_levels_refuse_numbers_that_make_none(kind, values):
    with pytest.raises(ValueError, match=r"expected .*found"):
        kind(*values)


def test_the_limit_is_where_noise_is_a_twentieth():
    at = VarianceExploding().level_at(torch.tensor(2 * math.log(20.0)))
    assert VarianceExploding().sigma(at).item() == pytest.approx(0.05, rel=1e-4)
    assert FlowWeight()(at[None] / 2, VarianceExploding()).item() == pytest.approx(21**2, rel=1e-4)


@every_process
@pytest.mark.parametrize("prediction", [VPrediction(), VelocityPrediction(), PreconditionedPrediction()], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_every_weighting_fits_predictions_that_know_the_clean_latent(process, prediction, weight):
    check_weight(weight, prediction, process)


@pytest.mark.parametrize(
    "process", [VPLinear(), VarianceExploding(), DiscreteVP("linear"), DiscreteVP("cosine")], ids=str
)
@pytest.mark.parametrize("prediction", [NoisePrediction(), ScorePrediction()], ids=str)
def test_noise_and_score_need_a_weighting_that_falls_towards_pure_noise(process, prediction):
    for weight in (Simple(), Elbo(), MinSNR(), Sigmoid()):
        check_weight(weight, prediction, process)
    for weight in (Uniform(), Ramp(), EDMWeight(), FlowWeight()):
        with pytest.raises(ValueError, match=f"found {type(weight).__name__}; choose weighting=simple"):
            check_weight(weight, prediction, process)


@every_process
def test_the_lower_bounds_weight_is_the_same_wherever_it_is_held(process):
    edge = process.level_at(torch.tensor([math.log(MAX_SNR)], dtype=torch.float64))
    weights = Elbo()(torch.cat((edge * 1.000001, edge, edge / 2)), process)
    torch.testing.assert_close(weights / weights[0], torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)
