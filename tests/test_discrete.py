"""The steps of DDPM: the posterior against Bayes' rule, and a learned variance that finds the true one."""

import math

import pytest
import torch

from worldsim.diffusion.discrete import DiscreteVP, hybrid_loss, learned_variance, posterior

TABLES = (DiscreteVP("linear"), DiscreteVP("cosine"), DiscreteVP("cosine", 50, zero_terminal_snr=True))
every_table = pytest.mark.parametrize("process", TABLES, ids=str)


def levels(process):
    steps = torch.tensor([1, 2, 3, process.steps // 2, process.steps - 1, process.steps])
    return steps.double() / process.steps


def images(level, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, len(level), 2, 2, 2, generator=generator, dtype=torch.float64)


@every_table
def test_the_posterior_is_the_product_of_the_two_gaussians_of_bayes(process):
    level = levels(process)[1:]
    x, clean, _ = images(level)
    mean, variance = posterior(process, x, clean, level)
    before, beta = level - 1 / process.steps, process.beta(level)
    prior_mean, prior_variance = process.alpha(before), process.sigma(before) ** 2  # of x_{t-1}, a unit of clean
    precision = 1 / prior_variance + (1 - beta) / beta
    expected = (
        (prior_mean / prior_variance)[:, None, None, None] * clean + ((1 - beta).sqrt() / beta)[:, None, None, None] * x
    ) / precision[:, None, None, None]
    assert torch.allclose(variance, 1 / precision) and torch.allclose(mean, expected)


@every_table
def test_a_step_of_the_posterior_leads_from_one_noised_latent_to_the_next(process):
    """x_{t-1} = mean + its deviation has the mean and the variance that the process says, for x_t that has its own."""
    level = levels(process)
    _, clean, _ = images(level)
    before, alpha = level - 1 / process.steps, process.alpha(level)[:, None, None, None]
    mean, variance = posterior(process, alpha * clean, clean, level)
    moved, _ = posterior(process, alpha * clean + 1, clean, level)
    slope = (moved - mean)[:, 0, 0, 0]
    assert torch.allclose(mean, process.alpha(before)[:, None, None, None] * clean, atol=1e-12)
    assert torch.allclose(slope**2 * process.sigma(level) ** 2 + variance, process.sigma(before) ** 2, atol=1e-12)


@every_table
def test_the_first_step_ends_at_the_clean_latent(process):
    level = levels(process)[:1]
    x, clean, _ = images(level)
    mean, variance = posterior(process, x, clean, level)
    assert torch.allclose(mean, clean, atol=1e-9) and variance.item() == 0


@every_table
def test_a_learned_variance_lies_between_the_posteriors_and_beta(process):
    level = levels(process)
    ones = torch.ones(len(level), 1, 1, 1, dtype=torch.float64)
    least, most, middle = (learned_variance(process, value * ones, level).flatten() for value in (-1, 1, 0))
    _, variance = posterior(process, ones, ones, level)
    assert torch.allclose(least[1:], variance[1:]) and torch.allclose(most, process.beta(level))
    assert least[0] == least[1]
    assert torch.allclose(middle, (least * most).sqrt())


def test_the_hybrid_loss_finds_the_variance_of_the_true_reverse_step():
    """Data N(0, s^2): Var[x_{t-1} | x_t] is the posterior's plus what the clean latent leaves open."""
    process, s = DiscreteVP("linear", 100), 0.6
    level = torch.tensor([3, 10, 40, 70], dtype=torch.float64) / 100
    alpha, sigma = process.alpha(level), process.sigma(level)
    variance = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)  # of clean, given x
    x = torch.tensor([0.3, -0.5, 0.8, 1.0], dtype=torch.float64)
    guess = alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x
    ends = torch.stack((guess - variance.sqrt(), guess + variance.sqrt()))  # two points with its mean and variance
    parts = [part.expand(2, 4).reshape(8, 1, 1, 1) for part in (x, ends, guess)]
    output = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([output], max_iter=200, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = hybrid_loss(process, *parts, output.repeat(2).reshape(8, 1, 1, 1), level.repeat(2), share=1.0).sum()
        total.backward()
        return total

    optimizer.step(loss)
    before = level - 1 / 100
    step = process.alpha(level) / process.alpha(before)  # x_t = step x_{t-1} + sqrt(beta) noise
    prior = process.alpha(before) ** 2 * s**2 + process.sigma(before) ** 2
    exact = 1 / (1 / prior + step**2 / process.beta(level))
    found = learned_variance(process, output.detach().reshape(4, 1, 1, 1), level).flatten()
    assert torch.allclose(found, exact, rtol=1e-4)
    assert (output.abs() < 1).all()


def test_the_bound_does_not_train_the_clean_latent_and_the_simple_part_does_not_train_the_variance():
    process, level = TABLES[0], levels(TABLES[0])
    x, clean, guess = images(level)
    output = torch.zeros_like(guess, requires_grad=True)
    guess = guess.requires_grad_()

    def gradients(share):
        return torch.autograd.grad(hybrid_loss(process, x, clean, guess, output, level, share).sum(), (guess, output))

    (guess_without, output_without), (guess_with, output_with) = gradients(0.0), gradients(1.0)
    assert torch.equal(guess_without, guess_with)
    assert not output_without.any() and (output_with.flatten(1).abs().sum(1) > 0).all()


def test_at_the_first_step_the_bound_is_the_likelihood_of_the_clean_latent():
    process, level = TABLES[0], levels(TABLES[0])[:1]
    x, clean, guess = images(level)
    output = torch.zeros_like(clean)
    found = hybrid_loss(process, x, clean, guess, output, level, 1e-3) - hybrid_loss(
        process, x, clean, guess, output, level, 0.0
    )
    variance = learned_variance(process, output, level)
    likelihood = torch.distributions.Normal(guess, variance.sqrt()).log_prob(clean).mean()
    assert found.item() == pytest.approx(-likelihood.item(), rel=1e-6)  # 1000 steps times a thousandth


def test_the_hybrid_loss_without_its_bound_is_the_squared_error_of_the_noise():
    process, level = TABLES[0], levels(TABLES[0])
    x, clean, guess = images(level)
    alpha, sigma = (part[:, None, None, None] for part in (process.alpha(level), process.sigma(level)))
    noise, guessed = (x - alpha * clean) / sigma, (x - alpha * guess) / sigma
    found = hybrid_loss(process, x, clean, guess, torch.zeros_like(x), level, 0.0)
    assert torch.allclose(found, (noise - guessed).square().mean((1, 2, 3)))
    assert found.isfinite().all() and math.isfinite(hybrid_loss(process, x, clean, guess, x, level).sum().item())
