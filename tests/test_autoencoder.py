"""The codec starts where a linear one ends."""

import torch

from worldsim.models.autoencoder import ConvAutoencoder, ConvAutoencoderConfig


def test_an_untrained_codec_rebuilds_what_few_components_span():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(64, 2, 1, 1, 1, generator=generator) * torch.randn(2, 8, 8, 3, generator=generator)
    frames = (128 + 10 * drawn.sum(1)).clamp(0, 255).byte().repeat(1, 2, 2, 1)  # two patterns in every 8x8 patch
    torch.manual_seed(0)
    codec = ConvAutoencoder(ConvAutoencoderConfig((16, 16, 3), latent_channels=2, widths=(8, 8)))
    codec.start_from(frames)
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
