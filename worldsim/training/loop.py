"""One training loop for every stage: draw a batch, take the objective's gradient, average the weights, write it down.

Here on Accelerate, for device, precision and checkpoints; what a stage learns is its objective's business.
Leaves out validation, which reads the finished world.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from worldsim.files import save_tensors
from worldsim.threads import Threads
from worldsim.training import checkpoint
from worldsim.training.ema import averaged
from worldsim.training.optim import adamw, schedule
from worldsim.training.processes import Processes
from worldsim.types import Loss

M = TypeVar("M", bound=nn.Module)
TOGETHER = 10  # steps after which several processes agree anew on how much of the budget is spent


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: seconds of wall-clock over all its runs, or a number of steps."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self):
        given = [value for value in (self.seconds, self.steps) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(f"expected seconds or steps above 0, found seconds={self.seconds} steps={self.steps}")

    def progress(self, step: int, elapsed: float) -> float:
        """Returns the share of the budget that is spent, 1 at its end."""
        return min(1.0, step / self.steps if self.steps else elapsed / cast(float, self.seconds))


@dataclass(frozen=True)
class Stage(Generic[M]):
    """What a training stage consists of.

    `batch(number)` returns a batch, in a thread beside the step before; `objective(model, average, batch, progress,
    generator)` its loss, where `average` is the model with averaged weights; `preview(average, step)` writes
    a picture of what it can do.
    """

    name: str
    model: M
    batch: Callable[[int], Any]
    objective: Callable[[nn.Module, nn.Module, Any, float, torch.Generator], Loss]
    frames_per_batch: int
    learning_rate: float
    preview: Callable[[M, int], None] | None = None
    shares: dict[str, float] = field(default_factory=dict)  # of the learning rate, for children of the model by name


@dataclass(frozen=True)
class Rhythm:
    """How often, in seconds or steps, the loop turns aside."""

    checkpoint_seconds: float = 60.0
    preview_seconds: float = 180.0
    log_steps: int = 20

    def __post_init__(self):
        if not (isinstance(self.log_steps, int) and self.log_steps >= 1):
            raise ValueError(f"expected log_steps of at least 1, found {self.log_steps}")
        for seconds in (self.checkpoint_seconds, self.preview_seconds):
            if not (isinstance(seconds, (int, float)) and seconds >= 0):
                raise ValueError(f"expected checkpoint_seconds and preview_seconds of at least 0, found {seconds!r}")


class Progress:
    """Where a run stands; saved with the checkpoint."""

    def __init__(self):
        self.step, self.elapsed = 0, 0.0

    def state_dict(self) -> dict:
        """Returns the step and the seconds spent."""
        return {"step": self.step, "elapsed": self.elapsed}

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` returned."""
        self.step, self.elapsed = state["step"], state["elapsed"]


