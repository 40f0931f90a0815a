"""Training clips: actions stand beside the frames they led to, and no window leaves its episode."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_world import SHAPE, SPACE, record

from worldsim.actions import ActionCodec
from worldsim.data.clips import ClipTable, WindowSampler, frame_batch
from worldsim.data.latents import encode_dataset, folded_dataset
from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.types import map_rows

CODEC = ActionCodec(SPACE)


class PixelCodec:
    """Keeps the three numbers that `record` writes into every pixel: latents `[... 3 1 1]`."""

    latent_shape = (3, 1, 1)
    bound = torch.zeros(1)

    def encode(self, frames):
        return frames[..., 0, 0, :].float()[..., None, None]


@pytest.fixture
def latents(tmp_path):
    return encode_dataset(record(tmp_path / "data"), PixelCodec(), tmp_path / "latents", "pixels")


def load_clip(latents, codec, index, start, length):
    return map_rows(lambda x: x[0], ClipTable(latents, codec).clips([(index, start)], length))


def action_in_pixels(clip):
    return clip.latents[..., 2, 0, 0] / 8


def encoded(action):
    return action[..., :4] @ torch.tensor([1.0, 2.0, 4.0, 8.0])


def test_every_action_stands_beside_the_frame_it_led_to(latents):
    clip = load_clip(latents, CODEC, 1, 0, 10)
    assert torch.equal(encoded(clip.action)[1:], action_in_pixels(clip)[1:])
    assert not torch.equal(encoded(clip.action)[:-1], action_in_pixels(clip)[1:])  # shifted by one it does not fit


def test_the_first_frame_has_the_null_action_and_no_outcome(latents):
    clip = load_clip(latents, CODEC, 0, 0, 4)
    assert torch.equal(clip.action[0], CODEC.null)
    assert clip.known.tolist() == [False, True, True, True] and clip.valid.all()


def test_rewards_and_the_end_belong_to_the_frame_they_came_with(latents):
    clip = load_clip(latents, CODEC, 0, 5, 5)  # frames 5 .. 9; `record` rewards step i with i
    assert clip.reward.tolist() == [5, 6, 7, 8, 9]
    assert clip.terminated.tolist() == [False] * 4 + [True]
    assert not load_clip(latents, CODEC, 1, 5, 5).terminated.any()  # truncated, not terminated


def test_frames_before_the_episode_are_zero_null_and_not_valid(latents):
    clip = load_clip(latents, CODEC, 2, -2, 5)
    assert clip.valid.tolist() == [False, False, True, True, True]
    assert not clip.latents[:2].any() and torch.equal(clip.action[:3], CODEC.null.repeat(3, 1))
    assert torch.equal(encoded(clip.action)[3:], action_in_pixels(clip)[3:])


def test_no_window_crosses_an_episode(latents):
    sampler = WindowSampler(latents.store, range(3), 4, seed=0)
    clip = ClipTable(latents, CODEC).clips(sampler.windows(0, 300), 4)
    episode = torch.where(clip.valid, clip.latents[:, :, 0, 0, 0], clip.latents[:, -1:, 0, 0, 0])
    assert (episode == episode[:, :1]).all() and set(episode[:, 0].tolist()) == {10, 11, 12}
    step = clip.latents[:, :, 1, 0, 0]
    assert (step.diff(dim=1)[clip.valid[:, :-1]] == 1).all()


def test_every_frame_with_an_action_is_drawn_equally_often(latents):
    sampler = WindowSampler(latents.store, [0, 2], 4, seed=0)
    drawn = Counter((index, start + 3) for index, start in sampler.windows(0, 9000))
    assert set(drawn) == {(index, last) for index in (0, 2) for last in range(1, 10)}
    assert min(drawn.values()) > 400 and max(drawn.values()) < 600


def test_a_step_draws_the_same_windows_in_every_run_and_others_than_the_next_step(latents):
    first, again = (WindowSampler(latents.store, range(3), 4, seed=1) for _ in range(2))
    assert first.windows(7, 20) == again.windows(7, 20) != first.windows(8, 20)


def test_where_an_episodes_frames_differ_is_told_where_it_is_asked_for(tmp_path):
    class Two(PixelCodec):  # on the left the episode's number, on the right the step's
        latent_shape = (1, 1, 2)

        def encode(self, frames):
            return frames[..., 0, 0, :2].float()[..., None, None, :]

    latents = encode_dataset(record(tmp_path / "data"), Two(), tmp_path / "latents", "two")
    clip = ClipTable(latents, CODEC, tells_scenery=True).clips([(1, 2), (2, -1)], 4)
    assert clip.varies.shape == (2, 4, 1, 2) and clip.varies.flatten(0, 2).tolist() == [[False, True]] * 8
    assert ClipTable(latents, CODEC).clips([(1, 2)], 4).varies is None


def test_frames_before_the_episode_repeat_its_first(latents):
    frames = frame_batch(latents.store, [(1, -2), (0, 3)], 4)
    assert frames.shape == (2, 4, 16, 16, 3) and frames[0, :, 0, 0, 1].tolist() == [0, 0, 0, 1]
    assert frames[1, :, 0, 0, 1].tolist() == [3, 4, 5, 6]


def test_latents_of_another_codec_are_encoded_again_and_those_of_the_same_are_kept(tmp_path):
    store = record(tmp_path / "data")
    encode_dataset(store, PixelCodec(), tmp_path / "latents", "one")
    path = tmp_path / "latents" / "000000.npy"
    np.save(path, np.zeros_like(np.load(path)))
    assert not encode_dataset(store, PixelCodec(), tmp_path / "latents", "one").stored(0, 0, 3).any()
    assert encode_dataset(store, PixelCodec(), tmp_path / "latents", "two").stored(0, 0, 3).any()


def test_folded_frames_are_read_as_they_were_recorded(tmp_path):
    store, codec = record(tmp_path / "data"), FoldedPixels(FoldedPixelsConfig(SHAPE))
    clip = ClipTable(folded_dataset(store, codec.encode), CODEC).clips([(1, 2), (2, -1)], 4)
    assert np.array_equal(codec.decode(clip.latents[0]).numpy(), store.observations(1, 2, 6))
    assert not clip.latents[1, 0].any() and clip.valid[1].tolist() == [False, True, True, True]


@pytest.mark.gpu
def test_clips_from_the_gpu_are_those_from_disk_to_the_bit(latents):
    windows = WindowSampler(latents.store, range(3), 4, seed=0).windows(0, 64)
    there, here = (ClipTable(latents, CODEC, device).clips(windows, 4) for device in ("cuda", "cpu"))
    map_rows(lambda a, b: torch.testing.assert_close(a.cpu(), b, rtol=0, atol=0), there, here)
