"""`worldsim check`: are recordings fit to be learned from? Printed, and drawn as one HTML file.

Here so that it is seen before an hour's training. Leaves out looking (`worldsim.data.soundness`).
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from omegaconf import DictConfig

from worldsim.cli.data import open_data
from worldsim.data.episodes import EpisodeStore
from worldsim.data.soundness import Soundness, check_data
from worldsim.evaluation.report import STYLE, table
from worldsim.evaluation.sheet import contact_sheet
from worldsim.files import write_text

EXAMPLES, COLUMNS, SCALE = 24, 8, 2  # frames that are shown, in how many columns, how many times as large


def main(config: DictConfig) -> int:
    """Checks as `configs/check.yaml` says."""
    store = open_data(config.data)
    found = check_data(store)
    for name, figure in found.facts:
        print(f"{name:28}{figure}")
    for action, share, median, most in found.actions:
        print(f"{'action ' + action:28}{share} of steps, held for {median} steps (median), {most} at most")
    for warning in found.warnings:
        print(f"! {warning}")
    out = store.folders[0] / "check.html" if config.out is None else Path(str(config.out))
    try:
        write_text(out, page(store, found))
    except PermissionError as error:
        raise ValueError(f"expected to write {out}, which is not allowed; give out= another place") from error
    print(f"{len(found.warnings)} warnings; wrote {out}")
    return 0


def page(store: EpisodeStore, found: Soundness) -> str:
    """Returns the page of what was found, with frames of the recordings."""
    title = html.escape(f"{store.info.game}: {', '.join(map(str, store.folders))}")
    warnings = "".join(f"<li>{html.escape(warning)}" for warning in found.warnings) or "<li>nothing to warn of"
    parts = [
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>',
        f"<ul>{warnings}</ul>",
        table(("", ""), [(html.escape(name), html.escape(figure)) for name, figure in found.facts]),
        f'<p><img src="data:image/png;base64,{_examples(store)}"></p>',
    ]
    if found.actions:
        head = ("action", "of all steps", "steps held, median", "most")
        parts += ["<h2>Actions</h2>", table(head, found.actions)]
    if found.lag is not None:
        top = max(1e-12, *found.lag.told.values())
        rows = [
            (f"{shift:+d}", f'<meter value="{max(x / top, 0):.3f}"></meter>') for shift, x in found.lag.told.items()
        ]
        note = "What the action so many steps later alone tells of what changes; 0 where it leads from frame to frame."
        parts += [f"<h2>Do actions lag the pictures?</h2><p>{note}</p>", table(("steps", ""), rows)]
    return "\n".join(parts)


def _examples(store: EpisodeStore) -> str:
    """Returns frames spread over all recordings, as a base64 PNG."""
    starts = np.cumsum([0, *(record.num_observations for record in store.records)])
    frames = []
    for place in np.linspace(0, starts[-1] - 1, EXAMPLES).astype(int):
        index = int(np.searchsorted(starts, place, "right")) - 1
        frames.append(store.observations(index, place - starts[index], place - starts[index] + 1)[0])
    sheet = contact_sheet(frames, COLUMNS, SCALE if max(frames[0].shape) < 128 else 1)
    return base64.b64encode(iio.imwrite("<bytes>", sheet, extension=".png")).decode()
