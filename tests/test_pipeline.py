"""From episodes to a world, in seconds and tiny: every stage hands the next what it needs."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from omegaconf import ListConfig
from safetensors.torch import load_file
from tiny_world import SHAPE, next_frame, record, tiny_world

from worldsim import bundle
from worldsim.cli.data import open_data
from worldsim.cli.main import main
from worldsim.data.episodes import Episode, EpisodeStore, EpisodeWriter
from worldsim.diffusion.samplers import EulerSampler
from worldsim.dream.env import WorldModelEnv
from worldsim.evaluation.held_out import held_out
from worldsim.evaluation.subject import Step
from worldsim.models.autoencoder import ConvAutoencoderConfig
from worldsim.models.conv import ConvBackbone, ConvBackboneConfig
from worldsim.models.denoiser import Denoiser
from worldsim.models.folded import FoldedPixels, FoldedPixelsConfig
from worldsim.models.forecast import MotionConfig
from worldsim.models.next_frame import NextFrame, NextFrameConfig
from worldsim.models.unet import UNet, UNetConfig
from worldsim.noise import address_of
from worldsim.objectives.denoising import DenoisingConfig
from worldsim.pipeline import Preset, Run, StageSizes, train_world
from worldsim.pipeline.assembly import helpful_deadband
from worldsim.pipeline.codec import prepare_codec
from worldsim.pipeline.dynamics import _begin_from
from worldsim.pipeline.previews import preview_episode
from worldsim.pipeline.run import seeded
from worldsim.training.loop import Rhythm
from worldsim.types import Clip

SIZES = StageSizes(8, 1e-3)
TINY = Preset(
    name="tiny",
    autoencoder=partial(ConvAutoencoderConfig, latent_channels=4, widths=(8, 8), blocks=(1, 1)),
    backbone=partial(ConvBackboneConfig, window=2, width=16, depth=1, condition_width=16),
    codec=SIZES,
    dynamics=SIZES,
    outcome=SIZES,
    clip_length=3,
)


def run(tmp_path, data="data", episodes=12, **changes) -> Run:
    folder = tmp_path / data
    store = record(folder, episodes=episodes) if not folder.exists() else EpisodeStore(folder)
    return Run(
        store,
        tmp_path / "run",
        **{"preset": TINY, "minutes": 0.05, "device": "cpu", "rhythm": Rhythm(1, 1e9, 5)} | changes,
    )


def test_episodes_become_a_world_that_steps_like_an_environment(tmp_path):
    tiny_run = run(tmp_path, preset=replace(TINY, temperature=1.25))
    world = train_world(tiny_run)
    assert world.temperature == 1.25
    assert world.info.frame_shape == SHAPE and world.info.provenance["preset"] == "tiny"
    trained = set(world.info.provenance["training_episodes"])
    hashes = [record.hash for record in tiny_run.store.records]
    assert trained == set(hashes) - {hashes[9]}  # one episode in twenty is held out
    env = WorldModelEnv(str(tmp_path / "run" / "world"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == SHAPE
    assert env.step(env.action_space.sample())[0].shape == SHAPE
    for name in ("codec", "dynamics"):
        sheets = list((tmp_path / "run" / "sheets").glob(f"{name}-*.png"))
        assert sheets and iio.imread(sheets[0]).ndim == 3
        assert (tmp_path / "run" / name / "log.jsonl").stat().st_size > 0


FORESEEING = replace(
    TINY,
    forecaster=partial(NextFrameConfig, window=2, widths=(8, 16)),
    forecast=StageSizes(batch=4, learning_rate=1e-3),
    clip_length=4,
    denoising=DenoisingConfig(resampled_frames=1),
)


def test_a_world_that_foresees_the_next_frame_learns_that_first_and_is_the_same_when_loaded(tmp_path):
    world = train_world(run(tmp_path, preset=FORESEEING))
    learned, kept = (load_file(tmp_path / "run" / stage / "final.safetensors") for stage in ("forecast", "dynamics"))
    assert all(torch.equal(learned[name], kept[f"forecaster.{name}"]) for name in learned)
    assert learned["unet.head.weight"].any() and world.denoiser.forecaster.config.scale is not None
    tiny = tiny_world(forecaster=next_frame)
    bundle.save(tiny, tmp_path / "tiny")
    dreams = []
    for each in (tiny, bundle.load(tmp_path / "tiny")):
        env = WorldModelEnv(each)
        first, _ = env.reset(seed=0)
        env.action_space.seed(0)
        dreams.append([first, *(env.step(env.action_space.sample())[0] for _ in range(3))])
    assert all((a == b).all() for a, b in zip(*dreams, strict=True))


def test_what_foresees_is_kept_where_a_world_is_trained_on(tmp_path, monkeypatch):
    world = train_world(run(tmp_path, preset=FORESEEING))
    more = replace(
        run(tmp_path, preset=FORESEEING), folder=tmp_path / "more", begin_from=str(tmp_path / "run" / "world")
    )
    monkeypatch.setattr("worldsim.models.folded.CONTRAST", 1.0)  # as other recordings would be fitted
    further = train_world(more)
    assert further.denoiser.forecaster.config == world.denoiser.forecaster.config
    old, new = world.denoiser.forecaster.state_dict(), further.denoiser.forecaster.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old) and not (tmp_path / "more" / "forecast").exists()
    wider = replace(FORESEEING, forecaster=partial(FORESEEING.forecaster, widths=(8, 24)))
    with pytest.raises(ValueError, match=r"to foresee by NextFrameConfig.*24.*, found NextFrameConfig.*16"):
        train_world(replace(more, preset=wider, folder=tmp_path / "wider"))
    assert not (tmp_path / "wider" / "dynamics").exists()


def test_a_world_that_kept_the_last_frame_can_learn_to_foresee_it(tmp_path, monkeypatch):
    begun = train_world(run(tmp_path, preset=replace(FORESEEING, forecaster=None, forecast=None))).denoiser
    assert begun.backbone.head.weight.any()
    seen = {}

    def untrained(run, stage, budget, seed):  # as it begins
        seen[stage.name] = stage.model
        return stage.model

    for stage in ("forecast", "dynamics", "outcome"):
        monkeypatch.setattr(f"worldsim.pipeline.{stage}.trained", untrained)
    more = replace(run(tmp_path, preset=FORESEEING), folder=tmp_path / "more")
    train_world(replace(more, begin_from=str(tmp_path / "run" / "world")))
    assert isinstance(seen["forecast"], NextFrame)
    backbone = seen["dynamics"].backbone
    x, past, told = (torch.randn(2, n, 2, 2) for n in (4, 8, 4))
    assert torch.equal(backbone.position, begun.backbone.position) and not backbone.head.weight.any()
    expected = begun.backbone.stem(torch.cat((x, past), 1))
    assert torch.allclose(backbone.stem(torch.cat((x, told, past), 1)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clip_length": 2}, "above window=2 and resampled_frames=1 together and num_targets=1, found 2"),
        ({"forecaster": partial(NextFrameConfig, window=4)}, "expected clip_length above window=4"),
        ({"forecaster": partial(NextFrameConfig, window=2, fold=3)}, "expected fold to divide 8, found 3"),
        (
            {"denoising": DenoisingConfig(resampled_frames=2)},
            "expected clip_length above window=2 and resampled_frames=2",
        ),
        ({"backbone": partial(ConvBackboneConfig, window=2, width=20, depth=1)}, "divisible"),
        ({"autoencoder": FoldedPixelsConfig}, "expected a codec whose positions are 8 .* found FoldedPixelsConfig"),
        (
            {"autoencoder": partial(ConvAutoencoderConfig, latent_channels=4, widths=(8,), blocks=(1,))},
            "positions are 8 pixels wide .* found ConvAutoencoderConfig",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_trained(changes, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        train_world(run(tmp_path, preset=replace(FORESEEING, **changes)))
    assert not (tmp_path / "run" / "codec").exists()


PIXEL = replace(
    TINY,
    autoencoder=FoldedPixelsConfig,
    backbone=partial(UNetConfig, window=2, widths=(8, 16), condition_width=16, words=4),
    clip_length=4,
    denoising=DenoisingConfig(resampled_frames=1, faulty_share=0.25),
)


def test_folded_pixels_need_no_codec_s_training_and_a_world_can_be_trained_on(tmp_path, monkeypatch):
    world = train_world(run(tmp_path, preset=PIXEL))
    assert world.info.frame_shape == SHAPE and not (tmp_path / "run" / "latents").exists()
    assert world.prompts.latents.shape[1] == 2  # the window: what is resampled in training needs no prompt
    store, first = EpisodeStore(tmp_path / "data"), world.prompts.latents[0, 0]
    frames = np.concatenate([store.observations(i) for i in range(len(store))])
    assert (world.autoencoder.decode(first).numpy() == frames).all((1, 2, 3)).any()
    assert 0 < world.autoencoder.deadband <= prepare_codec(run(tmp_path, preset=PIXEL)).deadband
    state, action = world.initial(torch.tensor([0]), torch.zeros(1, 3, dtype=torch.int64)), world.prompts.action[:1, 0]
    moved = world.step(state, action)[0]
    world.autoencoder.deadband = 256  # everything stands still, in what is shown and in what is known
    stood = world.step(state, action)[0]
    assert torch.equal(stood.latent, state.latent) and not torch.equal(moved.latent, state.latent)
    world.autoencoder.deadband = 0
    assert not torch.equal(world.step(stood, action)[0].latent, world.step(moved, action)[0].latent)
    more = replace(run(tmp_path, preset=PIXEL), folder=tmp_path / "more", begin_from=str(tmp_path / "run" / "world"))
    monkeypatch.setattr("worldsim.models.folded.CONTRAST", 1.0)  # as other recordings would be fitted
    train_world(more, "codec")
    facts = json.loads((more.folder / "run.json").read_text())
    assert facts["preset.autoencoder"].pop("deadband") is None  # as a version wrote it that had none
    assert facts.pop("preset.temperature") == 1
    assert "attention" not in facts["preset.backbone"]  # what is not said is on
    other = {**facts, "preset.backbone": {**facts["preset.backbone"], "attention": False}}
    (more.folder / "run.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"same preset\.backbone"):
        train_world(more, "encode")
    (more.folder / "run.json").write_text(json.dumps(facts))
    train_world(more, "encode")
    further = train_world(more)
    assert further.fingerprint != world.fingerprint
    before, after = world.info.provenance, further.info.provenance
    assert after["training_episodes"] == 2 * before["training_episodes"]  # before and now
    assert after["begun_from"]["minutes"] == before["minutes"]
    scaled = replace(PIXEL, autoencoder=partial(FoldedPixelsConfig, scale=3.0))  # given: it stands
    for name, preset in (("tiny", TINY), ("scaled", scaled)):
        with pytest.raises(ValueError, match=r"expected begin_from=.* to be a world of .*; use its preset"):
            train_world(replace(more, preset=preset, folder=tmp_path / name))


@pytest.mark.parametrize(("truly", "chosen"), [(0, 12), (6, 6), (20, 12)])
def test_a_deadband_hides_what_a_network_is_off_by_and_no_true_change(truly, chosen):
    codec, rng = FoldedPixels(FoldedPixelsConfig((16, 16, 3), deadband=12)), np.random.default_rng(0)
    frames = torch.full((8, 3, 16, 16, 3), 100, dtype=torch.uint8)
    frames[:, -1, 4:12, 4:12] += truly  # all of it, and what is around stands still
    latents = codec.encode(frames)
    off = latents[:, -1] + torch.from_numpy(rng.uniform(-2, 2, latents[:, -1].shape)).float() / 127.5
    world = SimpleNamespace(
        device="cpu",
        initial=lambda clip, address: SimpleNamespace(latent=clip.latents[:, -1]),
        foresee=lambda state, action: (SimpleNamespace(latent=codec.settle(off, state.latent)), None),
    )
    flags = torch.ones(8, 3, dtype=torch.bool)
    clip = Clip(latents, torch.zeros(8, 3, 4), flags, torch.zeros(8, 3), ~flags, flags)
    assert abs(helpful_deadband(world, codec, clip) - chosen) <= 1


def test_a_world_without_drafts_begins_one_with_them_that_says_the_same(tmp_path):
    world = train_world(run(tmp_path, preset=PIXEL))
    drafting = replace(PIXEL, backbone=partial(PIXEL.backbone, drafts=True))
    shape = world.autoencoder.latent_shape
    unet = UNet(drafting.backbone(latent_shape=shape, action_width=world.action_codec.width))
    model = Denoiser(unet, world.denoiser.bound)
    _begin_from(world, model, "it")
    noise, action = torch.randn(2, *shape), world.prompts.action[:2, 0]
    told = model.sample(EulerSampler(2), action, model.start(2), lambda index: noise)[0]
    torch.testing.assert_close(
        world.denoiser.sample(EulerSampler(2), action, model.start(2), lambda index: noise)[0], told
    )
    more = replace(run(tmp_path, preset=drafting), folder=tmp_path / "more", begin_from=str(tmp_path / "run" / "world"))
    assert train_world(more).denoiser.drafts and not world.denoiser.drafts


def test_a_world_that_sees_no_older_frames_begins_one_that_does_and_says_the_same(tmp_path):
    world = train_world(run(tmp_path))
    longer = replace(TINY, backbone=partial(TINY.backbone, older=(4, 6)), clip_length=8)
    shape, width = world.autoencoder.latent_shape, world.action_codec.width
    model = Denoiser(ConvBackbone(longer.backbone(latent_shape=shape, action_width=width)), world.denoiser.bound)
    _begin_from(world, model, "it")
    action, said, history = world.prompts.action[:2, 0], [], torch.rand(7, *world.prompts.action[:2, 0].shape)
    for denoiser in (world.denoiser, model):
        context = denoiser.start(2)
        for index in range(7):
            x = torch.full((2, *shape), index / 7)
            context = denoiser.commit(x, torch.full((2,), index / 9), torch.zeros_like(x), history[index], context)
        noise = torch.ones(2, *shape)
        said.append(denoiser.sample(EulerSampler(2), action, context, lambda index, noise=noise: noise)[0])
    torch.testing.assert_close(*said)
    other = Denoiser(ConvBackbone(replace(model.backbone.config, width=8)), world.denoiser.bound)
    with pytest.raises(ValueError, match=r"expected begin_from=it to be a world of .*; use its preset"):
        _begin_from(world, other, "it")
    more = replace(run(tmp_path, preset=longer), folder=tmp_path / "more", begin_from=str(tmp_path / "run" / "world"))
    assert train_world(more).denoiser.backbone.config.ages[-1] == 6


def test_a_world_that_is_trained_on_keeps_its_codec(tmp_path):
    world = train_world(run(tmp_path))
    folder, begin_from = tmp_path / "more", str(tmp_path / "run" / "world")
    listed = replace(TINY, autoencoder=partial(TINY.autoencoder, widths=[8, 8], blocks=[1, 1]))  # as YAML has them
    further = train_world(replace(run(tmp_path, preset=listed), folder=folder, begin_from=begin_from))
    assert further.fingerprint != world.fingerprint
    for name, value in world.autoencoder.state_dict().items():
        assert torch.equal(value, further.autoencoder.state_dict()[name])
    assert not list((tmp_path / "more" / "sheets").glob("codec-*.png"))  # it was not trained


def test_two_data_sets_train_one_world_by_the_command_line_s_list(tmp_path):
    stores = [record(tmp_path / name, episodes=6, seed=seed) for name, seed in (("a", 0), ("b", 100))]
    joined = open_data(ListConfig([str(tmp_path / "a"), str(tmp_path / "b")]))
    trained = train_world(replace(run(tmp_path, data="a"), store=joined)).info.provenance["training_episodes"]
    hashes = [record.hash for store in stores for record in store.records]
    assert trained == hashes[:9] + hashes[10:]  # of twelve the tenth is held out
    with pytest.raises(ValueError, match="same episodes, found 12 other episodes"):
        other = open_data(ListConfig([str(tmp_path / "b"), str(tmp_path / "a")]))
        replace(run(tmp_path, data="a"), store=other).claim_folder()
    with pytest.raises(ValueError, match="found an empty list"):
        open_data(ListConfig([]))


def test_stages_run_one_by_one_and_say_what_they_need(tmp_path):
    with pytest.raises(ValueError, match="finished codec stage"):
        train_world(run(tmp_path), "dynamics")
    for stage in ("codec", "encode", "dynamics", "outcome"):
        assert train_world(run(tmp_path), stage) is None
    assert train_world(run(tmp_path), "bundle").num_prompts == 16
    with pytest.raises(ValueError, match="codec, encode, dynamics, outcome, bundle"):
        train_world(run(tmp_path), "everything")


def test_a_forecaster_is_learned_first_and_then_stands_through_stops(tmp_path):
    forecaster = partial(MotionConfig, window=2, width=8, condition_width=8, keyframes=6)
    first = run(tmp_path, preset=replace(TINY, forecaster=forecaster, forecast=SIZES))
    train_world(first, "codec"), train_world(first, "encode"), train_world(first, "dynamics")
    folder = tmp_path / "run"
    (folder / "dynamics" / "final.safetensors").unlink()  # stopped in it
    train_world(first, "dynamics")
    learned, kept = (load_file(folder / stage / "final.safetensors") for stage in ("forecast", "dynamics"))
    standing = [name for name in learned if "recall" not in name]
    assert all(torch.equal(learned[name], kept[f"forecaster.{name}"]) for name in standing)
    assert learned["warp.head.weight"].any() and kept["backbone.head.weight"].any()
    assert len(kept["forecaster.recall._extra_state"]) > 0 == len(learned["recall._extra_state"])
    for alone in ({"forecast": SIZES}, {"forecaster": forecaster}):
        with pytest.raises(ValueError, match="together, found one alone"):
            replace(TINY, **alone)


def test_a_run_is_resumed_only_with_what_it_was_begun_with(tmp_path):
    run(tmp_path).claim_folder()
    with pytest.raises(ValueError, match=r"same minutes, found minutes=0\.05"):
        run(tmp_path, minutes=1).claim_folder()
    with pytest.raises(ValueError, match="same episodes, found 12 other episodes"):
        run(tmp_path, data="more", episodes=13).claim_folder()


def test_a_share_below_zero_is_no_budget(tmp_path):
    with pytest.raises(ValueError, match="expected minutes to last for dynamics, found none left"):
        run(tmp_path).spend("dynamics", lambda left: left - 10)
    assert not (tmp_path / "run" / "budget.json").exists()


def test_seeding_leaves_every_generator_as_it_was(monkeypatch):
    def of_all_devices(seed):
        raise AssertionError("a GPU's generators do not come back")

    monkeypatch.setattr(torch, "manual_seed", of_all_devices)
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.randn(2)
    with seeded(3):
        assert torch.equal(first, torch.randn(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_budget_is_fixed_when_it_is_first_asked_for(tmp_path):
    first = run(tmp_path).spend("codec", lambda left: 0.5 * left)
    assert first.seconds == 1.5
    assert run(tmp_path).spend("codec", lambda left: 99).seconds == 1.5
    assert run(tmp_path).spend("dynamics", lambda left: left).seconds == 1.5


def test_training_without_actions_and_rewards_gives_a_world_with_the_null_action(tmp_path):
    labelled = record(tmp_path / "data")
    info = replace(labelled.info, action_space=None, has_rewards=False)
    with EpisodeWriter(tmp_path / "video", info) as writer:
        for index in range(3):
            writer.append(Episode(labelled.observations(index), None, None, False, True, None, "video"))
    world = train_world(run(tmp_path, data="video"))
    assert world.info.action_space is None and world.action_codec.width == 1
    env = WorldModelEnv(world)
    env.reset(seed=0)
    assert env.step(0)[0].shape == SHAPE


def test_where_no_reward_was_recorded_there_is_none_and_ends_are_still_learned(tmp_path):
    labelled = record(tmp_path / "labelled", episodes=12)
    info = replace(labelled.info, has_rewards=False)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        for index in range(12):
            parts = labelled.observations(index), labelled.actions(index)
            writer.append(Episode(*parts, None, index % 2 == 0, index % 2 == 1, index, "x"))
    world = train_world(run(tmp_path, minutes=0.15))
    state, outcome = world.initial(torch.arange(4), address_of(range(4))), None
    for _ in range(4):
        state, outcome = world.foresee(state, world.action_codec.null.expand(4, -1))
        assert outcome.end_probability.max() < 0.4 and outcome.reward_mean.abs().max() < 0.2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["preset=nano", "minutes=0"], "minutes above 0"),
        (["preset=nano", "minutes=1", "backbone=gru"], "conv, transformer"),
        (["preset=huge", "minutes=1"], "nano"),
        (["preset=nano", "minutes=1", "stage=all"], "codec, encode"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_two(tmp_path, capsys, arguments, words):
    record(tmp_path / "data")
    assert main(["train", f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_commands_train_eval_and_bench_write_what_they_promise(tmp_path, capsys):
    record(tmp_path / "data", episodes=12, steps=40)
    record(tmp_path / "test", episodes=3, steps=40, seed=500)
    small = "preset.autoencoder.widths=[8,8] preset.backbones.conv.config.width=16 preset.backbones.conv.config.depth=1"
    assert (
        main(
            [
                "train",
                f"data={tmp_path / 'data'}",
                f"out={tmp_path / 'run'}",
                "preset=nano",
                "minutes=0.05",
                *small.split(),
            ]
        )
        == 0
    )
    world = tmp_path / "run" / "world"
    assert (
        main(
            [
                "eval",
                f"world={world}",
                f"data={tmp_path / 'test'}",
                f"out={tmp_path / 'eval'}",
                "starts=2",
                "quick=true",
            ]
        )
        == 0
    )
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert set(metrics["open_loop"]) == set(metrics["copy_last"]) == {"1", "2", "4", "8", "16", "32"}
    assert metrics["one_step"]["psnr"].keys() == metrics["dataset_mean"]["psnr"].keys() == {"mean", "low", "high"}
    assert "data:video/webm;base64" in (tmp_path / "eval" / "report.html").read_text()
    assert (
        main(
            [
                "eval",
                f"world={world}",
                f"data={tmp_path / 'data'}",
                f"out={tmp_path / 'eval'}",
                "starts=2",
                "quick=true",
            ]
        )
        == 0
    )  # the held-out one
    capsys.readouterr()
    info = bundle.load(world).info
    assert len(info.provenance["training_episodes"]) == 11 and Path(world / "README.md").read_text().startswith("# run")


def test_eval_refuses_training_episodes_and_other_games(tmp_path):
    store = record(tmp_path / "data")
    world = tiny_world(provenance={"training_episodes": [r.hash for r in store.records]})
    with pytest.raises(ValueError, match="not trained on"):
        held_out(world, store, 5)
    assert held_out(tiny_world(), store, 2) == [0, 2]
    with pytest.raises(ValueError, match="give data of"):
        held_out(tiny_world(game="another"), store, 5)


class Copying:
    """Somebody else's world model: it shows the last real frame for ever."""

    fingerprint = "copying"
    window = 2

    def reset(self, starts, seed=0):
        self.frames = np.stack([start.frames[-1] for start in starts])

    def step(self, actions, look=True):
        nothing = np.zeros(len(actions))
        return Step(self.frames, nothing, nothing)


