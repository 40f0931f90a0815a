"""The denoiser: a backbone with the noise process it was trained under and the meaning of its output.

Here as the waist: what samplers and losses call, whatever network stands behind it. Everything about levels that a
network does not know happens here: its input has unit variance, its output becomes a clean latent.
Leaves out what guidance is, which wraps the callable, and the weights' average, which training keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.diffusion.guidance import Guidance
from worldsim.diffusion.prediction import CleanPrediction, Prediction, check, to_clean
from worldsim.diffusion.process import RectifiedFlow, add_noise, expand, unit_variance
from worldsim.models.forecast import LastFrame
from worldsim.types import Backbone, Denoise, Forecast, Forecaster, Noise, NoiseProcess, Rows, Sampler, Stream

HISTORY = RectifiedFlow()
"""How context is noised, whatever the process: its level is the share of noise (conditioning augmentation)."""


@dataclass(frozen=True)
class Context(Rows):
    """The past of every row, as the backbone and as the forecaster keep it."""

    history: Any
    memory: Any


class Denoiser(nn.Module):
    """Clean latents from noisy ones, given a history: whole clips by `forward`, one frame by `sample` and `commit`.

    Noise is on what the forecast leaves open: the latent, or its residual. What is predicted, in the prediction's
    terms, is the difference to the forecast's mean: a network that says nothing repeats that, as far as x does not tell
    better.
    """

    backbone: Backbone
    forecaster: Forecaster
    bound: Tensor  # [2 c 1 1]: lowest and highest value of each latent channel

    def __init__(
        self,
        backbone: Backbone,
        bound: Tensor,
        process: NoiseProcess | None = None,
        prediction: Prediction | None = None,
        forecaster: Forecaster | None = None,
    ):
        """Raises ValueError where the prediction cannot start from the process' pure noise, or a backbone moves a frame
        that is not what its output is added to."""
        super().__init__()
        self.backbone, self.forecaster = backbone, forecaster or LastFrame()
        self.register_buffer("bound", bound.clone())
        self.process: NoiseProcess = process or RectifiedFlow()
        self.prediction: Prediction = prediction or CleanPrediction()
        check(self.prediction, self.process)
        told_as_it_is = isinstance(self.prediction, CleanPrediction) and isinstance(self.forecaster, LastFrame)
        if getattr(backbone.config, "moved", 0) and not told_as_it_is:
            raise ValueError("expected prediction=clean and no forecaster of a backbone that moves the newest frame")

    @property
    def drafts(self) -> bool:
        """Whether an evaluation of a frame is told what the one before made of it."""
        return getattr(self.backbone.config, "drafts", False)

    def forward(self, history: Stream, target: Stream, forecast: Forecast | None = None) -> tuple[Tensor, Tensor]:
        """Returns clean latents `[b n c h w]` (float32) and features `[b n d h w]` for noisy residuals of a forecast.

        `forecast` is what is foreseen of the targets, for those who have asked already.
        """
        x, level = target.latents, target.level
        forecast = self.forecaster.foresee(history, target.action) if forecast is None else forecast
        told = replace(target, latents=forecast.beside(self._scaled(x, level)))
        output, features = self.backbone.forward(history, told)
        return self._clean(output, x, level, forecast), features

    def clamp(self, clean: Tensor) -> Tensor:
        """Clamps clean latents `[... c h w]` to what the codec can produce, which keeps a closed loop bounded."""
        return clean.clamp(self.bound[0], self.bound[1])

    def start(self, rows: int) -> Context:
        """Returns the context of rows that have seen no frame yet."""
        like = self.bound.new_zeros(rows, *self.backbone.config.latent_shape)
        return Context(self.backbone.start(rows), self.forecaster.start(like))

    def sample(
        self,
        sampler: Sampler,
        action: Tensor,
        context: Context,
        noise: Noise,
        guidance: Guidance | None = None,
        null: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples the next frame's latent `[b c h w]`; also returns the features of the last network evaluation.

        `guidance` that drops the action needs the codec's `null` one `[a]`: for this frame, the context being shared.
        """
        shape = (action.shape[0], *self.backbone.config.latent_shape)
        forecast = self._expected(action, context)
        features = action.new_empty(0)

        def given(action: Tensor, context: Context, forecast: Forecast) -> Denoise:
            draft: Tensor | None = None

            def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
                nonlocal features, draft
                history = context.history if draft is None else self.backbone.with_draft(context.history, draft)
                told = forecast.beside(self._scaled(x, level))
                output, features = self.backbone.read(told, level, target_level, action, history)
                clean = self.clamp(self._clean(output, x, level, forecast))
                draft = clean if self.drafts else None
                return forecast.residual(clean)

            return denoise

        denoise = given(action, context, forecast)
        if guidance is not None:
            if guidance.drops == "action":
                assert null is not None  # the world model gives it
                less = (null.expand_as(action), context)
            else:
                less = (action, self.start(len(action)))
            residual_of = forecast if forecast.spread is not None else self._expected(*less)
            denoise = guidance(denoise, given(*less, residual_of))
        residual = sampler(denoise, self.process, shape, noise)
        return self.clamp(forecast.latent(residual, self.forecaster.followed)), features

    def commit(self, latent: Tensor, level: Tensor, noise: Tensor, action: Tensor, context: Context) -> Context:
        """Returns the context with one more frame, noised to `level [b]` and labelled so."""
        x = add_noise(HISTORY, latent, noise, level)
        history = self.backbone.append(x, level, action, context.history)
        return Context(history, self.forecaster.append(x, level, action, context.memory, latent))

    def _expected(self, action: Tensor, context: Context) -> Forecast:
        """Returns the forecast, in float32 whatever else is rounded: of pictures looked up one is, or is not, alike."""
        with torch.autocast(action.device.type, enabled=False):
            return self.forecaster.expect(action, context.memory)

    def _scaled(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns the network's input: the only place where x is scaled, for every process and prediction."""
        return expand(unit_variance(self.process, level), x) * x

    def _clean(self, output: Tensor, x: Tensor, level: Tensor, forecast: Forecast) -> Tensor:
        """Returns the clean latent that an output for a noisy residual means."""
        mean = forecast.residual(forecast.mean)
        change = x - expand(self.process.alpha(level), x) * mean  # the noisy form of residual - mean
        return forecast.latent(mean + to_clean(self.prediction, output, change, level, self.process))
