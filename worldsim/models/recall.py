"""Keyframes of the recordings: what stands where a frame cannot be told from the ones before, as it was once seen.

Here because a game's places are many and their number of pictures small: to store some is quicker than to learn all
(retrieval-augmented diffusion, Blattmann et al. 2022). The denoiser mends how they fit.
Leaves out an index: some ten thousand keyframes are compared in one product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RANK = 512  # numbers that a keyframe is stored by, a byte each
FITTED = 8000  # keyframes that the components are fitted to
UNKNOWN = 0.02  # weight of what is not known in a comparison, where all is unknown the nearest to the mean


class Recall(nn.Module):
    """A bank of keyframes' latents, and the one that fits best what is known of a frame.

    Principal components and bytes hold it; `start_from` fills it. What is compared are small pictures, of which the
    linear map `look [k c]` makes k numbers for each position.
    """

    def __init__(self, latent_shape: tuple[int, int, int], keyframes: int, numbers: int):
        super().__init__()
        self.latent_shape, size = latent_shape, latent_shape[0] * latent_shape[1] * latent_shape[2]
        rank = min(RANK, size, keyframes)
        self.register_buffer("codes", torch.zeros(keyframes, rank, dtype=torch.int8))
        self.register_buffer("basis", torch.zeros(rank, size))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("look", torch.zeros(numbers, latent_shape[0]))
        # The bank as it is compared, [n k*h*w], and its squared norms by position, [n h*w]; made when first needed.
        self._seen: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def start_from(self, latents: Tensor, look: Tensor) -> None:
        """Stores latents `[n c h w]`, n at least 1: as many as there is room for, evenly chosen, or some repeatedly."""
        count, rank = self.codes.shape
        rows = latents[torch.linspace(0, len(latents) - 1, count).long()].float().flatten(1)
        fitted = rows[torch.linspace(0, count - 1, min(count, FITTED)).long()]
        centre = fitted.mean(0)
        with torch.random.fork_rng(devices=[]):  # the decomposition starts from random vectors
            torch.manual_seed(0)
            *_, basis = torch.svd_lowrank(fitted - centre, q=rank, niter=2)
        codes = (rows - centre) @ basis
        scale = codes.abs().amax(0).clamp_min(1e-6) / 127
        self.codes.copy_((codes / scale).round())
        self.basis.copy_(basis.mT * scale[:, None])
        self.centre.copy_(centre)
        self.look.copy_(look)
        self._forget()

    @torch.no_grad()
    def forward(self, latent: Tensor, known: Tensor) -> Tensor:
        """Returns the keyframe `[b c h w]` nearest to latents `[b c h w]` where they are known, bool `[b 1 h w]`."""
        seen, norms = self._bank()
        weight = known.to(seen.dtype).clamp_min(UNKNOWN)
        query = self._look((latent.to(seen.dtype) * weight).flatten(1))
        distance = weight.flatten(1) @ norms.mT - 2 * query @ seen.mT
        nearest = self.codes[distance.argmin(1)].to(seen.dtype)
        return torch.addmm(self.centre, nearest, self.basis).to(latent.dtype).view_as(latent)

    def _bank(self) -> tuple[Tensor, Tensor]:
        if self._seen is None or self._seen[0].device != self.codes.device:
            codes = self.codes.to(self.basis.dtype)
            seen = torch.addmm(self._look(self.centre[None]), codes, self._look(self.basis))
            self._seen = seen, seen.view(len(seen), len(self.look), -1).square().sum(1)
        return self._seen

    def _look(self, rows: Tensor) -> Tensor:
        """Returns small pictures `[n k*h*w]` of rows `[n c*h*w]`; linear."""
        return torch.einsum("kc,nchw->nkhw", self.look, rows.view(-1, *self.latent_shape)).flatten(1)

    def _forget(self) -> None:
        self._seen = None
