"""The dynamics' loss: the clean latent's weighted squared error on noise-augmented history, shortcut rows in the batch.

Here as a function of the model and a clip; the graph it trains is the graph that `env.step` runs.
Leaves out the history's own denoising loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from worldsim.diffusion.levels import PowerLevels
from worldsim.diffusion.process import add_noise, expand, start
from worldsim.diffusion.samplers import euler_step
from worldsim.diffusion.weighting import Uniform
from worldsim.models.denoiser import HISTORY
from worldsim.types import Clip, Forecast, Loss, NoiseProcess, Stream, map_rows


@dataclass(frozen=True)
class DenoisingConfig:
    """Shares and ranges of the corruption."""

    num_targets: int = 1  # target frames at the end of each clip
    history_level: float = 0.2  # context noise is drawn up to this level
    clean_share: float = 0.3  # clips whose history stays clean
    drop_share: float = 0.1  # clips that lose their oldest history frames, often all
    action_drop: float = 0.05  # target frames that get the null action
    resampled_frames: int = 0  # of the newest history frames, how many may be the teacher's own
    resampled_share: float = 0.375  # clips where they are
    resampled_level: float = 1.0  # noise from which: 1 anew, with less things stay where they truly are
    resampled_from: float = 0.2  # share of the training after which they are: the teacher must predict something first
    faulty_share: float = 0.0  # clips whose history is faulty, see `faulty_history`
    shortcut_share: float = 0.125  # clips that learn large steps from two small ones
    shortcut_levels: int = 3  # step sizes 1, 1/2, … 2^-levels
    levels: Any = field(default_factory=PowerLevels)  # of ordinary rows: `diffusion.levels`
    weight: Any = field(default_factory=Uniform)  # of a level's squared error: `diffusion.weighting`


def denoising_loss(
    denoiser,
    teacher,
    clip: Clip,
    null: Tensor,
    config: DenoisingConfig,
    *,
    shortcuts: bool,
    resample: bool,
    generator: torch.Generator,
) -> Loss:
    """Returns the loss on a clip `[b t …]`.

    `teacher`, averaged weights, gives the targets of shortcut rows and the frames of resampled histories; `null` is the
    codec's null action `[a]`. Frames that are not valid count nothing.
    """
    n = config.num_targets
    draw = Draws(clip.latents, generator)
    seen = resample_history(teacher, clip, config, draw) if resample and config.resampled_frames else clip
    seen = map_rows(lambda x: x[:, config.resampled_frames :], seen)  # what came before is for these alone
    history = noisy_history(faulty_history(seen, config, draw), config, draw)
    # The first rows are resampled, the last faulty, and shortcuts are the first again: they shall be of every kind.
    b = len(clip.valid)
    order = (torch.arange(b, device=clip.valid.device) + (draw.uniform(1) * b).long()) % b
    history, clip = history.select(order), clip.select(order)
    clean, valid = clip.latents[:, -n:], clip.valid[:, -n:]
    action = dropped_actions(clip, null, config, draw)
    with torch.no_grad():  # what is foreseen is learned before, and stands
        forecast = denoiser.forecaster.foresee(history, action)
    rows = math.ceil(len(clean) * config.shortcut_share) if shortcuts else 0
    faulty = order >= b - math.ceil(b * config.faulty_share)
    level, target_level = _levels(rows, faulty, n, denoiser.process, config, draw)
    residual, noise = forecast.residual(clean), draw.normal(clean.shape)
    target = Stream(add_noise(denoiser.process, residual, noise, level), level, action, valid, target_level)
    target = drafted(denoiser, history, target, forecast, residual, noise, draw)
    goal = clean
    if rows:
        first = torch.arange(rows, device=clean.device)
        own = shortcut_goal(teacher, history.select(first), target.select(first), forecast.select(first), config)
        goal = torch.cat((own, clean[rows:]))
    output, _ = denoiser(history, target, forecast)
    error = denoiser.forecaster.size(output - goal)
    weighted = error * config.weight(level, denoiser.process) * valid
    plain = (error[rows:].detach() * valid[rows:]).sum() / valid[rows:].sum().clamp_min(1)
    total = weighted.sum() / valid.sum()
    return Loss(total, {"error": plain, "shortcut": error[:rows].detach().sum() / max(rows * n, 1)})


def forecast_loss(motion, clip: Clip, null: Tensor, config: DenoisingConfig, *, generator: torch.Generator) -> Loss:
    """Returns the loss of a `Motion`'s forecasts on a clip `[b t …]`."""
    draw = Draws(clip.latents, generator)
    history, action = noisy_history(clip, config, draw), dropped_actions(clip, null, config, draw)
    clean, valid = (x[:, -config.num_targets :] for x in (clip.latents, clip.valid))
    error = motion.warp.error(motion.foresee(history, action), clean)
    return Loss((error * valid).sum() / valid.sum(), {})


