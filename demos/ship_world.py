"""Puts a trained and measured world among those that ship, with its card and pictures.

python demos/ship_world.py runs/arena/world eval/arena data/arena-test arena --record "worldsim record …" --wrong "…"
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from worldsim import bundle
from worldsim.actions import unpack
from worldsim.data.episodes import EpisodeStore
from worldsim.data.policies import find_policy
from worldsim.dream.env import WorldModelEnv
from worldsim.evaluation.held_out import held_out
from worldsim.evaluation.replay import dream_along
from worldsim.evaluation.report import tables
from worldsim.evaluation.sheet import contact_sheet
from worldsim.evaluation.verdict import verdicts

FRAMES, SHOWN, DREAMS = 300, 12, 4


def dreams(folder: Path, policy_name: str) -> np.ndarray:
    """Returns a sheet of four dreams, a row each, that go on for 300 frames whatever the outcome model says."""
    env, rows = WorldModelEnv(str(folder)), []
    for seed in range(DREAMS):
        frame, _ = env.reset(seed=seed)
        policy = find_policy(policy_name)(env.action_space, np.random.default_rng(seed))
        frames = [frame]
        for step in range(FRAMES - 1):
            packed = policy(frame[None], np.array([step == 0]))[0]
            frame, *_ = env.step(unpack(env.action_space, packed))
            frames.append(frame)
        rows += [frames[i] for i in np.linspace(0, FRAMES - 1, SHOWN).astype(int)]
    return contact_sheet(rows, SHOWN, scale=2)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown; short rows are filled up."""
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def trainings(provenance: dict) -> list[dict]:
    """Returns what is known of every training that made a world, the first one first."""
    before = provenance.get("begun_from")
    return [*(trainings(before) if before else []), provenance]


def card(text: dict, record: Sequence[str], wrong: str) -> str:
    """Returns the world's card."""
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

Measured on {m["episodes"]} held-out episodes, {m["starts"]} dreams, K = {m["steps"]}; 95 % intervals in brackets.

{judged}

What it gets wrong: {wrong}

![Four dreams of 300 frames, a row each](sheet.png)

{measured}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="bundle folder")
    parser.add_argument("measured", type=Path, help="folder that `worldsim eval` wrote")
    parser.add_argument("data", type=Path, help="recordings it was measured on")
    parser.add_argument("name")
    parser.add_argument("--policy", default="sticky", help="who acts in the dreams of the contact sheet")
    parser.add_argument("--record", required=True, action="append", help="a command that recorded data, each once")
    parser.add_argument("--wrong", required=True, help="what the world gets wrong, in words")
    arguments = parser.parse_args()
    target = bundle.WORLDS / arguments.name
    shutil.copytree(arguments.world, target, dirs_exist_ok=True)
    text = json.loads((target / "world.json").read_text())
    text |= {"name": arguments.name, "metrics": json.loads((arguments.measured / "metrics.json").read_text())}
    (target / "world.json").write_text(json.dumps(text, indent=1) + "\n")
    (target / "README.md").write_text(card(text, arguments.record, arguments.wrong))
    iio.imwrite(target / "sheet.png", dreams(target, arguments.policy))
    world, store = bundle.load(target), EpisodeStore(arguments.data)
    longest = max(held_out(world, store, len(store)), key=lambda i: store.records[i].total_steps)
    iio.imwrite(target / "dream.png", contact_sheet(dream_along(world, store, longest), SHOWN, scale=2))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
