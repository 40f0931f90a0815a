"""The denoiser: a backbone with the noise process it was trained under and the meaning of its output.

Here as the waist: what samplers and losses call, whatever network stands behind it. Everything about levels that a
network does not know happens here: its input has unit variance, its output becomes a clean latent.
Leaves out what guidance is, which wraps the callable, and the weights' average, which training keeps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from worldsim.diffusion.guidance import Guidance
from worldsim.diffusion.prediction import CleanPrediction, Prediction, check, to_clean
from worldsim.diffusion.process import RectifiedFlow, add_noise, expand, unit_variance
from worldsim.types import Backbone, Denoise, Noise, NoiseProcess, Sampler, Stream

HISTORY = RectifiedFlow()
"""How context is noised, whatever the process: its level is the share of noise (conditioning augmentation)."""


class Denoiser(nn.Module):
    """Clean latents from noisy ones, given a history: whole clips by `forward`, one frame by `sample` and `commit`.

    What is predicted, in the prediction's terms, is the difference to what the backbone expects, the newest past
    latent or that moved: a network that says nothing repeats it, as far as x does not tell better.
    """

    def __init__(
        self,
        backbone: Backbone,
        bound: Tensor,
        process: NoiseProcess | None = None,
        prediction: Prediction | None = None,
    ):
        """Raises ValueError where the prediction cannot start from the process' pure noise."""
        super().__init__()
        self.backbone = backbone
        self.register_buffer("bound", bound.clone())  # [2 c 1 1]: lowest and highest value of each latent channel
        self.process = process or RectifiedFlow()
        self.prediction = prediction or CleanPrediction()
        check(self.prediction, self.process)

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Returns clean latents `[b n c h w]` (float32), features `[b n d h w]` and expected latents of the targets."""
        x, level = target.latents, target.level
        output, features, expected = self.backbone(history, replace(target, latents=self._scaled(x, level)))
        return self._clean(output, x, level, expected), features, expected

    def clamp(self, clean: Tensor) -> Tensor:
        """Clamps clean latents `[... c h w]` to what the codec can produce, which keeps a closed loop bounded."""
        return clean.clamp(self.bound[0], self.bound[1])

    def sample(
        self,
        sampler: Sampler,
        action: Tensor,
        context: Any,
        noise: Noise,
        guidance: Guidance | None = None,
        null: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Samples the next frame's latent `[b c h w]`; also returns the features of the last network evaluation.

        `guidance` that drops the action needs the codec's `null` one `[a]`: for this frame, the context being shared.
        """
        features = None

        def given(action: Tensor, context: Any) -> Denoise:
            expected = self.backbone.expect(action, context)

            def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
                nonlocal features
                x_scaled = self._scaled(x, level)
                output, features = self.backbone.read(x_scaled, level, target_level, action, context, expected)
                return self.clamp(self._clean(output, x, level, expected))

            return denoise

        denoise = given(action, context)
        if guidance is not None:
            is_action = guidance.drops == "action"
            less = (null.expand_as(action), context) if is_action else (action, self.backbone.start(len(action)))
            denoise = guidance(denoise, given(*less))
        shape = (action.shape[0], *self.backbone.config.latent_shape)
        return self.clamp(sampler(denoise, self.process, shape, noise)), features

    def commit(self, latent: Tensor, level: Tensor, noise: Tensor, action: Tensor, context):
        """Returns the context with one more frame, noised to `level [b]` and labelled so."""
        return self.backbone.append(add_noise(HISTORY, latent, noise, level), level, action, context)

    def _scaled(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns the network's input: the only place where x is scaled, for every process and prediction."""
        return expand(unit_variance(self.process, level), x) * x

    def _clean(self, output: Tensor, x: Tensor, level: Tensor, expected: Tensor) -> Tensor:
        change = x - expand(self.process.alpha(level), x) * expected  # the noisy form of clean - expected
        return expected + to_clean(self.prediction, output, change, level, self.process)
