"""`worldsim compare`: a teacher and its students, by several numbers of network evaluations, in one table.

Here beside `eval`, whose knowledge of games it shares. Leaves out the measuring (`worldsim.evaluation.comparison`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from worldsim import bundle
from worldsim.cli.data import open_data
from worldsim.cli.eval import PLACES, real_game
from worldsim.evaluation.comparison import compare, markdown, plot
from worldsim.evaluation.held_out import held_out, spread
from worldsim.evaluation.parts import Parts
from worldsim.files import write_json, write_text


def main(config: DictConfig) -> int:
    """Writes `table.json`, `table.md` and `plot.png`, and prints the table."""
    if not isinstance(config.worlds, ListConfig) or len(config.worlds) < 1:
        raise ValueError(f"expected worlds= as a list, the teacher first: '[a,b]', found {config.worlds}")
    store, out = open_data(config.data), Path(str(config.out))
    loaded = {str(name): bundle.load(str(name), config.device) for name in config.worlds}
    teacher = next(iter(loaded.values()))
    for name, world in loaded.items():
        if world.info.game != teacher.info.game:
            raise ValueError(f"expected worlds of {teacher.info.game}, found {name} of {world.info.game}")
    unseen = set.intersection(*(set(held_out(world, store, len(store))) for world in loaded.values()))
    episodes = spread(store, sorted(unseen), teacher.prompts.latents.shape[1], config.episodes)
    facts = {
        "worlds": {name: world.fingerprint for name, world in loaded.items()},
        "episodes": [store.records[i].hash for i in episodes],
    }
    parts = Parts(out / "parts.json", facts, lambda text: print(f"compare: {text}", file=sys.stderr, flush=True))
    rows = compare(loaded, store, episodes, real_game(store), PLACES.get(store.info.game), parts)
    write_json(out / "table.json", {"rows": rows})
    write_text(out / "table.md", markdown(rows))
    plot(rows, out / "plot.png")
    parts.forget()
    print(markdown(rows), end="")
    return 0
