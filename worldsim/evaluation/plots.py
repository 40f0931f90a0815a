"""The report's plots, as SVG text: curves with the floors beside them.

Here as the one place that knows matplotlib, which the extra `report` brings. Leaves out tables and pages.
"""

from __future__ import annotations

import io
from typing import Any


def plots(m: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns titles and SVGs of what can be drawn of `metrics.json`; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    drawn = []
    for title, draw in (
        ("PSNR by steps ahead (dB)", _psnr),
        ("Distance to real recordings by age (0 real, 1 a still mean frame)", _drift),
        ("Calibration of the end's probability", _calibration),
        ("Returns of policies, dreamed and real", _returns),
    ):
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        if draw(figure.subplots(), m):
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            drawn.append((title, text.getvalue()[text.getvalue().index("<svg") :]))
    return drawn


def _psnr(axes: Any, m: dict[str, Any]) -> bool:
    for name, label in (
        ("open_loop", "dream"),
        ("copy_last", "last frame kept"),
        ("regression", "regression"),
    ):
        if rows := m.get(name):
            steps, values = [int(h) for h in rows], [rows[h]["psnr"]["mean"] for h in rows]
            axes.plot(steps, values, marker="o", label=label)
    axes.axhline(m["dataset_mean"]["psnr"]["mean"], color="grey", linestyle=":", label="mean frame")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("steps ahead")
    axes.legend(fontsize=7)
    return True


def _drift(axes: Any, m: dict[str, Any]) -> bool:
    if not (figure := m.get("drift")):
        return False
    ages = [int(age) for age in figure["ages"]]
    axes.plot(
        [max(age, 10) for age in ages], [f["distance"] for f in figure["ages"].values()], marker="o", label="dream"
    )
    axes.axhline(figure["floor"]["p95"], color="grey", linestyle=":", label="95 % of real chunks")
    axes.set_xscale("log")
    axes.set_xlabel("age (frames)")
    axes.legend(fontsize=7)
    return True


def _calibration(axes: Any, m: dict[str, Any]) -> bool:
    if not (figure := m.get("termination")):
        return False
    predicted, came, count = zip(*figure["calibration"], strict=True)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.scatter(predicted, came, s=[10 + 40 * n / max(count) for n in count])
    axes.set_xlabel("predicted")
    axes.set_ylabel("came true")
    return True


def _returns(axes: Any, m: dict[str, Any]) -> bool:
    if not (figure := m.get("returns")):
        return False
    axes.scatter(*zip(*figure["dreamed_and_real"], strict=True), s=14)
    axes.set_xlabel("dreamed")
    axes.set_ylabel("real")
    return True
