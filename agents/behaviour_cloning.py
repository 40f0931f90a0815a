"""An agent that does what was done in the best recorded episodes: what learning in dreams has to beat.

Here because it asks neither world nor game for anything but recordings.
Leaves out weighing actions by what they brought. Source: Pomerleau 1988.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from worldsim import EpisodeStore, WorldModel
from worldsim.agents.agent import Agent, AgentConfig, choices, fresh


@dataclass(frozen=True)
class BehaviourCloning:
    """How an agent learns from recordings."""

    best: float = 0.1  # share of episodes, those of the highest return, that it learns from
    window: int = 3  # frames that the agent sees
    batch: int = 256
    learning_rate: float = 3e-4

    def __post_init__(self):
        if not (0 < self.best <= 1 and self.window >= 1 and self.batch >= 1 and self.learning_rate > 0):
            raise ValueError(f"expected a share in (0, 1] and sizes above 0, found {self}")

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Teaches an agent for so many minutes and writes it to `out`; its action table is the world's."""
        if store is None or store.info.action_space is None:
            raise ValueError("expected data= recordings with their actions to clone, found none")
        table, chosen = world.action_codec.table, _best(store, self.best)
        network = fresh(AgentConfig(tuple(world.info.frame_shape), len(table), self.window), seed)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        places = np.array([(i, t) for i in chosen for t in range(store.records[i].total_steps)])
        rng, began, losses = np.random.default_rng(seed), time.monotonic(), []
        bar = tqdm(total=100, desc="behaviour cloning", bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}")
        while (spent := time.monotonic() - began) < 60 * minutes:
            drawn = places[rng.integers(len(places), size=self.batch)]
            seen, goal = _examples(store, drawn, self.window, table)
            loss = F.cross_entropy(network(seen)[0], goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.n = 100 * spent / (60 * minutes)
            bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}")
        bar.close()
        facts = {
            "by": "behaviour_cloning", **asdict(self), "minutes": minutes, "seed": seed, "steps": len(losses),
            "loss": round(float(np.mean(losses[-50:])), 4), "episodes": len(chosen), "frames": len(places),
            "game": store.info.game,
        }  # fmt: skip
        agent = Agent(network, world.info.action_space, table, facts)
        agent.save(out)
        return agent


def _best(store: EpisodeStore, share: float) -> list[int]:
    """Returns the episodes of the highest returns. Raises ValueError where none was recorded."""
    totals = [record.total_reward for record in store.records]
    if not store.info.has_rewards:
        raise ValueError("expected recordings with rewards, to know the best of them, found none")
    order = np.argsort([-float(total or 0) for total in totals], kind="stable")
    return [int(i) for i in order[: max(1, round(share * len(order)))]]


def _examples(store: EpisodeStore, places: np.ndarray, window: int, table: np.ndarray) -> tuple[Tensor, Tensor]:
    """Returns what was seen `[b t H W 3]` and the number of the action that was taken then `[b]`."""
    seen, packed = [], []
    for index, step in places.tolist():
        frames = np.array(store.observations(index, max(0, step - window + 1), step + 1))
        missing = window - len(frames)
        seen.append(np.concatenate((np.repeat(frames[:1], missing, 0), frames)) if missing else frames)
        taken = store.actions(index, step, step + 1)
        assert taken is not None  # asked before
        packed.append(taken[0])
    return torch.from_numpy(np.stack(seen)), torch.from_numpy(choices(np.stack(packed), table))
