"""Keyframes: the nearest in what is known comes back, stands where a forecast is open, and travels with the world."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_world import motion, recalling, tiny_world

from worldsim import bundle, noise, pixels
from worldsim.evaluation.detail import haar_energy
from worldsim.models.recall import Recall


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scenes(count, size=16, seed=0):
    """Smooth frames, uint8 `[n H W 3]`."""
    return pixels.to_uint8(F.interpolate(draw(count, 3, 4, 4, seed=seed), (size, size), mode="bicubic"))


@pytest.fixture
def bank():
    frames = scenes(20)
    recall = Recall((16, 16), (4, 4))
    recall.start_from(frames)
    return recall, pixels.to_float(frames)


@pytest.fixture
def only_the_nearest(monkeypatch):
    monkeypatch.setattr("worldsim.models.recall.NEAREST", 1)


def test_a_sheet_holds_no_more_than_its_format_can(monkeypatch):
    monkeypatch.setattr("worldsim.models.recall.SIDE", 40)
    monkeypatch.setattr("worldsim.models.recall.PIXELS", 1100)
    recall = Recall((16, 8), (2, 2))
    recall.start_from(scenes(30, 16)[:, :, :8])
    assert recall.frames.shape == (8, 16, 8, 3)  # every fourth; two below one another, five beside


def test_keyframes_come_back_as_webp_keeps_them(bank, only_the_nearest):
    recall, pictures = bank
    found = recall(pictures, torch.ones(20, 1, 16, 16, dtype=torch.bool))
    error = (found - pictures).square().mean().sqrt()
    assert error < 0.25 * (pictures - pictures.roll(1, 0)).square().mean().sqrt()


def test_what_is_not_known_counts_less(bank, only_the_nearest):
    recall, pictures = bank
    known = torch.arange(16).expand(20, 1, 16, 16) < 8
    garbled = torch.cat((pictures[..., :8], pictures.roll(1, 0)[..., 8:]), -1)
    assert torch.equal(recall(garbled, known), recall(pictures, known))
    assert not torch.equal(recall(garbled, ~known), recall(pictures, ~known))


def test_of_the_nearest_four_the_one_with_most_fine_detail_is_taken(bank):
    recall, _ = bank
    query, known = draw(8, 3, 16, 16, seed=3), draw(8, 1, 16, 16, seed=4) > 0
    stored = pixels.to_float(recall.frames)
    apart = F.avg_pool2d(query, 4)[:, None] - F.avg_pool2d(stored, 4)
    order = (apart.square() * F.avg_pool2d(known.float(), 4)[:, None].clamp_min(0.3)).flatten(2).sum(-1).argsort(1)
    detail = torch.from_numpy(haar_energy(recall.frames.numpy()))
    sharpest = [max(row, key=lambda i: detail[i]) for row in order[:, :4].tolist()]
    assert torch.equal(recall(query, known), stored[sharpest]) and sharpest != order[:, 0].tolist()


def test_the_nearest_is_found_as_by_comparing_one_by_one(bank, only_the_nearest):
    recall, _ = bank
    query, known = draw(8, 3, 16, 16, seed=3), draw(8, 1, 16, 16, seed=4) > 0
    stored = pixels.to_float(recall.frames)
    apart = F.avg_pool2d(query, 4)[:, None] - F.avg_pool2d(stored, 4)
    nearest = (apart.square() * F.avg_pool2d(known.float(), 4)[:, None].clamp_min(0.3)).flatten(2).sum(-1).argmin(1)
    assert torch.equal(recall(query, known), stored[nearest])


def test_a_sheet_of_any_number_of_frames_is_full():
    recall = Recall((16, 16), (2, 2))
    recall.start_from(scenes(7))
    assert len(recall.frames) == 9
    assert (recall.frames[8].float() - recall.frames[7].float()).abs().mean() < 20


def test_frames_of_another_size_are_resized():
    recall = Recall((16, 16), (2, 2))
    recall.start_from(scenes(4, size=32))
    assert recall.frames.shape == (4, 16, 16, 3)


def test_keyframes_tell_what_comes_into_view():
    forecaster, plain = (make().requires_grad_(False) for make in (recalling, partial(motion, keyframes=6)))
    for each in (forecaster, plain):
        each.warp.head.bias.view(2, -1)[0] = 1 / 2  # half of the right column comes from beyond the edge
    plain.load_state_dict({k: v for k, v in forecaster.state_dict().items() if "recall" not in k}, strict=False)
    known = torch.arange(16).expand(2, 1, 16, 16) < 12
    memory, action = forecaster.start(torch.zeros(2, 4, 2, 2)), torch.zeros(2, 5)
    for seed in range(3):
        frame = draw(2, 4, 2, 2, seed=seed)
        memory = forecaster.append(frame, torch.zeros(2), action, memory, frame)
    alone, told = plain.expect(action, memory), forecaster.expect(action, memory)
    moved = forecaster.warp.picture(alone.mean)
    recalled = forecaster.warp.latent(torch.where(known, moved, forecaster.recall(moved, known)))
    assert alone.open[:, 0].tolist() == [[[False, True]] * 2] * 2 and torch.equal(told.open, alone.open)
    assert torch.equal(told.mean, torch.where(alone.open, recalled, alone.mean))


def test_a_keyframe_takes_the_place_of_what_was_only_moved_for_long():
    forecaster, plain = (make().requires_grad_(False) for make in (recalling, partial(motion, keyframes=6)))
    plain.load_state_dict({k: v for k, v in forecaster.state_dict().items() if "recall" not in k}, strict=False)
    memory, action = forecaster.start(torch.zeros(1, 4, 2, 2)), torch.zeros(1, 5)  # renewed at a freshness below a half
    taken = []
    for step in range(6):
        frame = forecaster.expect(action, memory).mean
        taken.append(not torch.equal(frame, plain.expect(action, memory).mean))
        frame = draw(1, 4, 2, 2) if step == 0 else frame  # the game's
        memory = forecaster.append(frame, torch.zeros(1), action, memory, frame)
    assert taken == [True, False, False, True, False, False]  # at first nothing is known


def test_a_world_with_keyframes_is_the_same_after_saving_and_row_by_row(tmp_path):
    world = tiny_world(forecaster=recalling)
    again = bundle.load(bundle.save(world, tmp_path / "world"))
    address = noise.address_of([3, 4], world.device)
    action = torch.zeros(2, world.denoiser.backbone.config.action_width)
    frames = []
    for model in (world, copy.deepcopy(world), again):
        state = model.initial(torch.tensor([0, 0]), address.clone())
        for _ in range(3):
            state, _ = model.step(state, action)
        frames.append(state.latent)
    assert torch.equal(frames[0], frames[1]) and torch.equal(frames[0], frames[2])
    assert not torch.equal(frames[0][0], frames[0][1])  # other noise, other frames
    alone = world.initial(torch.tensor([0]), address[1:].clone())
    for _ in range(3):
        alone, _ = world.step(alone, action[1:])
    assert torch.allclose(alone.latent[0], frames[0][1], atol=1e-4)
