"""How fast a world steps, and whether it stays so: latency by batch and K, and time and memory after 10,000 frames.

Here as `worldsim bench`, never in a test: timings are noisy and belong to a machine. So every row stands beside a
network of known shape, timed in turns with it (`peer`), and beside what the machine can multiply.
Leaves out training speed, which the training log has.
"""

from __future__ import annotations

import platform
import time
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim import bundle, noise
from worldsim.evaluation.peer import Peer
from worldsim.world_model import WorldModel

BATCHES, STEPS = (1, 16, 64), (1, 2, 4)
SECONDS, ROUNDS = 20.0, 5  # for each batch, and turns at least
RATES = {torch.float32: "convolution_float32", torch.bfloat16: "convolution_bf16"}  # that a row is a share of
SPAN = 50  # frames over which the time at frame 100 and at the last frame is taken


def benchmark(
    world: str, device: str = "cpu", frames: int = 10_000, peer: bool = True, dtype: str = "float32"
) -> dict[str, Any]:
    """Returns `bench.json`'s content for a world by name or path; `peer=False` leaves out what it is compared with."""
    if not (isinstance(frames, int) and frames >= 100):
        raise ValueError(f"expected frames of at least 100, found {frames}")
    load = partial(bundle.load, world, device, dtype=dtype)
    loaded = load(1)
    hardware, rows = rates(device), []
    for batch in BATCHES:
        turns = [_Turn(load(k), batch, decode) for k in STEPS for decode in (True, False)]
        other = Peer(batch, device) if peer else None
        rows += _time_rows(turns, other, hardware[RATES[loaded.dtype]])
    flat = flatness(loaded, frames)
    return {"machine": machine(device, loaded.dtype_name), "hardware": hardware, "rows": rows, "flat": flat}


def rates(device: str) -> dict[str, float]:
    """Returns the rate in GFLOP/s at which this machine multiplies matrices and convolves, in float32 and bf16."""
    found = {}
    for name, kind in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(2048, 2048, device=device, dtype=kind)
        x = torch.randn(16, 64, 32, 32, device=device, dtype=kind).to(memory_format=torch.channels_last)
        w = torch.randn(64, 64, 3, 3, device=device, dtype=kind).to(memory_format=torch.channels_last)
        work = {
            "matrix": (partial(torch.mm, a, a), 2 * 2048**3),
            "convolution": (partial(torch.conv2d, x, w, padding=1), 2 * 9 * 64 * 64 * 16 * 32 * 32),
        }
        for what, (call, operations) in work.items():
            times = []
            for _ in range(7):
                start = time.perf_counter()
                call().flatten()[0].item()  # waits for the device
                times.append(time.perf_counter() - start)
            found[f"{what}_{name}"] = round(operations / float(np.median(times)) / 1e9, 1)
    return found


def machine(device: str, dtype: str) -> str:
    """Returns what the timings were taken on."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {dtype}, torch {torch.__version__}"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, {torch.get_num_threads()} threads, {dtype}, eager, torch {torch.__version__}"


class _Turn:
    """A dream of some rows and the milliseconds of its steps."""

    def __init__(self, world: WorldModel, batch: int, decode: bool):
        prompt = torch.arange(batch, device=world.device) % world.num_prompts
        self.world, self.batch, self.decode = world, batch, decode
        self.state = world.initial(prompt, noise.address_of(list(range(batch)), world.device))
        self.action = world.action_codec.null.repeat(batch, 1).to(world.device)
        self.times: list[float] = []

    def step(self) -> None:
        """Steps once, until the result is on the host."""
        start = time.perf_counter()
        self.state, outcome = self.world.step(self.state, self.action)
        if self.decode:
            self.world.observe(self.state).cpu()
        outcome.reward.cpu()
        self.times.append(1000 * (time.perf_counter() - start))

    def operations(self) -> int:
        """Returns how many floating-point operations a step has, in its convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()


def _time_rows(turns: list[_Turn], peer: Peer | None, rate: float) -> list[dict[str, Any]]:
    """Steps everything in turns and returns a row for each of ours."""
    operations = [turn.operations() for turn in turns]
    if peer is not None:
        peer.step()
    for turn in turns:
        turn.step()
        turn.times.clear()
    theirs: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(turns[0].times) < ROUNDS:
        for turn in turns:
            turn.step()
        if peer is not None:
            start = time.perf_counter()
            peer.step()
            theirs.append(1000 * (time.perf_counter() - start))
    rows = []
    for turn, count in zip(turns, operations, strict=True):
        p50, p95 = np.quantile(turn.times, [0.5, 0.95])
        rows.append({
            "batch": turn.batch, "k": turn.world.steps, "decode": turn.decode, "p50_ms": round(p50, 2),
            "p95_ms": round(p95, 2), "rows_per_s": round(1000 * turn.batch / p50, 1),
            "share_of_rate": round(count / p50 / 1e6 / rate, 3),
            "ratio": round(float(np.median(theirs)) / p50, 2) if theirs else None,
        })  # fmt: skip
    return rows


def flatness(world: WorldModel, frames: int) -> dict[str, float]:
    """Returns the median milliseconds of a step and the resident memory at frame 100 and at frame `frames`."""
    turn, memory = _Turn(world, 1, True), {}
    for frame in range(1, frames + 1):
        turn.step()
        if frame in (100, frames):
            memory[frame] = resident_mb()
    early, late = np.median(turn.times[100 - SPAN : 100]), np.median(turn.times[-SPAN:])
    return {
        "ms_100": round(float(early), 3), f"ms_{frames}": round(float(late), 3),
        "rss_mb_100": memory[100], f"rss_mb_{frames}": memory[frames],
    }  # fmt: skip


def resident_mb() -> float:
    """Returns this process's resident memory in MB."""
    return round(psutil.Process().memory_info().rss / 2**20, 1)
