"""Reads imps and fireballs out of frames of Take Cover, dreamed ones too: a small network that ViZDoom's labels taught.

Here because what decides that game is a few pixels, and a dream has no labels. Its accuracy on real frames is the
ceiling of what can be said of dreamed ones: of imps 0.95 are found and 0.95 of those read are there, of fireballs 0.82
and 0.88 (2026-11-30). Leaves out every other Doom game.

    python -m worldsim.envs.doom_things           # plays the game, trains the reader anew, prints its accuracy
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim import pixels
from worldsim.envs.doom import SIZE, DoomTakeCover

KINDS = {"imp": "DoomImp", "fireball": "DoomImpBall"}  # as ViZDoom calls them
WEIGHTS = Path(__file__).with_suffix(".safetensors")
FRAMES, HELD_OUT, STEPS, BATCH = 24_000, 3_000, 2_000, 32
SPREAD = 0.7  # pixels: of the mark that a thing leaves on its map
SURE = 0.25  # of a map's peak that counts: there as many are read as there are (held-out frames, both kinds)
REACH = 3  # pixels between a thing and where it is read, at most
YELLOW = 50  # grey levels that a fireball shines yellow: 99 % of the game's do, blurred wall in dreams does not


class Reader(nn.Module):
    """Frames as images `[b 3 64 64]` in [-1, 1] to the logits of one map for each kind, `[b 2 64 64]`."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 2, stride=2), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, width, 1), nn.Upsample(scale_factor=2, mode="bilinear"),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, len(KINDS), 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits; see the class."""
        fine = self.fine(images)
        return self.out(fine + self.coarse(F.silu(fine)))

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> list[dict[str, list[tuple[int, int]]]]:
        """Returns the centres (x, y) of the things in uint8 frames `[n 64 64 3]`, most certain first."""
        maps = self(pixels.to_float(torch.from_numpy(frames))).sigmoid()
        peaks = maps * (maps == F.max_pool2d(maps, 3, 1, 1)) * (maps > SURE)
        peaks[:, list(KINDS).index("fireball")] *= yellow(torch.from_numpy(frames)) >= YELLOW
        found = []
        for row in peaks:
            places = {}
            for kind, peak in zip(KINDS, row, strict=True):
                index = peak.flatten().argsort(descending=True)[: int((peak > 0).sum())]
                places[kind] = [(int(i) % SIZE, int(i) // SIZE) for i in index]
            found.append(places)
        return found


def yellow(frames: Tensor) -> Tensor:
    """Returns how yellow the most yellow of the 5x5 pixels around each is in uint8 frames `[n h w 3]`, `[n h w]`.

    In grey levels: the lesser of red and green over blue.
    """
    red, green, blue = frames.float().unbind(-1)
    return F.max_pool2d((torch.minimum(red, green) - blue)[:, None], 5, 1, 2)[:, 0]


@cache
def _reader() -> Reader:
    reader = Reader()
    reader.load_state_dict(load_file(WEIGHTS))
    return reader.eval()


def things(frame: np.ndarray) -> dict[str, list[tuple[int, int]]]:
    """Returns the centres (x, y) of every `imp` and `fireball` in a frame `[64 64 3]`."""
    return _reader().read(np.ascontiguousarray(frame)[None])[0]


def labelled(count: int, seed: int) -> tuple[np.ndarray, list[dict[str, list[tuple[float, float]]]]]:
    """Plays at random, actions held for up to 32 steps; returns frames `[n 64 64 3]` and where things are in each."""
    env, rng = DoomTakeCover(labels=True), np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    places: list[dict[str, list[tuple[float, float]]]] = []
    while len(frames) < count:
        frame, info = env.reset(seed=seed)
        seed, over, left, action = seed + 1, False, 0, 0
        while not over and len(frames) < count:
            frames.append(frame)
            places.append({kind: info["things"].get(name, []) for kind, name in KINDS.items()})
            if left == 0:
                action, left = int(rng.integers(3)), int(rng.integers(1, 33))
            left -= 1
            frame, _, over, _, info = env.step(action)
    env.close()
    return np.stack(frames), places


def _maps(places: list[dict[str, list[tuple[float, float]]]]) -> Tensor:
    """Returns the maps that a reader should show, `[n 2 64 64]`."""
    at = torch.arange(SIZE) + 0.5
    maps = torch.zeros(len(places), len(KINDS), SIZE, SIZE)
    for row, seen in zip(maps, places, strict=True):
        for target, kind in zip(row, KINDS, strict=True):
            for x, y in seen[kind]:
                mark = torch.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * SPREAD**2))
                torch.maximum(target, mark / mark.amax().clamp_min(1e-6), out=target)
    return maps


def train(frames: np.ndarray, places: list, steps: int = STEPS) -> Reader:
    """Returns a reader of labelled frames (penalty-reduced focal loss, Zhou et al. 2019)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(frames), (BATCH,), generator=generator).tolist()
        goal = _maps([places[i] for i in rows])
        logits = reader(pixels.to_float(torch.from_numpy(frames[rows])))
        chance = logits.sigmoid()
        here = goal == 1
        loss = torch.where(
            here,
            -F.logsigmoid(logits) * (1 - chance) ** 2,
            -F.logsigmoid(-logits) * chance**2 * (1 - goal) ** 4,
        )
        loss = loss.sum() / here.sum().clamp_min(1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


def accuracy(reader: Reader, frames: np.ndarray, places: list) -> dict[str, dict[str, float]]:
    """Returns for each kind precision and recall (within 3 pixels), and things a frame, true and read."""
    read = [seen for start in range(0, len(frames), 256) for seen in reader.read(frames[start : start + 256])]
    figures = {}
    for kind in KINDS:
        hits, true = 0, sum(len(seen[kind]) for seen in places)
        for seen, there in zip(read, places, strict=True):
            left = list(there[kind])
            for x, y in seen[kind]:
                near = [p for p in left if max(abs(p[0] - x - 0.5), abs(p[1] - y - 0.5)) <= REACH]
                if near:
                    hits += 1
                    left.remove(near[0])
        count = sum(len(seen[kind]) for seen in read)
        figures[kind] = {
            "precision": hits / max(count, 1),
            "recall": hits / max(true, 1),
            "true": true / len(frames),
            "read": count / len(frames),
        }
    return figures


if __name__ == "__main__":
    reader = train(*labelled(FRAMES, 1_000_000))
    for kind, figures in accuracy(reader, *labelled(HELD_OUT, 2_000_000)).items():
        print(kind, {name: round(value, 3) for name, value in figures.items()})
    save_file(reader.state_dict(), sys.argv[1] if len(sys.argv) > 1 else WEIGHTS)
