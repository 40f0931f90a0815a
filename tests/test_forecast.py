"""What every forecaster owes the protocol: two forms that agree, and a memory nobody else writes."""

import pytest
import torch
from tiny_world import WINDOW, forgetful, last_frame, motion, recalling, shake

from worldsim.types import Stream, map_rows

FORECASTERS = {"last frame": last_frame, "motion": motion, "recalling": recalling}
LATENT, ACTIONS = (4, 2, 2), 5


@pytest.fixture(params=FORECASTERS)
def forecaster(request):
    made = FORECASTERS[request.param]()
    return made if made == last_frame() else shake(made).double().requires_grad_(False)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + len(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def clip(rows, length):
    valid = torch.ones(rows, length, dtype=torch.bool)
    latents, clean = draw(rows, length, *LATENT), draw(rows, length, *LATENT, seed=1)
    return Stream(latents, draw(rows, length), draw(rows, length, ACTIONS), valid, clean=clean)


def remember(forecaster, history, frames, rows):
    memory = forecaster.start(torch.zeros(rows, *LATENT, dtype=torch.float64))
    for t in range(frames):
        parts = (history.latents[:, t], history.level[:, t], history.action[:, t])
        memory = forgetful(forecaster.append(*parts, memory, history.clean[:, t]))
    return memory


def parts(*trees):
    found = []
    map_rows(lambda *tensors: found.append(tensors) or tensors[0], *trees)
    return found


def test_clips_are_foreseen_as_frame_by_frame_over_four_windows(forecaster):
    length = 4 * (WINDOW + 1)
    history, action = clip(2, length), 1 - draw(2, length, ACTIONS)
    foreseen = forecaster.foresee(history, action)
    for t in range(1, length + 1):
        told = forecaster.expect(action[:, t - 1], remember(forecaster, history, t, 2))
        assert (told.mean - foreseen.mean[:, t - 1]).abs().max() < 1e-10
        assert told.spread is None or (told.spread - foreseen.spread[:, t - 1]).abs().max() < 1e-10
        assert told.open is None or torch.equal(told.open, foreseen.open[:, t - 1])


def test_the_first_frame_of_an_episode_is_foreseen_from_nothing(forecaster):
    history, action = clip(2, 2), draw(2, 3, ACTIONS)
    first = forecaster.foresee(history, action).mean[:, 0]
    nothing = forecaster.start(torch.zeros(2, *LATENT, dtype=torch.float64))
    assert (first - forecaster.expect(action[:, 0], nothing).mean).abs().max() < 1e-10


def test_appending_leaves_the_memory_as_it_was_and_a_reset_row_is_new(forecaster):
    history, action = clip(3, 2 * WINDOW), draw(3, ACTIONS)
    memory = remember(forecaster, history, 2 * WINDOW, 3)
    copy = map_rows(torch.clone, memory)
    forecaster.append(history.latents[:, 0], history.level[:, 0], action, memory, history.clean[:, 0])
    before = forecaster.expect(action, memory).mean
    assert all(torch.equal(a, b) for a, b in parts(memory, copy))
    row, one = torch.tensor([1]), forecaster.start(torch.zeros(1, *LATENT, dtype=torch.float64))
    after = forecaster.expect(action, map_rows(lambda x, y: x.index_copy(0, row, y), memory, one)).mean
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.allclose(after[1], forecaster.expect(action[1:2], one).mean[0])


def test_the_size_of_a_change_is_none_for_none_and_grows_with_its_square(forecaster):
    change = draw(2, *LATENT)
    assert not forecaster.size(torch.zeros_like(change)).any()
    assert torch.allclose(forecaster.size(3 * change), 9 * forecaster.size(change))
