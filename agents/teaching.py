"""Teaching an agent for so many minutes: what every way of learning shares.

Here so that all of them show progress, can be killed and resumed, and keep the agent that does best in dreams of other
moments; the real game is never asked. Leaves out what an update is: that is the `Learner`'s.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from worldsim import EpisodeStore, WorldModel
from worldsim.agents.agent import FILE, Agent, Linear, Network
from worldsim.agents.dreams import earned, moments
from worldsim.files import save_tensors
from worldsim.threads import Threads

LOG_SECONDS, SAVE_SECONDS = 10.0, 60.0
CHECKPOINT = "checkpoint.safetensors"
ADAM = ("step", "exp_avg", "exp_avg_sq")


class Learner(Protocol):
    """A way of learning under way."""

    network: Network | Linear  # what acts

    def update(self) -> dict[str, float]: ...  # learns a little; returns what is worth logging
    def tensors(self) -> dict[str, Tensor]: ...  # everything that a resumed training goes on from
    def restore(self, tensors: dict[str, Tensor]) -> None: ...  # takes that over


def teach(
    learner: Learner,
    how: Any,
    world: WorldModel,
    store: EpisodeStore | None,
    out: Path,
    minutes: float,
    seed: int,
    trial: Callable[[Network | Linear], float] | None = None,
    trials: int = 1,
    more: dict[str, Any] | None = None,
) -> Agent:
    """Updates until the minutes are spent, over all runs, and returns the agent in `out`.

    `trial(network)` says how well an agent does: asked `trials` times, and the best is kept; without it, the last one.
    `how` is a dataclass of settings, `store` the recordings that are learned from, and `more` what else an agent's
    facts should say. Raises ValueError where `out` holds another training.
    """
    arguments = {
        "how": {"by": type(how).__name__, **asdict(how)}, "minutes": minutes, "seed": seed, "world": world.fingerprint,
        "world_steps": world.steps, "world_dtype": world.dtype_name,
        "world_temperature": world.temperature, "data": _digest(store),
    }  # fmt: skip
    facts: dict[str, Any] = {"updates": 0, "seconds": 0.0, "tried": 0, "best": None}
    facts |= _resume(learner, out, arguments)
    before, began = facts["seconds"], time.monotonic()
    logged = saved = began
    bar = tqdm(total=100, desc=type(how).__name__, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}")
    with Threads() as threads:
        while facts["seconds"] < 60 * minutes:
            threads.adjust()
            told = learner.update()
            now = time.monotonic()
            facts |= {"updates": facts["updates"] + 1, "seconds": before + now - began}
            share = min(1.0, facts["seconds"] / (60 * minutes))
            if now - logged > LOG_SECONDS:
                _log(out, facts | told)
                bar.n = 100 * share
                bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in told.items()))
                logged = now
            is_tried = share * trials >= facts["tried"] + 1 or share == 1
            if is_tried:
                found = trial(learner.network) if trial else None
                facts["tried"] += 1
                _log(out, facts | {"trial": found})
                if found is None or facts["best"] is None or found >= facts["best"]:
                    facts["best"] = found
                    _agent(learner.network, world, arguments | facts | (more or {})).save(out)
            if is_tried or now - saved > SAVE_SECONDS:
                _save(learner, out, arguments | facts)
                saved = now
    bar.close()
    agent = Agent.load(out)
    if trial is not None and store is not None and "promised" not in agent.facts:
        agent.facts["promised"] = _promised(agent, how, world, store, seed)
        agent.save(out)
    return agent


def _promised(agent: Agent, how: Any, world: WorldModel, store: EpisodeStore, seed: int) -> float:
    """Returns what the agent earns in dreams that begin as the game does, none of those it was chosen by."""
    starts, network = moments(world, store, how.window, seed, beginnings=True), agent.network.to(world.device)
    promised = earned(network, world, starts, how.trial_rows, how.horizon, how.hold, seed + 1)
    network.cpu()
    return promised


def adam_tensors(network: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Returns a network's tensors and its optimiser's, by name; none of the latter before the first step."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return tensors


def adam_from(tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Adam) -> None:
    """Takes over what `adam_tensors` returned."""
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        parts = {key: tensors[f"{key}.{name}"] for key in ADAM if f"{key}.{name}" in tensors}
        optimizer.state[parameter] = {k: x if k == "step" else x.to(parameter.device) for k, x in parts.items()}


def _digest(store: EpisodeStore | None) -> str | None:
    """Returns which recordings these are, in short."""
    return None if store is None else hashlib.sha256("".join(r.hash for r in store.records).encode()).hexdigest()[:16]


def _agent(network: Network | Linear, world: WorldModel, facts: dict[str, Any]) -> Agent:
    facts = facts | {"game": world.info.game, "latent_actions": world.takes_latent_actions}
    return Agent(deepcopy(network).cpu(), world.info.action_space, world.action_codec.table, facts)


def _log(out: Path, line: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def _save(learner: Learner, out: Path, facts: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(learner.tensors(), out / CHECKPOINT, {"facts": json.dumps(facts)})


def _resume(learner: Learner, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Takes over what `out` holds; returns where that training stands."""
    if not (out / CHECKPOINT).exists():
        return {}
    try:
        with safe_open(out / CHECKPOINT, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"expected a whole checkpoint in {out}, found a damaged one ({error}); remove it") from error
    for key, value in json.loads(json.dumps(arguments)).items():
        if facts.pop(key, None) != value:
            raise ValueError(f"expected out={out} to hold a training with the same {key}; use another out=")
    learner.restore(tensors)
    kept = Agent.load(out).facts if (out / FILE).exists() else facts
    if kept["tried"] > facts["tried"]:  # the training was killed between a trial and its checkpoint
        facts |= {name: kept[name] for name in ("tried", "best")}
    print(f"resuming from update {facts['updates']}")
    return facts
