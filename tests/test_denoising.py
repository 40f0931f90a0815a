"""The dynamics' objective: labels are true, targets are causal, what is masked counts nothing."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny_world import (
    SPACE,
    conv_backbone,
    forgetful,
    last_frame,
    motion,
    next_frame,
    random_clip,
    shake,
    transformer_backbone,
    unet_backbone,
)

from worldsim.actions import ActionCodec
from worldsim.diffusion.levels import GridLevels, UniformLevels
from worldsim.diffusion.prediction import (
    CleanPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    VelocityPrediction,
    VPrediction,
)
from worldsim.diffusion.process import RectifiedFlow, VarianceExploding, VPCosine, VPLinear, expand
from worldsim.diffusion.samplers import EulerSampler
from worldsim.diffusion.weighting import EDMWeight, Uniform
from worldsim.models.conv import ConvBackbone
from worldsim.models.denoiser import Denoiser
from worldsim.models.forecast import Motion
from worldsim.models.outcome import OutcomeConfig, OutcomeDistribution, OutcomeModel, symexp, two_hot
from worldsim.models.unet import UNet
from worldsim.objectives.denoising import (
    DECIDING,
    DenoisingConfig,
    Draws,
    denoising_loss,
    faulty_history,
    forecast_loss,
    noisy_history,
    resample_history,
)
from worldsim.objectives.outcome import outcome_loss
from worldsim.types import Stream, map_rows

LATENT = (4, 2, 2)
CODEC = ActionCodec(SPACE)
BOUND = torch.tensor([-3.0, 3.0])[:, None, None, None].expand(2, 4, 1, 1)


followed = partial(motion, followed=1.0)  # wholly, as a network's output is
PAIRS = pytest.mark.parametrize(
    ("make", "told_by"), [(m, t) for m in (conv_backbone, transformer_backbone) for t in (last_frame, followed)]
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def denoiser(make=conv_backbone, told_by=last_frame):
    forecaster = told_by(LATENT, CODEC.width)
    model = shake(Denoiser(make(LATENT, CODEC.width, told=forecaster.told), BOUND, forecaster=forecaster))
    if isinstance(forecaster, Motion):
        torch.nn.init.constant_(forecaster.warp.spread.bias, 9)  # sure of nothing: everything is open
    return model


def loss(model, clip, config=None, shortcuts=True, resample=True, seed=0):
    config = config or DenoisingConfig()
    return denoising_loss(
        model, model, clip, CODEC.null, config, shortcuts=shortcuts, resample=resample, generator=generator(seed)
    )


def test_the_noise_on_the_history_is_what_its_level_says():
    clip = random_clip(400, 4, (4, 4, 4), CODEC)
    history = noisy_history(clip, DenoisingConfig(), Draws(clip.latents, generator()))
    level = history.level[..., None, None, None]
    noise = (history.latents - (1 - level) * clip.latents[:, :-1]) / level.clamp_min(1e-9)
    noisy = history.level > 0.02
    assert 0.5 < noisy.float().mean() < 0.9
    assert (noise[noisy].square().mean((1, 2, 3)).mean() - 1).abs() < 0.02
    clean = history.level == 0
    assert clean.float().mean() > 0.25 and torch.equal(history.latents[clean], clip.latents[:, :-1][clean])


def drafting():
    return shake(Denoiser(unet_backbone(LATENT, CODEC.width, drafts=True), BOUND))


def test_a_sampler_s_every_evaluation_is_told_what_the_one_before_made():
    model, made, told = drafting(), [], []
    plain, context, noise = model._clean, model.start(2), torch.randn(2, *LATENT, generator=generator())
    model._clean = lambda *args: made.append(plain(*args)) or made[-1]
    tell = partial(UNet.with_draft, model.backbone)
    model.backbone.with_draft = lambda context, draft: told.append(draft) or tell(context, draft)
    action = torch.zeros(2, CODEC.width)
    sample, _ = model.sample(EulerSampler(3), action, context, lambda index: noise)
    assert len(made) == 3 and all(torch.equal(a, model.clamp(b)) for a, b in zip(told, made, strict=False))
    assert len(told) == 2  # the first is told nothing
    model.backbone.config = replace(model.backbone.config, drafts=False)
    assert not torch.equal(model.sample(EulerSampler(3), action, context, lambda index: noise)[0], sample)


def test_half_of_the_training_is_told_a_draft_from_further_up_the_same_way():
    model, clip, seen = drafting(), random_clip(400, 4, LATENT, CODEC), []
    plain = model.forward

    def spy(history, target, forecast=None):
        seen.append(target)
        return plain(history, target, forecast)

    model.forward = spy
    loss(model, clip, DenoisingConfig(shortcut_share=0.25), resample=False).total.backward()
    above, first, second, target = seen
    known = target.draft.isfinite().flatten(1).all(1)
    assert above.draft is None and len(above.level) == 200 and (above.level >= above.target_level).all()
    assert 150 < known.sum() <= 200 and not known[target.level[:, 0] == 1].any()  # at level 1 there was none before
    below = target.level[100:, 0]  # ordinary rows: no two share a level
    row = {level: 100 + i for i, level in enumerate(below.tolist())}
    pairs = [(i, row[level]) for i, level in enumerate(above.target_level[:, 0].tolist()) if level in row]
    assert len(pairs) > 100 and all(known[j] for _, j in pairs)
    i, j = (torch.tensor(column) for column in zip(*pairs, strict=True))
    way = (above.latents[i] - target.latents[j]) / expand(above.level[i] - target.level[j], clip.latents)
    start = (target.latents[j] - expand(target.level[j], way) * way).flatten(1)  # where their common line begins
    apart = (above.level[i] - target.level[j])[:, 0] > 0.05
    assert torch.cdist(start[apart], clip.latents[:, -1].flatten(1)).amin(1).max() < 0.02
    assert all(p.grad.any() for p in model.backbone.embed_draft.parameters())
    # Of shortcuts the second half step is told what the first made.
    assert torch.equal(first.draft.isfinite(), target.draft[:100].isfinite()) and second.draft.isfinite().all()


def test_dropped_history_is_always_the_oldest():
    clip = random_clip(500, 6, LATENT, CODEC)
    history = noisy_history(clip, DenoisingConfig(drop_share=0.5), Draws(clip.latents, generator()))
    oldest_first = history.valid.int()
    assert (oldest_first.diff(dim=1) >= 0).all()
    assert 0.4 < (~history.valid.all(1)).float().mean() < 0.6


@pytest.mark.parametrize(("make", "targets"), [(conv_backbone, 1), (conv_backbone, 3), (transformer_backbone, 3)])
def test_the_loss_is_finite_reproducible_and_reaches_every_parameter(make, targets):
    model, clip = denoiser(make), random_clip(8, 4, LATENT, CODEC)
    config = DenoisingConfig(num_targets=targets)
    first = loss(model, clip, config)
    first.total.backward()
    assert torch.isfinite(first.total)
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert torch.equal(loss(model, clip, config).total, first.total)
    assert not torch.equal(loss(model, clip, config, seed=1).total, first.total)


@PAIRS
def test_resampling_replaces_the_newest_history_of_some_clips_and_never_the_target(make, told_by):
    model, clip = denoiser(make, told_by), random_clip(8, 6, LATENT, CODEC)
    config = DenoisingConfig(resampled_frames=2, resampled_share=0.5)
    own = resample_history(model, clip, config, Draws(clip.latents, generator()))
    changed = (own.latents != clip.latents).flatten(2).any(-1)
    assert changed[:4].tolist() == [[False, False, False, True, True, False]] * 4 and not changed[4:].any()
    low, high = BOUND
    assert (own.latents[:4, 3:5] >= low).all() and (own.latents[:4, 3:5] <= high).all()
    assert torch.equal(own.action, clip.action)


def test_a_backbone_that_moves_the_newest_frame_is_refused_where_its_output_is_something_else():
    backbone, bound = unet_backbone((3, 2, 2), moved=1), BOUND[:, :3]
    Denoiser(backbone, bound)
    for more in ({"prediction": VPrediction()}, {"forecaster": next_frame((3, 2, 2))}):
        with pytest.raises(ValueError, match="expected prediction=clean and no forecaster"):
            Denoiser(backbone, bound, **more)


def test_a_clip_s_frames_show_what_was_resampled_and_are_gone_where_faults_were_put():
    model, clip = denoiser(told_by=next_frame), random_clip(8, 6, LATENT, CODEC)
    look = model.forecaster.look
    clip = replace(clip, frames=look(clip.latents))
    config = DenoisingConfig(resampled_frames=2, resampled_share=0.5, faulty_share=0.25)
    draw = Draws(clip.latents, generator())
    own = resample_history(model, clip, config, draw)
    assert torch.equal(own.frames, look(own.latents)) and not torch.equal(own.frames, clip.frames)
    assert torch.equal(noisy_history(own, config, draw).frames, own.frames[:, :-1])
    assert faulty_history(own, config, draw).frames is None
    assert loss(model, clip, config).total.isfinite()


@pytest.mark.parametrize("top", [1.0, 0.5])
def test_a_resampled_frame_is_what_the_teacher_makes_of_the_history_and_of_its_noised_self(top):
    model, clip = denoiser(), random_clip(2, 5, LATENT, CODEC)
    config = DenoisingConfig(
        resampled_frames=1, resampled_share=1.0, resampled_level=top, clean_share=1.0, drop_share=1.0
    )
    own = resample_history(model, clip, config, Draws(clip.latents, generator(3)))
    config = replace(config, drop_share=0.0)  # a dream knows its whole history
    draw = Draws(clip.latents, generator(3))
    short = map_rows(lambda x: x[:, :4], clip)
    history = noisy_history(short, config, draw)
    start = top * draw.normal((2, 1, *LATENT)) + (1 - top) * clip.latents[:, 3:4]
    target = Stream(start, torch.full((2, 1), top), clip.action[:, 3:4], clip.valid[:, 3:4], torch.zeros(2, 1))
    assert torch.equal(own.latents[:, 3:4], model.clamp(model(history, target)[0]))


def test_a_dream_follows_as_much_of_the_residual_as_its_forecaster_says():
    frames = []
    for followed in (0.0, 0.5, 1.0):
        model = denoiser(told_by=partial(motion, followed=followed))
        context = model.start(1)  # nothing is known: all is open
        action = torch.zeros(1, CODEC.width)
        forecast = model.forecaster.expect(action, context.memory)
        assert forecast.open.all()
        noise = torch.randn(1, *LATENT, generator=generator())
        frames.append(model.sample(EulerSampler(1), action, context, lambda index, noise=noise: noise)[0])
    assert torch.equal(frames[0], model.clamp(forecast.mean)) and not torch.equal(frames[2], frames[0])
    assert torch.allclose(frames[1], (frames[0] + frames[2]) / 2, atol=1e-6)  # none of it is clamped


def test_a_resampled_frame_follows_as_much_of_the_residual_as_a_dream():
    clip, frames = random_clip(2, 5, LATENT, CODEC), []
    for followed in (0.0, 0.5, 1.0):
        model = denoiser(told_by=partial(motion, followed=followed))
        config = DenoisingConfig(resampled_frames=1, resampled_share=1.0)
        frames.append(resample_history(model, clip, config, Draws(clip.latents, generator())).latents[:, 3])
    assert torch.allclose(frames[1], (frames[0] + frames[2]) / 2, atol=1e-5)  # none of it is clamped
    assert not torch.equal(frames[0], frames[2])


def learning(model):
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_a_forecaster_is_learned_by_its_own_loss_and_stands_while_the_backbone_learns():
    model, clip = denoiser(told_by=motion), random_clip(8, 4, LATENT, CODEC)
    forecast_loss(model.forecaster, clip, CODEC.null, DenoisingConfig(), generator=generator()).total.backward()
    first = learning(model)
    assert "forecaster.warp.head.weight" in first and all(name.startswith("forecaster.") for name in first)
    model.zero_grad()
    loss(model, clip, DenoisingConfig(), resample=False).total.backward()
    assert "backbone.head.weight" in learning(model)
    assert not any(name.startswith("forecaster.") for name in learning(model))


def test_frames_that_are_not_valid_do_not_change_the_loss():
    model, clip = denoiser(), random_clip(8, 4, LATENT, CODEC)
    clip = replace(clip, valid=torch.ones(8, 4, dtype=torch.bool).index_fill(1, torch.tensor([0]), False))
    garbled = replace(clip, latents=clip.latents.clone())
    garbled.latents[:, 0] += 5
    assert torch.equal(loss(model, garbled).total, loss(model, clip).total)


def test_an_untrained_network_on_a_still_clip_has_no_error_but_the_noise_of_its_history():
    still = random_clip(16, 4, LATENT, CODEC)
    still = replace(still, latents=still.latents[:, :1].expand_as(still.latents).contiguous())
    model = Denoiser(conv_backbone(LATENT, CODEC.width), BOUND)
    config = DenoisingConfig(clean_share=1.0, drop_share=0.0)
    assert loss(model, still, config, shortcuts=False).total.item() == 0
    assert loss(model, still, DenoisingConfig(clean_share=0.0, drop_share=0.0)).total.item() > 1e-3


WAYS = [
    (RectifiedFlow(), CleanPrediction()), (RectifiedFlow(), VelocityPrediction()), (VPCosine(), VPrediction()),
    (VPLinear(), NoisePrediction()), (VarianceExploding(), PreconditionedPrediction(0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("process", "prediction"), WAYS, ids=str)
@pytest.mark.parametrize("weight", [Uniform(), EDMWeight()], ids=str)
def test_the_loss_of_a_network_that_says_nothing_is_known(process, prediction, weight):
    """It takes the newest past latent for what comes, but for what the prediction reads from x itself."""
    clip = random_clip(4000, 4, LATENT, CODEC)
    model = Denoiser(conv_backbone(LATENT, CODEC.width), BOUND, process, prediction)
    config = DenoisingConfig(clean_share=1.0, drop_share=0.0, levels=GridLevels(2), weight=weight)
    change = (clip.latents[:, -1] - clip.latents[:, -2]).square().mean()
    level = torch.tensor([0.5, 1.0])
    skip, _ = prediction.decoding(level, process)
    alpha, sigma = process.alpha(level), process.sigma(level)
    expected = (weight(level, process) * ((1 - skip * alpha) ** 2 * change + (skip * sigma) ** 2)).mean()
    assert loss(model, clip, config, shortcuts=False).total.item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize(("process", "prediction"), WAYS, ids=str)
@PAIRS
def test_clips_and_single_frames_are_denoised_alike(make, told_by, process, prediction):
    forecaster = told_by(LATENT, CODEC.width)
    backbone = make(LATENT, CODEC.width, told=forecaster.told)
    model = shake(Denoiser(backbone, BOUND, process, prediction, forecaster))
    clip = random_clip(3, 4, LATENT, CODEC)
    history = Stream(clip.latents[:, :3], torch.zeros(3, 3), clip.action[:, :3], clip.valid[:, :3])
    context = model.start(3)
    for index in range(3):
        level = torch.zeros(3)
        context = model.commit(clip.latents[:, index], level, clip.latents[:, index], clip.action[:, index], context)
        context = replace(context, memory=forgetful(context.memory))
    seen = []

    def sampler(denoise, process, shape, noise):
        level = torch.full((3,), 0.6)
        target = Stream(noise(0)[:, None], level[:, None], clip.action[:, 3:], clip.valid[:, 3:], level[:, None] / 2)
        seen.append(model.clamp(model(history, target)[0][:, 0]))
        return denoise(noise(0), level, level / 2)

    x = torch.randn(3, *LATENT, generator=generator())
    alone, _ = model.sample(sampler, clip.action[:, 3], context, lambda index: x)
    assert torch.allclose(alone, seen[0], atol=1e-5)


@pytest.mark.parametrize(("process", "prediction"), WAYS, ids=str)
def test_networks_see_inputs_of_unit_variance(process, prediction):
    seen = []

    class Watch(ConvBackbone):
        def forward(self, history, target):
            seen.append(target.latents)
            return super().forward(history, target)

    model = Denoiser(Watch(conv_backbone(LATENT, CODEC.width).config), BOUND, process, prediction)
    clip = random_clip(500, 4, LATENT, CODEC)
    clip = replace(clip, latents=torch.randn(clip.latents.shape, generator=generator()))
    loss(model, clip, DenoisingConfig(levels=UniformLevels()), shortcuts=False)
    assert seen[0].std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("process", "prediction"), WAYS, ids=str)
def test_context_is_noised_along_straight_lines_whatever_the_process(process, prediction):
    model = Denoiser(conv_backbone(LATENT, CODEC.width), BOUND, process, prediction)
    latent, noise = torch.randn(2, 1, *LATENT, generator=generator()).unbind()
    context = model.commit(latent, torch.full((1,), 0.3), noise, CODEC.null[None], model.start(1))
    assert torch.allclose(model.forecaster.expect(CODEC.null[None], context.memory).mean, 0.7 * latent + 0.3 * noise)


def test_a_warp_moves_the_committed_frame_without_its_noise():
    forecaster = motion(LATENT, CODEC.width)
    backbone = conv_backbone(LATENT, CODEC.width, told=forecaster.told)
    model = Denoiser(backbone, BOUND, forecaster=forecaster)  # untrained: nothing moves
    latent, noise = torch.randn(2, 1, *LATENT, generator=generator()).unbind()
    context = model.commit(latent, torch.full((1,), 0.3), noise, CODEC.null[None], model.start(1))
    assert torch.allclose(model.forecaster.expect(CODEC.null[None], context.memory).mean, latent, atol=1e-5)
    clip = random_clip(3, 4, LATENT, CODEC)
    history = noisy_history(clip, DenoisingConfig(clean_share=0.0, drop_share=0.0), Draws(clip.latents, generator()))
    mean = model.forecaster.foresee(history, clip.action[:, 3:]).mean[:, 0]
    assert torch.allclose(mean, clip.latents[:, 2], atol=1e-5)


def test_the_teacher_gets_no_gradient():
    model, teacher, clip = denoiser(), denoiser(), random_clip(8, 4, LATENT, CODEC)
    result = denoising_loss(
        model, teacher, clip, CODEC.null, DenoisingConfig(shortcut_share=1.0, resampled_frames=1), shortcuts=True,
        resample=True, generator=generator(),
    )  # fmt: skip
    result.total.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_losses_leave_the_global_generator_alone():
    model, clip = denoiser(), random_clip(4, 4, LATENT, CODEC)
    before = torch.get_rng_state()
    loss(model, clip)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_hot_keeps_the_value():
    bins = torch.linspace(-3, 3, 13)
    values = torch.tensor([-3.0, -1.3, 0.0, 0.1, 2.9, 50.0])
    spread = two_hot(values, bins)
    assert torch.allclose(spread @ bins, values.clamp(-3, 3), atol=1e-6)
    assert torch.allclose(spread.sum(-1), torch.ones(6)) and (spread > 0).sum(-1).max() <= 2
    rewards = torch.tensor([-0.1, 0.01, 7.0])
    uneven = symexp(torch.linspace(-7, 7, 63))
    assert torch.allclose(two_hot(rewards, uneven) @ uneven, rewards, rtol=1e-4)


def test_the_outcome_model_learns_which_action_pays_and_which_ends():
    clip = random_clip(64, 4, LATENT, CODEC)
    pays, ends = clip.action[:, -1, 0], clip.action[:, -1, 1] > 0
    clip = replace(
        clip,
        reward=torch.zeros(64, 4).index_copy(1, torch.tensor([3]), 2 * pays[:, None]),
        terminated=torch.zeros(64, 4, dtype=torch.bool).index_copy(1, torch.tensor([3]), ends[:, None]),
    )
    world = denoiser()
    torch.manual_seed(0)
    model = OutcomeModel(OutcomeConfig(world.backbone.feature_width, CODEC.width, width=16))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        result = outcome_loss(model, world, clip, DenoisingConfig(), generator=generator(step))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
    features = torch.zeros(2, world.backbone.feature_width, 2, 2)
    action = torch.zeros(2, CODEC.width)
    action[0, :2] = 1
    distribution = model(features, action)
    assert distribution.reward_mean.tolist() == pytest.approx([2, 0], abs=0.25)
    assert distribution.end_probability[0] > 0.8 and distribution.end_probability[1] < 0.2
    assert all(p.grad is None for p in world.parameters())


def test_a_sampled_reward_is_the_recorded_one_and_ends_come_at_their_rate():
    world = OutcomeModel(OutcomeConfig(4, 2))
    zero, one = two_hot(torch.tensor([0.0, 1.0]), world.bins)
    mix = 0.9 * zero + 0.1 * one
    rows = 4000
    logits = mix.clamp_min(1e-12).log().expand(rows, -1)
    uniform = torch.rand(rows, 2, generator=generator())
    outcome = OutcomeDistribution(logits, torch.full((rows,), -2.0), world.bins).sample(uniform)
    paid = outcome.reward > 0.5
    assert outcome.reward[paid].mean().item() == pytest.approx(1.0, abs=0.02)
    assert outcome.reward[~paid].abs().max() < 0.02
    assert paid.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert outcome.terminated.float().mean().item() == pytest.approx(0.119, abs=0.02)


def test_faults_are_in_the_oldest_history_frames_of_the_last_clips_and_never_in_the_frame_to_tell():
    clip = random_clip(200, 5, (4, 16, 16), CODEC)
    things = clip.latents[:, :1] * (torch.rand(200, 1, 1, 16, 16, generator=generator()) < 0.2)
    clip = replace(clip, latents=things.expand_as(clip.latents).clone())  # nothing moves
    config = DenoisingConfig(faulty_share=0.5)
    seen = faulty_history(clip, config, Draws(clip.latents, generator()))
    changed = seen.latents != clip.latents
    assert not changed[:100].any() and not changed[:, -1].any()
    assert changed[100:, 0].flatten(1).any(1).float().mean() > 0.95
    assert 0.01 < changed[100:, 0].float().mean().item() < 3 * 0.25**2
    where = changed[100:, :-1].any(2)  # the same places in all frames, until they are true again
    wrong = where.flatten(2).any(2)
    assert (where == where[:, :1] & wrong[:, :, None, None]).all() and (wrong[:, 1:] <= wrong[:, :-1]).all()
    lasting = wrong.sum(1).bincount(minlength=5) / 100
    assert lasting[4] == pytest.approx(0.5, abs=0.15) and (lasting[1:4] > 0.08).all()  # none in half of them
    assert faulty_history(clip, DenoisingConfig(), Draws(clip.latents, generator())) is clip


def test_faults_show_what_is_usual_or_another_clip_or_another_place():
    base = torch.arange(16.0).reshape(16, 1, 1, 1, 1) * 100  # which clip it is
    place = torch.arange(256.0).reshape(1, 1, 1, 16, 16) / 256  # and where
    clip = replace(random_clip(16, 3, (1, 16, 16), CODEC), latents=(base + place).expand(16, 3, 1, 16, 16))
    kinds = set()
    for seed in range(20):
        seen = faulty_history(clip, DenoisingConfig(faulty_share=1.0), Draws(clip.latents, generator(seed)))
        for row in range(16):
            new = seen.latents[row, 0][seen.latents[row, 0] != clip.latents[row, 0]]
            if len(new):
                sources = (new // 100).unique()
                assert len(sources) == 1
                kinds.add("same" if sources.item() == row else "usual" if sources.item() == 7 else "other")
    assert kinds == {"same", "usual", "other"}


def test_faults_lie_where_there_is_something_to_miss_or_to_add():
    clip = random_clip(32, 5, (1, 32, 32), CODEC)
    latents, rng = torch.zeros_like(clip.latents), np.random.default_rng(0)
    for row, (y, x) in enumerate(rng.integers(28, size=(32, 2))):
        latents[row, :, :, y : y + 3, x : x + 3] = 1.0 + row % 3  # one small thing on empty ground
    clip = replace(clip, latents=latents)
    seen = faulty_history(clip, DenoisingConfig(faulty_share=1.0), Draws(clip.latents, generator()))
    there = (seen.latents[:, 0] > 0).sum((1, 2, 3))
    assert (there < 9).float().mean() > 0.4 and (there > 9).float().mean() > 0.25  # missing, or one too many
    assert (there != 9).float().mean() > 0.9  # hardly any square in vain
    gone, new = ((latents > 0) & (seen.latents != latents)).flatten(1).any(1), (there > 9)
    assert gone.any() and new.any() and not (gone & new).any()  # one instead of another would look sound


def test_scenery_is_never_missing_and_never_put_elsewhere():
    """Each clip has scenery of its own on the left, which differs from the usual, and a thing on the right."""
    clip, faults = random_clip(32, 5, (1, 32, 32), CODEC), [0, 0]
    latents, rng = torch.zeros_like(clip.latents), np.random.default_rng(0)
    for row in range(32):
        latents[row, :, :, row // 2 : row // 2 + 8, :16] = 10.0
        latents[row, :, :, rng.integers(28) :, :][..., :3, 20:23] = 1.0
    varies = torch.zeros(32, 5, 32, 32, dtype=torch.bool)
    varies[..., 17:] = True
    for told, places in enumerate((None, varies)):
        seen = faulty_history(
            replace(clip, latents=latents, varies=places),
            DenoisingConfig(faulty_share=1.0),
            Draws(latents, generator()),
        )
        wrong = seen.latents != latents
        faults[told] = int(((seen.latents == 10) != (latents == 10)).sum())
        assert wrong.flatten(1).any(1).float().mean() > 0.8  # things are wrong all the same
    assert faults[0] > 1000 and faults[1] == 0


def test_faulty_histories_are_learned_from_where_it_is_decided_what_is_there():
    seen = []

    def weight(level, process):
        seen.append(level)
        return torch.ones_like(level)

    config = DenoisingConfig(faulty_share=0.5, levels=GridLevels(1), weight=weight)
    loss(denoiser(), random_clip(16, 5, LATENT, CODEC), config, shortcuts=False)
    low, high = DECIDING
    faulty = seen[0][seen[0] < 1]
    assert len(faulty) == 8 and (low <= faulty).all() and (faulty <= high).all()


def test_outcomes_are_learned_from_faulty_histories_too_of_every_part_alike(monkeypatch):
    seen = []

    def noisy(clip, config, draw):
        seen.append(clip)
        return noisy_history(clip, config, draw)

    monkeypatch.setattr("worldsim.objectives.outcome.noisy_history", noisy)
    clip, model = random_clip(16, 5, LATENT, CODEC), denoiser()
    outcome = OutcomeModel(OutcomeConfig(model.backbone.feature_width, CODEC.width))
    config = DenoisingConfig(faulty_share=0.5)
    for seed in range(30):
        outcome_loss(outcome, model, clip, config, generator=generator(seed))
    changed = torch.stack([(x.latents != clip.latents).flatten(1).any(1) for x in seen]).float()
    assert all(torch.equal(x.latents[:, -1], clip.latents[:, -1]) and torch.equal(x.reward, clip.reward) for x in seen)
    assert (changed.sum(1) <= 8).all() and changed.sum(1).mean() > 3  # crowded frames have no room for more
    assert (changed.mean(0) > 0.1).all()  # the first as well as the last, whatever they were drawn for


def test_an_outcome_is_read_from_the_frame_that_is_dreamed_and_not_from_the_real_one():
    clip, model = random_clip(8, 5, LATENT, CODEC), denoiser()
    outcome = shake(OutcomeModel(OutcomeConfig(model.backbone.feature_width, CODEC.width)))

    def total(latents, **sampling):
        changed = replace(clip, latents=latents)
        return outcome_loss(outcome, model, changed, DenoisingConfig(), **sampling, generator=generator()).total

    real, history = clip.latents.clone(), clip.latents.clone()
    real[:, -1] += 1
    history[:, -2] += 1
    assert torch.equal(total(real), total(clip.latents))
    assert not torch.equal(total(history), total(clip.latents))
    assert not torch.equal(total(real, temperature=1.3), total(real))
