"""`worldsim eval`: measures a world on episodes it was not trained on.

Here as the place that knows which games' frames can be read (`PROBES`).
Leaves out the measuring itself (`worldsim.evaluation`).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from worldsim import bundle
from worldsim.data.episodes import EpisodeStore
from worldsim.envs import arena, doom
from worldsim.evaluation import report as pages
from worldsim.evaluation.events import termination
from worldsim.evaluation.fidelity import fidelity, held_out
from worldsim.evaluation.replay import SHOWN, dream_along
from worldsim.evaluation.sheet import contact_sheet
from worldsim.evaluation.uncertainty import uncertainty
from worldsim.files import write_json

SHEETS = 3  # episodes whose frames the report shows
PROBES = {"worldsim-real/Arena-v0": arena.decode}
COMPARISONS = {"worldsim-real/DoomTakeCover-v0": doom.wall_shift}


def main(config: DictConfig) -> int:
    """Writes `metrics.json` and `report.html`, and prints the figures."""
    world, store = bundle.load(str(config.world), config.device, config.steps), EpisodeStore(Path(str(config.data)))
    episodes = held_out(world, store, config.episodes)
    game = world.info.game
    metrics = fidelity(world, store, episodes, config.starts, PROBES.get(game), COMPARISONS.get(game))
    metrics["termination"] = termination(world, store, episodes, 2 * config.starts)
    metrics["uncertainty"] = uncertainty(world, store, episodes, config.starts)
    frames = [frame for index in episodes[:SHEETS] for frame in dream_along(world, store, index)]
    out = Path(str(config.out))
    write_json(out / "metrics.json", metrics)
    (out / "report.html").write_text(pages.report(world.info.name, metrics, contact_sheet(frames, SHOWN, 2)))
    print(f"codec {_figure(metrics['codec'])}   one step {_figure(metrics['one_step'])}")
    for horizon, figure in metrics["open_loop"].items():
        last, share = _figure(metrics["copy_last"][horizon]), pages.detail(figure)
        print(f"open loop {horizon:>2}: {_figure(figure)}   copy last {last}   detail {share} of the real")
    for name, value in metrics.get("positions", {}).items():
        if name.endswith("/16"):
            print(f"{name}: within 1 px {value['within_1px']:.1%}, within 2 px {value['within_2px']:.1%}")
    if metrics["termination"]:
        print(pages.termination(metrics["termination"]))
    if u := metrics["uncertainty"]:
        print(
            f"uncertainty: rank correlation {u['mean']:.2f} [{u['low']:.2f}, {u['high']:.2f}] with the one-step error"
        )
    print(f"mean frame {_figure(metrics['dataset_mean'])}   {len(episodes)} episodes; wrote {out / 'report.html'}")
    return 0


def _figure(figure: dict) -> str:
    p = figure["psnr"]
    return f"{p['mean']:.2f} dB [{p['low']:.2f}, {p['high']:.2f}]"
