"""How much the squared error of the clean latent counts at each noise level.

Here so that every loss is written in clean-latent space, whatever is predicted.
Leaves out SNR weightings, which come with the diffusion core.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Ramp:
    """Weight rising linearly from `floor` at pure noise to 1 at clean (Hafner et al. 2025: 0.9 tau + 0.1)."""

    floor: float = 0.1

    def __call__(self, level: Tensor) -> Tensor:
        """Returns the weight at `level [...]`."""
        return 1 - (1 - self.floor) * level
