"""The diffusion core so far: rectified flow, Euler steps and shortcut goals against their closed forms."""

import pytest
import torch

from worldsim.diffusion.process import RectifiedFlow, add_noise
from worldsim.diffusion.samplers import EulerSampler, euler_step
from worldsim.diffusion.weighting import Ramp
from worldsim.objectives.denoising import DenoisingConfig, shortcut_goal
from worldsim.types import Stream

MEAN, SCALE = 0.7, 0.5  # of one-dimensional Gaussian data, for which everything is known


def gaussian_clean(x, level):
    """E[clean | x] for data N(MEAN, SCALE²) under rectified flow."""
    alpha, sigma = 1 - level, level
    variance = alpha**2 * SCALE**2 + sigma**2
    return MEAN + alpha * SCALE**2 / variance * (x - alpha * MEAN)


def flow_map(x, level, target):
    """Where the probability flow takes x from level to target, for the same data."""

    def moments(level):
        return (1 - level) * MEAN, ((1 - level) ** 2 * SCALE**2 + level**2) ** 0.5

    (mean, spread), (goal_mean, goal_spread) = moments(level), moments(target)
    return goal_mean + goal_spread / spread * (x - mean)


def test_noise_of_level_zero_and_one_is_clean_and_pure():
    clean, noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    process = RectifiedFlow()
    assert torch.equal(add_noise(process, clean[None], noise[None], torch.zeros(1)), clean[None])
    assert torch.equal(add_noise(process, clean[None], noise[None], torch.ones(1)), noise[None])


def test_an_euler_step_with_the_true_noise_stays_on_the_line():
    clean, noise = torch.tensor([[0.3]]), torch.tensor([[-1.2]])
    process, level, target = RectifiedFlow(), torch.tensor([0.8]), torch.tensor([0.3])
    x = add_noise(process, clean, noise, level)
    assert torch.allclose(euler_step(process, x, clean, level, target), add_noise(process, clean, noise, target))


@pytest.mark.parametrize(("coarse", "fine"), [(32, 64), (64, 128)])
def test_euler_converges_with_order_one(coarse, fine):
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None, None]

    def error(steps):
        sample = EulerSampler(steps)(
            lambda x, level, target: gaussian_clean(x, level[:, None, None, None]),
            RectifiedFlow(),
            start.shape,
            lambda i: start,
        )
        return (sample - flow_map(start, 1.0, 0.0)).square().mean().sqrt()

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
    """The shortcut model of Gaussian data: clean latents that step exactly along the flow map."""

    process = RectifiedFlow()

    def clamp(self, clean):
        return clean

    def __call__(self, history, target):
        level, goal = (v[..., None, None, None].double() for v in (target.level, target.target_level))
        size = level - goal
        moved = flow_map(target.latents, level, goal)
        exact = target.latents + level / size * (moved - target.latents)
        return torch.where(size > 0, exact, gaussian_clean(target.latents, level)), None


@pytest.mark.parametrize(("size", "tolerance"), [(1.0, 1e-6), (0.5, 1e-6), (0.25, 1e-6)])
def test_two_exact_half_steps_make_the_exact_whole_step(size, tolerance):
    """Frans et al. 2024: the flow map is the fixed point of the shortcut goal."""
    level = torch.arange(size, 1.01, size, dtype=torch.float64)[None]
    x = torch.linspace(-2, 2, level.shape[1], dtype=torch.float64)[None, :, None, None, None]
    target = Stream(x, level, torch.zeros(1, level.shape[1], 1), torch.ones_like(level, dtype=torch.bool), level - size)
    goal = shortcut_goal(ExactTeacher(), target, target, DenoisingConfig(shortcut_levels=3))
    expected, _ = ExactTeacher()(None, target)
    assert (goal - expected).abs().max() < tolerance


def test_the_smallest_step_is_made_of_infinitesimal_ones():
    level, size = torch.tensor([[0.5]], dtype=torch.float64), 0.125
    x = torch.full((1, 1, 1, 1, 1), 1.5, dtype=torch.float64)
    target = Stream(x, level, torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), level - size)
    goal = shortcut_goal(ExactTeacher(), target, target, DenoisingConfig(shortcut_levels=3))
    exact, _ = ExactTeacher()(None, target)
    two_euler_steps = x
    for start in (0.5, 0.4375):
        clean = gaussian_clean(two_euler_steps, start)
        two_euler_steps = two_euler_steps + 0.0625 / start * (clean - two_euler_steps)
    assert torch.allclose(goal, x + 0.5 / size * (two_euler_steps - x))
    assert not torch.allclose(goal, exact, atol=1e-6)


def test_the_ramp_rises_from_its_floor_to_one():
    assert Ramp(0.1)(torch.tensor([1.0, 0.5, 0.0]), RectifiedFlow()).tolist() == pytest.approx([0.1, 0.55, 1.0])
