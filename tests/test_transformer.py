"""The space-time transformer: that its two forms are one function, and that nothing sees what it must not.

Here because a cache that differs from the training graph costs quality silently.
Leaves out the noise process, samplers and training proper; one clip is overfitted as a check of the whole.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from worldsim.models.attention import normalise, rotate, space_angles
from worldsim.models.transformer import Transformer, TransformerConfig
from worldsim.types import Rows, Stream, map_rows

WINDOW, ROWS, FRAMES = 4, 3, 17  # four windows and one frame
CONFIG = TransformerConfig((2, 4, 4), 3, 16, 4, 2, 1, time_layers=(0, 2), window=WINDOW, patch=2, registers=1)


def random_transformer(config: TransformerConfig = CONFIG) -> Transformer:
    """A network in which nothing is zero, so that a leak anywhere shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        backbone = Transformer(config).double()
    for parameter in backbone.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4
    return backbone.requires_grad_(False)


def random_stream(frames: int, seed: int, target: bool = False) -> Stream:
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return Stream(
        latents=torch.randn(ROWS, frames, *CONFIG.latent_shape, **options),
        level=torch.rand(ROWS, frames, **options),
        action=torch.randn(ROWS, frames, CONFIG.action_width, **options),
        valid=torch.ones(ROWS, frames, dtype=torch.bool),
        target_level=torch.rand(ROWS, frames, **options) if target else None,
    )


def streams() -> tuple[Stream, Stream]:
    """History and target of one clip: target frame i stands at position i."""
    return random_stream(FRAMES - 1, seed=1), random_stream(FRAMES, seed=2, target=True)


def read_frame(backbone: Transformer, target: Stream, t: int, context: Rows) -> tuple[Tensor, Tensor]:
    latents, level, target_level, action = (
        x[:, t] for x in (target.latents, target.level, target.target_level, target.action)
    )
    return backbone.read(latents, level, target_level, action, context)


def append_frame(backbone: Transformer, history: Stream, t: int, context: Rows) -> Rows:
    return backbone.append(history.latents[:, t], history.level[:, t], history.action[:, t], context)


def rollout(backbone: Transformer, history: Stream, target: Stream, resets: dict[int, list[int]]):
    """Reads every target frame and appends every history frame, resetting the given rows before frame t."""
    context, reads = backbone.start(ROWS), []
    for t in range(FRAMES):
        if t in resets:
            context = context.put(torch.tensor(resets[t]), backbone.start(len(resets[t])))
        reads.append(read_frame(backbone, target, t, context))
        if t < FRAMES - 1:
            context = append_frame(backbone, history, t, context)
    return tuple(torch.stack(parts, dim=1) for parts in zip(*reads, strict=True))


def perturbed(stream: Stream, field: str, t: int) -> Stream:
    value = getattr(stream, field).clone()
    value[:, t] += 1
    return replace(stream, **{field: value})


def changed_frames(before: Tensor, after: Tensor) -> list[int]:
    """The frames [b t ...] that are not bit-identical in every row."""
    return [t for t in range(before.shape[1]) if not torch.equal(before[:, t], after[:, t])]


def cut(stream: Stream, first: int = 0, stop: int | None = None, dtype: torch.dtype = torch.float64) -> Stream:
    """Some frames of a stream, and its numbers as `dtype`."""
    parts = {name: value for name, value in vars(stream).items() if value is not None}
    parts = {
        name: value[:, first:stop].to(dtype if value.is_floating_point() else value.dtype)
        for name, value in parts.items()
    }
    return Stream(**parts)


def largest_difference(first, second) -> float:
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def test_cached_rollout_equals_the_banded_forward_over_four_windows():
    backbone, (history, target) = random_transformer(), streams()
    cached = rollout(backbone, history, target, resets={})
    assert largest_difference(cached, backbone(history, target)) < 1e-10


