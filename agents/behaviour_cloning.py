"""An agent that does what was done in the best recorded episodes: what learning in dreams has to beat.

Here because it asks neither world nor game for anything but recordings.
Leaves out weighing actions by what they brought. Source: Pomerleau 1988.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import EpisodeStore, WorldModel
from worldsim.actions import choices
from worldsim.agents.agent import Agent, AgentConfig, Network
from worldsim.agents.dreams import check_data
from worldsim.agents.teaching import adam_from, adam_tensors, teach


@dataclass(frozen=True)
class BehaviourCloning:
    """How an agent learns from recordings."""

    best: float = 0.1  # share of episodes, those of the highest return, that it learns from
    window: int = 3  # frames that the agent sees
    batch: int = 256
    learning_rate: float = 3e-4

    def __post_init__(self):
        whole = all(isinstance(x, int) and x >= 1 for x in (self.window, self.batch))
        if not (0 < self.best <= 1 and whole and self.learning_rate > 0):
            raise ValueError(f"expected a share in (0, 1] and sizes above 0, found {self}")

    def train(self, world: WorldModel, store: EpisodeStore | None, out: Path, minutes: float, seed: int) -> Agent:
        """Teaches an agent for so many minutes and writes it to `out`; its action table is the world's."""
        learner = Cloner(self, world, store, seed)
        more = {"episodes": len(learner.chosen), "frames": len(learner.places)}
        return teach(learner, self, world, store, out, minutes, seed, more=more)


class Cloner:
    """What learns, and the steps it learns from."""

    def __init__(self, how: BehaviourCloning, world: WorldModel, store: EpisodeStore | None, seed: int):
        if store is None or store.info.action_space is None:
            raise ValueError("expected data= recordings with their actions to clone, found none")
        check_data(world, store)
        self.how, self.store, self.table, self.seed = how, store, world.action_codec.table, seed
        self.chosen = _best(store, how.best)
        self.places = np.array([(i, t) for i in self.chosen for t in range(store.records[i].total_steps)])
        self.network = Network(AgentConfig(tuple(world.info.frame_shape), len(self.table), how.window), seed)
        self.network.to(world.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), how.learning_rate)
        self.updates = 0

    def update(self) -> dict[str, float]:
        """Learns from one batch of steps, a function of the seed and of how many there were before."""
        rng = np.random.default_rng([self.seed, self.updates])
        drawn = self.places[rng.integers(len(self.places), size=self.how.batch)]
        seen, goal = _examples(self.store, drawn, self.how.window, self.table)
        device = next(self.network.parameters()).device
        loss = F.cross_entropy(self.network(seen.to(device))[0], goal.to(device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        return {"loss": float(loss.detach())}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the network's and the optimiser's."""
        return adam_tensors(self.network, self.optimizer) | {"updates": torch.tensor(self.updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from what `tensors` returned."""
        adam_from(tensors, self.network, self.optimizer)
        self.updates = int(tensors["updates"])


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
