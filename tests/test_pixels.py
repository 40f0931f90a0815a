"""Pixels: all 256 values survive the round trip, and resizing averages."""

import torch
import torch.nn.functional as F

from worldsim import pixels


def test_all_256_values_survive_the_round_trip():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(pixels.to_uint8(pixels.to_float(frames)), frames)


def test_floats_span_minus_one_to_one_channels_first():
    frames = torch.tensor([0, 255, 255], dtype=torch.uint8).expand(2, 4, 5, 3)
    images = pixels.to_float(frames)
    assert images.shape == (2, 3, 4, 5)
    assert images[:, 0].unique().item() == -1 and images[:, 1].unique().item() == 1


def test_values_out_of_range_are_clipped_not_wrapped():
    images = torch.tensor([-3.0, 0.0, 3.0]).reshape(3, 1, 1)
    assert pixels.to_uint8(images).flatten().tolist() == [0, 128, 255]


def test_resizing_keeps_a_flat_colour_and_averages_a_pattern():
    flat = torch.full((1, 20, 30, 3), 77, dtype=torch.uint8)
    assert (pixels.resize(flat, 10, 10) == 77).all()
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(16)[None, :, None, None].expand(1, 32, 32, 3)
    assert (pixels.resize(stripes, 8, 8).float()[:, 1:-1] - 100).abs().max() <= 8


def test_resizing_to_the_same_size_changes_nothing():
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert pixels.resize(frames, 8, 8) is frames


def test_bytes_are_resized_as_by_way_of_floats_to_within_a_level():
    generator = torch.Generator().manual_seed(0)
    for size, goal in (((72, 128), 64), ((20, 30), 64), ((210, 160), 64)):
        frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=generator)
        floats = F.interpolate(pixels.to_float(frames), (goal, goal), mode="bilinear", antialias=True)
        expected = pixels.to_uint8(floats)
        assert (pixels.resize(frames, goal, goal).int() - expected.int()).abs().max() <= 1
