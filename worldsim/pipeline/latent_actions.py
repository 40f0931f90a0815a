"""Recordings whose actions nobody wrote down, given latent ones: an inverse model is trained, and names every step.

Here as what comes before all other stages, which then see recordings with actions like any others.
Leaves out how the names are learned (`models.latent_action`, `objectives.latent_action`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F

from worldsim.actions import default_keymap, rest_action
from worldsim.data.clips import WindowSampler, frame_batch
from worldsim.data.episodes import EpisodeStore
from worldsim.models.latent_action import CODES, WINDOW, LatentActionConfig, LatentActions, clusters
from worldsim.objectives.latent_action import latent_action_loss
from worldsim.pipeline.run import Run
from worldsim.training.loop import Stage, train

SHARE = 0.15  # of the minutes
BATCH, LEARNING_RATE = 32, 1e-3
AT_ONCE = 512  # frames that are named together
LOOKED_AT = 256  # steps of which one at least must change something
SAMPLE = 128  # stretches of recordings that codes are made of
STRETCH = 33  # frames of each
OFTEN = 0.1  # of a key's presses, the least that a code must go with
NEVER = 1e6  # where the code of an action that was never taken lies


def with_latent_actions(run: Run) -> tuple[Run, LatentActions | None]:
    """Returns the run with every step named, and what named them; a run without latent actions as it is.

    Of mixed recordings the steps without an action get the game's own, as the others teach.
    """
    if run.latent is None:
        if run.begun is not None and run.begun.takes_latent_actions:
            raise ValueError(f"expected actions=latent with begin_from={run.begin_from}, whose actions are latent")
        return run, None
    model = _begun(run) or train_latent_actions(run)
    if run.store.mixed:
        return replace(run, store=completed(run.store, model, run.action_codec.table)), model
    store = labelled(run.store, model)
    if run.labels:
        store.info = replace(store.info, keymap=keys_of_the_game(run.store, store, run.labels) or store.info.keymap)
    return replace(run, store=store), model


def _begun(run: Run) -> LatentActions | None:
    """Returns what named the actions of the world to begin from: its weights know those alone.

    Raises ValueError, in one sentence, where that world has others. Of mixed recordings they are the game's own.
    """
    if run.begun is None or run.store.mixed:
        return None
    latent = run.begun.latent if run.begun.takes_latent_actions else None
    if latent is None or json.dumps(asdict(latent.config)) != json.dumps(asdict(sizes_of(run))):
        raise ValueError(
            f"expected begin_from={run.begin_from} to be a world with latent actions of the same sizes, found "
            f"{'none' if latent is None else latent.config}; leave begin_from out"
        )
    return latent.to(run.torch_device)


def sizes_of(run: Run) -> LatentActionConfig:
    """Returns the sizes of a run's latent actions. Raises ValueError, in one sentence, for impossible ones."""
    assert run.latent is not None
    shape, table = tuple(run.store.info.observation_shape), len(run.action_codec.table)
    if not run.store.mixed:
        return run.latent(frame_shape=shape)
    if run.store.info.action_space is None or table not in CODES:
        raise ValueError(
            f"expected actions=mixed with recordings first whose actions are a table of up to {CODES[-1]}, found "
            f"{run.store.info.action_space} in {run.store.folders[0]}"
        )
    return run.latent(frame_shape=shape, codes=table, completes=True)


def train_latent_actions(run: Run) -> LatentActions:
    """Trains the inverse model on the run's recordings, which may have actions: it does not look at them."""
    assert run.latent is not None
    _check_moves(run)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.seed + 4)  # the CPU's alone: that is what comes back
        model = LatentActions(sizes_of(run))
    sampler = WindowSampler(run.store, run.training_episodes, WINDOW + 1, run.seed + 4)
    device = run.torch_device

    def objective(model, average, frames, progress, generator):
        return latent_action_loss(model, frames.to(device), generator=generator)

    def batch(step: int) -> torch.Tensor:
        return frame_batch(run.store, sampler.windows(step, BATCH), WINDOW + 1)

    stage = Stage("actions", model, batch, objective, BATCH, LEARNING_RATE)
    budget = run.spend("actions", lambda left: SHARE * left)
    model = train(stage, budget, run.folder / "actions", run.seed + 4, run.rhythm, device, run.batches_a_step)
    model.eval().requires_grad_(False)
    return learn_codes(model, run) if run.store.mixed else find_codes(model, run)


def _check_moves(run: Run) -> None:
    """Raises ValueError for recordings in which nothing moves: there is nothing to be named."""
    windows = WindowSampler(run.store, run.training_episodes, 2, run.seed).windows(0, LOOKED_AT)
    frames = frame_batch(run.store, windows, 2)
    if torch.equal(frames[:, 0], frames[:, 1]):
        raise ValueError(
            f"expected recordings in which something moves, found {LOOKED_AT} steps that change nothing; "
            "actions=latent names what changes"
        )


