"""`worldsim eval`: measures a world on episodes it was not trained on.

Here as the place that knows which games' frames can be read (`PROBES`).
Leaves out the measuring itself (`worldsim.evaluation`).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from worldsim import bundle
from worldsim.data.episodes import EpisodeStore
from worldsim.envs import arena
from worldsim.evaluation.fidelity import fidelity, held_out
from worldsim.evaluation.replay import SHOWN, dream_along
from worldsim.evaluation.report import report
from worldsim.evaluation.sheet import contact_sheet
from worldsim.files import write_json

SHEETS = 3  # episodes whose frames the report shows
PROBES = {"worldsim-real/Arena-v0": arena.decode}


def main(config: DictConfig) -> int:
    """Writes `metrics.json` and `report.html`, and prints the figures."""
    world, store = bundle.load(str(config.world), config.device, config.steps), EpisodeStore(Path(str(config.data)))
    episodes = held_out(world, store, config.episodes)
    metrics = fidelity(world, store, episodes, config.starts, PROBES.get(world.info.game))
    frames = [frame for index in episodes[:SHEETS] for frame in dream_along(world, store, index)]
    out = Path(str(config.out))
    write_json(out / "metrics.json", metrics)
    (out / "report.html").write_text(report(world.info.name, metrics, contact_sheet(frames, SHOWN, 2)))
    print(f"codec {_figure(metrics['codec'])}   one step {_figure(metrics['one_step'])}")
    for horizon, figure in metrics["open_loop"].items():
        print(f"open loop {horizon:>2}: {_figure(figure)}   copy last {_figure(metrics['copy_last'][horizon])}")
    print(f"mean frame {_figure(metrics['dataset_mean'])}   {len(episodes)} episodes; wrote {out / 'report.html'}")
    return 0


def _figure(figure: dict) -> str:
    p = figure["psnr"]
    return f"{p['mean']:.2f} dB [{p['low']:.2f}, {p['high']:.2f}]"
