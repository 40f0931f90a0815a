"""`report.html`: the figures and the frames of an evaluation in one file that needs no network.

Here so that numbers are never looked at without the pictures.
Leaves out plots and videos, which come with the measuring instrument.
"""

from __future__ import annotations

import base64
import html
from typing import Any

import imageio.v3 as iio
import numpy as np


def report(name: str, metrics: dict[str, Any], sheet: np.ndarray) -> str:
    """Returns a page with a table of the metrics and a contact sheet, uint8 `[H W 3]`."""
    picture = base64.b64encode(iio.imwrite("<bytes>", sheet, extension=".png")).decode()
    horizons = metrics["open_loop"]
    rows = "".join(
        f"<tr><td>{h}</td><td>{_psnr(horizons[h])}</td><td>{_psnr(metrics['copy_last'][h])}</td>"
        f"<td>{detail(horizons[h])}</td></tr>"
        for h in horizons
    )
    positions = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{value['within_1px']:.1%}</td><td>{value['within_2px']:.1%}</td><td>{_pixels(value['median_px'])}</td></tr>"
        for key, value in metrics.get("positions", {}).items()
    )
    ends = f"<p>{html.escape(termination(metrics['termination']))}.</p>" if metrics.get("termination") else ""
    heads = "".join(f"<th>{name}</th>" for name in ("thing / horizon", "within 1 px", "within 2 px", "median px"))
    table = f"<table><tr>{heads}</tr>{positions}</table>"
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(name)}</title>
<style>
body {{ font: 15px sans-serif; margin: 2em }}
td, th {{ padding: .2em 1em; text-align: right }}
img {{ image-rendering: pixelated }}
</style>
<h1>{html.escape(name)}</h1>
<p>{metrics["episodes"]} held-out episodes, {metrics["starts"]} starts, K = {metrics["steps"]}.
PSNR in dB [95 % interval].
Codec {_psnr(metrics["codec"])}; one step (teacher-forced) {_psnr(metrics["one_step"])};
mean frame {_psnr(metrics["dataset_mean"])}.</p>
<table><tr><th>horizon</th><th>open loop</th><th>copy last</th><th>detail, dreamed / real</th></tr>{rows}</table>
{table if positions else ""}{ends}
<h2>Rows in threes: real, reconstructed, dreamed</h2><img src="data:image/png;base64,{picture}">
"""


def detail(figure: dict[str, Any]) -> str:
    """Returns the share of fine detail, or a dash where the real frames have none."""
    share = figure.get("detail")
    return f"{share['mean']:.2f} [{share['low']:.2f}, {share['high']:.2f}]" if share else "-"


def termination(figure: dict[str, Any]) -> str:
    """Returns in words how well the dream sees the end coming."""
    p = figure["average_precision"]
    return (
        f"termination within {figure['within']} steps: average precision {p['mean']:.2f} [{p['low']:.2f}, "
        f"{p['high']:.2f}], base rate {figure['base_rate']:.3f} ({figure['ends']} of {figure['starts']} starts)"
    )


def _psnr(figure: dict[str, Any]) -> str:
    p = figure["psnr"]
    return f"{p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}]"


def _pixels(value: float | None) -> str:
    return "lost" if value is None else f"{value:.0f}"