def dropped_actions(clip: Clip, null: Tensor, config: DenoisingConfig, draw) -> Tensor:
    """Returns the target frames' actions `[b n a]`, some of them replaced by the null one."""
    action = clip.action[:, -config.num_targets :]
    return torch.where((draw.uniform(*action.shape[:2]) < config.action_drop)[..., None], null, action)


def noisy_history(clip: Clip, config: DenoisingConfig, draw) -> Stream:
    """Returns all frames but the last, noised clip by clip to a level that the stream states truly."""
    latents, valid = clip.latents[:, :-1], clip.valid[:, :-1]
    b, m = valid.shape
    base = draw.uniform(b, 1) * config.history_level
    jitter = (draw.uniform(b, m) - 0.5) * 0.1
    level = (base + jitter).clamp(0, 1) * (draw.uniform(b, 1) >= config.clean_share)
    kept = torch.where(draw.uniform(b, 1) < config.drop_share, (draw.uniform(b, 1) * m).floor(), m)
    recent = torch.arange(m, 0, -1, device=level.device) <= kept  # the newest frame has age 1
    noisy = add_noise(HISTORY, latents, draw.normal(latents.shape), level)
    frames = None if clip.frames is None else clip.frames[:, :-1]
    return Stream(noisy, level, clip.action[:, :-1], valid & recent, clean=latents, frames=frames)


@torch.no_grad()
def resample_history(
    teacher, clip: Clip, config: DenoisingConfig, draw, steps: int = 1, temperature: float = 1.0
) -> Clip:
    """Replaces the newest history frames of some clips by what the teacher makes of them, one after the other.

    So the network learns to lead its own small errors back to the game, as in a dream there is nothing else to do it
    (Resampling Forcing, arXiv 2512.15702), in `steps` from the true frame noised to `resampled_level`. Anew, a thing
    may be where it is not in the frame to tell, which teaches that things come and go.
    """
    rows = math.ceil(len(clip.latents) * config.resampled_share)
    whole = replace(config, drop_share=0.0)  # as in play
    own, last = map_rows(lambda x: x[:rows], clip), clip.latents.shape[1] - 1
    for position in range(last - config.resampled_frames, last):
        before = map_rows(lambda x: x[:, position + config.resampled_frames - last : position + 1], own)  # noqa: B023
        history = noisy_history(before, whole, draw)
        frame = map_rows(lambda x: x[:, position : position + 1], own)  # noqa: B023
        forecast = teacher.forecaster.foresee(history, frame.action)
        levels = [torch.full_like(frame.reward, config.resampled_level * i / steps) for i in range(steps, -1, -1)]
        noise = temperature * draw.normal(frame.latents.shape)
        x = start(teacher.process, noise)
        if config.resampled_level < 1:
            x = add_noise(teacher.process, forecast.residual(frame.latents), noise, levels[0])
        sample, _ = dreamed(teacher, history, frame.action, frame.valid, forecast, x, levels)
        made = torch.where(expand(frame.valid, sample), sample, frame.latents)
        parts = (own.latents[:, :position], made, own.latents[:, position + 1 :])
        own = replace(own, latents=torch.cat(parts, 1))
        if own.frames is not None:
            parts = (own.frames[:, :position], teacher.forecaster.look(made), own.frames[:, position + 1 :])
            own = replace(own, frames=torch.cat(parts, 1))
    return map_rows(lambda mine, all_: torch.cat((mine, all_[rows:])), own, clip)


