"""A toy world with the verbs of `WorldModel`: its frame shows prompt, episode, age, action and what was done before.

Here so that env, agents, play and recorder are tested in microseconds. Leaves out networks.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from gymnasium import spaces
from torch import Tensor

from worldsim.actions import ActionCodec
from worldsim.diffusion.samplers import EulerSampler
from worldsim.types import Clip, Outcome, Rows, WorldInfo
from worldsim.world_model import WorldModel

ARROWS = {"rest": [0], "bindings": [{"keys": [key], "set": {"0": i + 1}} for i, key in enumerate(("a", "d", "left"))]}
PROMPT, EPISODE, AGE, ACTION, PAST = range(5)  # bands of eight lines, top to bottom, each a grey of its number


@dataclass(frozen=True)
class FakeState(Rows):
    context: Tensor  # [b] int64, a hash of everything done since the start
    latent: Tensor  # [b 3 1 1]: prompt, action, luck
    age: Tensor  # [b]
    address: Tensor  # [b 3]


class FakeWorld:
    num_prompts, steps, dtype_name, device = 5, 1, "float32", torch.device("cpu")
    latent, takes_latent_actions = None, False
    prompts, guidance, context_level = SimpleNamespace(latents=torch.zeros(5, 3, 3, 1, 1)), None, 0.0
    temperature = 1.0
    fingerprint = "fa" * 32
    latent_bound = torch.tensor([-1e4, 1e4])[:, None, None, None].expand(2, 3, 1, 1)

    def __init__(self, action_space=None, keymap=ARROWS, fps=1000.0, end=0.1, **facts):
        space = spaces.Discrete(4) if action_space is None else action_space
        space = None if space == "none" else space
        self.info = WorldInfo("fake", "nothing", fps, space, (40, 48, 3), keymap, **facts)
        self.action_codec = ActionCodec(space)
        self.sampler = EulerSampler(1)
        self.end = end  # the chance that a step ends the episode
        self._buffer = torch.zeros(0)

    def encode(self, frames):
        """A frame's latent is the grey of its top left pixel, as its prompt."""
        grey = frames[..., 0, 0, 0].float()
        return torch.stack((grey, *torch.zeros(2, *grey.shape)), -1)[..., None, None]

    def initial(self, prompt, address):
        if isinstance(prompt, Clip):
            told = (prompt.latents[:, :, 0, 0, 0] + 7 * prompt.action @ _count(prompt.action)).long()
            last = told @ _count(told) % 251
            return FakeState(last, prompt.latents[:, -1].clone(), torch.zeros_like(address[:, 0]), address)
        latent = torch.stack((prompt.float(), *torch.zeros(2, len(prompt))), -1)[..., None, None]
        return FakeState(prompt.clone(), latent, torch.zeros_like(prompt), address)

    def step(self, state, action):
        address = state.address + torch.tensor([0, 0, 1])
        luck, end = _draw(address)
        number = (action * _count(action)).sum(-1)
        context = (state.context * 31 + (number * 8 + luck * 100).long() + 1) % 251
        latent = torch.stack((state.latent[:, 0, 0, 0], number, luck), -1)[..., None, None]
        return FakeState(context, latent, state.age + 1, address), Outcome(luck + number, end < self.end)

    def foresee(self, state, action):
        state, outcome = self.step(state, action)
        return state, SimpleNamespace(
            reward_mean=outcome.reward, end_probability=torch.full_like(outcome.reward, self.end)
        )

    rollout = WorldModel.rollout

    def uncertainty(self, before, action, after):
        return after.latent[:, 2, 0, 0] + 1

    def observe(self, state):
        shown = (state.latent[:, 0, 0, 0], state.address[:, 1], state.age, state.latent[:, 1, 0, 0] * 8, state.context)
        bands = torch.stack([value.long() % 256 for value in shown], -1).to(torch.uint8)
        if len(self._buffer) != len(bands):
            self._buffer = torch.zeros(len(bands), *self.info.frame_shape, dtype=torch.uint8)
        self._buffer[:] = bands.repeat_interleave(8, 1)[:, :, None, None]
        return self._buffer  # used again and again: whoever hands it out must copy


def _count(x):
    return torch.arange(x.shape[-1], dtype=x.dtype)


def _draw(address):
    """Returns two numbers in [0, 1) for each row: a hash of its address, far quicker than the library's noise."""
    mixed = (address * torch.tensor([7919, 104729, 1299709])).sum(-1) % 100_003
    mixed = mixed * mixed * 31 % 1_000_003
    return mixed % 1000 / 1000, mixed // 1000 / 1001


def read(frame, band):
    """Returns the number that a band of a frame shows."""
    return int(frame[8 * band + 4, 24, 0])
