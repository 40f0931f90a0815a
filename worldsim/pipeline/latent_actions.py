"""Recordings whose actions nobody wrote down, given latent ones: an inverse model is trained, and names every step.

Here as what comes before all other stages, which then see recordings with actions like any others.
Leaves out how the names are learned (`models.latent_action`, `objectives.latent_action`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.actions import choices, default_keymap
from worldsim.data.clips import WindowSampler, frame_batch
from worldsim.data.episodes import EpisodeStore
from worldsim.models.latent_action import CODES, WINDOW, LatentActionConfig, LatentActions, clusters
from worldsim.objectives.latent_action import latent_action_loss
from worldsim.pipeline.run import Run, seeded, trained
from worldsim.training.loop import Stage

SHARE = 0.15  # of the minutes
BATCH, LEARNING_RATE = 16, 1e-3
NOISE = 0.5  # of latent numbers at the end of their training, from -3 to 3
AT_ONCE = 64  # frames that are named together
LOOKED_AT = 256  # steps of which one at least must change something
SAMPLE = 128  # stretches of recordings that codes are made of
STRETCH = 33  # frames of each


def with_latent_actions(run: Run) -> tuple[Run, LatentActions | None]:
    """Returns the run with every step named, and what named them; a run without latent actions as it is.

    Where some steps have labels the others get the game's own actions, as these teach.
    """
    if run.latent is None:
        if run.begun is not None and run.begun.takes_latent_actions:
            raise ValueError(f"expected actions=latent with begin_from={run.begin_from}, whose actions are latent")
        return run, None
    model = _begun(run) or train_latent_actions(run)
    start = time.monotonic()
    store = completed(run, model) if model.config.completes else labelled(run.store, model)
    run.spend("naming", lambda left: time.monotonic() - start)
    return replace(run, store=store), model


def _begun(run: Run) -> LatentActions | None:
    """Returns what named the actions of the world to begin from: its weights know those alone.

    Raises ValueError, in one sentence, where that world has others. Where labels teach they are the game's own.
    """
    if run.begun is None:
        return None
    if run.store.mixed or run.labels:  # then the game's own actions are what all steps get
        if run.begun.takes_latent_actions:
            raise ValueError(
                f"expected begin_from={run.begin_from} to be a world with the game's own actions, as labels teach "
                "them, found latent ones; leave begin_from out"
            )
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
    shape = tuple(run.store.info.observation_shape)
    if not (run.store.mixed or run.labels):
        return run.latent(frame_shape=shape)
    table = len(run.action_codec.table)
    if run.store.info.action_space is None or table not in CODES:
        raise ValueError(
            f"expected labels of actions that are a table of up to {CODES[-1]}, found {run.store.info.action_space} in "
            f"{run.store.folders[0]}; use actions=latent without labels="
        )
    taught(run)  # says what is wrong with labels
    return run.latent(frame_shape=shape, codes=table, completes=True)


def taught(run: Run) -> np.ndarray:
    """Returns which steps of training episodes have labels, int64 `[n 2]`: episode and step.

    They are `run.labels` of those that were recorded with actions, evenly, or all of mixed recordings.
    Raises ValueError where labels are asked for and none was recorded.
    """
    known = [i for i in run.training_episodes if run.store.actions(i, 0, 0) is not None]
    if not known and run.store.mixed:
        raise ValueError("expected training episodes with actions among those without, found none; use actions=latent")
    if not known:
        raise ValueError("expected training episodes with actions for labels=, found none; leave labels out")
    steps = np.array([(index, at) for index in known for at in range(run.store.records[index].total_steps)])
    if run.store.mixed or run.labels >= len(steps):
        return steps
    return steps[np.linspace(0, len(steps) - 1, run.labels).astype(int)]


def train_latent_actions(run: Run) -> LatentActions:
    """Trains the inverse model on the run's recordings. Of recorded actions it sees those that are `taught`, if any.

    Its numbers say all they can at first, and from half way less and less: later means that nothing is said at all.
    """
    assert run.latent is not None
    _check_moves(run)
    with seeded(run.seed + 4):
        model = LatentActions(sizes_of(run))
    batch, device = lessons(run), run.torch_device

    def objective(model, average, batch, progress, generator):
        frames, taken = batch
        taken = None if taken is None else taken.to(device)
        noise = NOISE * max(0.0, 2 * progress - 1)
        return latent_action_loss(model, frames.to(device), taken, noise, generator=generator)

    stage = Stage("actions", model, batch, objective, BATCH, LEARNING_RATE)
    budget = run.spend("actions", lambda left: SHARE * left)
    model = trained(run, stage, budget, run.seed + 4)
    model.eval().requires_grad_(False)
    return model if model.config.completes else find_codes(model, run)


def lessons(run: Run) -> Callable[[int], tuple[torch.Tensor, torch.Tensor | None]]:
    """Returns what makes a step's clips, uint8 `[b 3 H W 3]`: any, then as many whose last step's action is `taught`.

    With it come the numbers of those actions `[l]`, each action as often as any other; None where none are. An action
    that the table lacks is no lesson: it may do what another does.
    """
    sampler = WindowSampler(run.store, run.training_episodes, WINDOW + 1, run.seed + 4)
    if not sizes_of(run).completes:
        return lambda step: (frame_batch(run.store, sampler.windows(step, BATCH), WINDOW + 1), None)
    steps, table = taught(run), run.action_codec.table
    parts = [(index, steps[steps[:, 0] == index, 1]) for index in np.unique(steps[:, 0])]
    packed = np.concatenate([np.array(run.store.actions(index))[at] for index, at in parts])
    own = choices(packed, table)
    exact = np.flatnonzero((packed == table[own]).all(1))
    if not len(exact):
        raise ValueError(f"expected labels that are among {len(table)} actions, found none of {len(own)}; give more")
    kinds = [exact[own[exact] == number] for number in np.unique(own[exact])]

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([run.seed, step])
        rows = np.array([rng.choice(kinds[kind]) for kind in rng.integers(len(kinds), size=BATCH)])
        windows = [(index, at + 1 - WINDOW) for index, at in steps[rows].tolist()]
        clips = frame_batch(run.store, [*sampler.windows(step, BATCH), *windows], WINDOW + 1)
        return clips, torch.from_numpy(own[rows])

    return batch


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
    parts = [run.store.observations(index, max(first, 0), first + STRETCH) for index, first in windows]
    clips = [torch.from_numpy(np.array(part)) for part in parts]
    told = torch.cat([model.tell(clip.to(model.codes.device)).cpu() for clip in clips])
    change = torch.cat([(clip[1:].float() - clip[:-1].float()).abs().mean((1, 2, 3)) for clip in clips])
    centres = clusters(told, count, torch.Generator().manual_seed(run.seed))
    nearest = F.one_hot(torch.cdist(told, centres).argmin(-1), count).float()
    mean = torch.where(nearest.sum(0) > 0, change @ nearest / nearest.sum(0).clamp_min(1), torch.inf)
    model.codes.copy_(centres[mean.argsort()])
    return model


def completed(run: Run, model: LatentActions) -> EpisodeStore:
    """Returns the recordings with their own actions where these are known, and named ones of the table elsewhere."""
    store, known, actions = run.store, taught(run), []
    for index in range(len(store)):
        recorded = store.actions(index)
        if recorded is not None and store.mixed:
            actions.append(np.array(recorded))
            continue
        found, at = run.action_codec.table[named(model, store, index)[:, 0].astype(int)], known[known[:, 0] == index, 1]
        if recorded is not None:
            found[at] = recorded[at]
        actions.append(found)
    return store.with_actions(store.info, actions)


def labelled(store: EpisodeStore, model: LatentActions) -> EpisodeStore:
    """Returns recordings whose every step is named, whatever actions they came with."""
    space = model.config.space
    info = replace(store.info, action_space=space, keymap=default_keymap(space), discrete_table=None, env_spec=None)
    return store.with_actions(info, [named(model, store, index) for index in range(len(store))])


def named(model: LatentActions, store: EpisodeStore, index: int) -> np.ndarray:
    """Returns the packed latent actions `[T k]` of an episode, float64."""
    steps, device = store.records[index].total_steps, next(model.parameters()).device
    parts = [
        model.label(torch.from_numpy(np.array(store.observations(index, i, min(i + AT_ONCE, steps) + 1))).to(device))
        for i in range(0, steps, AT_ONCE)
    ]
    return torch.cat(parts).cpu().numpy()
