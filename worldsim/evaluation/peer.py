"""A network of the shape of DIAMOND's Atari world model, with random weights: what `worldsim bench` is compared with.

Here because milliseconds belong to a machine and ratios do not. The shape is as published (Alonso et al. 2024,
arXiv 2405.12399): a U-Net over 64x64 pixels and four past frames, four levels of 64 channels with two residual blocks,
adaptive group norm of width 256, EDM's preconditioning, three Euler steps; for reward and end the same of 32 channels
and width 128 over two frames, and an LSTM of 512. Written anew.
Leaves out everything that does not take time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAST, ACTIONS = 4, 18
EULER, SIGMA_MAX, SIGMA_MIN, RHO, SIGMA_DATA = 3, 5.0, 2e-3, 7, 0.5


class Norm(nn.Module):
    """Group norm whose scale and shift a condition says."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.groups, self.told = max(1, width // 32), nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.told(condition)[:, :, None, None].chunk(2, 1)
        return F.group_norm(x, self.groups) * (1 + scale) + shift


class Block(nn.Module):
    """Two 3x3 convolutions beside a skip."""

    def __init__(self, inputs: int, width: int, condition: int):
        super().__init__()
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        self.norm1, self.conv1 = Norm(inputs, condition), nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2, self.conv2 = Norm(width, condition), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x, condition)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y, condition)))


class Down(nn.Module):
    """Levels of residual blocks, each half the size of the one before; returns what every layer made."""

    def __init__(self, width: int, condition: int, levels: int = 4, depth: int = 2):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(width, width, condition) for _ in range(depth)) for _ in range(levels)
        )
        self.smaller = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(levels - 1))

    def forward(self, x: Tensor, condition: Tensor) -> list[list[Tensor]]:
        made: list[list[Tensor]] = []
        for i, blocks in enumerate(self.blocks):
            made.append([self.smaller[i - 1](x) if i else x])
            for block in blocks.children():
                made[-1].append(block(made[-1][-1], condition))
            x = made[-1][-1]
        return made


class Denoiser(nn.Module):
    """The U-Net: 4.4 million parameters."""

    frequencies: Tensor

    def __init__(self, width: int = 64, condition: int = 256, levels: int = 4, depth: int = 2):
        super().__init__()
        self.actions = nn.Embedding(ACTIONS, condition // PAST)
        self.told = nn.Sequential(nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.register_buffer("frequencies", torch.randn(1, condition // 2))
        self.stem = nn.Conv2d(3 * (PAST + 1), width, 3, padding=1)
        self.down = Down(width, condition, levels, depth)
        self.middle = nn.ModuleList(Block(width, width, condition) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList(Block(2 * width, width, condition) for _ in range(depth + 1)) for _ in range(levels)
        )
        self.larger = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(levels - 1))
        self.norm, self.head = nn.GroupNorm(2, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, past: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Maps noisy frames `[b 3 64 64]`, past ones `[b 12 64 64]`, levels `[b]` and actions `[b 4]` to an output."""
        angles = level[:, None] * self.frequencies
        condition = self.told(torch.cat((angles.sin(), angles.cos()), 1) + self.actions(actions).flatten(1))
        made = self.down(self.stem(torch.cat((x, past), 1)), condition)
        h = made[-1][-1]
        for block in self.middle.children():
            h = block(h, condition)
        for i in reversed(range(len(made))):
            for block, skip in zip(self.up[i].children(), reversed(made[i]), strict=True):
                h = block(torch.cat((h, skip), 1), condition)
            if i:
                h = self.larger[i - 1](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.head(F.silu(self.norm(h)))


class Outcome(nn.Module):
    """Reward and end of a step: convolutions and an LSTM, 5.9 million parameters."""

    def __init__(self, width: int = 32, condition: int = 128, memory: int = 512):
        super().__init__()
        self.actions, self.stem = nn.Embedding(ACTIONS, condition), nn.Conv2d(6, width, 3, padding=1)
        self.down, self.last = Down(width, condition), nn.ModuleList(Block(width, width, condition) for _ in range(2))
        self.memory = nn.LSTM(width * 64, memory)
        self.head = nn.Sequential(nn.Linear(memory, memory), nn.SiLU(), nn.Linear(memory, 5))

    def forward(self, frames: Tensor, actions: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple]:
        """Maps two frames `[b 6 64 64]` and actions `[b]` to logits of three rewards and two ends, and a state."""
        condition = self.actions(actions)
        h = self.down(self.stem(frames), condition)[-1][-1]
        for block in self.last.children():
            h = block(h, condition)
        out, state = self.memory(h.flatten(1)[None], state)
        return self.head(out[0]), state


class Peer(nn.Module):
    """Both networks, in a dream of `batch` rows that goes on by random actions."""

    def __init__(self, batch: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.denoiser, self.outcome = Denoiser(), Outcome()
        ramp = torch.linspace(0, 1, EULER + 1)[:-1]
        sigmas = (SIGMA_MAX ** (1 / RHO) + ramp * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO
        self.sigmas = [*sigmas.tolist(), 0.0]
        self.requires_grad_(False).to(device)
        self.past = torch.rand(batch, 3 * PAST, 64, 64, device=device) * 2 - 1
        self.actions = torch.zeros(batch, PAST, dtype=torch.long, device=device)
        self.state: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self) -> Tensor:
        """Returns the next frames, uint8 `[b 64 64 3]`, on the host."""
        drawn = torch.randint(ACTIONS, (len(self.past), 1), device=self.past.device)
        self.actions = torch.cat((self.actions[:, 1:], drawn), 1)
        x = torch.randn_like(self.past[:, :3]) * SIGMA_MAX
        for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
            # EDM: Karras et al. 2022, table 1.
            total = (sigma**2 + SIGMA_DATA**2) ** 0.5
            level = x.new_full((len(x),), sigma).log() / 4
            output = self.denoiser(x / total, self.past / SIGMA_DATA, level, self.actions)
            clean = SIGMA_DATA**2 / total**2 * x + sigma * SIGMA_DATA / total * output
            x = x + (x - clean) / sigma * (following - sigma)
        pictures = ((x.clamp(-1, 1) + 1) * 127.5).byte()
        frame = pictures.float() / 127.5 - 1
        logits, self.state = self.outcome(torch.cat((self.past[:, -3:], frame), 1), drawn[:, 0], self.state)
        logits.argmax(1).cpu()
        self.past = torch.cat((self.past[:, 3:], frame), 1)
        return pictures.permute(0, 2, 3, 1).contiguous().cpu()
