"""The denoiser: a backbone with the noise process it was trained under and the meaning of its output.

Here as the waist: what samplers and losses call, whatever network stands behind it.
Leaves out guidance, which wraps the callable, and the weights' average, which training keeps.
"""

from __future__ import annotations

from torch import Tensor, nn

from worldsim.diffusion.prediction import CleanPrediction
from worldsim.diffusion.process import RectifiedFlow, add_noise
from worldsim.types import Backbone, Noise, Sampler, Stream


class Denoiser(nn.Module):
    """Clean latents from noisy ones, given a history: whole clips by `forward`, one frame by `sample` and `commit`."""

    def __init__(self, backbone: Backbone, bound: Tensor, process=None, prediction=None):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("bound", bound.clone())  # [2 c 1 1]: lowest and highest value of each latent channel
        self.process = process or RectifiedFlow()
        self.prediction = prediction or CleanPrediction()

    def forward(self, history: Stream, target: Stream) -> tuple[Tensor, Tensor]:
        """Returns clean latents `[b n c h w]` (float32) and features `[b n d h w]` of the target frames."""
        out, features = self.backbone(history, target)
        return self.prediction.to_clean(out, target.latents, target.level, self.process), features

    def clamp(self, clean: Tensor) -> Tensor:
        """Clamps clean latents `[... c h w]` to what the codec can produce, which keeps a closed loop bounded."""
        return clean.clamp(self.bound[0], self.bound[1])

    def sample(self, sampler: Sampler, action: Tensor, context, noise: Noise) -> tuple[Tensor, Tensor]:
        """Samples the next frame's latent `[b c h w]`; also returns the features of the last network evaluation."""
        features = None

        def denoise(x: Tensor, level: Tensor, target_level: Tensor) -> Tensor:
            nonlocal features
            out, features = self.backbone.read(x, level, target_level, action, context)
            return self.clamp(self.prediction.to_clean(out, x, level, self.process))

        shape = (action.shape[0], *self.backbone.config.latent_shape)
        return sampler(denoise, self.process, shape, noise), features

    def commit(self, latent: Tensor, level: Tensor, noise: Tensor, action: Tensor, context):
        """Returns the context with one more frame, noised to `level [b]` and labelled so."""
        return self.backbone.append(add_noise(self.process, latent, noise, level), level, action, context)