def test_rollout_after_a_reset_of_one_row_equals_the_forward_without_that_rows_earlier_frames():
    backbone, (history, target) = random_transformer(), streams()
    cached = rollout(backbone, history, target, resets={6: [1], 11: [2]})
    valid = history.valid.clone()
    valid[1, :6] = False
    valid[2, :11] = False
    after = backbone(replace(history, valid=valid), target)
    before = backbone(history, target)
    for row, reset in ((0, 0), (1, 6), (2, 11)):
        assert largest_difference([x[row, reset:] for x in cached], [x[row, reset:] for x in after]) < 1e-10
        if reset:
            assert largest_difference([x[row, :reset] for x in cached], [x[row, :reset] for x in before]) < 1e-10


def test_reset_of_one_row_leaves_other_rows_unchanged():
    backbone, (history, target) = random_transformer(), streams()
    plain, reset = (rollout(backbone, history, target, resets)[0] for resets in ({}, {6: [1]}))
    assert torch.equal(plain[[0, 2]], reset[[0, 2]])
    assert not torch.equal(plain[1, 6], reset[1, 6])


def test_fewer_targets_stand_at_the_end_of_the_clip():
    backbone, (history, target) = random_transformer(), streams()
    for count in (1, 5, FRAMES - 1):
        late = backbone(history, cut(target, -count))
        assert largest_difference(late, [x[:, -count:] for x in backbone(history, target)]) < 1e-10


def test_target_without_history_equals_a_read_of_an_empty_context():
    backbone, (history, target) = random_transformer(), streams()
    read = read_frame(backbone, target, 0, backbone.start(ROWS))
    first = backbone(cut(history, stop=0), cut(target, stop=1))
    assert largest_difference([x[:, 0] for x in first], read) < 1e-10


@pytest.mark.parametrize("field", ["latents", "level", "action"])
@pytest.mark.parametrize("t", [0, 5, FRAMES - 2])
def test_history_frame_changes_exactly_the_targets_after_it(field: str, t: int):
    backbone, (history, target) = random_transformer(), streams()
    before, after = backbone(history, target)[0], backbone(perturbed(history, field, t), target)[0]
    reach = len(CONFIG.time_layers) * (WINDOW - 1) + (field != "action")  # latents and levels also enter as `last`
    assert changed_frames(before, after) == list(range(t + 1, min(t + reach + 1, FRAMES)))


@pytest.mark.parametrize("field", ["latents", "level", "target_level", "action"])
def test_target_frame_changes_only_itself(field: str):
    backbone, (history, target) = random_transformer(), streams()
    before, after = backbone(history, target)[0], backbone(history, perturbed(target, field, 5))[0]
    assert changed_frames(before, after) == [5]


def test_content_of_invalid_history_changes_nothing():
    backbone, (history, target) = random_transformer(), streams()
    valid = history.valid.clone()
    valid[:, 4:6] = False
    latents, level = history.latents.clone(), history.level.clone()
    latents[:, 4:6], level[:, 4:6] = torch.nan, 0
    before = backbone(replace(history, valid=valid), target)[0]
    after = backbone(replace(history, valid=valid, latents=latents, level=level), target)[0]
    assert torch.equal(before, after)


def test_read_never_writes_the_context_and_append_leaves_the_old_one_intact():
    backbone, (history, target) = random_transformer(), streams()
    context = append_frame(backbone, history, 0, backbone.start(ROWS))
    copy = context.clone()
    read_frame(backbone, target, 1, context)
    longer = append_frame(backbone, history, 1, context)
    equal = map_rows(lambda x, y: torch.tensor(torch.equal(x, y)), context, copy)
    assert all(equal.keys) and all(equal.values) and equal.last and equal.last_level and equal.count
    assert not torch.equal(longer.keys[0], context.keys[0])


