"""Windows of episodes as training batches: the one place where actions are shifted to the frames they led to.

Here so that no model, loss or test ever shifts again: in a `Clip`, `action[:, i]` led to `latents[:, i]`.
Leaves out shuffled epochs: window number `step` of a run is a function of (seed, step) alone, so a run resumes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import ActionCodec
from worldsim.data.episodes import EpisodeStore
from worldsim.data.latents import LatentStore
from worldsim.types import Clip

LOOKED_AT = 256  # frames of an episode, by which it is told what varies
VARIES = 0.1  # of latents, whose deviation is about half of 1


class WindowSampler:
    """Draws windows of `length` frames that end on a uniformly drawn frame with an action before it.

    A window never crosses an episode's end; one that reaches before its first frame starts with negative positions.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, seed: int):
        self.episodes, self.length, self.seed = np.asarray(episodes), length, seed
        steps = np.array([store.records[i].total_steps for i in episodes])
        self._ends = np.cumsum(steps)
        if not len(steps) or self._ends[-1] == 0:
            raise ValueError("expected at least one episode of one step to train on, found none; record more frames")

    def windows(self, step: int, count: int) -> list[tuple[int, int]]:
        """Returns `count` pairs of (episode index, first position) for a training step."""
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, step]))
        flat = rng.integers(self._ends[-1], size=count)
        which = np.searchsorted(self._ends, flat, side="right")
        last = flat - np.where(which > 0, self._ends[which - 1], 0) + 1  # position of the last frame, 1 .. total_steps
        return [(int(self.episodes[w]), int(end) - self.length + 1) for w, end in zip(which, last, strict=True)]


class EventSampler:
    """Draws windows of which half end on any frame, a quarter on a rare reward and a quarter on a termination.

    A rare reward is any but the most common one. Of what never happens in the data, or in one of eight steps and more,
    nothing is drawn but any frame. `shares` are how much of all steps bring the one and the other, 0 where not drawn;
    `common` and `others` the rewards there are.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, seed: int):
        self._any, self._length, self._seed = WindowSampler(store, episodes, length, seed), length, seed
        steps = sum(store.records[i].total_steps for i in episodes)
        self.common, self.others, rewards = _rare_rewards(store, episodes)
        ends = [(i, store.records[i].total_steps) for i in episodes if store.records[i].terminated]
        self._events = [np.array(places if 8 * len(places) < steps else []) for places in (rewards, ends)]
        self.shares = tuple(len(places) / steps for places in self._events)

    def windows(self, step: int, count: int) -> list[tuple[int, int]]:
        """Returns `count` pairs of (episode index, first position): in the order of `parts`."""
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 1, step]))
        windows = self._any.windows(step, count)
        for rows, events in zip(parts(count)[1:], self._events, strict=True):
            if len(events):
                drawn = events[rng.integers(len(events), size=rows.stop - rows.start)]
                windows[rows] = [(int(index), int(last) - self._length + 1) for index, last in drawn]
        return windows


def parts(count: int) -> tuple[slice, slice, slice]:
    """Returns which rows of an `EventSampler`'s batch end on any frame, on a rare reward and on a termination."""
    half, three_quarters = count // 2, count // 2 + count // 4
    return slice(0, half), slice(half, three_quarters), slice(three_quarters, count)


def _rare_rewards(store: EpisodeStore, episodes: Sequence[int]) -> tuple[float, list[float], list[tuple[int, int]]]:
    """Returns the most common reward, all others, and the frames (episode index, position) that came with these."""
    rewards = {i: store.rewards(i) for i in episodes}
    rewards = {i: np.array(values) for i, values in rewards.items() if values is not None}
    if not rewards:
        return 0.0, [], []
    values, counts = np.unique(np.concatenate([*rewards.values()]), return_counts=True)
    common = values[counts.argmax()]
    places = [(i, int(t) + 1) for i, r in rewards.items() for t in np.flatnonzero(r != common)]
    return float(common), values[values != common].tolist(), places


def frame_batch(store: EpisodeStore, windows: Sequence[tuple[int, int]], length: int) -> Tensor:
    """Returns uint8 frames `[b length H W 3]`; positions before the episode repeat its first frame."""
    batch = [_padded(store.observations(i, max(s, 0), s + length), length) for i, s in windows]
    return torch.from_numpy(np.stack(batch))


def _padded(frames: np.ndarray, length: int) -> np.ndarray:
    missing = length - len(frames)
    return np.concatenate((np.repeat(frames[:1], missing, 0), frames)) if missing else np.asarray(frames)


