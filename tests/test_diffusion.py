"""Euler steps and shortcut goals against the closed forms of Gaussian data, under every kind of process."""

import pytest
import torch

from worldsim.diffusion.discrete import DiscreteVP
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear, add_noise
from worldsim.diffusion.samplers import EulerSampler, euler_step
from worldsim.diffusion.weighting import Ramp
from worldsim.objectives.denoising import DenoisingConfig, shortcut_goal
from worldsim.types import Forecast, Stream

MEAN, SCALE = 0.7, 0.5  # of one-dimensional Gaussian data, for which everything is known


PROCESSES = (RectifiedFlow(), RectifiedFlow(3.0), VPLinear(), VPCosine(), VarianceExploding(), DiscreteVP("cosine"))
every_process = pytest.mark.parametrize("process", PROCESSES, ids=str)


def gaussian_clean(process, x, level):
    """E[clean | x] for data N(MEAN, SCALE²)."""
    alpha, sigma = process.alpha(level), process.sigma(level)
    variance = alpha**2 * SCALE**2 + sigma**2
    return MEAN + alpha * SCALE**2 / variance * (x - alpha * MEAN)


def flow_map(process, x, level, target):
    """Where the probability flow takes x from level to target, for the same data."""

    def moments(level):
        alpha, sigma = process.alpha(level), process.sigma(level)
        return alpha * MEAN, (alpha**2 * SCALE**2 + sigma**2).sqrt()

    (mean, spread), (goal_mean, goal_spread) = moments(level), moments(target)
    return goal_mean + goal_spread / spread * (x - mean)


def test_noise_of_level_zero_and_one_is_clean_and_pure():
    clean, noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    process = RectifiedFlow()
    assert torch.equal(add_noise(process, clean[None], noise[None], torch.zeros(1)), clean[None])
    assert torch.equal(add_noise(process, clean[None], noise[None], torch.ones(1)), noise[None])


@every_process
def test_an_euler_step_with_the_true_noise_stays_on_the_line(process):
    clean, noise = torch.tensor([[0.3]]), torch.tensor([[-1.2]])
    level, target = torch.tensor([0.8]), torch.tensor([0.3])
    x = add_noise(process, clean, noise, level)
    assert torch.allclose(euler_step(process, x, clean, level, target), add_noise(process, clean, noise, target))


@pytest.mark.parametrize(("coarse", "fine"), [(32, 64), (64, 128)])
def test_euler_converges_with_order_one(coarse, fine):
    start, process = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None, None], RectifiedFlow()
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def error(steps):
        sample = EulerSampler(steps)(
            lambda x, level, target: gaussian_clean(process, x, level[:, None, None, None]),
            process,
            start.shape,
            lambda i: start,
        )
        return (sample - flow_map(process, start, *ends)).square().mean().sqrt()

    assert 1.8 < error(coarse) / error(fine) < 2.2


def test_a_sampler_calls_the_network_once_a_step_and_says_where_it_goes():
    calls = []

    def denoise(x, level, target):
        calls.append((level[0].item(), target[0].item()))
        return torch.zeros_like(x)

    EulerSampler(4)(denoise, RectifiedFlow(), (1, 1, 1, 1), lambda i: torch.ones(1, 1, 1, 1))
    assert calls == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]


@pytest.mark.parametrize("steps", [0, -1, 2.5, "4"])
def test_a_sampler_refuses_a_count_that_is_none(steps):
    with pytest.raises(ValueError, match="at least 1"):
        EulerSampler(steps)


class ExactTeacher:
    """The shortcut model of Gaussian residuals: clean latents that step exactly along the flow map."""

    drafts = False

    def __init__(self, process):
        self.process = process

    def clamp(self, clean):
        return clean

    def __call__(self, history, target, forecast):
        level, goal = (v[..., None, None, None].double() for v in (target.level, target.target_level))
        x, step = target.latents, level - goal
        moved = flow_map(self.process, x, level, goal)
        ratio = self.process.sigma(goal) / self.process.sigma(level)
        exact = (moved - ratio * x) / (self.process.alpha(goal) - ratio * self.process.alpha(level))
        return forecast.latent(torch.where(step > 0, exact, gaussian_clean(self.process, x, level))), None


FORECAST = Forecast(*torch.tensor([0.3, 0.5], dtype=torch.float64), open=torch.tensor(True))


def shortcut_query(process, level, size):
    x = process.sigma(level) * torch.linspace(-2, 2, level.shape[1], dtype=torch.float64)
    none, valid = torch.zeros(1, level.shape[1], 1), torch.ones_like(level, dtype=torch.bool)
    return Stream(x[..., None, None, None], level, none, valid, level - size)


@every_process
@pytest.mark.parametrize("size", [1.0, 0.5, 0.25])
def test_two_exact_half_steps_make_the_exact_whole_step(process, size):
    """Frans et al. 2024: the flow map is the fixed point of the shortcut goal."""
    target = shortcut_query(process, torch.arange(size, 1.01, size, dtype=torch.float64)[None], size)
    goal = shortcut_goal(ExactTeacher(process), target, target, FORECAST, DenoisingConfig(shortcut_levels=3))
    expected, _ = ExactTeacher(process)(None, target, FORECAST)
    assert (goal - expected).abs().max() < 1e-9


@every_process
def test_the_smallest_step_is_made_of_infinitesimal_ones(process):
    target = shortcut_query(process, torch.tensor([[0.5, 0.75]], dtype=torch.float64), 0.125)
    goal = shortcut_goal(ExactTeacher(process), target, target, FORECAST, DenoisingConfig(shortcut_levels=3))
    exact, _ = ExactTeacher(process)(None, target, FORECAST)
    moved, whole = target.latents, FORECAST.residual(goal)
    for part in (0, 0.0625):
        level = target.level - part
        clean = gaussian_clean(process, moved, level[..., None, None, None])
        moved = euler_step(process, moved, clean, level, level - 0.0625)
    assert torch.allclose(euler_step(process, target.latents, whole, target.level, target.target_level), moved)
    assert not torch.allclose(goal, exact, atol=1e-6)


def test_the_ramp_rises_from_its_floor_to_one():
    assert Ramp(0.1)(torch.tensor([1.0, 0.5, 0.0]), RectifiedFlow()).tolist() == pytest.approx([0.1, 0.55, 1.0])
