"""What outputs mean: every conversion and its inverse, the ends included, and the definitions in their papers."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_world import conv_backbone

from worldsim import bundle
from worldsim.diffusion.discrete import DiscreteVP
from worldsim.diffusion.prediction import (
    CleanPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
    check,
    encode,
    to_clean,
    to_noise,
)
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear, add_noise, unit_variance
from worldsim.models.denoiser import Denoiser
from worldsim.pipeline import Preset, StageSizes

CONFIGS = Path(__file__).parent.parent / "configs"
PROCESSES = (
    RectifiedFlow(), RectifiedFlow(3.0), VPLinear(), VPCosine(), VarianceExploding(), DiscreteVP("cosine"),
    DiscreteVP("linear", zero_terminal_snr=True),
)  # fmt: skip
PREDICTIONS = (
    CleanPrediction(), NoisePrediction(), VPrediction(), VelocityPrediction(), ScorePrediction(),
    PreconditionedPrediction(), PreconditionedPrediction(0.5),
)  # fmt: skip
LEVELS = torch.tensor([0.0, 1e-3, 0.1, 0.35, 0.5, 0.8, 0.999, 1.0], dtype=torch.float64)


def admissible(prediction, process):
    try:
        check(prediction, process)
    except ValueError:
        return False
    return True


PAIRS = [
    (prediction, process) for prediction in PREDICTIONS for process in PROCESSES if admissible(prediction, process)
]
every_pair = pytest.mark.parametrize(("prediction", "process"), PAIRS, ids=str)


def sample(process, level=LEVELS):
    clean, noise = torch.randn(2, len(level), 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return clean, noise, add_noise(process, clean, noise, level)


def error(found, expected, gain=1.0):
    """The largest error; relative to `gain [level]` where a conversion multiplies by so much, and rounding with it."""
    return ((found - expected).abs().amax(1) / torch.as_tensor(gain).clamp_min(1)).max()


def levels_of(prediction):
    return LEVELS[1:] if isinstance(prediction, ScorePrediction) else LEVELS  # at level 0 the score is infinite


@every_pair
def test_an_output_means_the_clean_latent_it_was_made_of(prediction, process):
    level = levels_of(prediction)
    clean, noise, x = sample(process, level)
    output = encode(prediction, clean, noise, level, process)
    skip, _ = prediction.decoding(level, process)
    assert error(to_clean(prediction, output, x, level, process), clean, skip) < 1e-12


@every_pair
def test_an_output_means_the_noise_it_was_made_of(prediction, process):
    level = LEVELS[1:] if isinstance(prediction, CleanPrediction) else levels_of(prediction)
    clean, noise, x = sample(process, level)
    output = encode(prediction, clean, noise, level, process)
    gain = 1 / process.sigma(level) if isinstance(prediction, CleanPrediction) else 1.0
    assert error(to_noise(prediction, output, x, level, process), noise, gain) < 1e-12


@every_pair
def test_an_output_becomes_any_other_and_comes_back(prediction, process):
    level = process.level_at(torch.linspace(-5, 5, 7, dtype=torch.float64))  # a log-SNR where none is hard to tell
    output, x = sample(process, level)[1:]

    def convert(output, source, goal):
        clean, noise = (read(source, output, x, level, process) for read in (to_clean, to_noise))
        return encode(goal, clean, noise, level, process)

    for other in PREDICTIONS:
        assert error(convert(convert(output, prediction, other), other, prediction), output) < 1e-12


@every_pair
def test_at_level_zero_the_clean_latent_is_the_input_whatever_the_network_says(prediction, process):
    x, output = torch.tensor([[1.5]]), torch.tensor([[7.0]])
    expected = output if isinstance(prediction, CleanPrediction) else x
    assert torch.allclose(to_clean(prediction, output, x, torch.zeros(1), process), expected)


def test_noise_and_score_cannot_start_from_pure_noise_and_the_clean_latent_does_not_suit_exploding_variance():
    refused = {(type(a), type(b)) for a in PREDICTIONS for b in PROCESSES if not admissible(a, b)}
    pure = (RectifiedFlow, VPCosine, DiscreteVP)
    at_pure_noise = {(a, b) for a in (NoisePrediction, ScorePrediction) for b in pure}
    assert refused == at_pure_noise | {(CleanPrediction, VarianceExploding)}
    assert admissible(NoisePrediction(), DiscreteVP("cosine"))


def test_a_denoiser_refuses_such_a_pair_in_one_sentence():
    with pytest.raises(ValueError, match=r"RectifiedFlow can start from, found NoisePrediction.*choose") as caught:
        Denoiser(conv_backbone(), torch.zeros(2, 4, 1, 1), RectifiedFlow(), NoisePrediction())
    assert "\n" not in str(caught.value)


def test_a_preset_refuses_it_too_before_anything_is_trained():
    sizes = StageSizes(2, 1e-3)
    with pytest.raises(ValueError, match="VPCosine can start from, found ScorePrediction"):
        Preset("tiny", None, None, sizes, sizes, sizes, 4, process=VPCosine(), prediction=ScorePrediction())


OPTIONS = sorted(
    path for group in ("process", "prediction", "weighting", "levels") for path in (CONFIGS / group).glob("*.yaml")
)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_choice_on_the_command_line_is_one_and_fits_in_a_bundle(path):
    made = instantiate(OmegaConf.load(path))
    if path.parent.name in ("process", "prediction"):
        assert bundle.VALUES[type(made).__name__] is type(made)
    assert path.read_text().startswith("# ")  # what the help says of it


def test_velocity_is_how_x_moves_with_the_level_of_rectified_flow():
    process, level = RectifiedFlow(), LEVELS[1:-1]
    clean, noise, x = sample(process, level)
    ahead = add_noise(process, clean, noise, level + 1e-6)
    assert error(encode(VelocityPrediction(), clean, noise, level, process), (ahead - x) / 1e-6) < 1e-8


def test_v_is_how_x_moves_with_the_angle_of_a_variance_preserving_process():
    process, level = VPCosine(0.0), LEVELS[1:-1]
    clean, noise, x = sample(process, level)
    ahead = add_noise(process, clean, noise, level + 1e-6)
    assert error(encode(VPrediction(), clean, noise, level, process), (ahead - x) / (1e-6 * torch.pi / 2)) < 1e-5


def test_the_score_is_the_gradient_of_the_density_of_x():
    process, level = VPLinear(), LEVELS[1:]
    alpha, sigma = (part[:, None] for part in (process.alpha(level), process.sigma(level)))
    x = torch.linspace(-2, 2, 50, dtype=torch.float64).expand(len(level), -1).clone().requires_grad_()
    mean, variance = alpha * 0.7, alpha**2 * 0.25 + sigma**2  # of x, for data N(0.7, 0.5^2)
    (gradient,) = torch.autograd.grad((-((x - mean) ** 2) / (2 * variance)).sum(), x)
    clean = 0.7 + alpha * 0.25 / variance * (x - mean)
    output = encode(ScorePrediction(), clean, (x - alpha * clean) / sigma, level, process)
    assert torch.allclose(output, gradient, rtol=1e-9)


def test_f_stands_between_the_skip_and_the_scales_of_karras():
    process, level, s = VarianceExploding(), LEVELS, 0.5
    sigma = process.sigma(level)
    skip, scale = PreconditionedPrediction(s).decoding(level, process)
    assert torch.allclose(skip, s**2 / (sigma**2 + s**2)) and torch.allclose(
        scale, sigma * s / (sigma**2 + s**2).sqrt()
    )
    assert torch.allclose(unit_variance(process, level), 1 / (sigma**2 + 1).sqrt())  # c_in for latents of unit variance


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_f_is_minus_v_for_data_of_unit_variance(process):
    f, v = PreconditionedPrediction(1.0), VPrediction()
    for ours, theirs in zip(f.coefficients(LEVELS, process), v.coefficients(LEVELS, process), strict=True):
        assert torch.allclose(ours, -theirs, rtol=0, atol=1e-15)


@every_pair
def test_half_precision_outputs_become_clean_latents_as_precise_as_x(prediction, process):
    x, output = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bfloat16)
    assert to_clean(prediction, output, x, torch.full((1,), 0.5), process).dtype == torch.float32


def test_f_refuses_data_without_variance():
    with pytest.raises(ValueError, match="sigma_data above 0"):
        PreconditionedPrediction(0.0)
