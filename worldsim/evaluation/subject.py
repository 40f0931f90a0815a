"""What can be measured: anything that begins from real frames and goes on by actions.

Here so that a `WorldModel`, a foreign world model and the real game itself are measured by the same code; a foreign
one needs the two methods of `Subject`. Leaves out measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from worldsim import noise
from worldsim.actions import unpack
from worldsim.data.episodes import EpisodeStore
from worldsim.types import Clip
from worldsim.world_model import WorldModel

BATCH = 256  # frames encoded at once


@dataclass(frozen=True, eq=False)
class Start:
    """Where a dream begins: real frames, and how the real game came there."""

    frames: np.ndarray  # uint8 [t H W 3], the last real frames, newest last
    actions: np.ndarray  # float64 [t k], packed: the action that led to each of them, NaN where none did
    episode: int  # in its data set
    position: int  # of the first dreamed frame in the episode
    seed: int | None  # of the episode
    past: np.ndarray  # float64 [position - 1, k], packed: every action since the episode's reset


@dataclass(frozen=True, eq=False)
class Step:
    """What one step brought for every row. A row that ended goes on as its world likes; whoever measures masks it."""

    frames: np.ndarray | None  # uint8 [b H W 3]; None where nobody looked
    reward: np.ndarray  # float64 [b], the expected one
    end: np.ndarray  # float64 [b], the probability that the episode terminates here

    @property
    def seen(self) -> np.ndarray:
        """The frames, for those who looked."""
        assert self.frames is not None
        return self.frames


class Subject(Protocol):
    """A world model under measurement. `window` is how many real frames it wants to begin with.

    It may also have `reconstruct(frames [n H W 3]) -> [n H W 3]` (its codec), and is measured on that too; and a
    `fingerprint`, without which an evaluation that was killed begins anew.
    """

    window: int

    def reset(self, starts: Sequence[Start], seed: int = 0) -> None: ...  # rows begin anew; `seed` varies their luck

    def step(self, actions: np.ndarray, look: bool = True) -> Step: ...  # packed actions [b k], float64


class Dream:
    """A `WorldModel` as a subject: the same start and seed dream the same, to rounding across batch sizes."""

    def __init__(self, world: WorldModel):
        self.world, self.window = world, world.prompts.latents.shape[1]
        self.state: Any = None

    def reset(self, starts: Sequence[Start], seed: int = 0) -> None:
        frames, shape = np.stack([start.frames for start in starts]), (len(starts), self.window)
        flat = torch.from_numpy(frames.reshape(-1, *frames.shape[2:]))
        latents = torch.cat([self.world.encode(part) for part in flat.split(BATCH)]).unflatten(0, shape)
        actions = encode(self.world, np.stack([start.actions for start in starts]))
        address = noise.address_of([start.position + (seed << 32) for start in starts], self.world.device)
        address[:, 1] = torch.tensor([start.episode for start in starts], device=self.world.device)
        self.state = self.world.initial(prompt_of(latents, actions), address)

    def step(self, actions: np.ndarray, look: bool = True) -> Step:
        self.state, outcome = self.world.foresee(self.state, encode(self.world, actions))
        reward, end = (x.double().cpu().numpy() for x in (outcome.reward_mean, outcome.end_probability))
        return Step(self.world.observe(self.state).cpu().numpy().copy() if look else None, reward, end)

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Returns what the codec makes of frames."""
        parts = torch.from_numpy(frames).split(BATCH)
        return torch.cat([self.world.decode(self.world.encode(part)) for part in parts]).cpu().numpy()


