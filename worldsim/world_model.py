"""The world model: five parts and three verbs, `initial`, `step` and `observe`, over a state that is a value.

Here as the one thing that environments, players, planners and evaluation call.
Leaves out episodes, seeds and time limits, which are the environments' business.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from worldsim import noise
from worldsim.actions import ActionCodec
from worldsim.diffusion.flow import count_evaluations
from worldsim.diffusion.guidance import Guidance
from worldsim.diffusion.samplers import EulerSampler
from worldsim.models.denoiser import Context, Denoiser
from worldsim.models.latent_action import LatentActions
from worldsim.models.outcome import OutcomeDistribution, OutcomeModel
from worldsim.types import Autoencoder, Clip, Outcome, Rows, Sampler, WorldInfo


@dataclass(frozen=True)
class WorldState(Rows):
    """Everything a row of a dream is; `clone` it to branch."""

    context: Context  # the past as the denoiser keeps it, rows first
    latent: Tensor  # [b c h w], the current frame
    age: Tensor  # [b] int64, steps since `initial`
    address: Tensor  # [b 3] int64: row seed, episode, step; the address of the noise


class WorldModel:
    """A learned world. Holds weights only; every method returns new states and leaves its arguments as they were."""

    def __init__(
        self,
        info: WorldInfo,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        outcome: OutcomeModel,
        sampler: Sampler,
        prompts: Clip,
        context_level: float,
        guidance: Guidance | None = None,
        latent: LatentActions | None = None,
        dtype: torch.dtype = torch.float32,
        temperature: float = 1.0,
    ):
        """`prompts` `[p t …]` are clips to start from; `context_level` is the noise level of committed frames.

        `latent` names what happens in recordings of which the world's actions are not known. `dtype` is what networks
        multiply in to dream and to decode; states are float32 whatever it is. `temperature` is the deviation of the
        noise that a frame begins as: above 1 more of what is rare comes (as Ha and Schmidhuber 2018 made dreams harder;
        a network that removes too much wants more noise, Karras et al. 2022).
        """
        self.info, self.sampler, self.context_level, self.prompts = info, sampler, context_level, prompts
        self.dtype, self.temperature = dtype, temperature
        self.guidance, self.latent = guidance, latent
        self.autoencoder, self.denoiser, self.outcome = autoencoder, denoiser, outcome
        for part in self._networks:
            part.eval().requires_grad_(False)
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so
        self.action_codec = ActionCodec(info.action_space, info.discrete_table)
        self._null = self.action_codec.null.to(self.device)
        seeds = noise.address_of(list(range(self.num_prompts)), self.device)
        self._prompt_states = self.initial(prompts, seeds)  # computed once, so that a reset is a copy

    @property
    def _networks(self) -> list[nn.Module]:
        return [part for part in (self.autoencoder, self.denoiser, self.outcome) if isinstance(part, nn.Module)]

    @property
    def takes_latent_actions(self) -> bool:
        """Whether its actions are not the game's own but learned ones."""
        return self.latent is not None and not self.latent.config.completes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.denoiser.bound.device

    @property
    def dtype_name(self) -> str:
        """What networks multiply in, by name."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def num_prompts(self) -> int:
        """How many clips the world can start from by index."""
        return len(self.prompts.latents)

    @property
    def steps(self) -> int:
        """Network evaluations for one frame (K), those of guidance among them."""
        branches = 2 if self.guidance is not None and self.guidance.scale != 1 else 1
        return branches * count_evaluations(self.sampler, self.denoiser.process)

    @property
    def latent_bound(self) -> Tensor:
        """The lowest and highest latent that a state can hold, `[2 c h w]`."""
        return self.denoiser.bound.expand(2, *self.prompts.latents.shape[2:])

    @cached_property
    def fingerprint(self) -> str:
        """Which world this is: the sha256 of its weights, the same for every copy of a bundle."""
        digest = hashlib.sha256()
        for part in self._networks:
            for name, value in part.state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def initial(self, prompt: Tensor | Clip, address: Tensor) -> WorldState:
        """Returns the state after a prompt: indices `[b]` of the world's own, or a clip `[b t …]` of valid frames.

        `address` is int64 `[b 3]`; its step should be 0.
        """
        if not isinstance(prompt, Clip):
            return replace(self._prompt_states.select(prompt), address=address)
        if not prompt.valid.all():
            raise ValueError("expected a prompt whose frames are all valid, found missing frames; start it later")
        context = self.denoiser.start(len(prompt.latents))
        for index in range(prompt.latents.shape[1]):
            latent, action = self.denoiser.clamp(prompt.latents[:, index]), prompt.action[:, index]
            draw = noise.normal(address, tuple(latent.shape[1:]), noise.COMMIT + ((index + 1) << noise.INDEX))
            context = self._commit(latent, action, context, draw)
        return WorldState(context, latent, torch.zeros_like(address[:, 0]), address)

    @torch.no_grad()
    def step(self, state: WorldState, action: Tensor) -> tuple[WorldState, Outcome]:
        """Dreams the next frame for encoded actions `[b a]`; draws its reward and its end."""
        state, outcome = self.foresee(state, action)
        return state, outcome.sample(noise.uniform(state.address, (2,), noise.OUTCOME))

    @torch.no_grad()
    def foresee(self, state: WorldState, action: Tensor) -> tuple[WorldState, OutcomeDistribution]:
        """Dreams the next frame for encoded actions `[b a]`; returns what may come with it instead of drawing it."""
        address = state.address + torch.arange(3, device=self.device) // 2  # [0, 0, 1], made on the device
        shape = tuple(state.latent.shape[1:])
        draws = (noise.START, noise.COMMIT) if self.context_level else (noise.START,)
        drawn = noise.normals(address, shape, draws).unbind(1)
        start = self.temperature * drawn[0]

        def draw(index: int) -> Tensor:
            return noise.normal(address, shape, noise.SOLVER + (index << noise.INDEX)) if index else start

        with self._rounded():
            latent, features = self.denoiser.sample(
                self.sampler, action, state.context, draw, self.guidance, self._null
            )
            outcome = self.outcome(features, action)
        latent = self.autoencoder.settle(latent, state.latent)
        context = self._commit(latent, action, state.context, drawn[-1])  # at level 0 whatever it is
        return WorldState(context, latent, state.age + 1, address), outcome

    @torch.no_grad()
    def rollout(self, state: WorldState, actions: Tensor, expected: bool = False) -> tuple[Tensor, Tensor]:
        """Dreams on by encoded actions `[b H a]`, without decoding; returns rewards and terminations, `[b H]`.

        A row that ended brings nothing any more. With `expected` nothing is drawn of outcomes: rewards are expected
        ones and terminations probabilities, both times the probability that the row has come so far.
        """
        alive, rewards, ends = torch.ones(len(actions), device=actions.device), [], []
        for action in actions.unbind(1):
            if expected:
                state, likely = self.foresee(state, action)
                reward, end = likely.reward_mean, likely.end_probability
            else:
                state, outcome = self.step(state, action)
                reward, end = outcome.reward, outcome.terminated
            rewards.append(alive * reward)
            ends.append(alive * end)
            alive = alive - ends[-1]
        ended = torch.stack(ends, 1)
        return torch.stack(rewards, 1), ended if expected else ended.bool()

    @torch.no_grad()
    def uncertainty(self, before: WorldState, action: Tensor, after: WorldState) -> Tensor:
        """Returns how unsure the frame is to which `action` led, `[b]`: the price is one network evaluation.

        It is the distance (root mean square, latents have unit scale) between the frame's latent and what a single
        evaluation makes of other noise; 0 where the frame was recalled as a whole.
        """
        shape = tuple(after.latent.shape[1:])
        again = self.temperature * noise.normal(after.address, shape, noise.AGAIN)
        with self._rounded():
            other, _ = self.denoiser.sample(EulerSampler(1), action, before.context, lambda index: again)
        other = self.autoencoder.settle(other, before.latent)
        return (after.latent - other).square().mean((1, 2, 3)).sqrt()

    @torch.no_grad()
    def observe(self, state: WorldState) -> Tensor:
        """Decodes the current frames, uint8 `[b H W 3]`."""
        return self.decode(state.latent)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents `[... c h w]` to uint8 frames `[... H W 3]`."""
        with self._rounded():
            return self.autoencoder.decode(latents)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encodes uint8 frames `[... H W 3]` as latents `[... c h w]`."""
        return self.autoencoder.encode(frames.to(self.device))

    def _rounded(self) -> AbstractContextManager:
        """Returns what lets networks multiply in `dtype` while it is open."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _commit(self, latent: Tensor, action: Tensor, context: Context, draw: Tensor) -> Context:
        level = torch.full((len(latent),), self.context_level, device=latent.device)
        return self.denoiser.commit(latent, level, draw, action, context)
