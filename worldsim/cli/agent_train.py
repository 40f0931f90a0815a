"""`worldsim agent train`: an agent that learns in a world's dreams.

Here as the place where names become a world, recordings and a way of learning; `worldsim.agents` does the work.
Leaves out playing it (`worldsim agent eval`, `worldsim play agent=`).
"""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from worldsim import bundle
from worldsim.cli.data import open_data
from worldsim.data.shards import acquire_lock

AGENTS = ("imagination", "q_learning", "evolution", "behaviour_cloning")


def main(config: DictConfig) -> int:
    """Teaches an agent as `configs/agent_train.yaml` says."""
    if config.agent not in AGENTS:
        raise ValueError(f"expected agent= one of {', '.join(AGENTS)}, found {config.agent}")
    minutes, seed = config.minutes, config.seed
    if not (isinstance(minutes, (int, float)) and minutes > 0):
        raise ValueError(f"expected minutes above 0, found {minutes}; give the agent some time")
    if not (isinstance(seed, int) and 0 <= seed < 2**31):
        raise ValueError(f"expected a seed from 0 to 2**31 - 1, found {seed!r}")
    how = instantiate(config[config.agent])
    world = bundle.load(
        str(config.world), config.device, config.steps, dtype=config.dtype, temperature=config.temperature
    )
    if world.info.action_space is None:
        raise ValueError(f"expected a world with actions, found {world.info.name}, which has none")
    store = None if config.data is None else open_data(config.data)
    if store is not None and not store.info.has_rewards:
        raise ValueError(f"expected data= with rewards to learn from, found none in {config.data}")
    out = Path(str(config.out))
    out.mkdir(parents=True, exist_ok=True)
    with acquire_lock(out):
        how.train(world, store, out, float(minutes), seed)
    print(f"wrote {config.out}; judge it in the real game:  worldsim agent eval agent={config.out} out={config.out}")
    return 0