def test_context_shares_no_storage_with_the_appended_latent():
    backbone, (history, _) = random_transformer(), streams()
    latent = history.latents[:, 0].clone()
    context = backbone.append(latent, history.level[:, 0], history.action[:, 0], backbone.start(ROWS))
    latent.zero_()
    assert torch.equal(context.last, history.latents[:, 0])


def test_read_is_bit_identical_a_million_frames_later():
    backbone, (history, target) = random_transformer(), streams()
    context = backbone.start(ROWS)
    for t in range(WINDOW + 1):
        context = append_frame(backbone, history, t, context)
    later = replace(context, count=context.count + (WINDOW - 1) * 10**6)
    for t in range(WINDOW + 1, FRAMES - 1):  # and so it stays while both go on
        pair = [read_frame(backbone, target, t, each) for each in (context, later)]
        assert all(torch.equal(x, y) for x, y in zip(*pair, strict=True))
        context, later = (append_frame(backbone, history, t, each) for each in (context, later))


def test_forward_depends_on_time_differences_only():
    backbone, (history, target) = random_transformer(), streams()
    reach = len(CONFIG.time_layers) * (WINDOW - 1) + 1
    shifted = [x[:, reach:] for x in backbone(cut(history, 3), cut(target, 3))]
    assert largest_difference(shifted, [x[:, 3 + reach :] for x in backbone(history, target)]) < 1e-10


def test_the_same_frames_at_other_ages_read_differently():
    backbone, (history, target) = random_transformer(), streams()
    context = backbone.start(ROWS)
    for t in range(WINDOW):
        context = append_frame(backbone, history, t, context)
    aged = replace(context, count=context.count + 1)  # no slot becomes valid or invalid, but all ages move on
    pair = [read_frame(backbone, target, WINDOW, each)[0] for each in (context, aged)]
    assert largest_difference(*pair) > 1e-3


