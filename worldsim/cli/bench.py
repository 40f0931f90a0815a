"""`worldsim bench`: times a world on this machine.

Here because timings are a command's output, never a test.
Leaves out the timing itself (`worldsim.evaluation.speed`).
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from worldsim.evaluation.speed import benchmark


def main(config: DictConfig) -> int:
    """Writes `bench.json` and prints its table."""
    result = benchmark(config.world, config.device, config.frames)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result["machine"])
    for row in result["rows"]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print("  ".join(f"{key} {value}" for key, value in result["flat"].items()))
    return 0
