"""The warp: pictures it moves go where the flow points, what it expects is learned, and at first nothing moves."""

import pytest
import torch
import torch.nn.functional as F
from tiny_world import motion

from worldsim.models.warp import MARGIN, OLDEST, PATCH, Warp, WarpConfig
from worldsim.types import Forecast

SHAPE = (3 * PATCH**2, 4, 4)  # a latent that holds every pixel of a 32x32 picture


@pytest.fixture
def warp():
    """A warp whose latents are the picture's patches in another order, of another scale."""
    warp = Warp(WarpConfig(SHAPE, inputs=SHAPE[0], condition_width=4, width=8, depth=1)).double()
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.cat((images, -images))  # latents have no mean
    warp.start_from(images, latents(images))
    return warp


def latents(images):
    return 3 * F.pixel_unshuffle(images, PATCH).flip(1)


def expect(warp, newest, condition, remembered=None):
    """Returns the forecast from a newest latent and what is remembered beside it: at first nothing."""
    known = torch.ones(len(newest), dtype=torch.bool)
    view = warp.view(warp.blank(len(newest)) if remembered is None else remembered, newest, known)
    return warp.forecast(newest, view, *warp(newest, condition))[0]


def moved_by(warp, latent, flow):
    """Returns the forecast of a frame to which a known flow leads."""
    view = warp.view(warp.blank(len(latent)), latent, torch.ones(len(latent), dtype=torch.bool))
    return warp.forecast(latent, view, flow, torch.full_like(latent, 0.1))[0]


def scene(rows=1):
    """A smooth picture `[rows 3 32 32]`."""
    noise = torch.randn(rows, 3, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return F.interpolate(noise, (32, 32), mode="bicubic", align_corners=False)


def test_pictures_come_back_from_latents(warp):
    assert (warp.picture(latents(scene())) - scene()).abs().max() < 0.01


@pytest.mark.parametrize(("x", "y"), [(5, 0), (-11, 0), (0, 3), (4, -7)])
def test_pixels_come_from_where_the_flow_points(warp, x, y):
    picture = scene()
    flow = torch.tensor([x, y], dtype=torch.float64).div(PATCH).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    forecast = moved_by(warp, latents(picture), flow)
    rows, columns = ((torch.arange(32) + by).clamp(0, 31) for by in (y, x))  # beyond the edge: what stands there
    error = (warp.picture(forecast.mean) - picture[:, :, rows][:, :, :, columns]).abs()
    assert error.max() < 0.05  # what the ridge shrinks
    away = (torch.arange(32) + x != columns) | (torch.arange(32) + y != rows)[:, None]
    assert torch.equal(forecast.open, F.avg_pool2d(away[None, None].double(), PATCH) > 1 / 8)


def test_what_leaves_the_frame_comes_back_when_the_view_turns_back(warp):
    """Three turns to the right by 13 pixels and back again: the frame is the first one, and nothing of it is open."""
    condition = torch.ones(1, 4, dtype=torch.float64)
    first = latents(scene())
    latent, remembered = first, warp.blank(1)
    for by in (13, 13, 13, -13, -13, -13):
        with torch.no_grad():
            warp.head.bias.view(2, -1)[0] = by / PATCH
            warp.spread.bias.fill_(-9)
        forecast = expect(warp, latent, condition, remembered)
        view = warp.view(remembered, latent, torch.ones(1, dtype=torch.bool))
        remembered = warp.remember(latent, view, warp(latent, condition)[0], forecast.mean)
        latent = forecast.mean
        assert forecast.open.any() == (by > 0)
    assert (warp.picture(latent) - scene()).abs().max() < 0.1


def test_what_was_moved_is_half_as_fresh_and_what_was_not_is_new(warp):
    """The frame stands but in one position; its margins, once seen, fade as far as nothing else tells them."""
    newest, flow = latents(scene()), torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    remembered = warp.blank(1)
    remembered[:, 3, :, -10:] = 1
    clean = newest.clone()
    clean[..., 1, 2] += 1
    for step in range(1, 30):
        view = warp.view(remembered, newest, torch.ones(1, dtype=torch.bool))
        remembered = warp.remember(newest, view, flow, clean if step == 1 else newest)
        fresh = remembered[0, 3, :, MARGIN:-MARGIN]
        if step == 1:
            expected = torch.full((4, 4), 0.5, dtype=torch.float64)
            expected[1, 2] = 1
            assert torch.equal(fresh, expected.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1))
    assert (fresh == OLDEST).all() and (remembered[0, 3, :, -10:] == OLDEST).all()
    assert (remembered[0, 3, :, -MARGIN:-10] == 0).all()


