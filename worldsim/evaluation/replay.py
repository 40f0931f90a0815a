"""Recorded episodes as a world's input: prompts from real frames, and the recorded actions after them.

Here because measuring and contact sheets dream along recordings in the same way.
Leaves out measuring (see `fidelity`).
"""

from __future__ import annotations

import numpy as np
import torch

from worldsim import noise
from worldsim.data.episodes import EpisodeStore
from worldsim.types import Clip
from worldsim.world_model import WorldModel

SHOWN = 12  # frames of each kind in a row of a contact sheet


def recorded_actions(world: WorldModel, store: EpisodeStore, index: int) -> torch.Tensor:
    """Returns the action that led to each frame of an episode, `[T + 1 a]`; the first frame's is the null."""
    null, packed = world.action_codec.null[None], store.actions(index)
    steps = store.records[index].total_steps
    led = null.repeat(steps, 1) if packed is None else world.action_codec.encode(np.array(packed))
    return torch.cat((null, led)).to(world.device)


def prompt_of(latents: torch.Tensor, actions: torch.Tensor) -> Clip:
    """Returns frames `[b t c h w]` with their actions `[b t a]` as a prompt."""
    shape, device = latents.shape[:2], latents.device
    return Clip(
        latents, actions, torch.ones(shape, dtype=torch.bool, device=device), torch.zeros(shape, device=device),
        *(torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2)),
    )  # fmt: skip


def addresses(world: WorldModel, first: np.ndarray, index: int) -> torch.Tensor:
    """Returns noise addresses `[b 3]` for dreams that start at positions `first` of episode `index`."""
    address = noise.address_of([int(p) for p in first], world.device)
    address[:, 1] = index
    return address


def dream_along(
    world: WorldModel, store: EpisodeStore, index: int, frames: int = 48, shown: int = SHOWN
) -> list[np.ndarray]:
    """Returns `shown` real, as many reconstructed, and as many dreamed frames `[H W 3]` of one episode's beginning."""
    window = world.prompts.latents.shape[1]
    stop = min(window + frames, store.records[index].total_steps + 1)
    real = np.array(store.observations(index, 0, stop))
    latents, actions = world.encode(torch.from_numpy(real)), recorded_actions(world, store, index)
    first = np.array([min(window, stop - 1)])
    state = world.initial(
        prompt_of(latents[None, : first[0]], actions[None, : first[0]]), addresses(world, first, index)
    )
    dreamed = []
    for position in range(first[0], stop):
        state, _ = world.step(state, actions[position : position + 1])
        dreamed.append(world.observe(state)[0].cpu().numpy())
    rebuilt = world.autoencoder.decode(latents[first[0] :]).cpu().numpy()
    picks = np.linspace(0, len(dreamed) - 1, shown).astype(int)  # of a short episode some twice
    return [rows[i] for rows in (real[first[0] :], rebuilt, dreamed) for i in picks]
