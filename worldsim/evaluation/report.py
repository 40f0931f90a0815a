"""`report.html`: the verdicts, films, plots and tables of an evaluation in one file that needs no network.

Here so that numbers are never looked at without the pictures.
Leaves out what the figures mean (`verdict`) and the drawing (`plots`).
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from worldsim.evaluation.plots import plots
from worldsim.evaluation.verdict import verdicts
from worldsim.play.video import VP9

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""The head, and the rows."""
Titled = tuple[str, Table]
LATENT = {
    "gain": "PSNR by the right names over another start's, 4 steps on (dB)",
    "elsewhere": "the same, by names from other episodes where the game's action was the same (dB)",
    "used": "codes in use, as if evenly, as a share of all",
    "information": "told of the game's actions in steps that move what is played, as a share of all there is to tell",
    "obeyed": "another start's codes found again in the dream that followed them",
    "by_chance": "the same, by chance",
}
SCALE, GAP = 3, 4  # of films, in pixels
STYLE = """
body { font: 15px sans-serif; margin: 2em; max-width: 70em }
td, th { padding: .2em 1em; text-align: right } td:first-child, th:first-child { text-align: left }
.good { background: #cdebc8 } .fair { background: #fbefb5 } .poor { background: #f6c9c4 }
video { image-rendering: pixelated; display: block; margin: .4em 0 } .plots { display: flex; flex-wrap: wrap }
small { color: #555 }
"""


def sampling(m: dict[str, Any]) -> str:
    """Returns how the dreams of metrics were sampled."""
    hot = m.get("temperature") or 1
    named = ["bfloat16"] * (m.get("dtype") == "bfloat16") + [f"temperature {hot:g}"] * (hot != 1)
    return ", ".join((f"K = {m['steps']}", *named))


def report(name: str, m: dict[str, Any], films: Sequence[Sequence[np.ndarray]], fps: float) -> str:
    """Returns a page of the metrics and of films, each of which is two or three rows of frames `[n H W 3]`."""
    head = f"{m['episodes']} held-out episodes, {m['starts']} starts" + (f", {sampling(m)}" if m["steps"] else "")
    quick = " Quick: few dreams, short ones; leave out quick=true for figures to quote." if m["quick"] else ""
    title = "real, reconstructed, dreamed" if films and len(films[0]) == 3 else "real, dreamed"
    drawn = plots(m)
    missing = "" if drawn else '<p>Plots need matplotlib: pip install "worldsim-rl[report]".</p>'
    return "\n".join(
        [
            f'<!doctype html><meta charset="utf-8"><title>{html.escape(name)}</title><style>{STYLE}</style>',
            f"<h1>{html.escape(name)}</h1><p>{head}; 95 % intervals in brackets: over episodes, of returns over "
            f"policies.{quick}</p>",
            table(
                ("", "measured", "", "rule"),
                [(v.question, v.figure, f'<b class="{v.word}">&nbsp;{v.word}&nbsp;</b>', v.rule) for v in verdicts(m)],
            ),
            f"<h2>Side by side: {title}</h2>",
            *(_film(rows, fps) for rows in films),
            '<div class="plots">',
            *(f"<div><h3>{title}</h3>{svg}</div>" for title, svg in drawn),
            f"</div>{missing}",
            *(f"<h2>{title}</h2>{table(*rows)}" for title, rows in tables(m)),
        ]
    )


def _film(rows: Sequence[np.ndarray], fps: float) -> str:
    """Returns a video element; VP9, which every browser plays."""
    gap = np.full((*rows[0].shape[:2], GAP, 3), 255, np.uint8)
    wide = np.concatenate([part for frames in rows for part in (frames, gap)][:-1], 2)
    large = wide.repeat(SCALE, 1).repeat(SCALE, 2)
    large = np.pad(large, ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0)), mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.webm"
        options: dict[str, Any] = {
            "codec": "libvpx-vp9",
            "macro_block_size": 1,
            "ffmpeg_log_level": "quiet",
            "quality": None,
        }
        with imageio.get_writer(path, fps=fps, output_params=VP9, **options) as writer:
            for frame in large:
                writer.append_data(frame)  # type: ignore[attr-defined]  # imageio's stub names the reader's class
        data = base64.b64encode(path.read_bytes()).decode()
    return f'<video controls autoplay loop muted src="data:video/webm;base64,{data}"></video>'