def train(
    stage: Stage[M],
    budget: Budget,
    folder: Path,
    seed: int,
    rhythm: Rhythm,
    device: torch.device | str,
    batches: int = 1,
) -> M:
    """Trains until the budget is spent and returns the model with averaged weights; resumes what `folder` holds.

    Batches, noise and schedule are functions of the seed and of what the checkpoint says, so a killed run goes on as it
    would have. A step is the mean of so many `batches`, which the processes share: on fewer of them it takes longer,
    and is the same to rounding. The finished weights stay in `folder/final.safetensors`, which a later call returns.
    """
    final, device = folder / "final.safetensors", torch.device(device)
    # Convolutions are faster so, on CPU and GPU.
    stage.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    average = averaged(stage.model)
    weights = cast(M, average.module)
    weights.to(device)
    if final.exists():
        weights.load_state_dict(load_file(final))
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    if device.index is not None:
        torch.cuda.set_device(device)
    accelerator = Accelerator(mixed_precision=precision(device), cpu=device.type == "cpu")
    # No wrapper around the model: objectives read its parts, and gradients are added up here.
    model = accelerator.prepare_model(stage.model, evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(adamw(stage.model, stage.learning_rate, shares=stage.shares))
    progress = Progress()
    accelerator.register_for_checkpointing(average, progress)
    if (found := checkpoint.latest(folder)) is not None:
        accelerator.load_state(str(found))
        print(f"{stage.name}: resuming from step {progress.step}")
    processes = Processes.found(device)
    log = Log(folder, stage.name, progress.step, processes)
    with Threads() as threads:
        parts = (accelerator, model, average, optimizer, progress, log, threads, processes)
        _Run(stage, budget, folder, seed, rhythm, batches, *parts).loop()
    with processes.first_first():
        if processes.first:
            save_tensors(weights.state_dict(), final)
    accelerator.free_memory()
    return weights


def precision(device: torch.device) -> str:
    """Returns Accelerate's name for the fastest safe precision: bf16 where the hardware multiplies it, else none.

    A CPU without AVX-512 bf16 emulates it, 9 to 17 times slower than float32 (measured on AVX2).
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


@dataclass
class _Run:
    """One call of `train`: its parts, and the loop over them."""

    stage: Stage[Any]
    budget: Budget
    folder: Path
    seed: int
    rhythm: Rhythm
    batches: int
    accelerator: Accelerator
    model: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: Log
    threads: Threads
    processes: Processes
    agreed: float | None = None

    def loop(self) -> None:
        before, start = self.progress.elapsed, time.monotonic()
        saved = shown = start
        ahead = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))  # two teams hold one another up
        coming = ahead.submit(self.drawn, self.progress.step)
        bar = tqdm(
            total=100, desc=self.stage.name, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}",
            disable=not self.processes.first,
        )  # fmt: skip
        try:
            while (share := self.share()) < 1:
                self.threads.adjust()
                drawn, coming = coming.result(), ahead.submit(self.drawn, self.progress.step + 1)
                loss = self.update(drawn, share)
                self.progress.step += 1
                now = time.monotonic()
                self.progress.elapsed = before + now - start
                self.log.add(loss)
                if self.progress.step % self.rhythm.log_steps == 0:
                    line = self.log.write(self.progress, self.stage.frames_per_batch * self.batches)
                    bar.n = 100 * share
                    bar.set_postfix_str(f"step {self.progress.step} {line}")
                if not self.processes.first:
                    continue
                if now - saved > self.rhythm.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                if self.stage.preview and now - shown > self.rhythm.preview_seconds:
                    self.stage.preview(self.average.module, self.progress.step)
                    shown = time.monotonic()
        finally:
            ahead.shutdown(cancel_futures=True)
            bar.close()
            self.log.flush()
        if self.processes.first:
            self.save()
        self.log.close(self.progress, self.stage.frames_per_batch * self.batches)
        if self.stage.preview and self.processes.first:
            self.stage.preview(self.average.module, self.progress.step)

    def share(self) -> float:
        """Returns the share of the budget that is spent; processes ask the first one's clock now and then."""
        now = self.budget.progress(self.progress.step, self.progress.elapsed)
        if self.processes.count == 1 or self.budget.steps:
            return now
        if self.progress.step % TOGETHER == 0 or self.agreed is None:
            self.agreed = self.processes.same(now, self.accelerator.device)
        return self.agreed

    def drawn(self, step: int) -> list[tuple[int, Any]]:
        """Returns this process' batches of a step, each with its number."""
        numbers = range(step * self.batches + self.processes.index, (step + 1) * self.batches, self.processes.count)
        return [(number, self.stage.batch(number)) for number in numbers]

    def update(self, drawn: list[tuple[int, Any]], share: float) -> Loss:
        """Takes one step of the optimiser; returns the mean loss of this process' batches."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * group.get("share", 1.0) * schedule(share)
        losses = []
        for number, batch in drawn:
            generator = torch.Generator(self.accelerator.device).manual_seed((self.seed << 32) + number)
            with self.accelerator.autocast():
                loss = self.stage.objective(self.model, self.average.module, batch, share, generator)
            self.accelerator.backward(loss.total / self.batches)
            losses.append(loss)
        self.processes.add_up([p.grad for p in self.model.parameters() if p.grad is not None])
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        parts = {key: torch.stack([loss.parts[key] for loss in losses]).mean() for key in losses[0].parts}
        return Loss(torch.stack([loss.total.detach() for loss in losses]).mean(), parts)

    def save(self) -> None:
        """Writes a checkpoint of finite weights; the log reaches disk with it."""
        self.log.check()
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise ValueError("expected finite weights, found some that are not; lower the learning rate in a new out=")
        self.log.flush()
        checkpoint.save(self.accelerator, self.folder, self.progress.step)


class Log:
    """The loss curve as JSON lines, and as TensorBoard events where that is installed.

    On resuming, lines after the checkpoint's step are dropped: they are about to be written again.
    """

    def __init__(self, folder: Path, name: str, step: int, processes: Processes):
        self._name, self._mark, self._processes = name, (step, time.monotonic()), processes
        self._losses: list[dict[str, torch.Tensor]] = []
        if not processes.first:
            return
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = open(path, "a")  # noqa: SIM115 - closed by close()
        self._board = _tensorboard(folder, step)

    def add(self, loss: Loss) -> None:
        """Takes in a step's loss without waiting for the device."""
        self._losses.append({"loss": loss.total.detach()} | loss.parts)

    def check(self) -> None:
        """Raises ValueError where a loss since the last line is not finite, so that no checkpoint holds its weights."""
        if not all(torch.isfinite(loss["loss"]) for loss in self._losses):
            raise ValueError("expected a finite loss, found one that is not; lower the learning rate in a new out=")

    def write(self, progress: Progress, frames_per_step: int) -> str:
        """Writes the mean of the losses since the last line, of all processes; returns a short form for the bar."""
        self.check()
        now, (step, then) = time.monotonic(), self._mark
        speed = (progress.step - step) * frames_per_step / max(now - then, 1e-9)
        keys = list(self._losses[0])
        told = torch.stack([torch.stack([x[key].float() for x in self._losses]).mean() for key in keys])
        self._processes.add_up([told])
        means = dict(zip(keys, (told / self._processes.count).tolist(), strict=True))
        self._losses, self._mark = [], (progress.step, now)
        if self._processes.first:
            row = {"stage": self._name, **progress.state_dict(), **means, "frames_per_s": speed}
            self._file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
            if self._board is not None:
                for key, value in (means | {"frames_per_s": speed}).items():
                    self._board.add_scalar(f"{self._name}/{key}", value, progress.step)
        return f"loss {means['loss']:.4f} {speed:.0f} frames/s"

    def flush(self) -> None:
        """Brings what is written to disk."""
        if self._processes.first:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self, progress: Progress, frames_per_step: int) -> None:
        """Writes what is left and closes the files."""
        if self._losses:
            self.write(progress, frames_per_step)
        if self._processes.first:
            self._file.close()
            if self._board is not None:
                self._board.close()


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
