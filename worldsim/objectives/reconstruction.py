"""The codec's loss: sharp where the game moves, and a decoder that bears imperfect latents.

Here as a function of the model and a batch, so that training and tests call the same.
Leaves out perceptual and adversarial terms: no pretrained network is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import pixels
from worldsim.types import Loss

MOTION = 8 / 127.5  # a pixel that changes by more than 8/255 moves
MOTION_WEIGHT = 4.0
SQUARE_WEIGHT = 4.0  # absolute error alone gives up things that are small and hard to place: its best guess is no thing
HAAR_WEIGHT = 0.25
CHARBONNIER = 1e-3
LATENT_NOISE = 0.1  # of the latents' standard deviation


def reconstruction_loss(autoencoder, frames: Tensor, *, generator: torch.Generator) -> Loss:
    """Returns the loss of reconstructing pairs of consecutive frames, uint8 `[b 2 H W 3]`.

    The latents are decoded with noise on them (l-DeTok, Yang et al. 2025, much milder), so that the decoder bears the
    small errors of a dream.
    """
    images = pixels.to_float(frames)
    moving = ((images[:, 0] - images[:, 1]).abs().amax(1, keepdim=True) > MOTION).float()
    weight = 1 + MOTION_WEIGHT * F.avg_pool2d(moving, 3, 1, 1)
    weight = (weight / weight.mean()).repeat_interleave(2, 0)
    images = images.flatten(0, 1)

    def corrupt(raw: Tensor) -> Tensor:
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        return raw + LATENT_NOISE * raw.detach().std() * noise

    error = autoencoder(images, corrupt).float() - images
    square = (error.square() * weight).mean()
    absolute = ((error.square() + CHARBONNIER**2).sqrt() * weight).mean()
    detail = haar_detail(error)
    psnr = -10 * torch.log10(error.detach().square().mean() / 4 + 1e-12)
    total = SQUARE_WEIGHT * square + absolute + HAAR_WEIGHT * detail
    return Loss(total, {"psnr": psnr, "square": square.detach(), "detail": detail.detach()})


def haar_detail(images: Tensor, levels: int = 3) -> Tensor:
    """Returns the mean size of the detail subbands of images `[b 3 H W]`, averaged over scales (Haar 1910)."""
    total = images.new_zeros(())
    for _ in range(levels):
        p, q, r, s = F.pixel_unshuffle(images, 2).unflatten(1, (-1, 4)).unbind(2)
        details = (p - q + r - s, p + q - r - s, p - q - r + s)
        total = total + sum(detail.abs().mean() for detail in details) / 6
        images = F.avg_pool2d(images, 2)
    return total / levels
