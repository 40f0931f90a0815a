"""Dreams that agents learn in: where they begin, rows that begin anew by themselves, and what an agent earns in them.

Here as what every way of learning in a dream shares. A row begins at a moment of recordings, or at the world's own
prompts. Outcomes come as they are expected, and ends also drawn, by which rows begin anew.
Leaves out learning, and time limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim import EpisodeStore, WorldModel, noise
from worldsim.agents.agent import Linear, Network, draw, repeated
from worldsim.types import Clip

MOMENTS = 512  # of recordings, that dreams begin in
SHORTLY = (0, 16)  # steps between the newest frame of a moment and what happens
OTHER = 1 << 40  # seeds from here on are of the dreams that agents are tried in


@dataclass(frozen=True)
class Moments:
    """Where dreams begin, and what is seen there."""

    state: Any  # a world's state of n rows
    seen: Tensor  # [n window H W 3], the newest frame last

    def part(self) -> tuple[Moments, Moments]:
        """Returns those to learn from, and every eighth, to try agents in; of fewer than eight all are both."""
        number = torch.arange(len(self.seen), device=self.seen.device)
        kept, tried = (number, number) if len(number) < 8 else (number[number % 8 != 0], number[number % 8 == 0])
        return tuple(Moments(self.state.select(rows), self.seen[rows]) for rows in (kept, tried))  # type: ignore[return-value]


def moments(world: WorldModel, store: EpisodeStore | None, window: int, seed: int, beginnings: bool = False) -> Moments:
    """Returns moments of recordings, or the world's own prompts.

    Half are drawn evenly over the recordings' frames, half shortly before a rare reward or an end, where there are any.
    Of `beginnings`: the first of each episode, drawn evenly over these, as the game begins.
    """
    if store is None:
        own = torch.arange(world.num_prompts, device=world.device)
        state = world.initial(own, noise.address_of(own.tolist(), world.device))
        return Moments(state, repeated(world.observe(state).clone(), window))
    check_data(world, store)
    length, rng = world.prompts.latents.shape[1], np.random.default_rng(seed)
    steps = np.array([max(record.total_steps - length, 0) for record in store.records])
    if not steps.any():
        raise ValueError(f"expected an episode of more than {length} steps to begin dreams in, found none; record more")
    weights = (steps > 0) * 1.0 if beginnings else steps
    drawn = rng.choice(len(steps), MOMENTS, p=weights / weights.sum())
    places = [(int(i), 0 if beginnings else int(rng.integers(steps[i]))) for i in drawn]
    if not beginnings:
        places[1::2] = _before(store, steps, length, rng, len(places) // 2) or places[1::2]  # none that `part` tries
    frames = torch.stack([torch.from_numpy(np.array(store.observations(i, t, t + length))) for i, t in places])
    actions = torch.stack([_led(world, store, i, t, length) for i, t in places])
    latents = torch.cat([world.encode(part) for part in frames.split(16)])
    true, zero = torch.ones(latents.shape[:2], dtype=torch.bool), torch.zeros(latents.shape[:2])
    clip = Clip(latents.cpu(), actions, true, zero, ~true, ~true).to(world.device)
    state = world.initial(clip, noise.address_of(list(range(MOMENTS)), world.device))
    return Moments(state, _last(frames, window).to(world.device))


def _before(
    store: EpisodeStore, steps: np.ndarray, length: int, rng: np.random.Generator, count: int
) -> list[tuple[int, int]]:
    """Returns so many moments (episode, first frame) SHORTLY before a rare reward or an end; none where there is none.

    A reward is rare where fewer than one step in eight brings it.
    """
    found: list[tuple[int, int]] = []
    rewards = [store.rewards(index) for index in range(len(store))]
    told = np.concatenate([np.zeros(0), *(np.array(part) for part in rewards if part is not None)])
    values, counts = np.unique(told, return_counts=True)
    rare = values[8 * counts < len(told)]
    for index, part in enumerate(rewards):
        at = set() if part is None else set(np.flatnonzero(np.isin(np.array(part), rare)).tolist())
        at |= {store.records[index].total_steps - 1} if store.records[index].terminated else set()
        found += [(index, t) for t in sorted(at) if t > length]
    if not found:
        return []
    back = rng.integers(*SHORTLY, size=count)
    drawn = [found[i] for i in rng.integers(len(found), size=count)]
    return [(i, min(max(t - length - int(b), 0), int(steps[i]) - 1)) for (i, t), b in zip(drawn, back, strict=True)]


def check_data(world: WorldModel, store: EpisodeStore) -> None:
    """Raises ValueError, in one sentence, where recordings have not the actions and frames of a world."""
    if world.takes_latent_actions:
        raise ValueError(f"expected no data= with {world.info.name}, whose actions are latent; leave it out")
    mine = world.info.action_space, tuple(world.info.frame_shape)
    theirs = store.info.action_space, tuple(store.info.observation_shape)
    if mine != theirs:
        raise ValueError(
            f"expected data= with the world's actions and frames, {mine[0]} and {mine[1]}, found {theirs[0]} and "
            f"{theirs[1]}"
        )


def _led(world: WorldModel, store: EpisodeStore, index: int, start: int, length: int) -> Tensor:
    """Returns the encoded action `[t a]` that led to each frame; null for an episode's first."""
    packed = store.actions(index)
    codec = world.action_codec
    if packed is None:
        return codec.null.expand(length, -1)
    led = codec.encode(np.array(packed[max(start - 1, 0) : start + length - 1]))
    return led if start else torch.cat((codec.null[None], led))


