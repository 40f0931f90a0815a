"""What a network's output stands for, and how it becomes a clean latent.

Here as frozen values without parameters beside the processes; the network itself does not know.
Leaves out noise, velocity and EDM predictions, which come with the diffusion core.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class CleanPrediction:
    """The output is the clean latent itself (x-prediction; Salimans & Ho 2022, Li & He 2025)."""

    def to_clean(self, output: Tensor, x: Tensor, level: Tensor, process) -> Tensor:
        """Returns the clean latent `[... c h w]` meant by an output for the input `x` at `level [...]`."""
        return output.float()
