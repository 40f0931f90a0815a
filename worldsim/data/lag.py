"""Whether recorded actions lag the pictures: which shift of the action column tells what changes.

Here because a world trained on actions that come three frames late answers late, and no loss shows it.
Leaves out mending it (`worldsim import shift=`).

What changes from a frame to the next is regressed on the actions of all steps around it together (a distributed lag
model). What an action alone adds to the others is no echo of one that is held, nor of a motion that goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.actions import ActionCodec
from worldsim.data.episodes import EpisodeStore

REACH, EDGE = 8, 2  # steps each way, and more that take upon them what lies beyond
LAGS = 2 * (REACH + EDGE) + 1
SIDE, CELLS = 32, 4  # frames are seen at 32x32, and what changes in 4x4 cells of them
STEEP = 1.0  # squared grey levels a pixel, below which a picture is too flat to be seen to move
MOST = 12  # channels of the action, those that vary most
AT_ONCE = 256  # frames that are looked at together
LEAST = 1000  # steps, with all those around them
BLOCKS = 40  # parts of the recordings that are resampled
RESAMPLES = 200
RIDGE = 1e-3  # of the mean variance
DULL = 0.1  # of the largest variance: directions with less are no louder for having little
ONSET = 0.4  # of the largest effect: from there on an action shows, though it may show more a step later
CHANCE = 5.0  # times what lags tell by chance, the least that one tells by more


@dataclass(frozen=True)
class Lag:
    """By how many steps the action column comes late (below 0: early), and what tells it."""

    shift: int
    low: int  # 95 % of resampled recordings
    high: int
    tells: bool  # whether actions tell anything at all of what changes, so that the rest means something
    told: dict[int, float]  # of the variance of what changes, the share that the action so many steps later alone tells


def measure_lag(store: EpisodeStore, episodes: Sequence[int], steps: int) -> Lag | None:
    """Returns the lag in up to about so many steps; None without actions, or where there are too few steps to tell."""
    if store.info.action_space is None:
        return None
    codec = ActionCodec(store.info.action_space)
    pairs, left = [], steps
    for index in episodes:
        length = min(store.records[index].total_steps, left)
        if length > 2 * LAGS:
            actions = store.actions(index, 0, length)
            assert actions is not None  # the recording has a space
            seen = [
                changes(store.observations(index, i, min(i + AT_ONCE, length) + 1)) for i in range(0, length, AT_ONCE)
            ]
            pairs.append(
                (codec.encode(np.array(actions))[:, :-1], torch.cat(seen)[REACH + EDGE : length - REACH - EDGE])
            )
            left -= length
    if sum(len(y) for _, y in pairs) < LEAST:
        return None
    used = torch.cat([x for x, _ in pairs]).var(0).topk(min(MOST, codec.width - 1)).indices
    x = torch.cat([x[:, used].unfold(0, LAGS, 1).transpose(1, 2).flatten(1) for x, _ in pairs]).double()
    y = torch.cat([y for _, y in pairs]).double()
    y = (y / y.std(0).clamp_min(1e-6)).clamp(-5, 5)  # a cut to another scene is one change among many
    x, y = x - x.mean(0), _whitened(y - y.mean(0))
    parts = map(_moments, x.tensor_split(BLOCKS), y.tensor_split(BLOCKS))
    grams, moments = (torch.stack(part) for part in zip(*parts, strict=True))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        order = torch.from_numpy(rng.permutation(BLOCKS))
        halves = [half[torch.from_numpy(rng.integers(len(half), size=len(half)))] for half in order.chunk(2)]
        draws.append(_told(*((grams[half].sum(0), moments[half].sum(0)) for half in halves)) / len(y) / y.shape[1])
    told = torch.stack(draws).mean(0)
    tells = bool(told.max() > CHANCE * told.abs().median())
    low, high = np.quantile([_onset(draw) for draw in draws], (0.025, 0.975))
    shares = dict(zip(range(-REACH, REACH + 1), told.tolist(), strict=True))
    return Lag(_onset(told), round(low), round(high), tells, shares)


def changes(frames: np.ndarray) -> torch.Tensor:
    """Returns what changes from each of uint8 frames `[T+1 H W 3]` to the next, float32 `[T d]`.

    In each cell: brighter or darker, how much in all, and how fast the picture moves down and to the right.
    """
    grey = torch.from_numpy(np.array(frames)).float().mean(-1)[:, None]
    small = F.avg_pool2d(F.interpolate(grey, (SIDE, SIDE), mode="area"), 3, 1, 1)
    middle, change = (small[1:] + small[:-1]) / 2, small[1:] - small[:-1]
    down, right = torch.gradient(middle, dim=(-2, -1))
    parts = torch.cat((change, change.abs(), change * down, change * right, down.square() + right.square()), 1)
    brighter, much, *ways, steep = F.avg_pool2d(parts, SIDE // CELLS).unbind(1)
    speeds = [way / (steep + STEEP) for way in ways]  # of the picture, pixels a step (Lucas and Kanade 1981)
    return torch.stack((brighter, much, *speeds), 1).flatten(1)


def _whitened(y: torch.Tensor) -> torch.Tensor:
    """Returns centred `y [n d]` with the covariance of noise: what all cells share must not hide what one shows."""
    spectrum, directions = torch.linalg.eigh(y.mT @ y / len(y))
    return y @ (directions / (spectrum + DULL * spectrum.max()).clamp_min(1e-12).sqrt())


def _moments(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mT @ x, x.mT @ y


def _told(*halves: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Returns by how much each lag's actions alone lessen the squared error `[lags]`, as two halves agree on it.

    Of two halves, because by chance every lag tells a little of the one that it was fitted to.
    """
    weights, owns = [], []
    for gram, moment in halves:
        ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype)
        inverse = torch.linalg.inv(gram + ridge)
        weights.append((inverse @ moment).unflatten(0, (LAGS, -1)))
        own = inverse.unflatten(0, (LAGS, -1)).unflatten(2, (LAGS, -1)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        owns.append(torch.linalg.inv(own))
    told = (weights[0] * ((owns[0] + owns[1]) @ weights[1])).sum((1, 2))
    return told[EDGE:-EDGE]


def _onset(told: torch.Tensor) -> int:
    """Returns the latest lag whose action tells as much as 0.4 of what the best tells."""
    best = told.max()
    return int((told >= best - (1 - ONSET) * best.abs()).nonzero().max()) - REACH
