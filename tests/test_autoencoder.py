"""The learned codec starts where a linear one ends; the folded one loses nothing."""

import pytest
import torch

from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from worldsim.models.folded import CONTRAST, DEADBAND, FoldedPixels, FoldedPixelsConfig


@pytest.mark.parametrize("side", [4, 8])
def test_an_untrained_codec_rebuilds_what_few_components_span(side):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(64, 2, 1, 1, 1, generator=generator) * torch.randn(2, side, side, 3, generator=generator)
    frames = (128 + 10 * drawn.sum(1)).clamp(0, 255).byte().repeat(1, 16 // side, 16 // side, 1)  # two in every patch
    torch.manual_seed(0)
    stages = side // 4
    sizes = {"latent_channels": 2, "widths": (8,) * stages, "blocks": (1,) * stages}
    codec = ConvAutoencoder(ConvAutoencoderConfig((16, 16, 3), **sizes))
    codec.start_from(frames)
    assert codec.encode(frames).shape == (64, *codec.latent_shape) == (64, 2, 16 // side, 16 // side)
    with torch.no_grad():
        rebuilt = codec.decode(codec.encode(frames))
    error = (rebuilt.float() - frames.float()).square().mean()
    assert error < 0.02 * frames.float().var(0).mean()


def test_frames_that_never_change_start_a_codec_that_keeps_them():
    frames = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8).expand(5, -1, -1, -1)
    codec = ConvAutoencoder(ConvAutoencoderConfig((16, 16, 3), latent_channels=4, widths=(8, 8)))
    codec.start_from(frames)
    with torch.no_grad():
        assert torch.equal(codec.decode(codec.encode(frames)), frames)


def quieted(*clips):
    """Returns the deadband that recordings of these pairs of frames lead to."""
    return FoldedPixelsConfig((16, 16, 3)).quieted(torch.stack(clips)).deadband


def test_a_deadband_is_as_wide_as_recordings_allow():
    still = torch.full((2, 16, 16, 3), 100, dtype=torch.uint8)
    moved, faded, blurred = still.clone(), still.clone(), still.clone()
    moved[0, 2:6, 2:6] = moved[1, 3:7, 2:6] = 250
    faded[1] += 5
    blurred[1, 2:6, 2:6] = 250
    blurred[1, 6, 2:6] = 103  # hardly changes, beside what does
    assert quieted(still) == 0  # nothing is known
    assert quieted(still, moved) == quieted(blurred) == DEADBAND
    assert quieted(moved, faded) == 5  # narrower than the fading
    assert FoldedPixelsConfig((16, 16, 3), deadband=3).quieted(torch.stack([faded])).deadband == 3


def test_what_hardly_changes_stands_still_exactly_and_no_colour_moves_apart():
    codec = FoldedPixels(FoldedPixelsConfig((16, 16, 3), scale=2.0, deadband=5))
    frames = torch.full((3, 16, 16, 3), 100, dtype=torch.uint8)
    frames[1] += 4
    frames[2] += 4
    frames[2, 8, 8, 1] = 106  # one colour of one pixel
    before, almost, changed = codec.encode(frames).split(1)
    assert torch.equal(codec.settle(almost, before), before)
    moves = codec.decode(codec.settle(changed, before))[0] != frames[0]
    assert moves.any(-1).nonzero().amin(0).tolist() == [6, 6]  # that position of 2x2 pixels and its neighbours
    assert moves.sum() == 6 * 6 * 3 and torch.equal(FoldedPixels(FoldedPixelsConfig()).settle(almost, before), almost)


@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folded_frames_unfold_to_the_same_bytes(fold, dtype):
    codec = FoldedPixels(FoldedPixelsConfig((16, 32, 3), fold))
    frames = (torch.arange(2 * 16 * 32 * 3) % 256).byte().reshape(2, 16, 32, 3)  # every level
    latents = codec.encode(frames).to(dtype)
    assert latents.shape == (2, *codec.latent_shape) == (2, 3 * fold**2, 16 // fold, 32 // fold)
    assert torch.equal(codec.decode(latents), frames)
    assert (latents >= codec.bound[0]).all() and (latents <= codec.bound[1]).all()


def test_a_fitted_scale_gives_dark_games_the_contrast_of_bright_ones():
    frames = torch.randint(0, 256, (20, 16, 16, 3), generator=torch.Generator().manual_seed(0)).byte()
    scales = []
    for game in (frames, frames // 8):
        codec = FoldedPixels(FoldedPixelsConfig((16, 16, 3)).fitted(game))
        assert codec.encode(game).std().item() == pytest.approx(CONTRAST, rel=0.01)
        assert torch.equal(codec.decode(codec.encode(game)), game)
        scales.append(codec.scale)
    assert scales[1] == pytest.approx(8 * scales[0], rel=0.03)
    assert FoldedPixelsConfig((16, 16, 3), scale=3.0).fitted(frames).scale == 3.0
    assert FoldedPixels(FoldedPixelsConfig((16, 16, 3)).fitted(torch.zeros_like(frames))).bound.isfinite().all()


def test_frames_that_do_not_fold_are_refused():
    with pytest.raises(ValueError, match="sides are multiples of 8, found 12x16x3; record with another size"):
        ConvAutoencoderConfig((12, 16, 3))
    with pytest.raises(ValueError, match="expected as many blocks as widths"):
        ConvAutoencoderConfig(widths=(64,))
    with pytest.raises(ValueError, match="sides are multiples of 4, found 18x16x3; record with another size"):
        FoldedPixelsConfig((18, 16, 3), 4)
    with pytest.raises(ValueError, match=r"expected frames of \(16, 16, 3\), found \(8, 8, 3\)"):
        FoldedPixels(FoldedPixelsConfig((16, 16, 3))).encode(torch.zeros(8, 8, 3, dtype=torch.uint8))
