"""The loss of a `NextFrame`: the squared error of its picture, half of the time after pictures a little wrong.

Here apart from `denoising`, which has noise and levels; this has neither.
Leaves out histories of its own: measured, of these it learns to leave a thing where it was, until it fades.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.models.next_frame import NextFrame
from worldsim.objectives.denoising import DenoisingConfig, Draws, dropped_actions
from worldsim.types import Clip, Loss

WRONG = 0.15  # level up to which the latents of a wrong picture are noised


def next_frame_loss(
    model: NextFrame, clip: Clip, null: Tensor, config: DenoisingConfig, *, generator: torch.Generator
) -> Loss:
    """Returns the loss on a clip `[b t ...]` with frames, the last of which is to be told.

    Of half of the clips the past looks as noised latents look. Clips with no frame to go by count nothing.
    """
    assert clip.frames is not None  # whoever trains a `NextFrame` gives them
    draw, past = Draws(clip.latents, generator), slice(-model.config.window - 1, -1)
    goal, pictures = model.folded_picture(clip.frames[:, -1]), model.folded_picture(clip.frames[:, past])
    half = len(goal) // 2
    with torch.no_grad():
        clean = clip.latents[:half, past]
        level = WRONG * draw.uniform(half, 1, 1, 1, 1)
        wrong = model.look((1 - level) * clean + level * draw.normal(clean.shape))
        pictures = torch.cat((model.folded_picture(wrong), pictures[half:]))
    memory = model.after(pictures, clip.action[:, past], clip.valid[:, past])
    told = model.picture(dropped_actions(clip, null, config, draw)[:, -1], memory)
    counts = clip.valid[:, -2:].all(1)
    error = (told - goal).square().mean((-3, -2, -1)) * counts
    return Loss(error.sum() / counts.sum().clamp_min(1), {})
