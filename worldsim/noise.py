"""Noise with an address: Philox 4x32-10 as a function of (row seed, episode, step, draw).

Here so that a row's randomness depends on nothing but its own address: not on the batch, the device or what ran before.
Leaves out generators: there is no state to save but the address. Source: Salmon et al. 2011.

An **address** is int64 `[b 3]`: row seed, episode, step. The counter's four words are (element / 4, step, episode,
draw), the key's two words the row seed's low and high 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# What a draw is for; a draw's word is its kind, plus an index (the solver's i-th draw) in the bits above.
START, SOLVER, COMMIT, OUTCOME, PROMPT, AGAIN = range(6)
INDEX = 16  # an index is shifted left by this many bits before a kind is added

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Returns four random 32-bit words (int64 `[... 4]`) for counters `[... 4]` and keys `[... 2]` of such words."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        # A 64-bit product of two 32-bit words: int64 wraps, its bit pattern is the unsigned product's.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), -1)


def words(address: Tensor, count: int, draws: Sequence[int]) -> Tensor:
    """Returns `count` random 32-bit words for each row and draw, int64 `[b n count]`."""
    blocks = torch.arange((count + 3) // 4, device=address.device)
    kinds = torch.stack([blocks.new_full((), draw) for draw in draws])  # made on the device: a copy would wait for it
    shape = (len(address), len(draws), len(blocks))
    seed, episode, step = (part[:, None, None].expand(shape) for part in address.unbind(-1))
    counter = torch.stack((blocks.expand(shape), step & _MASK, episode & _MASK, kinds[:, None].expand(shape)), -1)
    key = torch.stack((seed & _MASK, (seed >> 32) & _MASK), -1)
    return philox(counter, key).flatten(2)[..., :count]


def uniforms(address: Tensor, shape: tuple[int, ...], draws: Sequence[int]) -> Tensor:
    """Returns float32 `[b n *shape]`, uniform in (0, 1): one sample for each of n draws, in one pass."""
    # 23 bits and a half: exact in float32, and never 0 or 1.
    values = ((words(address, math.prod(shape), draws) >> 9).float() + 0.5) * 2.0**-23
    return values.reshape(len(address), len(draws), *shape)


def normals(address: Tensor, shape: tuple[int, ...], draws: Sequence[int]) -> Tensor:
    """Returns float32 `[b n *shape]` of standard normal noise (Box and Muller 1958)."""
    count = math.prod(shape)
    radius, angle = uniforms(address, (2, (count + 1) // 2), draws).unbind(2)
    radius, angle = (-2 * radius.log()).sqrt(), angle * (2 * math.pi)
    values = torch.cat((radius * angle.cos(), radius * angle.sin()), -1)[..., :count]
    return values.reshape(len(address), len(draws), *shape)


def uniform(address: Tensor, shape: tuple[int, ...], draw: int) -> Tensor:
    """Returns float32 `[b *shape]`, uniform in (0, 1)."""
    return uniforms(address, shape, (draw,))[:, 0]


def normal(address: Tensor, shape: tuple[int, ...], draw: int) -> Tensor:
    """Returns float32 `[b *shape]` of standard normal noise."""
    return normals(address, shape, (draw,))[:, 0]


def address_of(seeds: list[int], device: torch.device | str = "cpu") -> Tensor:
    """Returns the address of each row's first step: int64 `[b 3]` with episode 0 and step 0."""
    rows = torch.tensor(seeds, dtype=torch.int64, device=device)
    return torch.stack((rows, torch.zeros_like(rows), torch.zeros_like(rows)), -1)
