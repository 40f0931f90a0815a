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
HAAR_WEIGHT = 0.25
TOP_WEIGHT = 0.5
TOP_SHARE = 0.05  # the worst pixels, so that a small ball is not given up for a smooth floor
CHARBONNIER = 1e-3


def reconstruction_loss(autoencoder, frames: Tensor, *, finishing: bool, generator: torch.Generator) -> Loss:
    """Returns the loss of reconstructing pairs of consecutive frames, uint8 `[b 2 H W 3]`.

    While `finishing` the encoder is frozen and latents are hardly corrupted: the decoder wins back its sharpness.
    """
    images = pixels.to_float(frames)
    moving = ((images[:, 0] - images[:, 1]).abs().amax(1, keepdim=True) > MOTION).float()
    weight = 1 + MOTION_WEIGHT * F.avg_pool2d(moving, 3, 1, 1)
    weight = (weight / weight.mean()).repeat_interleave(2, 0)
    images = images.flatten(0, 1)
    output = autoencoder(images, lambda raw: _corrupt(raw, finishing, generator)).float()
    error = output - images
    pixel = ((error.square() + CHARBONNIER**2).sqrt() * weight).mean()
    detail = haar_distance(output, images)
    worst = error.abs().mean(1).flatten(1)
    top = worst.topk(max(1, int(TOP_SHARE * worst.shape[1])), dim=1).values.mean()
    total = pixel + HAAR_WEIGHT * detail + TOP_WEIGHT * top
    psnr = -10 * torch.log10(error.detach().square().mean() / 4 + 1e-12)
    return Loss(total, {"psnr": psnr, "pixel": pixel.detach(), "detail": detail.detach(), "top": top.detach()})


def _corrupt(raw: Tensor, finishing: bool, generator: torch.Generator) -> Tensor:
    """Mixes noise into half of the latents `[b c h w]` (l-DeTok, Yang et al. 2025, milder); 0.1 of it while finishing."""
    if finishing:
        raw = raw.detach()
    b = raw.shape[0]
    draw = torch.rand(2, b, 1, 1, 1, generator=generator, device=raw.device)
    mix = draw[0] * 0.5 * (draw[1] < 0.5)
    scale = raw.detach().std() * (0.1 if finishing else 1.0)
    noise = torch.randn(raw.shape, generator=generator, device=raw.device) * scale
    keep = 1.0 if finishing else 1 - mix
    return keep * raw + mix * noise


def haar_distance(a: Tensor, b: Tensor, levels: int = 3) -> Tensor:
    """Returns the mean absolute difference of the detail subbands of two image batches `[b 3 H W]` (Haar 1910)."""
    total = a.new_zeros(())
    for _ in range(levels):
        difference = a - b
        split = F.pixel_unshuffle(difference, 2).unflatten(1, (-1, 4))
        p, q, r, s = split.unbind(2)
        details = (p - q + r - s, p + q - r - s, p - q - r + s)
        total = total + sum(detail.abs().mean() for detail in details) / 6
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / levels