def dreamed(
    denoiser, history: Stream, action: Tensor, valid: Tensor, forecast: Forecast, x: Tensor, levels: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns the frames `[b 1 c h w]` that steps through `levels` (`[b 1]` each) make of noise, as in play.

    Also the features of the last evaluation, `[b 1 d h w]`.
    """
    draft, features = None, x
    for level, further in pairwise(levels):
        sample, features = denoiser(history, Stream(x, level, action, valid, further, draft=draft), forecast)
        draft = denoiser.clamp(sample) if denoiser.drafts else None
        x = euler_step(denoiser.process, x, forecast.residual(denoiser.clamp(sample)), level, further)
    return denoiser.clamp(forecast.latent(x, denoiser.forecaster.followed)), features


DECIDING = (0.3, 0.8)  # noise levels where it is decided whether and where a thing is
FREE = 0.1  # of what a thing differs by from the usual: where there is less, another may be put
FAULTS, FAULT_SIDES = 3, (0.12, 0.35)  # squares of a clip at most, and their sides as shares of the frame's


def faulty_history(clip: Clip, config: DenoisingConfig, draw) -> Clip:
    """Puts what is not there into squares of some clips' histories, the same ones in every frame; the last stays true.

    Half of the clips show what is usual there, so that things are missing; the others also what another clip shows,
    or another place of their own, so that there are too many. In a random half of all these, the newest frames
    (one to all but one) are true again: what has just come back stays. None lacks one thing and has another instead:
    it would look sound, and of sound histories things would vanish that have no cause to. Squares lie where there is
    something to miss or to add: what differs from the usual, and varies in its episode. What never does is scenery: to
    be told it by heart teaches to put known scenery into an unknown place. No recording shows the way back from what
    dreams do wrong. The clips are the last ones: the first are those that are resampled.
    """
    b, height, width = len(clip.latents), *clip.latents.shape[-2:]
    rows = math.ceil(b * config.faulty_share)
    if not rows:
        return clip
    anywhere = clip.latents.new_ones(*clip.latents.shape[:2], height, width)
    varies = anywhere if clip.varies is None else clip.varies.to(anywhere.dtype)
    seen = torch.cat((clip.latents, varies[:, :, None]), 2)  # what varies moves with what is seen
    own, other = (x[b - rows :, :-1] for x in (seen, seen.roll(1, 0)))
    missing, other_clip = (draw.uniform(2, rows, 1, 1, 1, 1) < 0.5).unbind()
    extra = torch.where(other_clip, other, _rolled(own, draw))
    thing = torch.where(missing, own, extra)[:, :, -1:] > 0
    true, extra = own[:, :, :-1], extra[:, :, :-1]
    usual = clip.latents[:, 0].median(0).values.expand_as(true)
    free = _unusual(true, usual) <= FREE * _unusual(extra, usual)
    wrong = torch.where(thing & (missing | free), torch.where(missing, usual, extra), true)
    count = draw.uniform(rows, 1, 1) * FAULTS
    things = (thing * _unusual(torch.where(missing, true, extra), usual))[:, -1].flatten(1)
    heaped = (things + 1e-6).double().cumsum(1)
    y, x = (torch.arange(n, device=true.device) for n in (height, width))
    swapped = torch.zeros(rows, height, width, dtype=torch.bool, device=true.device)
    for i in range(FAULTS):
        place = torch.searchsorted(heaped, draw.uniform(rows, 1).double() * heaped[:, -1:]).clamp_max(
            height * width - 1
        )
        side = FAULT_SIDES[0] + draw.uniform(rows, 1) * (FAULT_SIDES[1] - FAULT_SIDES[0])
        inside = (
            ((y - place // width).abs() < side * height / 2)[:, :, None]
            & ((x - place % width).abs() < side * width / 2)[:, None]
        )  # fmt: skip
        swapped |= inside & (count >= i)  # the first square always
    length = true.shape[1]
    recent = ((draw.uniform(rows, 1) * 2 - 1) * (length - 1)).ceil()  # newest frames that are true again; none in half
    mended = torch.arange(length, device=true.device) >= length - recent
    faulty = torch.where(swapped[:, None, None] & ~mended[:, :, None, None, None], wrong, true)
    last = clip.latents[b - rows :, -1:]
    # Frames no longer show it: whoever looks decodes the latents.
    return replace(clip, latents=torch.cat((clip.latents[: b - rows], torch.cat((faulty, last), 1))), frames=None)


def _unusual(x: Tensor, usual: Tensor) -> Tensor:
    """Returns by how much each place of `x [... c h w]` differs from the usual, `[... 1 h w]`."""
    return (x - usual).square().sum(-3, keepdim=True)


def _rolled(x: Tensor, draw) -> Tensor:
    """Returns `x [b t c h w]` shifted along h and w, each row by its own random way, what leaves coming back."""
    for dim in (-2, -1):
        n = x.shape[dim]
        index = (torch.arange(n, device=x.device) + draw.uniform(len(x), 1) * n).long() % n
        shape = [len(x), 1, 1, 1, 1]
        shape[dim] = n
        x = x.take_along_dim(index.reshape(shape), dim)
    return x


def _levels(
    rows: int, faulty: Tensor, n: int, process: NoiseProcess, config: DenoisingConfig, draw
) -> tuple[Tensor, Tensor]:
    """Returns level and target level `[b n]`: the first `rows` on the grid of their step size, the rest continuous.

    Of the rest, those with a `faulty [b]` history where it is decided whether a thing is there.
    """
    size = 0.5 ** (draw.uniform(rows, 1) * (config.shortcut_levels + 1)).floor()
    grid = ((draw.uniform(rows, n) / size).floor() + 1) * size
    u = draw.uniform(len(faulty) - rows, n)
    low, high = DECIDING
    level = torch.where(faulty[rows:, None], low + (high - low) * u, config.levels.draw(u, process))
    return torch.cat((grid, level)), torch.cat((grid - size, level))


@torch.no_grad()
def drafted(
    denoiser,
    history: Stream,
    target: Stream,
    forecast: Forecast,
    residual: Tensor,
    noise: Tensor,
    draw,
) -> Stream:
    """Returns target frames with what an evaluation on the way from the same noise may have made of some of them.

    Of half of the rows; NaN for the others, and at level 1, where there was none before. Where the denoiser is not
    told, the target as it is.
    """
    if not denoiser.drafts:
        return target
    some = draw.uniform(len(residual)).argsort()[: math.ceil(len(residual) / 2)]
    part = target.select(some)
    before = part.level + (1 - part.level) * draw.uniform(*part.level.shape)
    x = add_noise(denoiser.process, residual[some], noise[some], before)
    made, _ = denoiser(
        history.select(some), replace(part, latents=x, level=before, target_level=part.level), forecast.select(some)
    )
    draft = torch.full_like(residual, torch.nan)
    draft[some] = torch.where(expand(part.level < 1, made), denoiser.clamp(made), torch.nan)
    return replace(target, draft=draft)


@torch.no_grad()
def shortcut_goal(teacher, history: Stream, target: Stream, forecast: Forecast, config: DenoisingConfig) -> Tensor:
    """Returns the clean latent whose one step of the full size lands where two half steps do (Frans et al. 2024).

    Half of the smallest size is taken as an infinitesimal step (target level = level), which the ordinary rows train.
    """
    process, x, level = teacher.process, target.latents, target.level
    assert target.target_level is not None  # shortcut rows say where they step to
    size = level - target.target_level
    half, smallest, draft = size / 2, 0.5**config.shortcut_levels, target.draft
    for _ in range(2):
        stated = torch.where(size > smallest * 1.01, level - half, level)
        clean, _ = teacher(history, Stream(x, level, target.action, target.valid, stated, draft=draft), forecast)
        clean = teacher.clamp(clean)
        draft, clean = clean if teacher.drafts else None, forecast.residual(clean)
        x, level = euler_step(process, x, clean, level, level - half), level - half
    clean = _clean_between(process, target.latents, x, target.level, target.target_level)
    return teacher.clamp(forecast.latent(clean))


def _clean_between(process: NoiseProcess, x: Tensor, moved: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
    """Returns the clean latent by which `euler_step` moves `x [b n c h w]` from `level [b n]` to `moved`."""
    level, target_level = expand(level, x), expand(target_level, x)
    ratio = process.sigma(target_level) / process.sigma(level)
    return (moved - ratio * x) / (process.alpha(target_level) - ratio * process.alpha(level))


class Draws:
    """Uniform and normal numbers on a tensor's device from one generator."""

    def __init__(self, like: Tensor, generator: torch.Generator):
        self._device, self._generator = like.device, generator

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._device)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)
