"""`worldsim distill`: a world in, one that needs fewer steps out; run again with the same `out=` it resumes.

Here as the place where arguments become objects; `worldsim.pipeline.distillation` does the work.
Leaves out comparing students (`worldsim compare`).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from worldsim.bundle import read_device
from worldsim.cli.data import open_data
from worldsim.pipeline import Distillation, StageSizes, distill_world
from worldsim.training.processes import Processes

PLAIN = ("method", "steps", "minutes", "own_frames", "own_share", "faulty_share", "seed", "device")


def main(config: DictConfig) -> int:
    """Distils a world as `configs/distill.yaml` says."""
    how = Distillation(
        store=open_data(config.data),
        folder=Path(str(config.out)),
        teacher=str(config.world),
        sizes=StageSizes(config.batch, config.learning_rate),
        rhythm=instantiate(config.rhythm),
        command=shlex.join(["worldsim", *sys.argv[1:]]),
        **{key: config[key] for key in PLAIN},
    )
    distill_world(how)
    if Processes.found(read_device(how.device or "cpu")).first:
        print(f"wrote {how.folder / 'world'}; play it:  worldsim play world={how.folder / 'world'}")
    return 0