def find_codes(model: LatentActions, run: Run) -> LatentActions:
    """Makes the codes: clusters of what is told of recordings, that by which least changes first (0 is nearly rest)."""
    count = model.config.codes
    if not count:
        return model
    windows = WindowSampler(run.store, run.training_episodes, STRETCH, run.seed).windows(0, SAMPLE)
    clips = frame_batch(run.store, windows, STRETCH)
    told = torch.cat([model.tell(clip.to(model.codes.device)).cpu() for clip in clips])
    change = torch.cat([(clip[1:].float() - clip[:-1].float()).abs().mean((1, 2, 3)) for clip in clips])
    centres = clusters(told, count, torch.Generator().manual_seed(run.seed))
    nearest = F.one_hot(torch.cdist(told, centres).argmin(-1), count).float()
    mean = torch.where(nearest.sum(0) > 0, change @ nearest / nearest.sum(0).clamp_min(1), torch.inf)
    model.codes.copy_(centres[mean.argsort()])
    return model


def learn_codes(model: LatentActions, run: Run) -> LatentActions:
    """Makes a code of each action in the table: the mean of what is told where it was taken."""
    table, store = run.action_codec.table, run.store
    total, count = torch.zeros(model.codes.shape), torch.zeros(len(table))
    for index in run.training_episodes:
        if (packed := store.actions(index)) is not None and len(packed):
            told = _told(model, store, index)
            which = torch.from_numpy(np.abs(np.array(packed)[:, None] - table[None]).sum(-1).argmin(1))
            total.index_add_(0, which, told)
            count.index_add_(0, which, torch.ones(len(which)))
    if not count.any():
        raise ValueError("expected recordings with actions among those without, found none; use actions=latent")
    model.codes.copy_(torch.where(count[:, None] > 0, total / count[:, None].clamp_min(1), torch.tensor(NEVER)))
    return model


def completed(store: EpisodeStore, model: LatentActions, table: np.ndarray) -> EpisodeStore:
    """Returns mixed recordings, with the table's actions where none was recorded."""
    actions = [store.actions(index) for index in range(len(store))]
    filled = [
        table[named(model, store, index)[:, 0].astype(int)] if packed is None else np.array(packed)
        for index, packed in enumerate(actions)
    ]
    return store.with_actions(store.info, filled)


def labelled(store: EpisodeStore, model: LatentActions) -> EpisodeStore:
    """Returns recordings whose every step is named, whatever actions they came with."""
    space = model.config.space
    info = replace(store.info, action_space=space, keymap=default_keymap(space), discrete_table=None, env_spec=None)
    return store.with_actions(info, [named(model, store, index) for index in range(len(store))])


def named(model: LatentActions, store: EpisodeStore, index: int) -> np.ndarray:
    """Returns the packed latent actions `[T k]` of an episode, float64."""
    told = _told(model, store, index).to(model.codes.device)
    return model.packed(told).cpu().numpy()


def _told(model: LatentActions, store: EpisodeStore, index: int) -> torch.Tensor:
    """Returns the numbers `[T k]` that are told of an episode's steps."""
    steps, device = store.records[index].total_steps, model.codes.device
    parts = [
        model.tell(torch.from_numpy(np.array(store.observations(index, i, min(i + AT_ONCE, steps) + 1))).to(device))
        for i in range(0, steps, AT_ONCE)
    ]
    return torch.cat(parts).cpu()


def keys_of_the_game(store: EpisodeStore, latent: EpisodeStore, steps: int) -> dict | None:
    """Returns a keymap in latent actions with the game's own keys, learned from its first `steps` recorded actions.

    A key presses the code that goes with its action in the game more often than with others, of those that go with a
    tenth of it at least; one without such a code stays silent. Digits press codes as before. None where the recordings
    have no actions or no keys. Raises ValueError for latent actions that are no codes.
    """
    space, plain = store.info.action_space, store.info.keymap
    if space is None or not plain or not plain.get("bindings"):
        return None
    if not isinstance(latent.info.action_space, gym.spaces.Discrete):
        raise ValueError("expected codes to learn keys for, found continuous latent actions; give codes= above 0")
    true: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    left = steps
    for index in range(len(store)):
        length = min(left, store.records[index].total_steps)
        if not length:
            break
        for values, part in ((true, store.actions(index, 0, length)), (codes, latent.actions(index, 0, length))):
            assert part is not None
            values.append(np.array(part))
        left -= length
    taken, found = np.concatenate(true), np.concatenate(codes)[:, 0].astype(int)
    keymap, bindings = dict(latent.info.keymap or {}), []
    rest = np.asarray(plain.get("rest", rest_action(space)), float)
    usual = np.bincount(found, minlength=latent.info.action_space.n) / len(found)
    for binding in plain["bindings"]:
        pressed = rest.copy()
        for component, value in binding["set"].items():
            pressed[int(component)] = value
        rows = (taken == pressed).all(1)
        if rows.any():
            counted = np.bincount(found[rows], minlength=len(usual)) / rows.sum()
            above = counted / np.maximum(usual, 1e-9) * (counted > OFTEN)
            if above.any():
                bindings.append({"keys": binding["keys"], "set": {"0": int(above.argmax())}})
    keymap["bindings"] = [*keymap.get("bindings", []), *bindings]
    return keymap
