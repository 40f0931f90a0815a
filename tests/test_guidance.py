"""Guidance against closed forms on Gaussians, and in a world: what is dropped, what is shared, what is saved."""

import pytest
import torch
from exact import MIXTURE, PROCESSES, column, gaussian_denoiser
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.diffusion.flow import count_evaluations
from worldsim.diffusion.grids import KarrasGrid, alpha_sigma
from worldsim.diffusion.guidance import Guidance, classifier_guided, history_guidance
from worldsim.diffusion.names import SAMPLERS
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPLinear
from worldsim.diffusion.samplers import EulerSampler, HeunSampler, RungeKuttaSampler

START = column(torch.linspace(-2, 2, 5))
FINE = RungeKuttaSampler(100)


def sample(denoise, process):
    return FINE(denoise, process, START.shape, lambda index: START)


def flowed(process, mean, std):
    """Where the probability flow of N(mean, std²) takes the start."""
    alpha, sigma = alpha_sigma(process, 1.0)
    return mean + std * (sigma * START - alpha * mean) / (alpha**2 * std**2 + sigma**2) ** 0.5


@pytest.mark.parametrize("process", [RectifiedFlow(), VarianceExploding()], ids=repr)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_guidance_moves_the_mean_by_its_scale(process, scale):
    """Two Gaussians of one spread: the guided one has it too, at mean_u + scale (mean_c - mean_u)."""
    conditional, unconditional = (gaussian_denoiser(process, mean, 0.5) for mean in (0.8, -0.2))
    found = sample(Guidance(scale)(conditional, unconditional), process)
    assert (found - flowed(process, -0.2 + scale * 1.0, 0.5)).abs().max() < 1e-6


def test_scale_one_is_the_conditional_denoiser_itself_and_asks_no_other():
    conditional = gaussian_denoiser(RectifiedFlow(), 0.8, 0.5)
    assert Guidance(1.0)(conditional, None) is conditional


def test_autoguidance_narrows_as_its_closed_form_says():
    """A worse model of twice the spread; mean mu, ratio sigma falling from 80 to 0."""
    process, mean, std, worse, scale = VarianceExploding(), 0.3, 0.5, 1.0, 2.0
    found = sample(Guidance(scale)(*(gaussian_denoiser(process, mean, s) for s in (std, worse))), process)
    shrunk = [(s**2 / (s**2 + 80.0**2)) ** 0.5 for s in (std, worse)]
    expected = mean + (80 * START - mean) * shrunk[0] ** scale * shrunk[1] ** (1 - scale)
    assert (found - expected).abs().max() < 1e-5
    assert found.std() < 0.7 * flowed(process, mean, std).std()


def log_share_grad(process, component):
    def grad(x, level):
        x = x.detach().requires_grad_()
        shares = MIXTURE.shares_at(x, process.alpha(level[0]), process.sigma(level[0]))
        return torch.autograd.grad(shares[..., component].log().sum(), x)[0]

    return grad


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_an_exact_classifier_makes_the_mixture_its_component(process):
    denoise = classifier_guided(MIXTURE.denoiser(process), process, log_share_grad(process, 1))
    component = gaussian_denoiser(process, MIXTURE.means[1], MIXTURE.stds[1])
    for level in (0.05, 0.5, 0.95):
        level = torch.full((5,), level, dtype=torch.float64)
        assert (denoise(START, level, level) - component(START, level, level)).abs().max() < 1e-9


def test_a_classifier_says_nothing_where_nothing_of_the_clean_latent_is_left():
    process, level = RectifiedFlow(), torch.ones(5, dtype=torch.float64)
    denoise = MIXTURE.denoiser(process)
    found = classifier_guided(denoise, process, log_share_grad(process, 1))(START, level, level)
    assert torch.equal(found, denoise(START, level, level))


def test_history_guidance_adds_the_pull_of_each_history():
    process = RectifiedFlow()
    without, one, other = (gaussian_denoiser(process, mean, 0.5) for mean in (0.0, 1.0, -0.3))
    found = sample(history_guidance(without, [(1.5, one), (0.5, other)]), process)
    assert (found - flowed(process, 1.5 - 0.15, 0.5)).abs().max() < 1e-6
    level = torch.full((5,), 0.5, dtype=torch.float64)
    pair = history_guidance(without, [(1.5, one)])(START, level, level)
    assert torch.allclose(pair, Guidance(1.5)(one, without)(START, level, level), atol=1e-12)


def test_guiding_clean_latents_guides_noise_and_velocity_alike():
    """Weights that sum to 1: what is affine in the clean latent at fixed x moves by the same rule."""
    process, level = VPLinear(), torch.full((5,), 0.6, dtype=torch.float64)
    more, less = (gaussian_denoiser(process, mean, 0.5)(START, level, level) for mean in (0.8, -0.2))
    guided = Guidance(2.5)(lambda *_: more, lambda *_: less)(START, level, level)
    noise_of = [(START - process.alpha(level[0]) * clean) / process.sigma(level[0]) for clean in (more, less, guided)]
    assert torch.allclose(noise_of[1] + 2.5 * (noise_of[0] - noise_of[1]), noise_of[2])


