"""What every forecaster owes the protocol: two forms that agree, and a memory nobody else writes."""

from dataclasses import replace

import pytest
import torch
from tiny_world import WINDOW, PlainCodec, forgetful, last_frame, motion, next_frame, recalling, shake

from worldsim.objectives.denoising import DenoisingConfig
from worldsim.objectives.next_frame import next_frame_loss
from worldsim.types import Clip, Stream, map_rows

FORECASTERS = {"last frame": last_frame, "motion": motion, "recalling": recalling, "next frame": next_frame}
LATENT, ACTIONS = (4, 2, 2), 5


@pytest.fixture(params=FORECASTERS)
def forecaster(request):
    made = FORECASTERS[request.param]()
    return made if made == last_frame() else shake(made).double().requires_grad_(False)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + len(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def clip(rows, length):
    valid = torch.ones(rows, length, dtype=torch.bool)
    latents, clean = draw(rows, length, *LATENT), draw(rows, length, *LATENT, seed=1)
    return Stream(latents, draw(rows, length), draw(rows, length, ACTIONS), valid, clean=clean)


def remember(forecaster, history, frames, rows):
    memory = forecaster.start(torch.zeros(rows, *LATENT, dtype=torch.float64))
    for t in range(frames):
        parts = (history.latents[:, t], history.level[:, t], history.action[:, t])
        memory = forgetful(forecaster.append(*parts, memory, history.clean[:, t]))
    return memory


def parts(*trees):
    found = []
    map_rows(lambda *tensors: found.append(tensors) or tensors[0], *trees)
    return found


def test_clips_are_foreseen_as_frame_by_frame_over_four_windows(forecaster):
    length = 4 * (WINDOW + 1)
    history, action = clip(2, length), 1 - draw(2, length, ACTIONS)
    foreseen = forecaster.foresee(history, action)
    for t in range(1, length + 1):
        told = forecaster.expect(action[:, t - 1], remember(forecaster, history, t, 2))
        assert (told.mean - foreseen.mean[:, t - 1]).abs().max() < 1e-10
        assert told.spread is None or (told.spread - foreseen.spread[:, t - 1]).abs().max() < 1e-10
        assert told.open is None or torch.equal(told.open, foreseen.open[:, t - 1])
    for n in (1, 2):
        last = forecaster.foresee(history, action[:, -n:]).mean
        assert (last - foreseen.mean[:, -n:]).abs().max() < 1e-10


def test_the_first_frame_of_an_episode_is_foreseen_from_nothing(forecaster):
    history, action = clip(2, 2), draw(2, 3, ACTIONS)
    first = forecaster.foresee(history, action).mean[:, 0]
    nothing = forecaster.start(torch.zeros(2, *LATENT, dtype=torch.float64))
    assert (first - forecaster.expect(action[:, 0], nothing).mean).abs().max() < 1e-10


def test_appending_leaves_the_memory_as_it_was_and_a_reset_row_is_new(forecaster):
    history, action = clip(3, 2 * WINDOW), draw(3, ACTIONS)
    memory = remember(forecaster, history, 2 * WINDOW, 3)
    copy = map_rows(torch.clone, memory)
    forecaster.append(history.latents[:, 0], history.level[:, 0], action, memory, history.clean[:, 0])
    before = forecaster.expect(action, memory).mean
    assert all(torch.equal(a, b) for a, b in parts(memory, copy))
    row, one = torch.tensor([1]), forecaster.start(torch.zeros(1, *LATENT, dtype=torch.float64))
    after = forecaster.expect(action, map_rows(lambda x, y: x.index_copy(0, row, y), memory, one)).mean
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.allclose(after[1], forecaster.expect(action[1:2], one).mean[0])


def test_the_size_of_a_change_is_none_for_none_and_grows_with_its_square(forecaster):
    change = draw(2, *LATENT)
    assert not forecaster.size(torch.zeros_like(change)).any()
    assert torch.allclose(forecaster.size(3 * change), 9 * forecaster.size(change))


def test_the_next_frame_is_none_of_what_was_not_seen_and_that_of_a_still_game_untrained():
    forecaster = next_frame()
    frames = torch.randint(256, (2, WINDOW, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen, action = torch.ones(2, WINDOW, dtype=torch.bool), torch.zeros(2, WINDOW, ACTIONS)
    pictures = forecaster.folded.encode(frames)
    told = forecaster.folded.decode(forecaster.picture(action[:, 0], forecaster.after(pictures, action, seen)))
    assert torch.equal(told, frames[:, -1])
    unseen = forecaster.after(pictures, action, seen & False)
    assert not forecaster.expect(action[:, 0], unseen).mean.any()


def test_frames_that_are_given_need_not_be_decoded():
    forecaster, action = shake(next_frame()).requires_grad_(False), torch.zeros(2, 2, ACTIONS)
    history = map_rows(lambda x: x if x.dtype == torch.bool else x.float(), clip(2, 2 * WINDOW))
    shown = replace(history, frames=forecaster.look(history.clean))
    assert torch.equal(forecaster.foresee(shown, action).mean, forecaster.foresee(history, action).mean)
    dark = replace(history, frames=torch.zeros_like(shown.frames))
    assert not torch.equal(forecaster.foresee(dark, action).mean, forecaster.foresee(history, action).mean)


def learning(forecaster, clip, seed=0):
    null, generator = torch.zeros(ACTIONS), torch.Generator().manual_seed(seed)
    return next_frame_loss(forecaster, clip, null, DenoisingConfig(action_drop=0.0), generator=generator).total


def test_a_ball_is_foreseen_where_its_flight_and_the_last_action_take_it():
    forecaster, generator = next_frame(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(forecaster.parameters(), lr=3e-3)
    for step in range(400):
        loss = learning(forecaster, balls(16, generator), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clip = balls(64, generator)
    pictures = forecaster.folded.encode(clip.frames)
    memory = forecaster.after(pictures[:, :-1], clip.action[:, :-1], clip.valid[:, :-1])
    told = forecaster.folded.decode(forecaster.picture(clip.action[:, -1], memory)).float()
    goal = clip.frames[:, -1]
    kept = (clip.frames[:, -2].float() - goal).square().mean()
    assert (told - goal).square().mean() < kept / 5


def test_the_loss_asks_nothing_of_what_was_not_seen_and_latents_only_of_the_first_half():
    forecaster, clip = shake(next_frame()), balls(8, torch.Generator().manual_seed(0))
    clip.valid[5, :-2] = False  # the frame before the last is an episode's first
    clip.valid[6, :-1] = False  # the last one is: nothing to tell it from
    loss = learning(forecaster, clip)

    def with_noise(name, *place):
        changed = getattr(clip, name).clone()
        changed[place] = 255 - changed[place] if name == "frames" else changed[place] + 1
        return learning(forecaster, replace(clip, **{name: changed}))

    assert with_noise("frames", 5, slice(None, -2)) == loss == with_noise("frames", 6)
    assert with_noise("latents", slice(4, None)) == loss
    assert with_noise("frames", 5, -2) != loss != with_noise("latents", 0, -2)


def balls(rows, generator):
    """Returns a clip where a ball of 2x2 pixels flies right or left by a pixel a step, and at last as it is pushed."""
    place = torch.randint(6, 9, (rows,), generator=generator)
    way, push = (2 * torch.randint(2, (2, rows), generator=generator) - 1).unbind()
    frames = torch.zeros(rows, WINDOW + 1, 16, 16, 3, dtype=torch.uint8)
    for row in range(rows):
        for t in range(WINDOW + 1):
            x = int(place[row] + way[row] * min(t, WINDOW - 1) + (push[row] if t == WINDOW else 0))
            frames[row, t, 7:9, x : x + 2] = 255
    action = torch.zeros(rows, WINDOW + 1, ACTIONS)
    action[:, -1, 0] = push
    nothing, yes = torch.zeros(rows, WINDOW + 1), torch.ones(rows, WINDOW + 1, dtype=torch.bool)
    return Clip(PlainCodec().encode(frames), action, yes, nothing, ~yes, yes, frames)
