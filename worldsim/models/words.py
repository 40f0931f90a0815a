"""Visual words: how many patches of each kind a frame shows, beside how many are usual (Sivic & Zisserman 2003).

Here because a network of convolutions learns to count only after a million clips, and counting tells that a coin is
missing. Leaves out where the patches are.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

PATCHES, ROUNDS = 2**17, 5  # patches to find words in, rounds of k-means
SOFTNESS = 0.05  # how far from a word a patch counts, as a share of the variance of all patches
SLACK = 0.5, 0.2  # patches, and share of the usual count, by which a count is not surprising
LIMIT = 5.0  # of the surprise


class VisualWords(nn.Module):
    """Counts kinds of latent patches: `words [n c]`, each with its usual count and that count's standard deviation."""

    words: Tensor
    usual: Tensor
    softness: Tensor

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.register_buffer("words", torch.zeros(count, channels))
        self.register_buffer("usual", torch.ones(2, count))
        self.register_buffer("softness", torch.ones(()))

    def forward(self, latents: Tensor) -> Tensor:
        """Returns how unusual the counts in `latents [b c h w]` are, `[b n]`: about standard deviations, within +-5."""
        mean, std = self.usual
        return ((self.counts(latents) - mean) / (std + SLACK[0] + SLACK[1] * mean)).clamp(-LIMIT, LIMIT)

    def counts(self, latents: Tensor) -> Tensor:
        """Returns how many patches of `latents [b c h w]` are of each word `[b n]`; a patch between words is shared."""
        with torch.autocast(latents.device.type, enabled=False):  # distances are small differences of large numbers
            patches = rearrange(latents.to(self.words.dtype), "b c h w -> b (h w) c")
            nearness = 2 * patches @ self.words.T - self.words.square().sum(-1)  # less the patch's own square
            return (nearness / self.softness).softmax(-1).sum(1)

    @torch.no_grad()
    def start_from(self, latents: Tensor) -> None:
        """Finds the words of recorded `latents [n c h w]` by k-means, begun with patches far from one another."""
        patches = rearrange(latents, "n c h w -> (n h w) c")
        patches = patches[torch.randperm(len(patches))[:PATCHES]]
        words = patches[:1]
        far = (patches - words).square().sum(-1)
        while len(words) < len(self.words):  # k-means++: rare kinds are found where they differ
            chosen = patches[torch.multinomial(far + 1e-9, 1)]
            words, far = torch.cat((words, chosen)), torch.minimum(far, (patches - chosen).square().sum(-1))
        for _ in range(ROUNDS):
            nearest = torch.cdist(patches, words).argmin(1)
            total = torch.zeros_like(words).index_add_(0, nearest, patches)
            number = nearest.bincount(minlength=len(words))[:, None]
            words = torch.where(number > 0, total / number.clamp_min(1), words)
        self.words.copy_(words)
        self.softness.copy_((SOFTNESS * patches.var(0).sum()).clamp_min(1e-6))
        counts = torch.cat([self.counts(part) for part in latents.split(64)])
        self.usual.copy_(torch.stack((counts.mean(0), counts.std(0, correction=0))))
