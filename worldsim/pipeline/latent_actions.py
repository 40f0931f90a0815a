"""Recordings whose actions nobody wrote down, given latent ones: an inverse model is trained, and names every step.

Here as what comes before all other stages, which then see recordings with actions like any others.
Leaves out how the names are learned (`models.latent_action`, `objectives.latent_action`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F

from worldsim.actions import choices, default_keymap, rest_action
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
        store.info = replace(store.info, keymap=keys_of_the_game(run.store, store, taught(run)) or store.info.keymap)
    return replace(run, store=store), model


def _begun(run: Run) -> LatentActions | None:
    """Returns what named the actions of the world to begin from: its weights know those alone.

    Raises ValueError, in one sentence, where that world has others. Of mixed recordings they are the game's own.
    """
    if run.begun is None or run.store.mixed:
        return None
    latent = run.begun.latent if run.begun.takes_latent_actions else None
    sizes = lambda config: json.dumps(asdict(replace(config, taught=0)))  # noqa: E731  (it does not learn on)
    if latent is None or sizes(latent.config) != sizes(sizes_of(run)):
        raise ValueError(
            f"expected begin_from={run.begin_from} to be a world with latent actions of the same sizes, found "
            f"{'none' if latent is None else latent.config}; leave begin_from out"
        )
    return latent.to(run.torch_device)


def sizes_of(run: Run) -> LatentActionConfig:
    """Returns the sizes of a run's latent actions. Raises ValueError, in one sentence, for impossible ones."""
    assert run.latent is not None
    taught(run)  # says what is wrong with labels
    shape, table = tuple(run.store.info.observation_shape), len(run.action_codec.table)
    if not run.store.mixed:
        return run.latent(frame_shape=shape, taught=table if run.labels else 0)
    if run.store.info.action_space is None or table not in CODES:
        raise ValueError(
            f"expected actions=mixed with recordings first whose actions are a table of up to {CODES[-1]}, found "
            f"{run.store.info.action_space} in {run.store.folders[0]}"
        )
    return run.latent(frame_shape=shape, codes=table, completes=True, taught=table)


def taught(run: Run) -> dict[int, int]:
    """Returns how many first steps of which training episodes have labels: `run.labels`, or all of mixed recordings.

    Raises ValueError where labels are asked for and none was recorded.
    """
    left, found = math.inf if run.store.mixed else run.labels, {}
    for index in run.training_episodes if left else ():
        if left > 0 and run.store.actions(index, 0, 0) is not None:
            found[index] = int(min(left, run.store.records[index].total_steps))
            left -= found[index]
    if not found and run.store.mixed:
        raise ValueError("expected training episodes with actions among those without, found none; use actions=latent")
    if not found and run.labels:
        raise ValueError("expected training episodes with actions for labels=, found none; leave labels out")
    return found


def train_latent_actions(run: Run) -> LatentActions:
    """Trains the inverse model on the run's recordings. Of recorded actions it sees those that are `taught`, if any."""
    assert run.latent is not None
    _check_moves(run)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.seed + 4)  # the CPU's alone: that is what comes back
        model = LatentActions(sizes_of(run))
    batch, device = lessons(run), run.torch_device

    def objective(model, average, batch, progress, generator):
        frames, taken = batch
        taken = None if taken is None else taken.to(device)
        return latent_action_loss(model, frames.to(device), taken, generator=generator)

    stage = Stage("actions", model, batch, objective, BATCH, LEARNING_RATE)
    budget = run.spend("actions", lambda left: SHARE * left)
    model = train(stage, budget, run.folder / "actions", run.seed + 4, run.rhythm, device, run.batches_a_step)
    model.eval().requires_grad_(False)
    return model if run.store.mixed else find_codes(model, run)


def lessons(run: Run) -> Callable[[int], tuple[torch.Tensor, torch.Tensor | None]]:
    """Returns what makes a step's clips, uint8 `[b 3 H W 3]`: any, then as many whose last step's action is `taught`.

    With it come the numbers of those actions `[l]`, None where none are.
    """
    sampler, steps = WindowSampler(run.store, run.training_episodes, WINDOW + 1, run.seed + 4), taught(run)
    places = np.array([(index, at) for index, count in steps.items() for at in range(count)])
    own = np.concatenate([_own(run, index, count) for index, count in steps.items()]) if steps else np.zeros(0, int)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        windows, taken = sampler.windows(step, BATCH), None
        if len(own):
            rows = np.random.default_rng([run.seed, step]).integers(len(own), size=BATCH)
            windows += [(index, at + 1 - WINDOW) for index, at in places[rows].tolist()]
            taken = torch.from_numpy(own[rows])
        return frame_batch(run.store, windows, WINDOW + 1), taken

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
    clips = frame_batch(run.store, windows, STRETCH)
    told = torch.cat([model.tell(clip.to(model.codes.device)).cpu() for clip in clips])
    change = torch.cat([(clip[1:].float() - clip[:-1].float()).abs().mean((1, 2, 3)) for clip in clips])
    centres = clusters(told, count, torch.Generator().manual_seed(run.seed))
    nearest = F.one_hot(torch.cdist(told, centres).argmin(-1), count).float()
    mean = torch.where(nearest.sum(0) > 0, change @ nearest / nearest.sum(0).clamp_min(1), torch.inf)
    model.codes.copy_(centres[mean.argsort()])
    return model


def _own(run: Run, index: int, count: int) -> np.ndarray:
    """Returns which action of the table each of an episode's first steps took, int64 `[count]`."""
    return choices(np.array(run.store.actions(index, 0, count)), run.action_codec.table)


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


def keys_of_the_game(store: EpisodeStore, latent: EpisodeStore, steps: dict[int, int]) -> dict | None:
    """Returns a keymap in latent actions with the game's own keys, learned from so many first `steps` of episodes.

    A key presses the code that goes with its action in the game more often than with others, of those that go with a
    tenth of it at least; one without such a code stays silent. Digits press codes as before. None where the recordings
    have no keys. Raises ValueError for latent actions that are no codes.
    """
    space, plain = store.info.action_space, store.info.keymap
    if space is None or not plain or not plain.get("bindings"):
        return None
    if not isinstance(latent.info.action_space, gym.spaces.Discrete):
        raise ValueError("expected codes to learn keys for, found continuous latent actions; give codes= above 0")
    true: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for index, length in steps.items():
        for values, part in ((true, store.actions(index, 0, length)), (codes, latent.actions(index, 0, length))):
            assert part is not None
            values.append(np.array(part))
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