class Half:
    """Lacks a step."""

    window, reset = 1, None


def test_eval_measures_another_world_model_by_its_module_and_name(tmp_path, capsys):
    record(tmp_path / "data", episodes=8, steps=40)
    arguments = [f"data={tmp_path / 'data'}", f"out={tmp_path / 'eval'}", "quick=true", "starts=2"]
    assert main(["eval", f"world={__name__}:Copying", *arguments]) == 0
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["open_loop"]["8"]["psnr"] == metrics["copy_last"]["8"]["psnr"] and metrics["codec"] is None
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "<svg" in page and 'src="http' not in page and "poor" in page
    capsys.readouterr()
    assert metrics["episodes"] == 6  # quickly; else as many as asked for
    assert main(["eval", f"world={__name__}:Copying", *arguments, "episodes=7"]) == 0
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["episodes"] == 7
    capsys.readouterr()
    for name, words in (("Half", "found no step"), ("Nothing", "names what makes a subject")):
        assert main(["eval", f"world={__name__}:{name}", *arguments]) == 2
        error = capsys.readouterr().err
        assert words.replace("names", "to name") in error and error.count("\n") == 1


def test_an_evaluation_that_was_killed_goes_on_with_the_parts_it_lacks(tmp_path, monkeypatch, capsys):
    record(tmp_path / "data", episodes=5, steps=40)

    def evaluate(out):
        return main(
            [
                "eval",
                f"world={__name__}:Copying",
                f"data={tmp_path / 'data'}",
                f"out={tmp_path / out}",
                "quick=true",
                "starts=2",
            ]
        )

    def broken(*arguments):
        raise ValueError("expected to be killed here, found that it was")

    assert evaluate("whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr("worldsim.evaluation.events.foresee", broken)
        assert evaluate("killed") == 2
    assert not (tmp_path / "killed" / "metrics.json").exists()
    monkeypatch.setattr("worldsim.evaluation.measure.fidelity", broken)
    assert evaluate("killed") == 0
    whole, killed = ((tmp_path / out / "metrics.json").read_text() for out in ("whole", "killed"))
    assert whole == killed and sorted(p.name for p in (tmp_path / "killed").iterdir()) == [
        "metrics.json",
        "report.html",
        "times.json",
    ]
    capsys.readouterr()
    assert evaluate("fresh") == 2  # other parts are not its own


@pytest.mark.parametrize(("lengths", "shown"), [((6, 9, 30, 40), 2), ((6, 5, 30, 40), 3)])
def test_a_preview_is_of_an_episode_that_a_dream_can_begin_in(lengths, shown):
    records = [SimpleNamespace(total_steps=n) for n in lengths]
    preset = SimpleNamespace(clip_length=9, denoising=SimpleNamespace(resampled_frames=0))
    store = SimpleNamespace(records=records)
    held_out = [0, 1] if shown == 3 else [0, 1, 2]
    run = SimpleNamespace(store=store, preset=preset, held_out_episodes=held_out, training_episodes=[2, 3])
    run.prompt_length = Run.prompt_length.fget(run)
    assert preview_episode(run) == shown


def test_a_short_held_out_episode_stops_no_training(tmp_path):
    info = record(tmp_path / "one", episodes=2, steps=9).info
    with EpisodeWriter(tmp_path / "data", info) as writer:
        for episode, steps in enumerate((*[9] * 9, 2, 9, 9)):
            frames = np.random.default_rng(episode).integers(0, 256, (steps + 1, *SHAPE), np.uint8)
            writer.append(Episode(frames, np.zeros((steps, 4)), np.zeros(steps, np.float32), False, True, None, "x"))
    preset = replace(TINY, clip_length=7, backbone=partial(TINY.backbone, window=5))
    begun = run(tmp_path, preset=preset, rhythm=Rhythm(1, 0.5, 5))
    assert begun.held_out_episodes == [9] and train_world(begun).prompts.latents.shape[1] == 6
