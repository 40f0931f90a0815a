"""Addressed noise: published vectors, independence of the batch, and the right distributions."""

import pytest
import torch

from worldsim import noise

# Random123, kat_vectors: philox4x32-10
VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert noise.philox(torch.tensor(counter), torch.tensor(key)).tolist() == expected


def test_a_row_draws_the_same_alone_and_in_a_batch():
    address = noise.address_of([5, 7, 2**40 + 1])
    together = noise.normal(address, (2, 3), noise.START)
    for row in range(3):
        assert torch.equal(noise.normal(address[row : row + 1], (2, 3), noise.START)[0], together[row])


def test_every_part_of_the_address_and_the_draw_change_the_noise():
    base = noise.address_of([5])
    draws = [noise.uniform(base, (4,), noise.START), noise.uniform(base, (4,), noise.COMMIT)]
    draws += [noise.uniform(base + torch.eye(3, dtype=torch.int64)[i], (4,), noise.START) for i in range(3)]
    draws.append(noise.uniform(base + torch.tensor([2**32, 0, 0]), (4,), noise.START))
    assert len({tuple(draw[0].tolist()) for draw in draws}) == len(draws)


def test_a_longer_draw_of_uniforms_begins_with_the_shorter_one():
    address = noise.address_of([1])
    assert torch.equal(noise.uniform(address, (10,), 0)[:, :3], noise.uniform(address, (3,), 0))


def test_normals_are_standard_and_uncorrelated():
    x = noise.normal(noise.address_of(list(range(500))), (400,), noise.START)
    assert abs(x.mean()) < 0.01 and abs(x.var() - 1) < 0.02 and abs((x**4).mean() - 3) < 0.1
    assert torch.corrcoef(x.T)[0, 1:].abs().max() < 0.2  # 5 standard errors of 500 draws


def test_uniforms_never_reach_their_ends():
    x = noise.uniform(noise.address_of(list(range(1000))), (100,), 0)
    assert 0 < x.min() < 1e-3 and 1 - 1e-3 < x.max() < 1


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    noise.normal(noise.address_of([1]), (8,), 0)
    assert torch.equal(torch.get_rng_state(), before)
