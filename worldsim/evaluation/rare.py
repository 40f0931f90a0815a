"""Small things in a game whose things nobody names: how often a place changes, and what its rarest patches look like.

Here because a few pixels decide a game, and few games have a reader that counts them (`habits`).
Leaves out what the things are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.along import along
from worldsim.evaluation.features import kernel_distance
from worldsim.evaluation.statistics import interval

PATCH = 8  # pixels
CHANGE = 8  # grey levels by which a patch changes more than the median one of its frame, to count
CENTRES, ROUNDS = 128, 10  # of the clusters that say what is common
FINE = 0.05  # of the whole range: colours that vary less between patches are not told apart more finely
RARE = 1 / 8  # of a set of patches
SAMPLE, COMPARED = 16_384, 1024  # patches that are clustered, and compared


def rare(subject: Any, store: EpisodeStore, episodes: list[int], rows: int = 16) -> dict[str, Any] | None:
    """Returns, by the dream's age, two figures beside the recording's, for dreams by the recorded actions.

    `change` is the share of 8x8 patches that change by 8 grey levels more than the median patch of their frame does,
    from one frame to the next: a thing that moves, comes or goes. `distance` is the kernel distance of the rarest
    eighth of a dream's patches to the rarest eighth of the recording's: 0 is the same, 1 as far as common patches are;
    `floor` is that of one half of the recording's episodes to the other.
    None where less than two episodes are long enough, frames are smaller than a patch, or no patch is rare.
    """
    usable = [i for i in episodes if store.records[i].total_steps > subject.window + 1]
    if len(usable) < 2 or min(store.info.observation_shape[:2]) < PATCH:
        return None
    seen_at: dict[int, dict[int, list[tuple[np.ndarray, np.ndarray]]]] = {}  # by age and episode
    for seen in along(subject, store, [usable[i % len(usable)] for i in range(rows)], 1, 0):
        seen_at.setdefault(seen.age, {}).setdefault(seen.row % len(usable), []).append((seen.dreamed, seen.real))
    join = lambda rows: tuple(np.concatenate(side) for side in zip(*rows, strict=True))  # noqa: E731
    ages = {age: [join(rows) for rows in parts.values()] for age, parts in seen_at.items() if len(parts) > 1}
    if not ages:
        return None
    rarity = Rarity(np.concatenate([real[:, 1] for parts in ages.values() for _, real in parts]))
    if not rarity.unit > 0:
        return None
    found = {}
    for age, parts in ages.items():
        dreamed, real = (np.concatenate([part[side][:, 1] for part in parts]) for side in (0, 1))
        halves = [np.concatenate([part[1][:, 1] for part in parts[n::2]]) for n in (0, 1)]
        found[str(age)] = {
            "change": {
                side: interval([float(_changes(part[n]).mean()) for part in parts])
                for n, side in enumerate(("dream", "real"))
            },
            "distance": round(rarity.distance(dreamed, real), 4),
            "floor": round(rarity.distance(*halves), 4),
        }
    return found


class Rarity:
    """What is common in a game's frames, by clusters of their patches; whatever is far from all of it is rare."""

    def __init__(self, frames: np.ndarray):
        """Learns from real frames uint8 `[n H W 3]`."""
        draw = torch.Generator().manual_seed(0)
        patches = _patches(frames)
        patches = patches[torch.randperm(len(patches), generator=draw)[:SAMPLE]]
        self._mean, self._scale = patches.mean(0), patches.std(0).clamp_min(FINE)
        told = (patches - self._mean) / self._scale
        centres = told[:CENTRES]
        for _ in range(ROUNDS):
            nearest = torch.cdist(told, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=len(centres))
            sums = torch.zeros_like(centres).index_add_(0, nearest, told)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        order = counts.argsort(descending=True)
        common = order[counts[order].cumsum(0) <= (1 - RARE) * len(told)]
        self._common = centres[common if len(common) else order[:1]]
        self.unit = kernel_distance(*self._split(patches))  # from what is rare to what is common

    def distance(self, frames: np.ndarray, others: np.ndarray) -> float:
        """Returns how far the rarest eighth of some frames' patches is from that of others."""
        return kernel_distance(*(self._split(_patches(x))[0] for x in (frames, others))) / self.unit

    def _split(self, patches: Tensor) -> list[np.ndarray]:
        """Returns the rarest eighth and the rest, each thinned to what is compared."""
        told = (patches - self._mean) / self._scale
        order = torch.cdist(told, self._common).amin(1).argsort(descending=True)
        count = max(2, int(len(order) * RARE))
        return [told[x[:: -(-len(x) // COMPARED)]].double().numpy() for x in (order[:count], order[count:])]


def _patches(frames: np.ndarray) -> Tensor:
    """Returns of overlapping patches the colours' means, spreads and ends, `[n 12]`: wherever a thing is in a patch."""
    x = torch.from_numpy(frames).float() / 255
    x = x.unfold(1, PATCH, PATCH // 2).unfold(2, PATCH, PATCH // 2).flatten(-2).flatten(0, 2)
    return torch.cat((x.mean(-1), x.std(-1), x.amin(-1), x.amax(-1)), -1)


def _changes(pairs: np.ndarray) -> np.ndarray:
    """Returns for pairs of frames `[n 2 H W 3]` the share of patches that change more than the frame does."""
    x = torch.from_numpy(pairs).float().mean(-1)
    change = torch.nn.functional.avg_pool2d((x[:, 1:] - x[:, :1]).abs(), PATCH).flatten(1)
    return (change - change.median(1, keepdim=True).values > CHANGE).float().mean(1).numpy()
