"""What every backbone owes the protocol: causality, one function in two forms, and a context nobody else writes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_world import (
    WINDOW,
    conv_backbone,
    shake,
    transformer_backbone,
    unet_backbone,
)

from worldsim.models.stack import Stack
from worldsim.models.unet import FLOWS, Mover
from worldsim.types import Stream, map_rows

BACKBONES = {
    "conv": conv_backbone,
    "conv, told more": partial(conv_backbone, told=5),
    "conv, with older frames": partial(conv_backbone, older=(5, 8)),
    "unet": unet_backbone,
    "unet, told more": partial(unet_backbone, told=5),
    "unet, moving": partial(unet_backbone, (3, 2, 2), moved=1),
    "unet, with drafts": partial(unet_backbone, drafts=True),
    "transformer": transformer_backbone,
    "transformer, told more": partial(transformer_backbone, told=5),
}
ACTIONS = 5


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return shake(BACKBONES[request.param]()).double()


def streams(rows, length, targets, latent, told=0, seed=0):
    def draw(*shape):
        generator = torch.Generator().manual_seed(seed + len(shape))
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    valid = torch.ones(rows, length, dtype=torch.bool)
    history = Stream(draw(rows, length, *latent), draw(rows, length), draw(rows, length, ACTIONS), valid)
    level, (c, h, w) = draw(rows, targets), latent
    latents, actions = 1 - draw(rows, targets, c + told, h, w), 1 - draw(rows, targets, ACTIONS)
    return history, Stream(latents, level, actions, valid[:, :1].expand(rows, targets), level / 2)


def queries(backbone, rows, length, targets):
    return streams(rows, length, targets, backbone.config.latent_shape, backbone.config.told)


def bump(x, index):
    y = x.clone()
    y[:, index] += 1
    return y


def test_the_parallel_form_equals_frame_by_frame_over_four_windows(backbone):
    length = 4 * (WINDOW + 1)
    history, target = queries(backbone, 2, length, length)
    with torch.no_grad():
        outs, features = backbone(history, target)
        context = backbone.start(2)
        for t in range(1, length + 1):  # target i of n = m stands at position i + 1, after i + 1 history frames
            frame = (history.latents[:, t - 1], history.level[:, t - 1], history.action[:, t - 1])
            context = backbone.append(*frame, context)
            query = (target.latents, target.level, target.target_level, target.action)
            out, feature = backbone.read(*(x[:, t - 1] for x in query), context)
            assert (out - outs[:, t - 1]).abs().max() < 1e-10
            assert (feature - features[:, t - 1]).abs().max() < 1e-10


def test_a_draft_says_the_same_in_both_forms_and_nothing_where_it_is_not_known():
    unet = shake(unet_backbone(drafts=True)).double()
    history, target = queries(unet, 3, 6, 1)
    draft = torch.randn(3, 1, *unet.config.latent_shape, dtype=torch.float64)
    draft[2] = torch.nan
    told, plain = (unet.forward(history, x)[0][:, 0] for x in (replace(target, draft=draft), target))
    context = unet.start(3)
    for t in range(6):
        context = unet.append(*(part[:, t] for part in (history.latents, history.level, history.action)), context)
    one = (part[:, 0] for part in (target.latents, target.level, target.target_level, target.action))
    torch.testing.assert_close(unet.read(*one, unet.with_draft(context, draft[:, 0]))[0], told)
    assert torch.equal(told[2], plain[2]) and (told[:2] - plain[:2]).abs().flatten(1).amax(1).min() > 1e-6


def test_resetting_one_row_makes_it_new_and_leaves_the_others_to_the_bit(backbone):
    history, target = queries(backbone, 3, 2 * WINDOW, 1)
    with torch.no_grad():
        context = backbone.start(3)
        for t in range(2 * WINDOW):
            context = backbone.append(history.latents[:, t], history.level[:, t], history.action[:, t], context)
        query = [x[:, 0] for x in (target.latents, target.level, target.target_level, target.action)]
        before, _ = backbone.read(*query, context)
        context = context.put(torch.tensor([1]), backbone.start(1))
        after, _ = backbone.read(*query, context)
        fresh, _ = backbone.read(*query, backbone.start(3))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.allclose(after[1], fresh[1], atol=1e-12) and not torch.allclose(after[1], before[1])


def test_a_history_frame_changes_only_the_targets_after_it(backbone):
    history, target = queries(backbone, 1, 5, 5)  # target i stands at position i + 1 and sees history 0 .. i
    with torch.no_grad():
        base, _ = backbone(history, target)
        for j in range(5):
            changed, _ = backbone(replace(history, latents=bump(history.latents, j)), target)
            same = [torch.equal(changed[:, i], base[:, i]) for i in range(5)]
            assert same[:j] == [True] * j and not same[j]


@pytest.mark.parametrize("part", ["latents", "level", "action", "target_level"])
def test_a_target_frame_changes_only_itself(backbone, part):
    history, target = queries(backbone, 1, 4, 4)
    with torch.no_grad():
        base, _ = backbone(history, target)
        changed, _ = backbone(history, replace(target, **{part: bump(getattr(target, part), 2)}))
    assert [torch.equal(changed[:, i], base[:, i]) for i in range(4)] == [True, True, False, True]


def test_frames_that_are_not_valid_have_no_effect(backbone):
    history, target = queries(backbone, 1, 4, 1)
    hidden = replace(history, valid=torch.tensor([[False, False, True, True]]))
    garbled = replace(hidden, latents=hidden.latents + torch.tensor([9.0, 9.0, 0, 0])[None, :, None, None, None])
    with torch.no_grad():
        assert torch.equal(backbone(hidden, target)[0], backbone(garbled, target)[0])
        assert not torch.equal(backbone(hidden, target)[0], backbone(history, target)[0])


def test_reading_and_appending_leave_the_context_as_it_was(backbone):
    history, target = queries(backbone, 2, 3, 1)
    with torch.no_grad():
        context = backbone.start(2)
        for t in range(3):
            context = backbone.append(history.latents[:, t], history.level[:, t], history.action[:, t], context)
        copy = context.clone()
        query = [x[:, 0] for x in (target.latents, target.level, target.target_level, target.action)]
        backbone.read(*query, context)
        backbone.append(history.latents[:, 0], history.level[:, 0], history.action[:, 0], context)
    equal = []
    map_rows(lambda a, b: equal.append(torch.equal(a, b)) or a, context, copy)
    assert len(equal) > 3 and all(equal)


def test_an_untrained_network_says_nothing():
    for make in BACKBONES.values():
        backbone = make().double()
        out, _ = backbone(*queries(backbone, 2, 3, 1))
        assert not out.any()


@pytest.mark.parametrize("x, y", [(0, 0), (3, 0), (0, -2), (-1, 4)])
def test_pixels_come_from_where_the_flow_points(x, y):
    mover = Mover(8, fold=2)
    with torch.no_grad():
        mover.flow.bias.copy_(torch.tensor([x, y]).repeat_interleave(FLOWS**2))
        image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        change = mover(torch.zeros(2, 8, 4, 4), F.pixel_unshuffle(image, 2))
    moved = image + F.pixel_shuffle(change, 2)
    inner = slice(4, 12)
    came = image[..., 4 + y : 12 + y, 4 + x : 12 + x]
    assert (moved[..., inner, inner] - came).abs().max() < 1e-5


def test_channels_that_are_no_squares_of_pixels_cannot_be_moved():
    with pytest.raises(ValueError, match="set moved to the fold of folded pixels"):
        unet_backbone(latent_shape=(24, 4, 4), moved=2)
    with pytest.raises(ValueError, match="expected latents that are squares of -1x-1"):
        unet_backbone(moved=-1)


def test_older_frames_are_seen_at_their_ages_with_the_mean_action_since_the_next_newer():
    stack = Stack.empty(torch.zeros(1, 1, 1, 1), 6, 1)
    for number in range(1, 8):  # the newest is 7, of age 1
        stack = stack.push(*(torch.full(shape, float(number)) for shape in ((1, 1, 1, 1), (1,), (1, 1))))
    latents, facts = stack.seen((1, 2, 4, 6))
    assert latents.flatten().tolist() == [7, 6, 4, 2]
    assert facts.reshape(4, 3).tolist() == [[7, 1, 7], [6, 1, 6], [4, 1, 4.5], [2, 1, 2.5]]  # level, valid, action
    with pytest.raises(ValueError, match="older= frames of growing ages above window=3"):
        conv_backbone(older=(3, 5))
