"""The world model and its bundle: states are values, rows are their own, and what is saved is what is loaded."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_world import conv_backbone, tiny_world, transformer_backbone

from worldsim import bundle, noise

BACKBONES = pytest.mark.parametrize("backbone", [conv_backbone, transformer_backbone])


def begin(world, rows=2, seed=0):
    return world.initial(torch.arange(rows) % world.num_prompts, noise.address_of(list(range(seed, seed + rows))))


def actions(world, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return world.action_codec.encode(torch.randint(0, 2, (rows, 4), generator=generator))


def dream(world, state, steps=5):
    frames = []
    for step in range(steps):
        state, outcome = world.step(state, actions(world, len(state.age), step))
        frames.append((world.observe(state), outcome.reward, outcome.terminated))
    return frames


def same(a, b):
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@BACKBONES
def test_the_same_address_and_actions_give_the_same_dream_and_another_seed_another(backbone):
    world = tiny_world(backbone)
    assert same(dream(world, begin(world)), dream(world, begin(world)))
    assert not same(dream(world, begin(world)), dream(world, begin(world, seed=5)))


@BACKBONES
def test_a_step_leaves_the_state_it_came_from_as_it_was(backbone):
    world = tiny_world(backbone)
    state = begin(world)
    copy = state.clone()
    dream(world, state)
    assert same(dream(world, state), dream(world, copy))


@BACKBONES
def test_a_restored_branch_goes_on_equally(backbone):
    world = tiny_world(backbone)
    state, _ = world.step(begin(world), actions(world))
    kept = state.clone()
    expected = dream(world, state)
    world.step(state, actions(world, seed=9))
    assert same(dream(world, kept), expected)


@BACKBONES
def test_putting_one_row_changes_no_other_by_a_bit(backbone):
    world = tiny_world(backbone)
    state, _ = world.step(begin(world, 3), actions(world, 3))
    mixed = state.put(torch.tensor([1]), begin(world, 1, seed=77))
    for (a, *_), (b, *_) in zip(dream(world, state), dream(world, mixed), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]]) and not torch.equal(a[1], b[1])
    assert mixed.age.tolist() == [1, 0, 1] and mixed.address[1].tolist() == [77, 0, 0]


def test_a_row_dreams_alone_what_it_dreams_in_a_batch():
    world = tiny_world()
    together, alone = begin(world, 3), begin(world, 3).select(torch.tensor([2]))
    for step in range(4):
        action = actions(world, 3, step)
        together, _ = world.step(together, action)
        alone, _ = world.step(alone, action[2:])
        assert torch.allclose(together.latent[2], alone.latent[0], atol=1e-4)  # float32 sums differ by batch size


def test_latents_stay_within_what_the_codec_can_produce():
    world = tiny_world()
    state = begin(world)
    low, high = world.autoencoder.bound
    for step in range(20):
        state, _ = world.step(state, actions(world, seed=step))
        assert (state.latent >= low).all() and (state.latent <= high).all()


def test_a_prompt_clip_starts_like_the_shipped_prompt_of_the_same_frames():
    world = tiny_world(context_level=0.0)  # without commit noise both must agree exactly
    rows = torch.tensor([1, 3])
    address = noise.address_of([4, 5])
    by_index, by_clip = world.initial(rows, address), world.initial(world.prompts.select(rows), address)
    assert torch.equal(by_index.latent, by_clip.latent)
    assert torch.allclose(by_index.context.history.latents, by_clip.context.history.latents)


def test_a_prompt_with_missing_frames_is_refused():
    world = tiny_world()
    clip = replace(world.prompts, valid=torch.zeros_like(world.prompts.valid))
    with pytest.raises(ValueError, match="all valid"):
        world.initial(clip, noise.address_of([0] * 4))


def test_dreaming_leaves_the_global_generator_alone():
    world = tiny_world()
    before = torch.get_rng_state()
    dream(world, begin(world))
    assert torch.equal(torch.get_rng_state(), before)


@BACKBONES
def test_a_saved_world_dreams_the_same_frames(tmp_path, backbone):
    world = tiny_world(backbone, provenance={"training_episodes": ["ab"]})
    loaded = bundle.load(bundle.save(world, tmp_path / "world"))
    assert same(dream(world, begin(world)), dream(loaded, begin(loaded)))
    assert loaded.info == replace(world.info, discrete_table=None)


def test_rounding_weights_to_bfloat16_happens_once(tmp_path):
    once = bundle.load(bundle.save(tiny_world(), tmp_path / "once", torch.bfloat16))
    twice = bundle.load(bundle.save(once, tmp_path / "twice", torch.bfloat16))
    assert same(dream(once, begin(once)), dream(twice, begin(twice)))
    size = lambda name: (tmp_path / name / "denoiser.safetensors").stat().st_size  # noqa: E731
    bundle.save(once, tmp_path / "full")
    assert size("once") < 0.7 * size("full")


def test_the_number_of_steps_can_be_chosen_at_load(tmp_path):
    folder = bundle.save(tiny_world(steps=2), tmp_path / "world")
    assert bundle.load(folder).steps == 2 and bundle.load(folder, steps=4).steps == 4
    with pytest.raises(ValueError, match="at least 1"):
        bundle.load(folder, steps=0)


def test_a_temperature_scales_the_noise_that_a_frame_begins_as_and_is_kept_with_the_world(tmp_path):
    folder, frames = bundle.save(tiny_world(), tmp_path / "world"), {}
    for temperature in (1.0, 1.25):
        world = bundle.load(folder, temperature=temperature)
        state = world.initial(torch.arange(2), noise.address_of([0, 1]))
        world.denoiser.bound = world.denoiser.bound * 1e6  # nothing is clamped
        world.sampler = lambda denoise, process, shape, draw: (denoise(draw(0), *draw(0).new_ones(2, 2)), draw(0))[1]
        frames[temperature] = world.step(state, actions(world))[0].latent
    torch.testing.assert_close(frames[1.25], 1.25 * frames[1.0])
    world = bundle.load(bundle.save(bundle.load(folder, temperature=1.25), tmp_path / "hot"))
    assert world.temperature == 1.25 and bundle.load(folder).temperature == 1
    edit(folder, lambda text: text.pop("temperature"))  # as of a world of an older format
    assert bundle.load(folder).temperature == 1


def test_a_second_word_on_a_hot_world_s_frame_is_as_hot():
    world = tiny_world()
    state = begin(world)
    after = world.step(state, actions(world))[0]
    draws, told = [], world.denoiser.sample
    world.denoiser.sample = lambda *args: draws.append(args[3](0)) or told(*args)
    for world.temperature in (1.0, 1.25):
        world.uncertainty(state, actions(world), after)
    assert torch.equal(draws[1], 1.25 * draws[0])


@pytest.mark.parametrize("context_level", [0.0, 0.1])
def test_frames_commit_with_the_noise_that_is_theirs_and_with_none_at_level_0(context_level):
    world = tiny_world()
    world.context_level = context_level
    draws, commit = [], world.denoiser.commit
    world.denoiser.commit = lambda latent, level, draw, *rest: draws.append(draw) or commit(latent, level, draw, *rest)
    state = begin(world)
    after = world.step(state, actions(world))[0]
    right = noise.normal(after.address, tuple(after.latent.shape[1:]), noise.COMMIT)
    assert torch.equal(context_level * draws[-1], context_level * right)


@pytest.mark.parametrize("temperature", [0, -1, 4, "hot", True, float("nan")])
def test_a_temperature_that_is_none_is_refused_in_one_sentence(tmp_path, temperature):
    with pytest.raises(ValueError, match="expected a temperature above 0 and up to 3, found"):
        bundle.load(bundle.save(tiny_world(), tmp_path / "world"), temperature=temperature)


def test_saving_over_a_world_replaces_it_whole(tmp_path):
    bundle.save(tiny_world(steps=2), tmp_path / "world")
    bundle.save(tiny_world(steps=1), tmp_path / "world")
    assert bundle.load(tmp_path / "world").steps == 1
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def edit(folder, change):
    path = folder / "world.json"
    text = json.loads(path.read_text())
    change(text)
    path.write_text(json.dumps(text))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def part(text, name):
    return text["parts"][name]["config"]


def test_latent_actions_of_an_older_format_are_refused(tmp_path):
    folder = bundle.save(tiny_world(latent={"codes": 4}), tmp_path / "world")
    assert bundle.load(folder).latent is not None
    edit(folder, lambda text: text.update(format_version=3))
    with pytest.raises(ValueError, match="expected latent actions of format version 4, found older ones"):
        bundle.load(folder)


def test_a_world_of_format_version_1_is_read_but_not_one_with_a_warp_in_its_backbone(tmp_path):
    world = tiny_world()
    folder = bundle.save(world, tmp_path / "world")

    def make_old(text, warp_width):
        text["format_version"] = 1
        text["parts"].pop("forecaster", None)
        part(text, "backbone").pop("told", None)
        part(text, "backbone").update(warp_width=warp_width, keyframes=0, renewed=0.3, followed=0.2)

    edit(folder, partial(make_old, warp_width=0))
    assert same(dream(world, begin(world)), dream(bundle.load(folder), begin(world)))
    edit(folder, partial(make_old, warp_width=64))
    with pytest.raises(ValueError, match="found one of 1 with a warp in it; train it again"):
        bundle.load(folder)


OTHER = {"type": "Discrete", "n": 9, "start": 0}
BROKEN = {
    "newer": (lambda f: edit(f, lambda t: t.update(format_version=99)), "upgrade worldsim"),
    "missing weights": (lambda f: (f / "denoiser.safetensors").unlink(), "denoiser.safetensors"),
    "truncated weights": (lambda f: truncate(f / "autoencoder.safetensors"), "autoencoder.safetensors"),
    "no description": (lambda f: (f / "world.json").unlink(), "without world.json"),
    "torn description": (lambda f: truncate(f / "world.json"), "whole world bundle"),
    "missing key": (lambda f: edit(f, lambda t: t.pop("parts")), "whole world bundle"),
    "wrong sizes": (lambda f: edit(f, lambda t: part(t, "backbone").update(width=8)), "whole world bundle"),
    "unknown option": (lambda f: edit(f, lambda t: part(t, "outcome").update(x=1)), "whole world bundle"),
    "another action space": (lambda f: edit(f, lambda t: t.update(action_space=OTHER)), "found 5"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_bundle_is_named_in_one_sentence(tmp_path, damage):
    spoil, words = BROKEN[damage]
    folder = bundle.save(tiny_world(), tmp_path / "world")
    spoil(folder)
    with pytest.raises(ValueError, match=words) as error:
        bundle.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["autoencoder", "backbone", "outcome", "process", "prediction", "sampler"])
def test_a_bundle_can_name_only_classes_of_the_table(tmp_path, part):
    folder = bundle.save(tiny_world(), tmp_path / "world")
    target = tmp_path / "ran"
    edit(folder, lambda t: t["parts"].update({part: {"class": "os.system", "config": {"command": f"touch {target}"}}}))
    with pytest.raises(ValueError, match=r"os\.system"):
        bundle.load(folder)
    assert not target.exists()


def test_an_unknown_world_lists_the_known_ones():
    with pytest.raises(ValueError, match="expected the path of a world or one of"):
        bundle.load("no-such-world")
