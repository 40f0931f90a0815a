"""How far sets of 16-frame chunks are from one another: a small 3-D network's features, and a kernel distance.

Here because long dreams have no frame to be compared with. The network learns from real recordings of the game alone,
and stays as it is: no downloaded weights, and none of the dream.
Leaves out dreams (`drift`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.actions import ActionCodec
from worldsim.data.episodes import EpisodeStore

CHUNK = 16  # frames
SIDE = 32  # pixels that the network sees
WIDTH = 64  # features
BATCH = 32


class ChunkNet(nn.Module):
    """Chunks `[b t H W 3]` uint8 to features `[b 64]`; heads say in which order frames ran, and which actions led."""

    def __init__(self, action_width: int):
        super().__init__()
        widths, strides = (3, 16, 32, WIDTH), ((1, 2, 2), (2, 2, 2), (2, 2, 2))
        self.trunk = nn.Sequential(
            *(
                layer
                for a, b, stride in zip(widths, widths[1:], strides, strict=False)
                for layer in (nn.Conv3d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU())
            )
        )
        self.order = nn.Linear(WIDTH, 3)  # as recorded, backwards, shuffled
        self.actions = nn.Linear(WIDTH, action_width)  # the mean of the chunk's

    def forward(self, chunks: Tensor) -> Tensor:
        x = rearrange(chunks, "b t h w c -> (b t) c h w").float() / 127.5 - 1
        x = F.interpolate(x, (SIDE, SIDE), mode="area")
        return self.trunk(rearrange(x, "(b t) c h w -> b c t h w", t=CHUNK)).mean((2, 3, 4))


def chunk_net(store: EpisodeStore, episodes: list[int], steps: int, seed: int = 0) -> ChunkNet:
    """Trains a `ChunkNet` on recorded episodes of at least 16 frames: the order of frames, and the actions' mean."""
    codec, rng = ActionCodec(store.info.action_space, store.info.discrete_table), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ChunkNet(codec.width)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for frames, packed in _draws(store, episodes, rng, steps):
        order = rng.integers(3, size=BATCH)
        for row in range(BATCH):
            turned = (slice(None), slice(None, None, -1), rng.permutation(CHUNK))[order[row]]
            frames[row] = frames[row][turned]
        features = net(torch.from_numpy(frames))
        goal = codec.null.expand(BATCH, -1) if packed is None else codec.encode(packed).mean(1)
        said = torch.where(torch.from_numpy(order == 0)[:, None], net.actions(features), goal)
        loss = F.cross_entropy(net.order(features), torch.from_numpy(order)) + F.mse_loss(said, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def _draws(
    store: EpisodeStore, episodes: list[int], rng: np.random.Generator, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields batches of chunks with the actions between their frames."""
    for _ in range(steps):
        picks = [
            (i, int(rng.integers(store.records[i].num_observations - CHUNK + 1))) for i in rng.choice(episodes, BATCH)
        ]
        frames = np.stack([store.observations(i, s, s + CHUNK) for i, s in picks])
        packed = [store.actions(i, s, s + CHUNK - 1) for i, s in picks]
        yield (
            frames,
            np.stack([actions for actions in packed if actions is not None]) if packed[0] is not None else None,
        )


@torch.no_grad()
def features(net: ChunkNet, chunks: np.ndarray) -> np.ndarray:
    """Returns the features of chunks `[n 16 H W 3]`, float64 `[n 64]`."""
    return torch.cat([net(part) for part in torch.from_numpy(chunks).split(BATCH)]).double().numpy()


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared maximum mean discrepancy of standardised features `[n d]` and `[m d]`, cubic kernel.

    Its expectation is 0 for sets from one distribution, so it may fall below (Binkowski et al. 2018).
    """
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m, kx, ky = len(x), len(y), kernel(x, x), kernel(y, y)
    within = (kx.sum() - np.trace(kx)) / (n * (n - 1)) + (ky.sum() - np.trace(ky)) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())
