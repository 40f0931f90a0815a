"""`worldsim compare`: a teacher and its students, by several numbers of network evaluations, in one table.

Here beside `eval`, whose knowledge of games it shares. Leaves out the measuring (`worldsim.evaluation.comparison`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig

import worldsim
from worldsim import bundle
from worldsim.cli.data import open_data
from worldsim.cli.eval import PLACES, SURVIVORS, real_game, settings
from worldsim.evaluation.comparison import compare, markdown, plot
from worldsim.evaluation.held_out import held_out, spread
from worldsim.evaluation.parts import Parts
from worldsim.files import write_json, write_text
from worldsim.world_model import WorldModel


def main(config: DictConfig) -> int:
    """Writes `table.json`, `table.md` and `plot.png`, and prints the table."""
    if not isinstance(config.worlds, ListConfig) or len(config.worlds) < 1:
        raise ValueError(f"expected worlds= as a list, the teacher first: '[a,b]', found {config.worlds}")
    store, out = open_data(config.data), Path(str(config.out))
    loaded = {str(name): bundle.load(str(name), config.device) for name in config.worlds}
    teacher = next(iter(loaded.values()))
    for name, world in loaded.items():
        if world.takes_latent_actions:
            raise ValueError(f"expected worlds with the game's own actions, found {name}, whose actions are latent")
        if not _comparable(teacher, world):
            raise ValueError(f"expected worlds of one game with one codec, found {name} beside {config.worlds[0]}")
    unseen = set.intersection(*(set(held_out(world, store, len(store))) for world in loaded.values()))
    if not unseen:
        raise ValueError("expected episodes that none of the worlds was trained on, found none; record others")
    episodes = spread(store, sorted(unseen), teacher.prompts.latents.shape[1], config.episodes)
    facts = {
        "version": worldsim.__version__,
        "worlds": {name: settings(world) for name, world in loaded.items()},
        "episodes": [store.records[i].hash for i in episodes],
        "device": config.device,
    }
    parts = Parts(out / "parts.json", facts, lambda text: print(f"compare: {text}", file=sys.stderr, flush=True))
    game = store.info.game
    rows = compare(loaded, store, episodes, real_game(store), PLACES.get(game), parts, SURVIVORS.get(game))
    write_json(out / "table.json", {"rows": rows})
    write_text(out / "table.md", markdown(rows))
    plot(rows, out / "plot.png")
    parts.forget()
    print(markdown(rows), end="")
    return 0


def _comparable(one: WorldModel, other: WorldModel) -> bool:
    """Returns whether two worlds' latents mean the same, and begin at the same frames."""
    mine, theirs = (world.autoencoder.state_dict() for world in (one, other))
    return (
        one.info.game == other.info.game
        and one.autoencoder.config == other.autoencoder.config
        and all(torch.equal(value, theirs[key]) for key, value in mine.items())
        and one.prompts.latents.shape[1:] == other.prompts.latents.shape[1:]
    )