class RealGame:
    """A real game as its own world model, each row an environment of its own: what a perfect dream would score."""

    window = 1

    def __init__(self, make: Callable[[], gym.Env]):
        """`make` returns a game that the same seed and actions lead to the same frames."""
        self._make, self._rows = make, 0
        self._envs: list[gym.Env] = []

    def reset(self, starts: Sequence[Start], seed: int = 0) -> None:
        self._envs += [self._make() for _ in range(len(starts) - len(self._envs))]
        self._rows = len(starts)
        self._last = [lead(env, start) for env, start in zip(self._envs, starts, strict=False)]
        self._over = [False] * self._rows

    def step(self, actions: np.ndarray, look: bool = True) -> Step:
        reward, end = np.zeros(self._rows), np.zeros(self._rows)
        for row, env in enumerate(self._envs[: self._rows]):
            if self._over[row]:  # endless play goes on in the next episode
                self._last[row], self._over[row] = env.reset()[0], False
            else:
                action = unpack(env.action_space, actions[row])
                self._last[row], reward[row], self._over[row], *_ = env.step(action)
                end[row] = self._over[row]
        return Step(np.stack(self._last) if look else None, reward, end)

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Returns the frames as they are."""
        return frames.copy()

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()


def prompt_of(latents: torch.Tensor, actions: torch.Tensor) -> Clip:
    """Returns frames `[b t c h w]` with their actions `[b t a]` as a prompt."""
    shape, device = latents.shape[:2], latents.device
    return Clip(
        latents, actions, torch.ones(shape, dtype=torch.bool, device=device), torch.zeros(shape, device=device),
        *(torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2)),
    )  # fmt: skip


def encode(world: WorldModel, packed: np.ndarray) -> torch.Tensor:
    """Returns packed actions `[... k]` as the world's vectors `[... a]`; rows of NaN become the null action."""
    unknown = np.isnan(packed).any(-1) if packed.shape[-1] else np.ones(packed.shape[:-1], bool)
    codec, mask = world.action_codec, torch.from_numpy(unknown)[..., None]
    if codec.space is None:
        return codec.null.expand(*packed.shape[:-1], codec.width).to(world.device)
    filled = np.where(unknown[..., None], codec.table[0], packed)
    return torch.where(mask, codec.null, codec.encode(filled)).to(world.device)


def actions_of(store: EpisodeStore, index: int) -> np.ndarray:
    """Returns the packed action that led to each frame of an episode, float64 `[T + 1 k]`; the first frame's is NaN.

    A recording without actions has k = 0.
    """
    packed = store.actions(index)
    led = np.zeros((store.records[index].total_steps, 0)) if packed is None else np.array(packed, np.float64)
    return np.concatenate((np.full((1, led.shape[1]), np.nan), led))


def starts_of(store: EpisodeStore, index: int, positions: Iterable[int], window: int) -> list[Start]:
    """Returns starts in an episode whose first dreamed frames are those at `positions`, all of at least `window`."""
    led, seed = actions_of(store, index), store.records[index].seed
    seen = lambda p: np.array(store.observations(index, p - window, p))  # noqa: E731
    return [Start(seen(p), led[p - window : p], index, p, seed, led[1:p]) for p in map(int, positions)]


def lead(env: gym.Env, start: Start) -> np.ndarray:
    """Brings the real game to where a dream begins, and returns its frame.

    Raises ValueError where the game does not show there what was recorded.
    """
    frame, _ = env.reset(seed=start.seed)
    for action in start.past:
        frame, *_ = env.step(unpack(env.action_space, action))
    if not np.array_equal(frame, start.frames[-1]):
        raise ValueError(
            f"expected the game to come to the recorded frame {start.position - 1} of episode {start.episode}, found "
            "another; measure with the game, its version and settings, that the data was recorded with"
        )
    return frame


def branches(env: gym.Env, start: Start, plans: np.ndarray) -> Iterator[np.ndarray]:
    """Yields, for every plan of packed actions `[h k]`, what the real game shows from the start on, `[h H W 3]`.

    A plan that ends the episode yields fewer frames: what is shown at the end may be the frame before.
    """
    lead(env, start)
    game: Any = env  # may have get_state and set_state
    state = game.get_state() if hasattr(env, "get_state") else None
    for number, plan in enumerate(plans):
        if number:
            lead(env, start) if state is None else game.set_state(state)
        frames = []
        for action in plan:
            frame, _, over, *_ = env.step(unpack(env.action_space, action))
            if over:
                break
            frames.append(frame)
        yield np.array(frames)
