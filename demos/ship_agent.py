"""Puts an agent beside the world that it was taught in, with its card.

python demos/ship_agent.py runs/dodger eval/dodger doom-take-cover --data data/doom --command "worldsim …"
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from worldsim import bundle
from worldsim.agents.agent import FILE, Agent
from worldsim.data.episodes import EpisodeStore


def row(name: str, figures: dict[str, Any]) -> str:
    """Returns one agent's line of the table; of a Doom game lives are in tics."""
    low, high = (short(figures["interval"][side]) for side in ("low", "high"))
    lived = f"{figures['tics']:.0f} tics" if "tics" in figures else f"{figures['steps']:.0f} steps"
    values = [f"{short(figures['mean'])} [{low}, {high}]", short(figures["median"]), short(figures["sd"]), lived]
    return f"| {name} | {figures['game']} | {figures['episodes']} | {' | '.join(values)} |"


def short(value: float) -> str:
    """Returns a return in few digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def trials(run: Path) -> list[dict[str, Any]]:
    """Returns what the agent earned in dreams of other moments, as it learned."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("trial") is not None]


def card(name: str, run: Path, figures: list[dict[str, Any]], frames: int, commands: list[str]) -> str:
    """Returns the agent's card."""
    facts = Agent.load(run).facts
    how = ", ".join(f"{key} {value}" for key, value in facts["how"].items() if key != "by")
    curve = "\n".join(f"| {t['seconds'] / 60:.0f} | {t['updates']} | {short(t['trial'])} |" for t in trials(run))
    names = ["this one", *(Path(part["agent"]).name for part in figures[1:])]
    measured = "\n".join(map(row, names, figures))
    listed = "\n    ".join(commands)
    return f"""# The agent of {name}

`worldsim play world={name} agent={name}` lets it play the dream. It learned there alone ({facts["how"]["by"]},
{facts["minutes"]:g} minutes, seed {facts["seed"]}), from moments of {frames:,} recorded frames on. What its world was
trained on, the [world's card](README.md) says.

    {listed}

How: {how}; {facts["world_steps"]} evaluations a frame, temperature {facts["world_temperature"]:g},
{facts["world_dtype"]}.

| | game | episodes | mean return [95 % interval] | median | sd | lived |
|---|---|---|---|---|---|---|
{measured}

What it earned of the first {facts["how"]["horizon"]} steps in dreams that it did not learn from, as it learned; the
best of these ships:

| minute | updates | return |
|---|---|---|
{curve}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `worldsim agent train` wrote")
    parser.add_argument("measured", type=Path, help="folder that `worldsim agent eval` wrote, of the real game")
    parser.add_argument("name", help="of the shipped world")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="recordings that it began its dreams in")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="folders of other agents' evaluations")
    parser.add_argument("--command", required=True, action="append", help="a command that made it, each once")
    arguments = parser.parse_args()
    target = bundle.WORLDS / arguments.name
    if Agent.load(arguments.run).facts["world"] != (found := bundle.load(target).fingerprint):
        parser.error(f"expected an agent that was taught in {target} as it ships ({found}), found one of another world")
    folders = [arguments.measured, *arguments.beside]
    figures = [json.loads((folder / "agent.json").read_text()) for folder in folders]
    frames = sum(EpisodeStore(folder).num_frames for folder in arguments.data)
    (target / "AGENT.md").write_text(card(arguments.name, arguments.run, figures, frames, arguments.command))
    shutil.copyfile(arguments.run / FILE, target / FILE)
    print(f"wrote {target / FILE}")


if __name__ == "__main__":
    main()
