"""Fine detail: how much of it dreamed frames have beside real ones.

Here because blur scores well where the future is uncertain; a ratio well under 1 gives it away, one well over 1 noise.
Leaves out where in the frame the detail is.
"""

from __future__ import annotations

import numpy as np


def haar_energy(frames: np.ndarray) -> np.ndarray:
    """Returns the energy of the finest detail of frames `[n H W 3]` (even H and W), float64 `[n]`.

    That is the mean square, over pixels and colours, of what 2x2 blocks hold beside their means: the three detail
    subbands of one level of the orthonormal Haar transform (Haar 1910), in squared grey levels.
    """
    n, height, width, colours = frames.shape
    blocks = frames.astype(np.float64).reshape(n, height // 2, 2, width // 2, 2, colours)
    return np.square(blocks - blocks.mean((2, 4), keepdims=True)).mean((1, 2, 3, 4, 5))