def test_rotation_is_multiplication_by_a_complex_phase():
    x, angle = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20.0).view(5, 4)
    expected = torch.complex(x[:, :4], x[:, 4:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(rotate(x, angle), torch.cat([expected.real, expected.imag], dim=1), atol=1e-5)


def test_every_place_of_the_grid_has_its_own_angles_and_other_tokens_have_none():
    angle = space_angles(3, 4, others=2, head_dim=8, like=torch.empty(0))
    assert len(angle[:12].unique(dim=0)) == 12
    assert angle.shape == (14, 1, 4) and not angle[12:].any()


def test_small_values_are_normalised_in_half_precision_too():
    x = 0.02 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert normalise(x.bfloat16()).float().pow(2).mean(-1).allclose(torch.ones(4), atol=0.02)


def test_ages_count_back_from_the_current_frame():
    backbone, (history, _) = random_transformer(), streams()
    context = backbone.start(ROWS)
    assert not context.valid.any()
    for t in range(WINDOW):
        context = append_frame(backbone, history, t, context)
    assert context.age[0].tolist() == [1, 3, 2]  # frames 3, 1, 2, seen from frame 4
    assert context.valid.all()


def test_untrained_network_says_nothing():
    history, target = streams()
    assert not Transformer(CONFIG).double()(history, target)[0].any()


def test_features_have_the_latents_resolution_and_the_networks_width():
    backbone, (history, target) = random_transformer(), streams()
    out, features = backbone(history, target)
    assert out.shape == (ROWS, FRAMES, *CONFIG.latent_shape)
    assert features.shape == (ROWS, FRAMES, backbone.feature_width, 4, 4)


def test_half_precision_follows_double_precision():
    backbone, (history, target) = random_transformer(), streams()
    for parameter in backbone.parameters():
        parameter.mul_(0.5)
    exact = backbone(history, target)[0]
    half = random_transformer().bfloat16()
    half.load_state_dict(backbone.state_dict())
    history, target = cut(history, dtype=torch.float32), cut(target, dtype=torch.float32)
    for out in (half(history, target)[0], rollout(half, history, target, {})[0]):
        assert out.dtype == torch.float32
        assert (out - exact).pow(2).mean() < 0.01 * exact.pow(2).mean()


def test_autocast_runs_both_forms():
    backbone, (history, target) = random_transformer().float(), streams()
    with torch.autocast("cpu", torch.bfloat16):
        context = append_frame(backbone, history, 0, backbone.start(ROWS))
        assert read_frame(backbone, target, 1, context)[0].isfinite().all()
        assert backbone(history, target)[0].isfinite().all()


def test_calls_leave_the_global_generator_alone():
    backbone, (history, target) = random_transformer(), streams()
    before = torch.get_rng_state()
    backbone(history, target)
    rollout(backbone, history, target, {})
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_shape": (2, 4)}, "latent_shape must be"),
        ({"patch": 3}, "patch must divide"),
        ({"width": 20}, "width must be a multiple of 4"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads must divide"),
        ({"time_layers": (0, 4)}, "time_layers must be increasing block indices below depth = 4"),
        ({"time_layers": ()}, "time_layers must be"),
        ({"window": 1}, "window must be at least 2, found 1"),
        ({"registers": -1}, "registers must be at least 0"),
    ],
)
def test_config_refuses_sizes_that_do_not_fit(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_config_from_lists_equals_config_from_tuples():
    assert replace(CONFIG, latent_shape=[2, 4, 4], time_layers=[0, 2]) == CONFIG


def test_forward_refuses_streams_that_do_not_fit():
    backbone, (history, target) = random_transformer(), streams()
    with pytest.raises(ValueError, match="history must have latent sizes"):
        backbone(replace(history, latents=history.latents[:, :, :1]), target)
    with pytest.raises(ValueError, match="target must have 1 to"):
        backbone(cut(history, 3), target)


def moving_square() -> tuple[Tensor, Tensor]:
    """One clip of a square that goes where the action says: latents [1 t 1 8 8] and one-hot actions [1 t 4]."""
    generator = torch.Generator().manual_seed(0)
    choice = torch.randint(4, (16,), generator=generator)
    step = torch.tensor([(0, 1), (1, 0), (0, -1), (-1, 0)])[choice].cumsum(0)
    square = torch.full((8, 8), -0.5)
    square[2:5, 2:5] = 1.5
    frames = [square.roll(tuple(shift.tolist()), dims=(0, 1)) for shift in step]
    return torch.stack(frames)[None, :, None], torch.nn.functional.one_hot(choice, 4)[None].float()


def clip_streams(latents: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> tuple[Stream, Stream]:
    """Clean history and rectified-flow targets, one step from the end."""
    share, valid = level[..., None, None, None], torch.ones_like(level, dtype=torch.bool)
    noisy = (1 - share) * latents + share * noise
    history = Stream(latents[:, :-1], torch.zeros_like(level[:, 1:]), action[:, :-1], valid[:, 1:])
    return history, Stream(noisy, level, action, valid, torch.zeros_like(level))


def test_training_on_one_clip_beats_the_last_frame_tenfold():
    latents, action = moving_square()
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Transformer(TransformerConfig((1, 8, 8), 4, 64, 4, 4, 2, (1,), window=4, patch=2, registers=1))
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    for _ in range(100):
        level = torch.rand(latents.shape[:2], generator=generator).sqrt()
        noise = torch.randn(latents.shape, generator=generator)
        out, *_ = backbone(*clip_streams(latents, action, level, noise))
        loss = (out - latents).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = torch.randn(latents.shape, generator=generator)
    with torch.no_grad():
        out, *_ = backbone(*clip_streams(latents, action, torch.ones(latents.shape[:2]), noise))
    error = (out - latents)[:, 1:].pow(2).mean()
    copy_last = sum((b - a).pow(2).mean() for a, b in pairwise(latents[0])) / (latents.shape[1] - 1)
    assert error < 0.1 * copy_last
