"""Puts a trained and measured world among those that ship, with its card and a contact sheet of a 300-frame dream.

python demos/ship_world.py runs/arena/world eval/arena arena --record "worldsim record …" --wrong "What it gets wrong."
"""

import argparse
import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from worldsim import bundle
from worldsim.actions import unpack
from worldsim.data.policies import find_policy
from worldsim.env import WorldModelEnv
from worldsim.evaluation.report import detail, termination
from worldsim.evaluation.sheet import contact_sheet

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


def pixels(value: float | None) -> str:
    return "lost" if value is None else f"{value:.0f} px"


def card(text: dict, record: str, wrong: str) -> str:
    """Returns the world's card."""
    p, m = text["provenance"], text["metrics"]
    figure = lambda part: "{mean:.2f} dB [{low:.2f}, {high:.2f}]".format(**part["psnr"])  # noqa: E731
    rows = "\n".join(
        f"| {h} | {figure(part)} | {figure(m['copy_last'][h])} | {detail(part)} |" for h, part in m["open_loop"].items()
    )
    places = "".join(
        f"| {name} | {value['within_1px']:.0%} | {value['within_2px']:.0%} | {pixels(value['median_px'])} |\n"
        for name, value in m.get("positions", {}).items()
        if name.endswith(("/1", "/16"))
    )
    head = "\n| thing / step | within 1 px | within 2 px | median distance |\n|---|---|---|---|\n"
    table = head + places if places else ""
    ends = f"\n{termination(m['termination']).capitalize()}.\n" if m.get("termination") else ""
    return f"""# {text["name"]}

A learned world of {text["game"]}: {p["minutes"]:g} minutes of training (preset {p["preset"]}, seed {p["seed"]}) on
{p["machine"]}, {p["date"]}, commit {p["commit"]}.
Data: {p["data"]["episodes"]} episodes for training, {p["data"]["frames"]} frames in all.

    {record}
    {p["command"]}

Measured on {m["episodes"]} held-out episodes, {m["starts"]} dreams, K = {m["steps"]}; PSNR [95 % interval].
Codec {figure(m["codec"])}; one step {figure(m["one_step"])}; the mean frame {figure(m["dataset_mean"])}.

| steps ahead | dream | last frame kept | fine detail, dream / real |
|---|---|---|---|
{rows}
{table}{ends}
What it gets wrong: {wrong}

![Four dreams of 300 frames, a row each](sheet.png)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="bundle folder")
    parser.add_argument("measured", type=Path, help="folder that `worldsim eval` wrote")
    parser.add_argument("name")
    parser.add_argument("--policy", default="sticky", help="who acts in the dreams of the contact sheet")
    parser.add_argument("--record", required=True, help="the command that recorded the data")
    parser.add_argument("--wrong", required=True, help="what the world gets wrong, in words")
    arguments = parser.parse_args()
    target = bundle.WORLDS / arguments.name
    shutil.copytree(arguments.world, target, dirs_exist_ok=True)
    text = json.loads((target / "world.json").read_text())
    text |= {"name": arguments.name, "metrics": json.loads((arguments.measured / "metrics.json").read_text())}
    (target / "world.json").write_text(json.dumps(text, indent=1) + "\n")
    (target / "README.md").write_text(card(text, arguments.record, arguments.wrong))
    iio.imwrite(target / "sheet.png", dreams(target, arguments.policy))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