def test_beyond_its_interval_guidance_is_the_conditional_denoiser_row_by_row():
    more, less = torch.full((4, 1, 1, 1), 2.0), torch.zeros(4, 1, 1, 1)
    level = torch.tensor([0.1, 0.2, 0.8, 0.9])
    found = Guidance(3.0, interval=(0.2, 0.8))(lambda *_: more, lambda *_: less)(more, level, level)
    assert found.flatten().tolist() == [2.0, 6.0, 6.0, 2.0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rescaling_gives_each_row_back_its_spread(share):
    more, less = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    level = torch.full((3,), 0.5)
    plain, found = (
        Guidance(3.0, rescale=r)(lambda *_: more, lambda *_: less)(more, level, level) for r in (0.0, share)
    )
    spreads = [x.std((1, 2, 3), correction=0) for x in (more, plain, found)]
    assert torch.allclose(spreads[2], share * spreads[0] + (1 - share) * spreads[1])
    flat = torch.ones(3, 2, 4, 4)
    assert Guidance(3.0, rescale=share)(lambda *_: flat, lambda *_: 0 * flat)(flat, level, level).isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": "much"}, {"scale": float("nan")}, {"drops": "frame"}, {"interval": (0.8, 0.2)}, {"rescale": 2.0}],
)
def test_numbers_that_make_no_guidance_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Guidance(**wrong)


def frames(world, guidance, sampler=None):
    """A sampled latent of two rows, its features, and what the backbone was asked: action, is the context another."""
    state, asked = world.initial(torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.int64)), []
    backbone, read = world.denoiser.backbone, type(world.denoiser.backbone).read

    def spy(x, level, target_level, action, context):
        asked.append((action.clone(), context is not state.context.history))
        return read(backbone, x, level, target_level, action, context)

    backbone.read, draws = spy, torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    action = world.action_codec.encode(torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]]))
    try:
        latent, features = world.denoiser.sample(
            sampler or EulerSampler(1), action, state.context, lambda index: draws, guidance, world.action_codec.null
        )
    finally:
        del backbone.read
    return latent, features, asked, action


def test_only_the_current_action_is_dropped_and_the_context_is_shared():
    world = tiny_world()
    plain, features, _, action = frames(world, None)
    guided, guided_features, asked, _ = frames(world, Guidance(1.5))
    null = world.action_codec.null.expand_as(action)
    assert [(torch.equal(a, null), torch.equal(a, action), other) for a, other in asked] == [
        (True, False, False),
        (False, True, False),
    ]
    assert torch.equal(features, guided_features)  # the outcome model reads the conditional evaluation
    assert not torch.equal(plain, guided)


def test_a_world_with_guidance_of_scale_one_is_the_world_without():
    world = tiny_world()
    assert torch.equal(frames(world, None)[0], frames(world, Guidance(1.0))[0])


def test_dropped_history_is_an_empty_context_and_the_action_stays():
    asked = frames(tiny_world(), Guidance(1.5, drops="history"))[2]
    assert torch.equal(asked[0][0], asked[1][0])
    assert [other for _, other in asked] == [True, False]


def test_no_sampler_and_no_guidance_leaves_the_codec_s_bounds():
    world = tiny_world()
    low, high = world.denoiser.bound
    for sampler in (HeunSampler(3), RungeKuttaSampler(3), SAMPLERS["dpm3m"], SAMPLERS["churn"]):
        latent, *_ = frames(world, Guidance(9.0), sampler)
        assert (latent >= low).all() and (latent <= high).all()


def test_a_bundle_keeps_how_its_world_is_sampled_and_loading_may_say_otherwise(tmp_path):
    world = tiny_world()
    world.sampler, world.guidance = HeunSampler(3, KarrasGrid(5.0)), Guidance(2.0, interval=(0.1, 0.9))
    folder = bundle.save(world, tmp_path / "world")
    again = bundle.load(folder)
    assert (again.sampler, again.guidance) == (world.sampler, world.guidance)
    assert again.steps == 2 * 5
    other = bundle.load(folder, steps=2, sampler="dpm2m", guidance=1.0)
    assert type(other.sampler).__name__ == "DPMSolverMultiSampler" and other.steps == 2
    assert bundle.load(folder, sampler=EulerSampler(7), guidance=Guidance(1.0)).steps == 7
    with pytest.raises(ValueError, match="expected sampler one of euler, heun"):
        bundle.load(folder, sampler="hoin")
    with pytest.raises(ValueError, match=r"expected sampler one of euler, heun, .*, found 8"):
        bundle.load(folder, sampler=8, steps=4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_command_line_dreams(name):
    world = tiny_world()
    world.sampler = SAMPLERS[name]
    state = world.initial(torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.int64))
    action = world.action_codec.encode(torch.ones(2, 4, dtype=torch.int64))
    state, _ = world.step(state, action)
    assert state.latent.isfinite().all()
    assert world.steps == count_evaluations(world.sampler, world.denoiser.process)
