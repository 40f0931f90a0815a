"""Visual words: found in recordings, counted in frames, and told to the network whatever stands where."""

import pytest
import torch
from tiny_world import shake, unet_backbone

from worldsim.models.words import VisualWords


def frames(coins, count=64, seed=0):
    """Latents `[n 2 16 16]` of ground with so many coins, each one patch, somewhere."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.zeros(count, 2, 256)
    for row in latents:
        row[:, torch.randperm(256, generator=generator)[:coins]] = torch.tensor([1.0, -2.0])[:, None]
    return latents.reshape(count, 2, 16, 16)


@pytest.fixture
def words():
    torch.manual_seed(0)
    model = VisualWords(4, 2)
    model.start_from(frames(coins=3))
    return model


@pytest.mark.parametrize("coins", [0, 2, 3, 4])
def test_a_missing_thing_and_one_too_many_show_wherever_they_are(words, coins):
    kind = (words.words - torch.tensor([1.0, -2.0])).norm(dim=1).argmin()
    seen = frames(coins, seed=1)
    alike = (words.words - words.words[kind]).norm(dim=1) < 1e-3  # more words than kinds: some are twice there
    torch.testing.assert_close(words.counts(seen)[:, alike].sum(1), torch.full((64,), float(coins)))
    surprise = words(seen)[:, kind]
    assert surprise.sign().eq(torch.tensor(coins - 3.0).sign()).all() and (surprise.abs() <= 5).all()
    assert (surprise.abs() > 0.5).all() == (coins != 3)


def test_counts_are_of_all_patches_and_alike_under_autocast(words):
    seen = frames(3) + 0.1 * torch.randn(64, 2, 16, 16)
    torch.testing.assert_close(words.counts(seen).sum(1), torch.full((64,), 256.0))
    with torch.autocast("cpu", torch.bfloat16):
        counted = words.counts(seen)
    torch.testing.assert_close(counted, words.counts(seen))


def test_a_network_knows_what_is_missing_and_nothing_of_frames_that_are_not_there():
    backbone = shake(unet_backbone())
    like, rows = torch.randn(3, 4, 2, 2), torch.zeros(3)
    action = torch.zeros(3, 5)
    none = backbone.start(3)
    once = backbone.append(like, rows, action, none)
    assert none.known.std(0).max() < 1e-6 < once.known.std(0).max()
    moved = backbone.append(like.flip(-1), rows, action, none)
    torch.testing.assert_close(moved.known, once.known)  # counted, not where
