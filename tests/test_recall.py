"""Keyframes: the nearest in what is known comes back, stands where a forecast is open, and travels with the world."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_world import SPACE, random_clip, recalling_backbone, tiny_world

from worldsim import bundle, noise
from worldsim.actions import ActionCodec
from worldsim.models.denoiser import Denoiser
from worldsim.models.recall import Recall
from worldsim.models.unet import ConvBackboneConfig
from worldsim.objectives.denoising import DenoisingConfig, denoising_loss

SHAPE = (3, 4, 4)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def bank():
    latents = draw(20, *SHAPE)
    recall = Recall(SHAPE, 20, 3)
    recall.start_from(latents, torch.eye(3))
    return recall, latents


def test_keyframes_come_back_to_a_byte(bank):
    recall, latents = bank
    found = recall(latents, torch.ones(20, 1, 4, 4, dtype=torch.bool))
    assert (found - latents).abs().max() < 0.1


def test_what_is_not_known_is_not_compared(bank):
    recall, latents = bank
    known = torch.arange(4).expand(20, 1, 4, 4) < 2
    garbled = torch.where(known, latents, latents.roll(1, 0))
    assert (recall(garbled, known) - latents).abs().max() < 0.1


def test_the_distance_is_that_of_the_pictures():
    """By brute force: the nearest of the stored frames, seen through the map, in the known positions."""
    recall, look = Recall(SHAPE, 30, 2), draw(2, 3, seed=1)
    recall.start_from(draw(30, *SHAPE, seed=2), look)
    latent, known = draw(8, *SHAPE, seed=3), draw(8, 1, 4, 4, seed=4) > 0
    stored = (recall.codes.float() @ recall.basis + recall.centre).view(30, *SHAPE)
    apart = torch.einsum("kc,bnchw->bnkhw", look, latent[:, None] - stored).square()
    nearest = (apart * known[:, None].float().clamp_min(0.02)).flatten(2).sum(-1).argmin(1)
    assert torch.allclose(recall(latent, known), stored[nearest], atol=1e-5)


def test_too_few_frames_are_stored_repeatedly():
    recall = Recall(SHAPE, 20, 3)
    recall.start_from(draw(2, *SHAPE), torch.eye(3))
    assert len(recall.codes.unique(dim=0)) == 2


def test_keyframes_need_a_warp():
    with pytest.raises(ValueError, match="warp_width above 0"):
        ConvBackboneConfig(SHAPE, 2, keyframes=5)


def test_keyframes_stand_where_the_forecast_is_open_and_chance_opens_more():
    backbone = recalling_backbone().eval()
    context, action = backbone.start(2), torch.zeros(2, 5)
    for seed in range(3):
        context = backbone.append(draw(2, 4, 2, 2, seed=seed), torch.zeros(2), action, context)
    plain = backbone.expect(action, context)
    shut = replace(plain, open=torch.zeros_like(plain.open))
    chance = torch.tensor([0.1, 0.9]).expand(2, 1, 2, 2)
    told = backbone.expect(action, context, chance)
    assert torch.equal(told.open, plain.open | (chance < 0.5))
    assert torch.equal(torch.where(told.open, shut.mean, told.mean), shut.mean)
    recalled = backbone.recall(plain.mean, ~told.open)
    assert torch.equal(torch.where(told.open, told.mean, recalled), recalled)


def test_training_and_dreams_open_by_chance_but_the_warp_learns_without():
    codec = ActionCodec(SPACE)
    model = Denoiser(recalling_backbone(action_width=codec.width), torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1))
    clip, generator = random_clip(8, 4, (4, 2, 2), codec), torch.Generator().manual_seed(0)
    seen, backbone, expect = [], model.backbone, model.backbone.expect
    backbone.expect = lambda action, context, chance=None: seen.append(chance) or expect(action, context, chance)
    ways = {"shortcuts": False, "resample": False, "generator": generator}
    denoising_loss(model, model, clip, codec.null, DenoisingConfig(), **ways)
    denoising_loss(model, model, clip, codec.null, DenoisingConfig(), denoise=False, **ways)
    assert seen[0].shape == (8, 1, 2, 2) and seen[1] is None


def test_a_world_with_keyframes_is_the_same_after_saving_and_row_by_row(tmp_path):
    world = tiny_world(recalling_backbone)
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
    assert not torch.equal(frames[0][0], frames[0][1])  # other chance, other positions
    alone = world.initial(torch.tensor([0]), address[1:].clone())
    for _ in range(3):
        alone, _ = world.step(alone, action[1:])
    assert torch.allclose(alone.latent[0], frames[0][1], atol=1e-4)
