"""Worlds side by side, each by several numbers of network evaluations: which student loses least, and where.

Here because few-step methods are quoted by different measures; these are the same for all, beside 32 steps of Heun's
method with the teacher. Leaves out how the students learned (`worldsim.distill`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.data.episodes import EpisodeStore
from worldsim.diffusion.samplers import EulerSampler, HeunSampler
from worldsim.evaluation.controllability import retrieval
from worldsim.evaluation.drift import Reference, drift
from worldsim.evaluation.few_steps import TIMED, milliseconds, single_frames, with_sampler
from worldsim.evaluation.fidelity import fidelity, positions
from worldsim.evaluation.floors import regression
from worldsim.evaluation.habits import Places, Script, things_by_age
from worldsim.evaluation.subject import Dream, actions_of, starts_of
from worldsim.types import Sampler
from worldsim.world_model import WorldModel

COUNTS, BEST = (1, 2, 4, 8), "32 Heun"
LONG = 1128  # frames of the dreams whose distance is measured
LIVED, OLDEST = 99, "50"  # frames of those whose things are counted; the age from which on the table shows them
TRIES, AHEAD = 8, 8  # dreams from one start, and after how many steps they are told apart
Keep = Callable[[str, Callable[[], Any]], Any]


def compare(
    worlds: Mapping[str, WorldModel],
    store: EpisodeStore,
    episodes: list[int],
    make: Callable[[], gym.Env] | None = None,
    places: Places | None = None,
    keep: Keep = lambda name, make: make(),
    survivor: Script | None = None,
) -> list[dict[str, Any]]:
    """Returns a row of figures for every world and number of evaluations; the first world is the others' teacher.

    A student is asked as often as it is for, at most. `flow_map_error` is the distance (root mean square, latents have
    unit scale) to the frame that 32 steps of Heun's method make of the same noise and past with the teacher. `detail`
    is that of single frames, as a share of the real; `regression_16` beside `psnr_16` is the teacher's without
    sampling. `diversity` is how far 8 dreams from one start are apart after 8 steps, and `things` how many a frame
    shows by age, both as shares of what Heun's 32 steps give. `distance` is the kernel distance after 1,000 frames; not
    of Heun's 32 steps, whose dreams would take as long as all others.
    """
    teacher = next(iter(worlds.values()))
    reference = Reference(store, episodes)
    goal = cache(lambda: single_frames(with_sampler(teacher, HeunSampler(32)), store, episodes))

    def measured(world: WorldModel, plain: Callable[[], dict[str, Any]] | None, few: bool) -> dict[str, Any]:
        subject = Dream(world)
        figures = fidelity(subject, store, episodes[:8], 4)
        with closing(make()) if make else nullcontext() as game:
            told = game and retrieval(subject, store, episodes[:8], game, 1)
        long = drift(subject, reference, LONG, script=survivor) if few else None
        return {
            "flow_map_error": round(float((single_frames(world, store, episodes) - goal()).square().mean().sqrt()), 4),
            "detail": figures["one_step"]["detail"],
            "psnr_16": figures["open_loop"].get("16", {}).get("psnr"),
            "mean_frame": figures["dataset_mean"]["psnr"],
            "regression_16": plain and plain().get("16", {}).get("psnr"),
            "spread": _spread(subject, store, episodes[:8]),
            "counts": places and things_by_age(subject, store, episodes, places, 16, LIVED),
            "top1": told and told.get("0", {}).get("top1"),
            "distance": long and [*long["ages"].values()][-1]["distance"],
            "milliseconds": {str(n): milliseconds(world, n, TIMED if few else 3) for n in (1, 64)},
        }

    rows = []
    for name, world in worlds.items():
        # The same whatever samples; a student is no mean.
        plain = cache(partial(regression, world, store, episodes[:8], 4)) if world is teacher else None
        for label, sampler in _samplers(world, world is teacher):
            asked = with_sampler(world, sampler)
            rows.append(
                {
                    "world": name,
                    "steps": label,
                    **keep(f"{name}, {label}", partial(measured, asked, plain, label != BEST)),
                }
            )
    best = next(row for row in rows if row["steps"] == BEST)
    return [row | _shares(row, best) for row in rows]


def _samplers(world: WorldModel, teaches: bool) -> list[tuple[str, Sampler]]:
    counts = [k for k in COUNTS if k <= max(world.steps, 4 if teaches else 1)]
    return [*((str(k), EulerSampler(k)) for k in counts), *([(BEST, HeunSampler(32))] if teaches else [])]


def _spread(subject: Dream, store: EpisodeStore, episodes: list[int]) -> float:
    """Returns how far dreams from one start are apart, in grey levels (standard deviation)."""
    found = []
    for index in episodes:
        (first,) = positions(store.records[index].num_observations, subject.window, 1, AHEAD)
        (start,) = starts_of(store, index, [first], subject.window)
        frames = []
        for seed in range(TRIES):
            subject.reset([start], seed)
            for action in actions_of(store, index)[first : first + AHEAD]:
                shown = subject.step(action[None]).seen
            frames.append(shown[0].astype(np.float64))
        found.append(np.var(frames, 0, ddof=1).mean())
    return round(float(np.sqrt(np.mean(found))), 4)


def _shares(row: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Returns a row's figures that are shares of the best one's; None where that has nothing."""
    things = row["counts"] and {
        kind: {age: _share(count, best["counts"][kind].get(age)) for age, count in by_age.items()}
        for kind, by_age in row["counts"].items()
    }
    return {"diversity": _share(row["spread"], best["spread"]), "things": things}


def _share(value: float, whole: float | None) -> float | None:
    return round(value / whole, 3) if whole else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table in Markdown."""
    head = (
        "world", "evaluations", "flow-map error", "detail", "PSNR at 16 (dB)", "by regression", "diversity",
        f"things from age {OLDEST} on", "told by action", "distance at 1,000", "ms, 1 row", "ms, 64 rows",
    )  # fmt: skip
    lines = [head, ("---",) * len(head), *(_cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    oldest = {kind: by_age.get(OLDEST) for kind, by_age in (row["things"] or {}).items()}
    return (
        row["world"].removesuffix("/world"),
        row["steps"],
        f"{row['flow_map_error']:.3f}",
        _mean(row["detail"]),
        _mean(row["psnr_16"]),
        _mean(row["regression_16"]),
        "-" if row["diversity"] is None else f"{row['diversity']:.2f}",
        ", ".join(f"{kind} {'-' if share is None else f'{share:.2f}'}" for kind, share in oldest.items()) or "-",
        _mean(row["top1"]),
        "-" if row["distance"] is None else f"{row['distance']:.2f}",
        *(f"{row['milliseconds'][rows]:.1f}" for rows in ("1", "64")),
    )


def _mean(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.2f}"


def plot(rows: list[dict[str, Any]], path: Any) -> None:
    """Writes a picture of detail and diversity against milliseconds; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("detail", "diversity"), strict=True):
        shown = [row for row in rows if row[name] is not None]
        for world in dict.fromkeys(row["world"] for row in shown):
            mine = [row for row in shown if row["world"] == world]
            values = [row[name]["mean"] if name == "detail" else row[name] for row in mine]
            label = world.removesuffix("/world")
            axes.semilogx([row["milliseconds"]["1"] for row in mine], values, marker="o", label=label)
        axes.axhline(1.0, color="grey", linestyle=":")
        axes.set_xlabel("milliseconds a frame, one row")
        axes.set_title(name)
        if shown:
            axes.legend(fontsize=7)
    figure.savefig(path)
