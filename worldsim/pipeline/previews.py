"""Pictures of what a stage can do so far, in `sheets/` of the run's folder.

Here as what every stage may write. Leaves out how a sheet is laid out (`evaluation.sheet`).
"""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import torch

from worldsim.evaluation.sheet import contact_sheet
from worldsim.pipeline.run import Run


def preview_episode(run: Run) -> int:
    """Returns the longest held-out episode, of the training ones where it is too short to begin a dream."""
    steps, least = (lambda i: run.store.records[i].total_steps), run.prompt_length
    return max([i for i in run.held_out_episodes if steps(i) >= least] or run.training_episodes, key=steps)


def preview_frames(run: Run) -> torch.Tensor:
    """Returns twelve frames of the preview's episode, uint8 `[12 H W 3]`."""
    index = preview_episode(run)
    steps = run.store.records[index].total_steps
    return torch.stack(
        [
            torch.from_numpy(np.array(run.store.observations(index, s, s + 1)[0]))
            for s in np.linspace(0, steps, 12).astype(int)
        ]
    )


def write_sheet(run: Run, name: str, frames: list[np.ndarray], step: int) -> None:
    """Writes uint8 frames `[H W 3]`, twelve a row, as `sheets/<name>-<step>.png`."""
    folder = run.folder / "sheets"
    folder.mkdir(exist_ok=True)
    iio.imwrite(folder / f"{name}-{step:06d}.png", contact_sheet(frames, columns=12, scale=2))