class ClipTable:
    """A data set as tables, a row for each frame: clips are read by number, many at once, without a loop in Python.

    Actions and outcomes are on `device`. So are the frames on a GPU that has room for them; else they stay on disk.
    With `tells_scenery` clips also say where their episodes' frames differ.
    """

    def __init__(
        self,
        latents: LatentStore,
        codec: ActionCodec,
        device: torch.device | str = "cpu",
        tells_scenery: bool = False,
    ):
        store, self._latents = latents.store, latents
        self._varies: dict[int, Tensor] | None = {} if tells_scenery else None  # by episode, as far as asked for
        lengths = torch.tensor([record.num_observations for record in store.records])
        self._first = (lengths.cumsum(0) - lengths).to(device)  # each episode's first row
        rows = int(lengths.sum())
        self._null = codec.null.to(device)
        action, reward = codec.null.repeat(rows, 1), torch.zeros(rows)
        known, terminated = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
        # On disk action t leads from observation t to observation t + 1; here each stands beside the frame it led to.
        for index, (record, first) in enumerate(zip(store.records, self._first.tolist(), strict=True)):
            led = slice(first + 1, first + record.num_observations)
            packed, rewards = store.actions(index), store.rewards(index)
            if packed is not None and len(packed):
                action[led] = codec.encode(np.array(packed))
            if rewards is not None:
                reward[led] = torch.from_numpy(np.array(rewards, np.float32))
            known[led] = rewards is not None or not store.info.has_rewards  # where no game has any, all are 0
            terminated[first + record.num_observations - 1] = record.terminated
        self._facts = [x.to(device) for x in (action, reward, terminated, known)]
        counted = [(r.shard, r.observation_start + np.arange(r.num_observations)) for r in store.records]
        places = [(np.full(len(at), shard), at) for shard, at in counted]
        self._places = np.concatenate(places, 1)  # in which shard each row's frame is kept, and where
        self._frames = self._on_device(torch.device(device))

    def _on_device(self, device: torch.device) -> Tensor | None:
        """Returns all frames as they are kept, or None where they are better read from disk."""
        if device.type != "cuda":
            return None
        count, first = len(self._facts[0]), self._latents.stored(0)
        if count * first[0].nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return None
        frames = torch.empty((count, *first.shape[1:]), dtype=torch.from_numpy(first[:0].copy()).dtype, device=device)
        for index, row in enumerate(self._first.tolist()):
            part = torch.from_numpy(np.array(self._latents.stored(index)))
            frames[row : row + len(part)] = part.to(device)
        return frames

    def clips(self, windows: Sequence[tuple[int, int]], length: int) -> Clip:
        """Returns positions `start : start + length` of episodes as a `Clip`, for pairs of (episode index, start).

        Frames before an episode's first are zero and not valid.
        """
        places = torch.tensor(windows).to(self._first.device, non_blocking=True)
        position = places[:, 1:] + torch.arange(length, device=places.device)
        valid = position >= 0
        rows = self._first[places[:, 0]][:, None] + position.clamp_min(0)
        action, reward, terminated, known = (fact[rows] for fact in self._facts)
        action = torch.where(valid[..., None], action, self._null)
        frames = self._from_disk(rows.cpu().numpy()) if self._frames is None else self._frames[rows]
        latents = self._latents.read(frames).to(valid.device) * valid[..., None, None, None]
        varies = None
        if self._varies is not None:
            varies = torch.stack([self._scenery(index) for index, _ in windows]).to(valid.device)[:, None]
            varies = varies.expand(*valid.shape, -1, -1)
        return Clip(latents, action, valid, reward * valid, terminated & valid, known & valid, varies=varies)

    def _scenery(self, index: int) -> Tensor:
        """Returns where an episode's frames differ from one another, bool `[h w]`; of a long one some frames tell."""
        assert self._varies is not None
        if index not in self._varies:
            stored = self._latents.stored(index)
            frames = self._latents.read(torch.from_numpy(np.array(stored[:: len(stored) // LOOKED_AT + 1])))
            self._varies[index] = (frames.amax(0) - frames.amin(0)).amax(0) > VARIES
        return self._varies[index]

    def _from_disk(self, rows: np.ndarray) -> Tensor:
        shard, place = self._places[:, rows]
        like = self._latents.shards[0]
        frames = np.empty((*rows.shape, *like.shape[1:]), like.dtype)
        for index in np.unique(shard):
            here = shard == index
            frames[here] = self._latents.shards[index][place[here]]
        return torch.from_numpy(frames)
