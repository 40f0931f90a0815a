"""`worldsim bench`: times a world on this machine.

Here because timings are a command's output, never a test.
Leaves out the timing itself (`worldsim.evaluation.speed`).
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from worldsim.evaluation.speed import benchmark
from worldsim.files import write_json


def main(config: DictConfig) -> int:
    """Writes `bench.json` and prints its table."""
    if not isinstance(config.peer, bool):
        raise ValueError(f"expected peer=true or peer=false, found {config.peer}")
    result = benchmark(str(config.world), config.device, config.frames, config.peer, config.dtype)
    write_json(Path(str(config.out)) / "bench.json", result)
    print(result["machine"])
    print("GFLOP/s: ", "  ".join(f"{key} {value}" for key, value in result["hardware"].items()))
    for row in result["rows"]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print("  ".join(f"{key} {value}" for key, value in result["flat"].items()))
    return 0
