"""Rare outcomes are shown oftener than they come, and the heads still say how often they come."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_world import SHAPE, SPACE, conv_backbone, random_clip

from worldsim.actions import ActionCodec
from worldsim.data.clips import EventSampler, WindowSampler, parts
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.models.denoiser import Denoiser
from worldsim.models.outcome import OutcomeConfig, OutcomeDistribution, OutcomeModel, two_hot
from worldsim.objectives.denoising import DenoisingConfig
from worldsim.objectives.outcome import Rarity, outcome_loss

STEPS, LENGTH = 40, 4


def store_of(folder, rewards, terminated) -> EpisodeStore:
    with EpisodeWriter(folder, DatasetInfo("x", SHAPE, SPACE, 15.0)) as writer:
        for row, ends in zip(rewards, terminated, strict=True):
            frames, actions = np.zeros((len(row) + 1, *SHAPE), np.uint8), np.zeros((len(row), 4))
            writer.append(Episode(frames, actions, np.array(row, np.float32), ends, not ends, 0, "x"))
    return EpisodeStore(folder)


@pytest.fixture
def store(tmp_path):
    rewards = np.full((4, STEPS), 0.5)
    rewards[0, 9], rewards[2, 30], rewards[3, 0] = 3, -1, 0  # led to frames 10, 31 and 1
    return store_of(tmp_path / "data", rewards, [True, False, False, True])


def test_half_the_windows_end_anywhere_and_a_quarter_each_on_a_rare_reward_and_an_end(store):
    sampler = EventSampler(store, [0, 1, 2, 3], LENGTH, seed=0)
    assert sampler.common == 0.5 and sampler.shares == (3 / 160, 2 / 160)
    last = [[(i, start + LENGTH - 1) for i, start in sampler.windows(step, 16)] for step in range(30)]
    anywhere, rewards, ends = parts(16)
    assert {place for batch in last for place in batch[rewards]} == {(0, 10), (2, 31), (3, 1)}
    assert {place for batch in last for place in batch[ends]} == {(0, STEPS), (3, STEPS)}
    like = WindowSampler(store, [0, 1, 2, 3], LENGTH, seed=0)
    assert all(sampler.windows(step, 16)[anywhere] == like.windows(step, 16)[anywhere] for step in range(5))
    assert sampler.windows(3, 16) == EventSampler(store, [0, 1, 2, 3], LENGTH, seed=0).windows(3, 16)
    assert len({place for batch in last for place in batch[anywhere]}) > 50


def test_what_never_comes_or_often_is_not_drawn(tmp_path, store):
    assert EventSampler(store, [1], LENGTH, 0).shares == (0, 0)
    assert EventSampler(store, [1], LENGTH, 0).windows(0, 8) == WindowSampler(store, [1], LENGTH, 0).windows(0, 8)
    dense = store_of(tmp_path / "dense", [np.arange(9)], [False])
    assert EventSampler(dense, [0], LENGTH, 0).shares == (0, 0)


def drawn(rng, rate, rows=64, common=0.0, rare=1.0):
    """Clips as an `EventSampler` draws them, of a game whose events follow from nothing: a rare reward, and the end."""
    _, rewards, ends = parts(rows)
    clip = random_clip(rows, LENGTH, (4, 2, 2), ActionCodec(SPACE), int(rng.integers(2**31)))
    reward, end = torch.from_numpy(rng.random((2, rows)) < rate)
    reward[rewards], end[ends] = True, True
    clip.reward[:, -1], clip.terminated[:, -1] = torch.where(reward, rare, common), end
    return clip


@pytest.mark.parametrize("is_told", [True, False])
def test_the_heads_say_how_often_events_come_if_they_are_told_how_often_they_are_shown(is_told):
    rate, rng, generator = 0.05, np.random.default_rng(0), torch.Generator().manual_seed(0)
    world = Denoiser(conv_backbone(), torch.stack((-torch.ones(4, 1, 1), torch.ones(4, 1, 1))))
    torch.manual_seed(0)
    model = OutcomeModel(OutcomeConfig(16, ActionCodec(SPACE).width, width=8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    rarity = Rarity(0.0, rate, rate) if is_told else None
    for _ in range(250):
        loss = outcome_loss(model, world, drawn(rng, rate), DenoisingConfig(), rarity, generator=generator)
        optimizer.zero_grad(), loss.total.backward(), optimizer.step()
    said = []
    model.register_forward_hook(lambda module, inputs, output: said.append(output))
    with torch.no_grad():
        outcome_loss(model, world, drawn(rng, rate, 256), DenoisingConfig(), generator=generator)
    means = [said[0].reward_mean.mean().item(), said[0].end_probability.mean().item()]
    assert all(0.02 < mean < 0.1 for mean in means) if is_told else all(mean > 0.2 for mean in means)


@pytest.mark.parametrize(("common", "rare"), [(0.0, 1.0), (1.0, 2.0), (0.0, 0.1), (1.0, 0.9)])
def test_the_reward_s_mean_is_the_data_s_whatever_bins_rewards_share(common, rare):
    """The loss' own optimum, for frames that all look alike."""
    rate, rows = 0.05, 160
    model = OutcomeModel(OutcomeConfig(16, ActionCodec(SPACE).width, width=8))
    near = two_hot(torch.tensor([common, rare]), model.bins) > 0
    rarity = Rarity(common, rate, rate, apart=not bool((near[0] & near[1]).any()))
    world = Denoiser(conv_backbone(), torch.stack((-torch.ones(4, 1, 1), torch.ones(4, 1, 1))))
    logits = torch.where(near.any(0), 0.0, -20.0).requires_grad_()
    optimizer, clip = torch.optim.Adam([logits], 0.1), drawn(np.random.default_rng(0), 0.0, rows, common, rare)
    clip.reward[: round(rate * rows / 2), -1] = rare  # of the half that may be any frame

    def alike(features, action):
        rows = logits.expand(len(action), -1)
        return OutcomeDistribution(rows, torch.zeros(len(action)), model.bins)

    alike.bins = model.bins
    for _ in range(500):
        loss = outcome_loss(alike, world, clip, DenoisingConfig(), rarity, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad(), loss.total.backward(), optimizer.step()
    mean = (logits.softmax(-1) @ model.bins).item()
    assert (mean - common) / (rare - common) == pytest.approx(rate, abs=0.01)


def test_a_head_learns_nothing_from_the_other_ones_events():
    rng, rarity = np.random.default_rng(0), Rarity(0.0, 0.05, 0.05)
    world = Denoiser(conv_backbone(), torch.stack((-torch.ones(4, 1, 1), torch.ones(4, 1, 1))))
    model, clip = OutcomeModel(OutcomeConfig(16, ActionCodec(SPACE).width, width=8)), drawn(rng, 0.05)

    def parts_of(clip):
        return outcome_loss(
            model, world, clip, DenoisingConfig(), rarity, generator=torch.Generator().manual_seed(0)
        ).parts

    _, rewards, ends = parts(64)
    reward, terminated = clip.reward.clone(), clip.terminated.clone()
    reward[ends, -1], terminated[rewards, -1] = 7.0, True
    other = parts_of(replace(clip, reward=reward, terminated=terminated))
    assert other["reward"] == parts_of(clip)["reward"] and other["end"] == parts_of(clip)["end"]
