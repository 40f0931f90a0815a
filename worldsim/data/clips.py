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
    nothing is drawn but any frame. `shares` are how much of all steps bring the one and the other, 0 where not drawn.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, seed: int):
        self._any, self._length, self._seed = WindowSampler(store, episodes, length, seed), length, seed
        steps = sum(store.records[i].total_steps for i in episodes)
        self.common, rewards = _rare_rewards(store, episodes)
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


def _rare_rewards(store: EpisodeStore, episodes: Sequence[int]) -> tuple[float, list[tuple[int, int]]]:
    """Returns the most common reward, and the frames (episode index, position) that came with another."""
    rewards = {i: store.rewards(i) for i in episodes}
    rewards = {i: np.array(values) for i, values in rewards.items() if values is not None}
    if not rewards:
        return 0.0, []
    values, counts = np.unique(np.concatenate([*rewards.values()]), return_counts=True)
    common = values[counts.argmax()]
    return float(common), [(i, int(t) + 1) for i, r in rewards.items() for t in np.flatnonzero(r != common)]


def frame_batch(store: EpisodeStore, windows: list[tuple[int, int]], length: int) -> Tensor:
    """Returns uint8 frames `[b length H W 3]`; positions before the episode repeat its first frame."""
    batch = [_padded(store.observations(i, max(s, 0), s + length), length) for i, s in windows]
    return torch.from_numpy(np.stack(batch))


def _padded(frames: np.ndarray, length: int) -> np.ndarray:
    missing = length - len(frames)
    return np.concatenate((np.repeat(frames[:1], missing, 0), frames)) if missing else np.asarray(frames)


def clip_batch(latents: LatentStore, codec: ActionCodec, windows: list[tuple[int, int]], length: int) -> Clip:
    """Returns a `Clip` of `length` frames a row; frames before the episode are zero and not valid."""
    clips = [load_clip(latents, codec, index, start, length) for index, start in windows]
    fields = ("latents", "action", "valid", "reward", "terminated", "known")
    return Clip(*(torch.stack([getattr(clip, name) for clip in clips]) for name in fields))


def load_clip(latents: LatentStore, codec: ActionCodec, index: int, start: int, length: int) -> Clip:
    """Returns positions `start : start + length` of one episode as a `Clip` without its row dimension.

    On disk action t leads from observation t to observation t + 1; here action i is the one that led to frame i.
    """
    store, record = latents.store, latents.store.records[index]
    first, stop = max(start, 0), start + length
    position = torch.arange(start, stop)
    valid, moved = position >= 0, position >= 1  # the episode's first frame was led to by no action
    frames = latents.latents(index, first, stop)
    action = codec.null.repeat(length, 1)
    packed = store.actions(index, max(start - 1, 0), stop - 1)
    if packed is not None and moved.any():
        action[moved] = codec.encode(np.array(packed))
    reward, rewards = torch.zeros(length), store.rewards(index, max(start - 1, 0), stop - 1)
    if rewards is not None:
        reward[moved] = torch.from_numpy(np.array(rewards, np.float32))
    terminated = (position == record.total_steps) & record.terminated
    known = moved & (rewards is not None)
    padded = torch.cat((frames.new_zeros(length - len(frames), *frames.shape[1:]), frames))
    return Clip(padded, action, valid, reward, terminated, known)
