"""Whether dreamed frames still tell which action led to them: a judge that learned it from real frames names it.

Here beside `controllability`, whose futures must look like the game's own: a dream that has gone its own way may obey
as well as ever. Leaves out what the actions bring (`habits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.along import along
from worldsim.evaluation.statistics import bootstrap
from worldsim.evaluation.subject import Subject, actions_of

BEFORE, AFTER = 2, 1  # frames that the judge sees before and after the one that an action led to
SIDE = 64  # pixels that it sees at most
CLASSES = 32  # values of a number at most; of one with more, only its sign is judged
CENTRE = 0.05  # of the largest value: what is nearer to 0 is no sign
BATCH, RESAMPLES = 64, 300


class Judge(nn.Module):
    """Four frames `[b 4 H W 3]` uint8 to logits for each number of a packed action: inverse dynamics."""

    def __init__(self, classes: Sequence[int], width: int = 32):
        super().__init__()
        self.classes, sizes = tuple(classes), (3 * (BEFORE + 1 + AFTER), width, width, 2 * width)
        self.trunk = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU()))
        )
        self.head = nn.Linear(2 * sizes[-1], sum(classes))

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        x = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        x = torch.cat((x[:, :1], x.diff(dim=1)), 1).flatten(1, 2)  # a picture, and how each changes
        if max(x.shape[-2:]) > SIDE:
            x = F.interpolate(x, (SIDE, SIDE), mode="area")
        x = self.trunk(x)
        return self.head(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)).split(self.classes, 1)


class Labels:
    """The numbers of packed actions as classes: their values where there are few, else their signs."""

    def __init__(self, actions: np.ndarray):
        """Takes actions `[n k]` as what there is."""
        self._values: list[tuple[int, np.ndarray | float]] = []
        for column, x in enumerate(actions.T):
            values = np.unique(x)
            if len(values) > 1:  # what never changes tells nothing
                signs = len(values) > CLASSES
                self._values.append((column, CENTRE * float(np.abs(x).max()) if signs else values))
        self.counts = [3 if isinstance(kept, float) else len(kept) for _, kept in self._values]
        self.names: list[list[str]] = []  # of the classes of each number that changes, by its place in the action
        for column, kept in self._values:
            classes = ["below 0", "about 0", "above 0"] if isinstance(kept, float) else [f"{x:g}" for x in kept]
            self.names.append([f"{column}: {name}" for name in classes])

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Returns classes `[n j]` of actions `[n k]`, for the j numbers that change."""
        return np.stack(
            [
                np.sign(np.where(np.abs(actions[:, i]) < kept, 0, actions[:, i])).astype(int) + 1
                if isinstance(kept, float)
                else np.searchsorted(kept, actions[:, i]).clip(0, len(kept) - 1)
                for i, kept in self._values
            ],
            1,
        )


def control(
    subject: Subject, store: EpisodeStore, episodes: list[int], rows: int = 32, training_steps: int = 600
) -> dict[str, Any] | None:
    """Returns, by the dream's age, how well a judge names the action behind dreamed frames, and behind real ones.

    Dreams follow the recorded actions, from an episode's end on those of its beginning; the judge sees each step's
    dreamed frames and, for the same actions, the recorded ones. `dream` and `real` are mean recalls over an action's
    values, averaged over the numbers of an action; guessing reaches `chance`. `share` is how far from chance to what
    real frames tell the dream comes: 1 obeys as the game does, 0 not at all. `values` are the recalls of each value,
    such as "4: below 0" where the fifth number is.
    The judge learns from the episodes that are not measured, or from every other one where there are too few.
    None without actions that change, or where episodes are too short.
    """
    width = BEFORE + 1 + AFTER
    usable = [i for i in episodes if store.records[i].total_steps > subject.window + width]
    rest = [i for i in range(len(store)) if i not in set(episodes) and store.records[i].total_steps > width]
    if len(rest) < 4:
        rest, usable = usable[1::2], usable[::2]
    if store.info.action_space is None or not rest or not usable:
        return None
    labels = Labels(np.concatenate([actions_of(store, i)[1:] for i in rest]))
    if not labels.counts:
        return None
    judge = _learned(store, rest, labels, training_steps)
    judged: dict[int, dict[int, list[np.ndarray]]] = {}  # by age and episode, which is what an interval resamples
    for seen in along(subject, store, [usable[i % len(usable)] for i in range(rows)], BEFORE, AFTER):
        guesses = [_guess(judge, frames) for frames in (seen.dreamed, seen.real)]
        found = np.stack((labels(seen.actions), *guesses), 1)
        judged.setdefault(seen.age, {}).setdefault(seen.row % len(usable), []).append(found)
    ages = {age: [np.concatenate(rows) for rows in episodes.values()] for age, episodes in judged.items()}
    return {
        str(age): {
            "share": bootstrap(parts, lambda some: _share(*_recalls(some)), RESAMPLES),
            **dict(zip(("dream", "real", "chance"), (round(x, 4) for x in _recalls(parts)), strict=True)),
            "values": {
                labels.names[j][value]: {"dream": round(dream, 4), "real": round(real, 4)}
                for j, recalls in enumerate(_by_value(parts))
                for value, (dream, real) in recalls.items()
            },
            "steps": sum(map(len, parts)),
        }
        for age, parts in ages.items()
    } or None


def _learned(store: EpisodeStore, episodes: list[int], labels: Labels, steps: int) -> Judge:
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge(labels.counts)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
    steps_of = np.array([store.records[i].total_steps for i in episodes], float) - (BEFORE + AFTER) + 1
    known = {i: labels(actions_of(store, i)[1:]) for i in episodes}
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - number / steps)
        picks = rng.choice(len(episodes), BATCH, p=steps_of / steps_of.sum())
        places = [(episodes[p], int(rng.integers(BEFORE, BEFORE + steps_of[p]))) for p in picks]
        frames = np.stack([store.observations(i, t - BEFORE, t + AFTER + 1) for i, t in places])
        goals = torch.from_numpy(np.stack([known[i][t - 1] for i, t in places]))
        said = judge(torch.from_numpy(frames))
        loss = torch.stack([F.cross_entropy(x, goal) for x, goal in zip(said, goals.T, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def _guess(judge: Judge, frames: np.ndarray) -> np.ndarray:
    return torch.stack([x.argmax(1) for x in judge(torch.from_numpy(frames))], 1).numpy()


def _by_value(parts: Sequence[np.ndarray]) -> list[dict[int, tuple[float, float]]]:
    """Returns for each of j numbers, by its true class, the recall from dreamed and from real frames.

    A part holds for n steps the true classes of the numbers, those said of the dream and of the game, `[n 3 j]`.
    """
    return [
        {int(v): (float((dream == v)[true == v].mean()), float((real == v)[true == v].mean())) for v in np.unique(true)}
        for true, dream, real in np.concatenate(parts).transpose(2, 1, 0)
    ]


def _recalls(parts: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Returns the recall from dreamed and from real frames, and by chance: means over classes, then over numbers."""
    found = [(*np.mean(list(recalls.values()), 0), 1 / len(recalls)) for recalls in _by_value(parts)]
    dream, real, chance = (float(x) for x in np.mean(found, 0))
    return dream, real, chance


def _share(dream: float, real: float, chance: float) -> float:
    return (dream - chance) / (real - chance) if real > chance else float("nan")