def tables(m: dict[str, Any]) -> list[Titled]:
    """Returns titles and tables of everything that was measured."""
    parts = (_habits, _fidelity, _small, _tries, _places, _actions, _latent, _memory, _events, _drift, _fewer)
    return [titled for part in parts for titled in part(m)]


def _small(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of small things that have no names."""
    rows = [
        (age, *(figure(v["change"][side]) for side in ("dream", "real")), f"{v['distance']:.2f}", f"{v['floor']:.2f}")
        for age, v in (m.get("rare") or {}).items()
    ]
    head = ("age of the dream", "patches that change, dreamed", "real", "rarest patches' distance", "real")
    return [("Small things without names", (head, rows))] if rows else []


def _places(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of where things are, against where they should be."""
    rows = [
        (
            key,
            *(f"{v[within]:.0%}" for within in ("within_1px", "within_2px")),
            "lost" if v["median_px"] is None else f"{v['median_px']:.0f}",
        )
        for key, v in (m.get("positions") or {}).items()
    ]
    return [("Where things are", (("thing / step", "within 1 px", "within 2 px", "median px"), rows))] if rows else []


def _actions(m: dict[str, Any]) -> list[Titled]:
    """Returns the tables of what actions do: futures told apart, actions named, others' actions."""
    measured, found = m.get("controllability") or {}, list[Titled]()
    if told := measured.get("retrieval"):
        rows = [
            (age, figure(v["top1"]), f"{v['chance']:.2f}", figure(v["frames_to_effect"])) for age, v in told.items()
        ]
        head = ("age of the dream", "told by its action", "chance", "frames later than in the game")
        found.append(("Actions: dreamed futures found among the real ones", (head, rows)))
    if judged := measured.get("judged"):
        named = [
            (
                age,
                f"{v['dream']:.2f}",
                f"{v['real']:.2f}",
                figure(v["share"]),
                f"{v['chance']:.2f}",
                str(v.get("steps", "")),
            )
            for age, v in judged.items()
        ]
        shares = ("age of the dream", "from dreamed frames", "from real ones", "share of the way", "chance", "steps")
        found.append(("Actions: named by a judge that learned from real frames", (shares, named)))
        values = [
            (age, value, f"{x['dream']:.2f}", f"{x['real']:.2f}")
            for age, v in judged.items()
            for value, x in v.get("values", {}).items()
        ]
        each = ("age of the dream", "number of the action: its value", *shares[1:3])
        if values:
            found.append(("Actions: the same, by value", (each, values)))
    if shuffled := measured.get("shuffled"):
        lost = [(age, figure(v["delta_psnr"]), figure(v["shuffled_ratio"])) for age, v in shuffled.items() if v]
        effects = ("age of the dream", "PSNR lost in 4 steps (dB)", "error in 1 step, others' / right")
        found.append(("Actions: others' against the recorded ones", (effects, lost)))
    return found


def _latent(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of latent actions."""
    rows = [
        (LATENT[key], figure(value) if isinstance(value, dict) else f"{value:.2f}")
        for key, value in (m.get("latent_actions") or {}).items()
        if value is not None
    ]
    return [("Latent actions", (("", "measured"), rows))] if rows else []


def _memory(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of what is still there after going away and back."""
    rows = [
        (f"{k} ({v['steps']} steps)", figure(v["revisit"]), figure(v["stay"]))
        for k, v in (m.get("memory") or {}).items()
    ]
    head = ("windows away", "away and back", "stayed")
    return [("Memory: PSNR after going away and back", (head, rows))] if rows else []


def _drift(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of what long dreams become."""
    if not (long := m.get("drift")):
        return []
    names = list(next(iter(long["ages"].values())))
    rows = [(age, *("-" if v[n] is None else f"{v[n]:.3f}" for n in names)) for age, v in long["ages"].items()]
    real = (f"up to {long['floor']['p95']:.3f}", "1.000", f"{long['stall_floor']:.3f}", *[""] * (len(names) - 3))
    return [(f"Drift over {long['length']} frames", (("age", *names), [*rows, ("real", *real)]))]


def _fewer(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of what fewer evaluations cost."""
    return [("Fewer network evaluations", few_steps_table(m["few_steps"]))] if m.get("few_steps") else []


def few_steps_table(table: dict[str, Any]) -> Table:
    """Returns head and rows of what fewer evaluations cost."""
    head = ("K", "flow-map error", "PSNR at 16 (dB)", "detail at 16", "told by action", "distance after 192 frames")
    rows = [
        (
            k,
            f"{v['flow_map_error']:.3f}",
            *(figure(v[name]) for name in ("psnr_16", "detail_16", "top1")),
            "-" if v["distance"] is None else f"{v['distance']:.3f}",
        )
        for k, v in table.items()
    ]
    return head, rows


def _habits(metrics: dict[str, Any]) -> list[Titled]:
    """Returns the tables of lives and returns by habit, and of things by age: dreamed / real."""
    if not (m := metrics.get("habits")):
        return []
    head = ("habit", "steps lived, dreamed", "real", "return, dreamed", "real")
    rows = [
        (name, *(figure(h[key][side]) for key in ("lived", "return") for side in ("dream", "real")))
        for name, h in m["habits"].items()
    ]
    found: list[Titled] = [(f"Lives and returns by habit (at most {m['steps']} steps)", (head, rows))]
    ages = list(dict.fromkeys(age for h in m["habits"].values() for age in h["change"]["real"]))
    if ages:
        pair = lambda values, age: " / ".join(  # noqa: E731
            f"{values[side][age]:.2f}" if age in values[side] else "-" for side in ("dream", "real")
        )
        rows = [
            (name, label, *(pair(values, age) for age in ages))
            for name, h in m["habits"].items()
            for label, values in [
                ("change, grey levels", h["change"]),
                *([("all as at first", h["whole"])] if "whole" in h else []),
                *((f"{kind}, {what}", v) for kind, all_of in h.get("things", {}).items() for what, v in all_of.items()),
            ]
        ]
        found.append(("Things by age: dreamed / real", (("habit", "thing", *(f"from {age}" for age in ages)), rows)))
    return found


def _fidelity(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of how near dreams are to what came."""
    names = [name for name in ("open_loop", "copy_last", "regression") if m.get(name)]
    rows = [
        (h, *(figure(m[n][h]["psnr"]) if h in m[n] else "-" for n in names), figure(m["open_loop"][h].get("detail")))
        for h in m["open_loop"]
    ]
    rows.append(("mean frame", figure(m["dataset_mean"]["psnr"])))
    if codec := m.get("codec"):
        rows += [(f"codec, {name}", figure(value)) for name, value in codec.items()]
    head = ("steps ahead", *(n.replace("_", " ") for n in names), "detail, dreamed / real")
    return [("Fidelity (PSNR in dB)", (head, rows))]


def _tries(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of what luck is worth."""
    rows = [(h, figure(v["one"]), figure(v["psnr"])) for h, v in (m.get("best_of_8") or {}).items()]
    head = ("steps ahead", "one dream", "the best of 8 from the same start")
    return [("Luck: PSNR (dB) on a quarter of the starts", (head, rows))] if rows else []


def _events(m: dict[str, Any]) -> list[Titled]:
    """Returns the table of ends, rewards, uncertainty and returns."""
    rows = []
    if ends := m.get("termination"):
        found = f"base rate {ends['base_rate']:.3f}; {ends['ends']} of {ends['starts']} starts"
        rows += [
            (f"end within {ends['within']} steps: average precision ({found})", figure(ends["average_precision"])),
            ("the same: Brier skill", figure(ends["brier_skill"])),
        ]
    if reward := m.get("reward"):
        rows += [
            (f"reward of {reward['within']} steps: variance explained", figure(reward["skill"])),
            ("the same: correlation", figure(reward["correlation"])),
        ]
    if unsure := m.get("uncertainty"):
        rows.append(("uncertainty: rank correlation with the one-step error", figure(unsure)))
    if policies := m.get("returns"):
        rows += [
            (f"{policies['policies']} policies' returns, dreamed and real: {name}", figure(policies[name]))
            for name in ("pearson", "spearman")
        ]
        rows.append(("the same, of the game with itself from other starts: pearson", figure(policies.get("itself"))))
    return [("Ends, rewards, returns", (("", ""), rows))] if rows else []


def figure(value: dict[str, float] | None) -> str:
    """Returns a mean with its interval, or a dash."""
    return "-" if value is None else f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns an HTML table."""
    cells = "".join(f"<th>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
