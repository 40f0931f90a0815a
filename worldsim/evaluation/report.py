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
        f"<tr><td>{h}</td><td>{_psnr(horizons[h])}</td><td>{_psnr(metrics['copy_last'][h])}</td></tr>" for h in horizons
    )
    positions = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{value['within_1px']:.1%}</td><td>{_pixels(value['median_px'])}</td></tr>"
        for key, value in metrics.get("positions", {}).items()
    )
    table = f"<table><tr><th>thing / horizon</th><th>within 1 px</th><th>median px</th></tr>{positions}</table>"
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
<table><tr><th>horizon</th><th>open loop</th><th>copy last</th></tr>{rows}</table>{table if positions else ""}
<h2>Rows in threes: real, reconstructed, dreamed</h2><img src="data:image/png;base64,{picture}">
"""


def _psnr(figure: dict[str, Any]) -> str:
    p = figure["psnr"]
    return f"{p['mean']:.2f} [{p['low']:.2f}, {p['high']:.2f}]"


def _pixels(value: float | None) -> str:
    return "lost" if value is None else f"{value:.0f}"
