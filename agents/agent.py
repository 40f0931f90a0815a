"""An agent that learned: a small network that sees a game's last frames and chooses one of its actions.

Here as what every way of learning makes, so that all act alike in a dream, in the real game and in the window: an agent
is a policy as `worldsim record` calls it. One file holds it: tensors, and what they are of as JSON in the header.
Leaves out learning.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldsim import pixels
from worldsim.actions import space_from_json, space_to_json, unpack
from worldsim.files import save_tensors

FORMAT_VERSION = 2
FILE = "agent.safetensors"
PATCH, REACHES, HEADS = 4, (1, 2, 4), 4  # pixels; how far patches look around, one after the other; places attended to
CELLS = 8  # a side, of what a linear agent sees


@dataclass(frozen=True)
class AgentConfig:
    """Sizes of an agent: how many of the last frames it sees, and for how many steps it holds what it chose.

    Of width 0 it is linear in what the frames show.
    """

    frame_shape: tuple[int, int, int]
    num_actions: int
    window: int = 3
    hold: int = 1
    width: int = 32
    hidden: int = 256
    greedy: bool = False  # it takes the likeliest action, or draws one by the odds


class Network(nn.Module):
    """The last frames to the log odds of each action and to what is still to come, in units of `scale`.

    Patches of 4x4 pixels look around themselves, a few of them are attended to (where the player is, say), and what
    they saw and where they stand is what counts: to see a thing on the left is one lesson, wherever player and thing
    stand.
    """

    scale: Tensor  # [], a return's typical size

    def __init__(self, config: AgentConfig, seed: int = 0):
        """The seed alone says which network it is before it has learned."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: that is what comes back
            self._make(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it

    def _make(self, config: AgentConfig) -> None:
        height, width = (side // PATCH for side in config.frame_shape[:2])
        self.patches = nn.Conv2d(3 * PATCH**2 * config.window, config.width, 1)
        self.around = nn.ModuleList(
            nn.Conv2d(config.width, config.width, 3, padding=reach, dilation=reach) for reach in REACHES
        )
        self.attend = nn.Conv2d(config.width, HEADS, 1)
        self.position = nn.Parameter(torch.zeros(HEADS, height, width))
        self.hidden = nn.Linear((HEADS + 1) * config.width + 2 * HEADS, config.hidden)
        self.choice = nn.Linear(config.hidden, config.num_actions)
        self.worth = nn.Linear(config.hidden, 1)
        for head in (self.choice, self.worth):  # at first all actions are alike
            nn.init.orthogonal_(head.weight, 0.01)
            nn.init.zeros_(head.bias)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Maps frames `[b t H W 3]` uint8, the newest last, to log odds `[b n]` and worth `[b]`."""
        h, w = self.position.shape[1:]
        cut = seen[:, :, : PATCH * h, : PATCH * w]
        folded = rearrange(cut, "b t (h i) (w j) rgb -> b h w (t i j rgb)", i=PATCH, j=PATCH)
        x = self.patches(folded.float().div_(127.5).sub_(1).permute(0, 3, 1, 2))  # folded as bytes, which is quicker
        for layer in self.around:
            x = x + layer(F.silu(x))
        x = F.silu(x)
        attention = (self.attend(x) + self.position).flatten(2).softmax(-1)
        found = torch.einsum("b h s, b c s -> b h c", attention, x.flatten(2))
        where = torch.cartesian_prod(*(torch.linspace(-1, 1, side, device=x.device) for side in (h, w)))
        told = F.silu(self.hidden(torch.cat((found.flatten(1), (attention @ where).flatten(1), x.amax((2, 3))), 1)))
        return self.choice(told).float(), self.worth(told)[:, 0].float()


class Linear(nn.Module):
    """What 8x8 cells of the newest frame show, and how they changed since the oldest, to log odds; few numbers."""

    def __init__(self, config: AgentConfig):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # its weights are set by who makes it
            self.choice = nn.Linear(2 * 3 * CELLS**2, config.num_actions)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Maps frames `[b t H W 3]` uint8, the newest last, to log odds `[b n]`; worth is unknown, 0."""
        logits = self.choice(features(seen))
        return logits, torch.zeros_like(logits[:, 0])


def features(seen: Tensor) -> Tensor:
    """Returns what a `Linear` agent sees of frames `[b t H W 3]`: `[b f]`, of about unit size."""
    ends = pixels.to_float(seen[:, [0, -1]])
    before, now = F.adaptive_avg_pool2d(ends.flatten(0, 1), CELLS).flatten(1).unflatten(0, (len(seen), 2)).unbind(1)
    return torch.cat((4 * (now - now.mean(1, keepdim=True)), 16 * (now - before)), 1)


class Agent:
    """A network in play. Called as a policy it keeps the last frames of every row; `act` is for a single game."""

    def __init__(
        self,
        network: Network | Linear,
        space: gym.Space,
        table: np.ndarray,
        facts: dict[str, Any],
        greedy: bool | None = None,
        seed: int = 0,
    ):
        """`table` `[n k]` are the packed actions it chooses from; `facts` say how it came to be, as plain data.

        It draws its actions by their odds, or takes the likeliest where `greedy`; None: as it was taught to.
        """
        self.network, self.space, self.table, self.facts = network.eval(), space, np.asarray(table), facts
        self.greedy = network.config.greedy if greedy is None else greedy
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = torch.zeros(0)
        self._left = self._chosen = np.zeros(0, int)

    @torch.no_grad()
    def __call__(self, observations: np.ndarray, started: np.ndarray) -> np.ndarray:
        """Returns packed actions `[n k]` for frames `[n H W 3]`; `started` `[n]` are rows whose episode begins."""
        config, frames = self.network.config, torch.from_numpy(np.array(observations))
        if tuple(frames.shape[1:]) != tuple(config.frame_shape):
            raise ValueError(
                f"expected frames of {tuple(config.frame_shape)}, found {tuple(frames.shape[1:])}; "
                "let the agent play the game or the world that it was taught in"
            )
        if len(self._seen) != len(frames):
            started = np.ones(len(frames), bool)
            self._seen, self._left = repeated(frames, config.window), np.zeros(len(frames), int)
            self._chosen = np.zeros(len(frames), int)
        self._seen = shown(self._seen, frames, torch.from_numpy(np.asarray(started, bool)))
        deciding = np.flatnonzero((self._left == 0) | started)
        if len(deciding):
            logits = self.network(self._seen[deciding])[0]
            self._chosen[deciding] = draw(logits, None if self.greedy else self._generator).numpy()
            self._left[deciding] = config.hold
        self._left -= 1
        return self.table[self._chosen]

    def act(self, observation: np.ndarray, started: bool = False) -> Any:
        """Returns the game's own action for a frame `[H W 3]`; say where an episode has `started`."""
        return unpack(self.space, self(observation[None], np.array([started]))[0])

    def save(self, folder: str | Path) -> Path:
        """Writes the agent to a folder, whole or not at all."""
        tensors = self.network.state_dict()
        text = {
            "format_version": FORMAT_VERSION,
            "config": asdict(self.network.config),
            "action_space": space_to_json(self.space),
            "table": self.table.tolist(),
            "facts": self.facts,
            "sha256": _sha256(tensors),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, Path(folder) / FILE, {"agent": json.dumps(text)})
        return Path(folder) / FILE

    @classmethod
    def load(cls, folder: str | Path, greedy: bool | None = None, seed: int = 0) -> Self:
        """Reads what `save` wrote. Raises ValueError, in one sentence, for what is no whole agent."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"expected an agent in {folder}, found no {FILE}; train one: worldsim agent train")
        try:
            with safe_open(path, "pt") as file:
                text = json.loads(file.metadata()["agent"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if text["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {text['format_version']}, where this worldsim has {FORMAT_VERSION}")
            if _sha256(tensors) != text["sha256"]:
                raise ValueError("weights that are not those that were saved")
            sizes: Any = {name: tuple(x) if isinstance(x, list) else x for name, x in text["config"].items()}
            config = AgentConfig(**sizes)
            network = Network(config) if config.width else Linear(config)
            network.load_state_dict(tensors)
            return cls(
                network, space_from_json(text["action_space"]), np.array(text["table"]), text["facts"], greedy, seed
            )
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"expected a whole agent in {path}, found a damaged one ({reason})") from error

    def check(self, space: gym.Space | None) -> Self:
        """Returns the agent. Raises ValueError where it was taught other actions than a game takes."""
        if space != self.space:
            raise ValueError(f"expected an agent for the actions {space}, found one for {self.space}; train one here")
        return self


def repeated(frames: Tensor, window: int) -> Tensor:
    """Returns what is seen where nothing came before: frames `[b H W 3]` as `[b t H W 3]`."""
    return frames[:, None].repeat(1, window, 1, 1, 1)


def shown(seen: Tensor, frames: Tensor, started: Tensor) -> Tensor:
    """Returns what is seen `[b t H W 3]` once frames `[b H W 3]` have come, the first ones where `started` `[b]`."""
    following = torch.cat((seen[:, 1:], frames[:, None]), 1)
    return torch.where(started[:, None, None, None, None], repeated(frames, seen.shape[1]), following)


def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns a choice `[b]` by log odds `[b n]`, the likeliest without a generator."""
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
