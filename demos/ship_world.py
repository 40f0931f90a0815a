"""Puts a trained and measured world among those that ship, with its card and pictures.

python demos/ship_world.py runs/arena/world eval/arena data/arena-test arena --record "worldsim record …" --wrong "…"
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from worldsim import bundle
from worldsim.cli.eval import SCRIPTS
from worldsim.data.episodes import EpisodeStore
from worldsim.evaluation.habits import Act, players
from worldsim.evaluation.held_out import held_out
from worldsim.evaluation.replay import dream_along
from worldsim.evaluation.report import sampling, tables
from worldsim.evaluation.sheet import contact_sheet
from worldsim.evaluation.subject import Dream, Start, starts_of
from worldsim.evaluation.verdict import verdicts
from worldsim.world_model import WorldModel

FRAMES, SHOWN = 600, 12


def played(subject: Dream, begin: Callable[[], Act], starts: Iterable[Start]) -> Iterator[np.ndarray]:
    """Yields the frames of one dream after the other, each until it has more likely ended than not."""
    for turn, start in enumerate(starts):
        subject.reset([start], turn)
        act, frame, alive, step = begin(), start.frames[-1], 1.0, 0
        yield frame
        while alive >= 0.5:
            result = subject.step(act(frame[None], step))
            frame, alive, step = result.seen[0], alive * (1 - result.end[0]), step + 1
            yield frame


def dreams(world: WorldModel, store: EpisodeStore, episodes: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Returns habits, and a sheet with frames dreamed by each, a row each."""
    subject, habits = Dream(world), players(store, SCRIPTS.get(store.info.game, {}))
    shown: list[np.ndarray] = []
    for row, begin in enumerate(habits.values()):
        turns = islice(cycle(episodes), row, None)
        starts = (starts_of(store, i, [subject.window], subject.window)[0] for i in turns)
        seen = list(islice(played(subject, begin, starts), FRAMES))
        shown += [seen[i] for i in np.linspace(0, FRAMES - 1, SHOWN).astype(int)]
    return list(habits), contact_sheet(shown, SHOWN, scale=2)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown; short rows are filled up."""
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def trainings(provenance: dict) -> list[dict]:
    """Returns what is known of every training that made a world, the first one first."""
    before = provenance.get("begun_from")
    return [*(trainings(before) if before else []), provenance]


def card(text: dict, record: Sequence[str], wrong: str, habits: Sequence[str]) -> str:
    """Returns the world's card; `habits` are the rows of its sheet."""
    p, m = text["provenance"], text["metrics"]
    minutes = " and ".join(f"{part['minutes']:g}" for part in trainings(p))
    commands = "\n    ".join([*record, *(part["command"] for part in trainings(p))])
    judged = markdown(("", "measured", "", "rule"), [(v.question, v.figure, v.word, v.rule) for v in verdicts(m)])
    measured = "\n\n".join(f"**{title}**\n\n{markdown(*table)}" for title, table in tables(m))
    return f"""# {text["name"]}

A learned world of {text["game"]}: {minutes} minutes of training (preset {p["preset"]}, seed {p["seed"]}) on
{p["machine"]}, {p["date"]}, commit {p["commit"]}.
Data: {p["data"]["episodes"]} episodes for training, {p["data"]["frames"]} frames in all.

    {commands}

Measured on {m["episodes"]} held-out episodes, {m["starts"]} dreams, {sampling(m)}; 95 % intervals in brackets.

{judged}

What it gets wrong: {wrong}

![Dreams by habit](sheet.png)

{FRAMES} frames dreamed by each habit, a row each, begun anew from another start wherever a dream ends:
{", ".join(habits)}.

{measured}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="bundle folder")
    parser.add_argument("measured", type=Path, help="folder that `worldsim eval` wrote")
    parser.add_argument("data", type=Path, help="recordings it was measured on")
    parser.add_argument("name")
    parser.add_argument("--record", required=True, action="append", help="a command that recorded data, each once")
    parser.add_argument("--wrong", required=True, help="what the world gets wrong, in words")
    arguments = parser.parse_args()
    target = bundle.WORLDS / arguments.name
    metrics, given = json.loads((arguments.measured / "metrics.json").read_text()), bundle.load(arguments.world)
    if (given.fingerprint, given.steps) != (metrics.get("fingerprint"), metrics["steps"]):
        parser.error(f"expected figures of {arguments.world} by {given.steps} evaluations, found others; measure it so")
    shutil.copytree(arguments.world, target, dirs_exist_ok=True)
    text = json.loads((target / "world.json").read_text())
    text |= {"name": arguments.name, "metrics": metrics, "temperature": metrics["temperature"]}
    text["format_version"] = bundle.FORMAT_VERSION  # which holds a temperature
    (target / "world.json").write_text(json.dumps(text, indent=1) + "\n")
    world, store = bundle.load(target), EpisodeStore(arguments.data)
    episodes = held_out(world, store, len(store))
    habits, sheet = dreams(world, store, episodes)
    (target / "README.md").write_text(card(text, arguments.record, arguments.wrong, habits))
    iio.imwrite(target / "sheet.png", sheet)
    longest = max(episodes, key=lambda i: store.records[i].total_steps)
    iio.imwrite(target / "dream.png", contact_sheet(dream_along(world, store, longest), SHOWN, scale=2))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
