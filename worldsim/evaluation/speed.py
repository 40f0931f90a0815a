"""How fast a world steps, and whether it stays so: latency by batch and K, and time and memory after 10,000 frames.

Here as `worldsim bench`, never in a test: timings are noisy and belong to a machine.
Leaves out training speed, which the training log has.
"""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
import psutil
import torch

from worldsim import bundle, noise
from worldsim.world_model import WorldModel, WorldState

BATCHES, STEPS = (1, 8, 64), (1, 2, 4)
SECONDS = 4.0  # for each row of the table
SPAN = 50  # frames over which the time at frame 100 and at the last frame is taken


def benchmark(world: str, device: str = "cpu", frames: int = 10_000) -> dict[str, Any]:
    """Returns `bench.json`'s content for a world by name or path."""
    if not (isinstance(frames, int) and frames >= 100):
        raise ValueError(f"expected frames of at least 100, found {frames}")
    rows = []
    for k in STEPS:
        model = bundle.load(world, device, k)
        rows += [_time_row(model, batch, decode) for batch in BATCHES for decode in (True, False)]
    return {"machine": machine(device), "rows": rows, "flat": flatness(bundle.load(world, device, 1), frames)}


def machine(device: str) -> str:
    """Returns what the timings were taken on."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, {torch.get_num_threads()} threads, float32, eager, torch {torch.__version__}"


def _begin(world: WorldModel, batch: int) -> tuple[WorldState, torch.Tensor]:
    prompt = torch.arange(batch, device=world.device) % world.num_prompts
    state = world.initial(prompt, noise.address_of(list(range(batch)), world.device))
    return state, world.action_codec.null.repeat(batch, 1).to(world.device)


def _step(world: WorldModel, state: WorldState, action: torch.Tensor, decode: bool) -> tuple[WorldState, float]:
    """Steps once and returns the new state and the milliseconds until its result is on the host."""
    start = time.perf_counter()
    state, outcome = world.step(state, action)
    if decode:
        world.observe(state).cpu()
    outcome.reward.cpu()
    return state, 1000 * (time.perf_counter() - start)


def _time_row(world: WorldModel, batch: int, decode: bool) -> dict[str, Any]:
    state, action = _begin(world, batch)
    for _ in range(3):
        state, _ = _step(world, state, action, decode)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 10:
        state, taken = _step(world, state, action, decode)
        times.append(taken)
    p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99])
    return {
        "batch": batch, "k": world.steps, "decode": decode, "p50_ms": round(p50, 2), "p95_ms": round(p95, 2),
        "p99_ms": round(p99, 2), "rows_per_s": round(1000 * batch / float(np.mean(times)), 1),
    }  # fmt: skip


def flatness(world: WorldModel, frames: int) -> dict[str, float]:
    """Returns the median milliseconds of a step and the resident memory at frame 100 and at frame `frames`."""
    state, action = _begin(world, 1)
    times, memory = [], {}
    for frame in range(1, frames + 1):
        state, taken = _step(world, state, action, True)
        times.append(taken)
        if frame in (100, frames):
            memory[frame] = resident_mb()
    early, late = np.median(times[100 - SPAN : 100]), np.median(times[-SPAN:])
    return {
        "ms_100": round(float(early), 3), f"ms_{frames}": round(float(late), 3),
        "rss_mb_100": memory[100], f"rss_mb_{frames}": memory[frames],
    }  # fmt: skip


def resident_mb() -> float:
    """Returns this process's resident memory in MB."""
    return round(psutil.Process().memory_info().rss / 2**20, 1)