def _last(frames: Tensor, window: int) -> Tensor:
    """Returns the last `window` of frames `[n t H W 3]`, the first one repeated where there are fewer."""
    missing = max(0, window - frames.shape[1])
    return torch.cat((frames[:, :1].repeat(1, missing, 1, 1, 1), frames[:, -window:]), 1)


class Dreams:
    """Rows of a dream that begin anew by themselves, and what the agent sees of them."""

    def __init__(self, world: WorldModel, starts: Moments, rows: int, seed: int):
        self.world, self.starts = world, starts
        self._seed, self._number, self._rng = seed, 0, np.random.default_rng(seed)
        table = torch.from_numpy(np.asarray(world.action_codec.table))
        self._actions = world.action_codec.encode(table).to(world.device)
        self.begun = torch.zeros(rows, dtype=torch.long, device=world.device)  # which moment each row began at
        self.state, self.seen = self._fresh(torch.arange(rows, device=world.device))

    def step(self, chosen: Tensor, is_seen: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Takes actions by number `[b]`; returns expected rewards, the chances to live on, and drawn ends, `[b]`.

        A frame that is out of the agent's sight again before it decides need not be seen, nor decoded.
        """
        before, action = self.state, self._actions[chosen]
        self.state, likely = self.world.foresee(before, action)
        if is_seen:
            self.seen = torch.cat((self.seen[:, 1:], self.world.observe(self.state)[:, None]), 1)
        luck = noise.uniform(self.state.address, (2,), noise.OUTCOME)[:, 1]  # as `WorldModel.step` draws it
        return likely.reward_mean, 1 - likely.end_probability, luck < likely.end_probability

    def unsure(self, before: Any, chosen: Tensor) -> Tensor:
        """Returns how unsure the last step was, `[b]`."""
        return self.world.uncertainty(before, self._actions[chosen], self.state)

    def begin(self, mask: Tensor) -> None:
        """Begins the rows of `mask` `[b]` anew."""
        rows = mask.nonzero()[:, 0]
        if len(rows):
            state, seen = self._fresh(rows)
            self.state = self.state.put(rows, state)
            self.seen = self.seen.index_copy(0, rows, seen)

    def _fresh(self, rows: Tensor) -> tuple[Any, Tensor]:
        device, count = self.world.device, len(rows)
        drawn = torch.from_numpy(self._rng.integers(len(self.starts.seen), size=count)).to(device)
        address = noise.address_of([self._seed] * count, device)
        address[:, 1] = torch.arange(self._number, self._number + count, device=device)
        self._number += count
        self.begun[rows] = drawn
        return replace(self.starts.state.select(drawn), address=address), self.starts.seen[drawn]


@torch.no_grad()
def earned(
    network: Network | Linear, world: WorldModel, starts: Moments, rows: int, horizon: int, hold: int, seed: int
) -> float:
    """Returns the mean expected return of so many dreams, up to the horizon; the same seed dreams of the same moments.

    Luck is other than in the dreams that are learned from.
    """
    dreams = Dreams(world, starts, rows, OTHER + seed)
    total, alive = torch.zeros(rows, device=world.device), torch.ones(rows, device=world.device)
    luck = None if network.config.greedy else torch.Generator(world.device).manual_seed(seed)
    for step in range(0, horizon, hold):
        chosen = draw(network(dreams.seen)[0], luck)
        for left in reversed(range(min(hold, horizon - step))):
            reward, kept, _ = dreams.step(chosen, is_seen=left < dreams.seen.shape[1])
            total, alive = total + alive * reward, alive * kept
        if alive.max() < 0.01:
            break
    return float(total.mean())