def test_an_untrained_warp_expects_the_newest_frame(warp):
    newest = latents(scene(2))
    mean = expect(warp, newest, torch.ones(2, 4, dtype=torch.float64)).mean
    assert torch.allclose(mean, newest, atol=1e-9)


def test_turning_is_learned_from_what_is_seen(warp):
    """A condition that says by how much a picture moves is understood: the error falls to a tenth of staying."""
    warp = warp.float()
    optimizer = torch.optim.Adam(warp.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(2)
    picture = scene(16).float()
    for _ in range(200):
        by = 4 * torch.rand(16, generator=generator) - 2  # pixels
        flow = torch.stack((by / PATCH, torch.zeros(16)), 1)[:, :, None, None].expand(16, 2, 16, 16)
        newest = latents(picture)
        goal = moved_by(warp, newest, flow).mean
        forecast = expect(warp, newest, by[:, None].expand(16, 4))
        error = (forecast.mean - goal).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.1 * (newest - goal).square().mean()


def test_the_finest_detail_outlives_many_steps_between_pixels(warp):
    """There and back by half a pixel, eight times: bicubic sampling alone leaves nothing to speak of."""
    wave = torch.cos(0.7 * torch.pi * torch.arange(32, dtype=torch.float64))
    latent = latents(wave.expand(1, 3, 32, 32))
    half = torch.tensor([0.5 / PATCH, 0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    for flow in (half, -half) * 8:
        latent = moved_by(warp, latent, flow).mean
    middle = slice(8, 24)  # away from the edges, beyond which nothing is known
    assert warp.picture(latent)[..., middle].square().sum() > 0.5 * wave[middle].square().sum() * 3 * 32


def test_the_spread_that_costs_least_is_the_true_one(warp):
    mean, noise = torch.randn(2, 400, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    costs = {
        spread: warp.error(Forecast(mean, torch.full_like(mean, spread)), mean + 0.3 * noise).mean()
        for spread in (0.2, 0.3, 0.4)
    }
    assert min(costs, key=costs.get) == 0.3


def test_training_leaves_the_linear_maps_alone():
    names = {name for name, _ in motion().warp.named_parameters()}
    assert not names & {"unfold", "fold", "background"}


def test_where_a_forecast_stands_diffusion_has_nothing_to_tell():
    """Closed positions keep the mean whatever was sampled; in open ones residual and latent undo each other."""
    mean, latent = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    is_open = torch.arange(4).expand(2, 1, 4, 4) >= 2
    forecast = Forecast(mean, torch.full_like(mean, 0.3), is_open)
    residual = forecast.residual(latent)
    assert torch.equal(residual[..., :2], torch.zeros_like(residual[..., :2]))
    assert torch.allclose(forecast.latent(residual)[..., 2:], latent[..., 2:])
    assert torch.equal(forecast.latent(torch.ones_like(mean))[..., :2], mean[..., :2])
    assert torch.allclose(forecast.latent(residual, 0.5)[..., 2:], (mean + latent)[..., 2:] / 2)


@pytest.mark.parametrize(("by", "columns"), [(0.4, 0), (5, 1), (-13, 2)])
def test_what_comes_from_beyond_the_edge_is_open(warp, by, columns):
    """A frame turned by so many pixels is open in the positions that lack more than a column of pixels."""
    with torch.no_grad():
        warp.head.bias.view(2, -1)[0] = by / PATCH
        warp.spread.bias.fill_(-9)
    newest = latents(scene())
    seen = expect(warp, newest, torch.ones(1, 4, dtype=torch.float64)).open[0, 0]
    expected = torch.arange(4) < columns if by < 0 else torch.arange(4) >= 4 - columns
    assert torch.equal(seen, expected.expand(4, 4))
    with torch.no_grad():
        warp.spread.bias.fill_(9)  # and where nothing is known, everywhere
    assert expect(warp, newest, torch.ones(1, 4, dtype=torch.float64)).open.all()
