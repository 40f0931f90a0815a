"""Points in a plane as latents of one pixel, and small MLPs that learn them side by side, each by its own diffusion.

Here so that the real `Denoiser` and `denoising_loss` learn a distribution within seconds, many ways at once.
Leaves out history and actions.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from worldsim.diffusion.levels import UniformLevels
from worldsim.models.denoiser import Denoiser
from worldsim.models.layers import level_features
from worldsim.objectives.denoising import DenoisingConfig, denoising_loss
from worldsim.types import Clip, Stream

CENTRES = torch.tensor([[1.2, 0.3], [-0.7, 1.1], [-0.5, -1.2]])
SHARES = torch.tensor([0.5, 0.2, 0.3])
WIDTH, FEATURES = 48, 12
BOUND = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 2, 1, 1)


@dataclass(frozen=True)
class ToyConfig:
    latent_shape: tuple[int, int, int] = (2, 1, 1)


class ToyBackbone(nn.Module):
    """`count` MLPs; the rows of a batch belong to them in equal, consecutive parts."""

    config, feature_width = ToyConfig(), WIDTH

    def __init__(self, count: int, generator: torch.Generator):
        super().__init__()
        sizes = [(2 + 2 * FEATURES, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]
        weights = [torch.randn(count, a, b, generator=generator) / a**0.5 for a, b in sizes]
        weights[-1].zero_()
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(torch.zeros(count, 1, b) for _, b in sizes)

    def forward(self, history: Stream, target: Stream):
        out, features = self.read(target.latents[:, 0], target.level[:, 0], None, None, None)
        return out[:, None], features[:, None]

    def read(self, x, level, target_level, action, context):
        h = torch.cat((x.flatten(1), level_features(level, FEATURES)), 1).reshape(
            len(self.weights[0]), -1, 2 + 2 * FEATURES
        )
        for weight, bias in zip(self.weights[:-1], self.biases, strict=False):
            h = F.silu(torch.baddbmm(bias, h, weight))
        out = torch.baddbmm(self.biases[-1], h, self.weights[-1])
        return out.reshape(x.shape), h.reshape(len(x), WIDTH, 1, 1)

    def start(self, rows):
        return torch.zeros(rows, 0)

    def part(self, index: int) -> "ToyBackbone":
        """Returns one of the MLPs."""
        alone = ToyBackbone(1, torch.Generator())
        for mine, theirs in zip(alone.parameters(), self.parameters(), strict=True):
            mine.data.copy_(theirs[index : index + 1])
        return alone


class Way(NamedTuple):
    """One way to learn."""

    process: Any
    prediction: Any
    weight: Any
    levels: Any = UniformLevels()


class SideBySide(NamedTuple):
    """Many ways as one process, prediction and weighting: each for its part of the rows."""

    ways: tuple[Way, ...]

    def alpha(self, level):
        return self._each(lambda way, part: way.process.alpha(part), level)

    def sigma(self, level):
        return self._each(lambda way, part: way.process.sigma(part), level)

    def decoding(self, level, process):
        return self._each(lambda way, part: torch.stack(way.prediction.decoding(part, way.process), -1), level).unbind(
            -1
        )

    def draw(self, u, process):
        return self._each(lambda way, part: way.levels.draw(part, way.process), u)

    def __call__(self, level, process):
        return self._each(lambda way, part: way.weight(part, way.process), level)

    def _each(self, function, level):
        if level.dim() == 0:  # a question about one level, not about rows
            return function(self.ways[0], level)
        return torch.cat([function(*pair) for pair in zip(self.ways, level.chunk(len(self.ways)), strict=True)])


def draw_data(rows: int, generator: torch.Generator):
    """Returns points `[rows 2]` of a mixture of three Gaussians, each component as often as it should be."""
    component = (torch.arange(rows)[:, None] / rows >= SHARES.cumsum(0)).sum(1).clamp_max(2)
    return CENTRES[component] + 0.2 * torch.randn(rows, 2, generator=generator)


def clip_of(points) -> Clip:
    one, no = torch.ones(len(points), 1), torch.zeros(len(points), 1, dtype=torch.bool)
    return Clip(points[:, None, :, None, None], torch.zeros(len(points), 1, 1), ~no, 0 * one, no, no)


def train(ways, steps=900, rows=128, seed=0, rate=1e-2) -> list[Denoiser]:
    """Returns a denoiser for each way, trained by the library's own loss on the same points."""
    generator = torch.Generator().manual_seed(seed)
    together = SideBySide(tuple(ways))
    model = Denoiser(ToyBackbone(len(ways), generator), BOUND, together, together)
    config = DenoisingConfig(levels=together, weight=together)
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        clip = clip_of(draw_data(rows, generator).repeat(len(ways), 1))
        loss = denoising_loss(
            model, model, clip, torch.zeros(1), config, shortcuts=False, resample=False, generator=generator
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return [Denoiser(model.backbone.part(i), BOUND, way.process, way.prediction) for i, way in enumerate(ways)]


def sample(model: Denoiser, sampler, rows: int, seed: int = 1):
    """Returns points `[rows 2]`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(index):
        return torch.randn(rows, 2, 1, 1, generator=generator)

    with torch.no_grad():
        return model.sample(sampler, torch.zeros(rows, 1), model.start(rows), noise)[0].reshape(rows, 2)


def sliced_distance(a, b, directions: int = 32):
    """Returns the mean 1-Wasserstein distance `[...]` of projections of point sets `[... n 2]`."""
    angle = torch.arange(directions) * torch.pi / directions
    lines = torch.stack((angle.cos(), angle.sin()))
    return ((a @ lines).sort(-2).values - (b @ lines).sort(-2).values).abs().mean((-1, -2))
