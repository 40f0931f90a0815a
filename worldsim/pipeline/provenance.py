"""Where a world comes from: what its bundle says of the run that made it.

Here because a world without its command, commit and data cannot be made again.
Leaves out what was measured, which `demos/ship_world.py` adds to worlds that ship.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from worldsim.pipeline.run import Run
from worldsim.training.loop import precision
from worldsim.world_model import WorldModel


def describe_run(run: Run) -> dict[str, Any]:
    """Returns where a world comes from: command, commit, minutes, machine, data."""
    info, number = run.store.info, "bf16" if precision(run.torch_device) == "bf16" else "float32"
    return {
        "preset": run.preset.name,
        "minutes": run.minutes,
        "faulty_share": run.preset.denoising.faulty_share,
        "seed": run.seed,
        "command": run.command,
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {number}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "data": {"game": info.game, "episodes": len(run.training_episodes), "frames": run.store.num_frames},
    }


def _commit() -> str | None:
    """Returns the commit of the checkout this file stands in, None where it is installed or git is not."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None


def card(world: WorldModel) -> str:
    """Returns the README of a bundle."""
    p = world.info.provenance
    before, begun = p.get("begun_from"), ""
    if before is not None:
        begun = (
            f"It began as a world of {before['minutes']} minutes with preset {before['preset']}, whose weights have "
            f"the sha256 {before['fingerprint']}.\n\n"
        )
    return (
        f"# {world.info.name}\n\nA learned world of {world.info.game}: {p['data']['episodes']} training episodes, "
        f"{p['minutes']} minutes with preset {p['preset']} on {p['machine']}, commit {p['commit']}, {p['date']}.\n\n"
        f"{begun}    {p['command']}\n"
    )
