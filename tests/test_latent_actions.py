"""Latent actions: they name what happened where the answer is known, and a world takes them like any others."""

import json
import pickle
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.actions import ActionCodec
from worldsim.cli.label import columns
from worldsim.cli.main import main
from worldsim.data.action_files import make_layout, read_actions
from worldsim.data.episodes import DatasetInfo, Episode, EpisodeStore, EpisodeWriter
from worldsim.dream.env import WorldModelEnv
from worldsim.envs import arena
from worldsim.evaluation.latent import latent_actions, moving
from worldsim.evaluation.subject import Step
from worldsim.models.latent_action import FAR, REACH, LatentActionConfig, LatentActions, clusters, perplexity
from worldsim.objectives.latent_action import _shifted, latent_action_loss
from worldsim.pipeline.latent_actions import (
    _begun,
    completed,
    find_codes,
    labelled,
    lessons,
    named,
    taught,
    with_latent_actions,
)
from worldsim.pipeline.run import Run
from worldsim.types import WorldInfo

SIDE, WAYS = 16, [(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)]


def walk(steps, seed, side=4):
    """Returns frames of a bright square that walks on a torus, and which way it went each time."""
    rng = np.random.default_rng(seed)
    ways, place = rng.integers(len(WAYS), size=steps), rng.integers(SIDE, size=2)
    frames = np.full((steps + 1, SIDE, SIDE, 3), 40, np.uint8)
    for step in range(steps + 1):
        rows, columns = (np.arange(side) + p for p in place)
        frames[step][np.ix_(rows % SIDE, columns % SIDE)] = (250, 200, 60)
        place = place + (WAYS[ways[step]] if step < steps else 0)
    return frames, ways


def recording(folder, episodes=4, steps=40, actions=True, seed=0):
    space = gym.spaces.Discrete(len(WAYS)) if actions else None
    bindings = [{"keys": [key], "set": {"0": i + 1}} for i, key in enumerate("swda")]
    keymap = {"rest": [0], "bindings": bindings, "mouse": []} if actions else None
    info = DatasetInfo("walk", (SIDE, SIDE, 3), space, 15.0, keymap, has_rewards=False)
    with EpisodeWriter(folder, info) as writer:
        for number in range(seed, seed + episodes):
            frames, ways = walk(steps, number)
            taken = ways[:, None].astype(float) if actions else None
            writer.append(Episode(frames, taken, None, False, True, number, "x"))
    return EpisodeStore(folder)


def model(**sizes):
    torch.manual_seed(0)
    return LatentActions(LatentActionConfig((SIDE, SIDE, 3), **({"width": 16} | sizes)))


def learned(steps, **sizes):
    """Returns a model that has seen 6,000 steps of a walk for so many steps, and its last loss."""
    found, frames = model(**sizes), torch.from_numpy(walk(6000, 1000)[0])
    clips = torch.stack((frames[:-2], frames[1:-1], frames[2:]), 1)
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(found.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(len(clips), (32,), generator=generator)
        loss = latent_action_loss(found, clips[rows], generator=generator)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    found.eval().requires_grad_(False)
    if sizes.get("codes"):
        found.codes.copy_(clusters(found.tell(frames[:1000]), sizes["codes"], generator))
    return found, loss


def information(a, b):
    """Returns the mutual information of two labellings, as a share of the second one's entropy."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    both, rows, columns = (-(x[x > 0] * np.log(x[x > 0])).sum() for x in (joint, joint.sum(1), joint.sum(0)))
    return (rows + columns - both) / columns


@pytest.mark.slow
@pytest.mark.parametrize("codes", [5, 8])
def test_codes_name_what_happened(codes):
    found, _ = learned(600, codes=codes)
    frames, ways = walk(400, 7)
    named = found.label(torch.from_numpy(frames))[:, 0].long().numpy()
    assert information(named, ways) > 0.9
    assert perplexity(torch.bincount(torch.from_numpy(named), minlength=codes) / 400) > 0.5 * codes


@pytest.mark.slow
def test_numbers_tell_what_happened():
    found, _ = learned(600, codes=0, numbers=2)
    frames, ways = walk(400, 7)
    told = found.label(torch.from_numpy(frames)).numpy()
    centres = np.stack([told[:200][ways[:200] == way].mean(0) for way in range(5)])
    nearest = np.square(told[200:, None] - centres).sum(-1).argmin(1)
    assert (nearest == ways[200:]).mean() > 0.9


def test_the_loss_falls():
    (_, before), (_, after) = learned(1), learned(60)
    assert after.parts["explained"] > before.parts["explained"] + 0.2


@pytest.mark.slow
def test_a_few_labels_say_which_of_two_that_walk_is_meant():
    """Of 6,000 steps 300 have labels; another one, larger, walks at random beside the one that is meant."""

    def beside(steps, seed):
        (frames, ways), (others, _) = walk(steps, seed), walk(steps, seed + 50_000, 8)
        return np.maximum(frames, others[..., ::-1]), ways  # of another colour

    told = {}
    for labels in (0, 300):
        found, (frames, ways) = model(codes=5, completes=labels > 0), map(torch.from_numpy, beside(6000, 1000))
        clips = torch.stack((frames[:-2], frames[1:-1], frames[2:]), 1)
        generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(found.parameters(), 3e-3)
        for _ in range(600):
            rows, known = (torch.randint(n, (32,), generator=generator) for n in (len(clips), max(labels, 1)))
            batch = clips[torch.cat((rows, known))] if labels else clips[rows]
            loss = latent_action_loss(found, batch, ways[known + 1] if labels else None, generator=generator)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        found.eval().requires_grad_(False)
        if not labels:
            found.codes.copy_(clusters(found.tell(frames[:1000]), 5, generator))
        frames, ways = beside(400, 7)
        told[labels] = information(found.label(torch.from_numpy(frames))[:, 0].long().numpy(), ways)
    assert told[300] > 0.8 > told[0] + 0.3


@pytest.mark.slow
def test_a_thousand_labels_name_the_arena_s_actions(tmp_path):
    """In nine steps of ten that move the agent it is named where it goes, on each axis on which nothing stops it."""
    for name, frames, seed in (("data", 20_000, 0), ("test", 2_000, 900_000)):
        facts = [f"frames={frames}", f"seed={seed}", f"out={tmp_path / name}"]
        assert main(["record", "game=arena", "policy=mix", *facts]) == 0
    how = ["preset=pixel", "minutes=8", "actions=latent", "labels=1000", "stage=codec"]
    assert main(["train", f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", *how]) == 0
    store, table = EpisodeStore(tmp_path / "test"), np.array(arena.Arena.metadata["discrete_table"])
    found = LatentActions(LatentActionConfig((64, 64, 3), codes=len(table), completes=True))
    found.load_state_dict(load_file(tmp_path / "run" / "actions" / "final.safetensors"))
    ways = np.stack((table[:, 3] - table[:, 2], table[:, 1] - table[:, 0]), 1)
    right: list[bool] = []
    for index in range(len(store)):
        places = np.array([arena.decode(frame)["agent"] for frame in store.observations(index)])
        went, said = np.diff(places, axis=0) // 2, ways[named(found.eval(), store, index)[:, 0].astype(int)]
        right += [((a == b) | (a == 0)).all() for a, b in zip(went, said, strict=True) if a.any()]
    assert len(right) > 200 and np.mean(right) > 0.9


def test_both_frames_are_shifted_alike():
    x = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    first, second = _shifted(x, x + 1000, torch.Generator().manual_seed(0))
    assert torch.equal(second, first + 1000) and first.shape == x.shape
    assert not torch.equal(first[0], x[0]) or not torch.equal(first[1], x[1])


@pytest.mark.parametrize("side", [16, 64, 128])
def test_where_something_went_is_seen_wherever_it_stands(side):
    """A square of three points, at two places, goes by up to FAR of them: each way is the likeliest there."""
    found = LatentActions(LatentActionConfig((side, side, 3), codes=4, width=8))
    fold, point = found.config.fold, max(1, found.config.fold // 2)
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(90, 110, (side // point, side // point, 1)), np.ones((point, point, 3)))
    for down, right in ((0, 2), (-2, 0), (FAR, -FAR), (1, 1)):
        for corner in (side // 4, side // 2):
            frames = np.stack([ground, ground]).astype(np.uint8)
            for frame, steps in zip(frames, (0, point), strict=True):
                rows, columns = (slice(corner + k * steps, corner + k * steps + 3 * point) for k in (down, right))
                frame[rows, columns] = (250, 200, 60)
            went = found.went(*found.pixels.encode(torch.from_numpy(frames))[:, None])[0]
            at = (corner + point) // fold
            assert went[:, at, at].argmax() == (down + FAR) * (2 * FAR + 1) + right + FAR
            assert went.sum(0).allclose(torch.ones(()), atol=1e-3)


def test_numbers_are_bounded_and_told_through_noise():
    found, clips, told = model(codes=0), torch.randint(256, (64, 3, SIDE, SIDE, 3), dtype=torch.uint8), []
    following = found.following
    found.following = lambda past, action: told.append(action) or following(past, action)
    for noise in (0.0, 0.5):
        latent_action_loss(found, clips, None, noise, generator=torch.Generator().manual_seed(0))
    plain, noisy = told
    assert (noisy - plain).std().item() == pytest.approx(0.5, rel=0.1)
    found.head.weight.data.mul_(1e4)
    assert found.tell(clips[0]).abs().max() <= REACH


def test_steps_that_move_are_those_of_what_is_played():
    frames, ways = walk(30, 0)
    frames[::2, 0, 0, 2] = 255  # something else blinks
    assert moving(frames, None).all()
    assert moving(frames, lambda frame: (frame[..., 0] == 250).tobytes()).tolist() == (ways != 0).tolist()


def test_clusters_are_found_and_numbered_by_how_much_they_change(tmp_path):
    found = model(codes=3, numbers=1)
    centre = {0: 1.0, 1: -2.0, 2: 2.5}  # of nothing, a step down or up, a step aside

    def tell(frames):
        moved = (frames[1:] != frames[:-1]).any(-1).any(-1).any(-1)
        columns = frames.int().sum((1, 3))
        upright = (columns[1:] == columns[:-1]).all(1)
        kinds = torch.where(moved, torch.where(upright, 1, 2), 0).tolist()
        return torch.tensor([[centre[kind]] for kind in kinds])

    found.tell = tell
    run = type("R", (), {"store": recording(tmp_path), "training_episodes": [0, 1, 2, 3], "seed": 0})()
    find_codes(found, run)
    assert found.codes[0, 0] == 1.0 and sorted(found.codes[:, 0].tolist()) == [-2.0, 1.0, 2.5]
    frames, ways = walk(50, 9)
    named = found.label(torch.from_numpy(frames))[:, 0].long().tolist()
    assert [n == 0 for n in named] == [w == 0 for w in ways]


def test_k_means_finds_what_is_apart():
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([[0.0, 0], [5, 0], [0, 5], [-4, -4]])
    points = (true[:, None] + 0.1 * torch.randn(4, 50, 2, generator=generator)).flatten(0, 1)
    found = clusters(points, 4, generator)
    assert torch.cdist(true, found).amin(1).max() < 0.1


def test_recordings_are_labelled_whole(tmp_path):
    store, found = recording(tmp_path, actions=False), model(codes=6)
    after = labelled(store, found)
    assert after.info.action_space == gym.spaces.Discrete(6) and store.info.action_space is None
    assert [len(after.actions(i)) for i in range(4)] == [40] * 4
    whole = found.label(torch.from_numpy(np.array(store.observations(2)))).numpy()
    assert np.array_equal(after.actions(2, 5, 9), whole[5:9])
    assert np.array_equal(pickle.loads(pickle.dumps(after)).actions(2, 5, 9), whole[5:9])
    assert np.array_equal(after.observations(2), store.observations(2))


def test_only_mixed_recordings_may_lack_actions_and_the_first_may_not(tmp_path):
    recording(tmp_path / "known", episodes=3)
    recording(tmp_path / "mute", episodes=3, actions=False)
    for first, second, how in (("known", "mute", False), ("mute", "known", True)):
        with pytest.raises(ValueError, match="expected action_space"):
            EpisodeStore(tmp_path / first, tmp_path / second, mixed=how)


def told_by_truth(found, ways_of):
    """Lets a model name every step as it really was, as far as frames show it."""

    def label(frames):
        named = [ways_of[frames[i].numpy().tobytes() + frames[i + 1].numpy().tobytes()] for i in range(len(frames) - 1)]
        return torch.tensor(named)[:, None].double()

    found.label = label
    return found


class Walk:
    """Dreams a walk as it is, by packed actions that say which way; deaf, it goes one way whatever they say."""

    window = 1

    def __init__(self, deaf=False):
        self.deaf = deaf

    def reset(self, starts, seed=0):
        self.places = [place_of(start.frames[-1]) for start in starts]

    def step(self, actions, look=True):
        ways = np.ones(len(actions), int) if self.deaf else actions[:, 0].astype(int)
        self.places = [(np.array(p) + WAYS[way]) % SIDE for p, way in zip(self.places, ways, strict=True)]
        return Step(np.stack([drawn(p) for p in self.places]), np.zeros(len(ways)), np.zeros(len(ways)))


class Told(Walk):
    """Goes where the numbers say that the square is next."""

    def step(self, actions, look=True):
        return Step(np.stack([drawn(p.astype(int)) for p in actions]), np.zeros(len(actions)), np.zeros(len(actions)))


def drawn(place):
    frame = np.full((SIDE, SIDE, 3), 40, np.uint8)
    frame[np.ix_(*((np.arange(4) + p) % SIDE for p in place))] = (250, 200, 60)
    return frame


def place_of(frame):
    return next(p for p in np.ndindex(SIDE, SIDE) if np.array_equal(drawn(p), frame))


def ways_between(frames):
    places = [np.array(place_of(frame)) for frame in frames]
    off = [(b - a + SIDE // 2) % SIDE - SIDE // 2 for a, b in pairwise(places)]
    return np.array([[next(i for i, way in enumerate(WAYS) if np.array_equal(way, step))] for step in off])


def test_codes_that_say_which_way_are_told_from_deaf_dreams_and_from_those_that_say_what_is_seen(tmp_path):
    store = recording(tmp_path / "data", episodes=4)
    codes = store.with_actions(store.info, [store.actions(i) for i in range(4)])
    right = latent_actions(Walk(), ways_between, codes, store, [0, 1, 2, 3], 8)
    assert right["used"] > 0.95 and right["information"]["mean"] == pytest.approx(1)
    assert right["obeyed"]["mean"] == 1 and right["gain"]["low"] > 5
    assert right["by_chance"]["mean"] == pytest.approx(0.2, abs=0.08)
    assert right["elsewhere"]["mean"] == pytest.approx(right["gain"]["mean"])
    deaf = latent_actions(Walk(deaf=True), ways_between, codes, store, [0, 1, 2, 3], 8)
    assert (
        deaf["gain"]["mean"] == 0
        and deaf["obeyed"]["mean"] == pytest.approx(deaf["by_chance"]["mean"])
        and deaf["information"]["mean"] > 0.99
    )
    places = [np.array([place_of(frame) for frame in store.observations(i)[1:]], float) for i in range(4)]
    info = replace(store.info, action_space=gym.spaces.Box(0, SIDE, (2,)), keymap=None)
    leaky = latent_actions(Told(), ways_between, store.with_actions(info, places), store, [0, 1, 2, 3], 8)
    assert leaky["gain"]["low"] > 5 and leaky["elsewhere"]["mean"] < 0.5 * leaky["gain"]["mean"] and "used" not in leaky
    one = store.with_actions(store.info, [np.zeros_like(store.actions(i)) for i in range(4)])
    same = latent_actions(Walk(), ways_between, one, store, [0, 1, 2, 3], 8)
    assert same["used"] == pytest.approx(0.2) and same["information"]["mean"] == pytest.approx(0)
    silent = replace(store.info, action_space=None)
    assert latent_actions(Walk(), ways_between, codes, store.with_actions(silent, places), [0], 8) is None


@pytest.fixture
def mixed(tmp_path):
    """Twelve walks with actions, five other ones without, and a model that tells the truth of both."""
    store, ways_of = recording(tmp_path / "known", episodes=12), {}
    info = DatasetInfo("walk", (SIDE, SIDE, 3), None, 15.0, None, has_rewards=False)
    truths = []
    with EpisodeWriter(tmp_path / "mute", info) as writer:
        for seed in range(100, 105):
            frames, ways = walk(30, seed)
            truths.append(ways)
            writer.append(Episode(frames, None, None, False, True, None, "import:walk.mp4"))
    store = EpisodeStore(tmp_path / "known", tmp_path / "mute", mixed=True)
    for index in range(17):
        frames = np.array(store.observations(index))
        ways = np.array(store.actions(index))[:, 0] if index < 12 else truths[index - 12]
        ways_of |= {frames[i].tobytes() + frames[i + 1].tobytes(): way for i, way in enumerate(ways)}
    return store, truths, told_by_truth(model(codes=5, completes=True), ways_of)


def run_of(store, **more):
    facts = {"store": store, "training_episodes": list(range(1, len(store))), "labels": 0, "seed": 0}
    codec = ActionCodec(store.info.action_space)
    return SimpleNamespace(**facts | {"action_codec": codec, "latent": partial(LatentActionConfig, width=8)} | more)


def test_mixed_recordings_keep_what_was_recorded_and_are_completed(mixed):
    store, truths, found = mixed
    assert store.actions(3) is not None and store.actions(14) is None and store.rewards(3) is None
    whole = completed(run_of(store), found)
    assert np.array_equal(whole.actions(3), store.actions(3))
    assert [np.array(whole.actions(12 + i))[:, 0].tolist() for i in range(5)] == [list(way) for way in truths]
    assert pickle.loads(pickle.dumps(whole)).actions(14).shape == (30, 1)
    assert pickle.loads(pickle.dumps(store)).actions(14) is None


def test_labelled_steps_keep_their_actions_and_the_others_are_named(mixed, tmp_path):
    store, _, found = mixed
    store = EpisodeStore(store.folders[0])  # all with actions
    found.label = lambda frames: torch.full((len(frames) - 1, 1), 3.0).double()
    run = run_of(store, labels=50)
    whole, steps = completed(run, found), taught(run)
    for index in range(12):
        known = steps[steps[:, 0] == index, 1]
        assert np.array_equal(whole.actions(index)[known], store.actions(index)[known])
        assert set(np.delete(whole.actions(index), known)) == {3.0}


def test_labels_are_spread_over_the_training_episodes_or_all_that_mixed_recordings_have(mixed, tmp_path):
    assert taught(run_of(mixed[0])).tolist() == [[index, at] for index in range(1, 12) for at in range(40)]
    run = run_of(recording(tmp_path / "data"), labels=30)
    steps = taught(run)
    assert len({tuple(step) for step in steps.tolist()}) == 30
    assert np.bincount(steps[:, 0]).tolist() == [0, 10, 10, 10] and steps[:, 1].max() > 35
    run.labels = 1000
    assert len(taught(run)) == 120
    with pytest.raises(ValueError, match="expected training episodes with actions for labels=, found none"):
        taught(run_of(recording(tmp_path / "silent", actions=False), labels=5))


def test_the_first_take_is_never_held_out_as_it_may_be_all_that_has_labels(tmp_path):
    recording(tmp_path / "known", episodes=1)
    recording(tmp_path / "mute", episodes=30, actions=False)
    store = EpisodeStore(tmp_path / "known", tmp_path / "mute", mixed=True)
    run = Run(store, tmp_path, None, 1.0)
    assert run.held_out_episodes == [9, 29] and 0 in run.training_episodes


def test_a_clip_that_is_taught_ends_with_the_step_that_its_label_names(tmp_path):
    run = run_of(recording(tmp_path), labels=50)
    batch, named = lessons(run), []
    for step in range(10):
        clips, taken = batch(step)
        assert len(clips) == 2 * len(taken) and torch.equal(clips, batch(step)[0])
        for clip, way in zip(clips.numpy()[len(taken) :], taken.tolist(), strict=True):
            named.append(way)
            assert ways_between(clip[1:]).item() == way
    assert np.bincount(named).min() > 0.6 * len(named) / 5  # each as often, however few there are
    run.action_codec.table = run.action_codec.table[:4]  # the last way is none of the table's
    assert set(torch.cat([lessons(run)(step)[1] for step in range(10)]).tolist()) == {0, 1, 2, 3}
    run.labels = 0
    assert lessons(run)(0)[1] is None


def test_labels_are_written_as_a_file_that_import_takes(mixed, tmp_path, monkeypatch, capsys):
    store, truths, found = mixed
    info = WorldInfo("walks", "walk", 15.0, store.info.action_space, (SIDE, SIDE, 3))
    world = SimpleNamespace(latent=found, info=info, action_codec=ActionCodec(store.info.action_space))
    monkeypatch.setattr(bundle, "load", lambda *_: world)
    out = tmp_path / "labels.csv"
    assert main(["label", "world=x", f"data={tmp_path / 'mute'}", f"out={out}"]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "action" and [int(x) for x in lines[1:]] == np.concatenate(truths).tolist()
    file = read_actions(out)
    assert make_layout([file]).space == gym.spaces.Discrete(5) and file.num_rows == 150
    with EpisodeWriter(
        tmp_path / "again", DatasetInfo("walk", (SIDE, SIDE, 3), None, 15.0, has_rewards=False)
    ) as writer:
        writer.append(Episode(walk(30, 200)[0], None, None, False, True, None, "import:walk.mp4"))
    both = f"data=[{tmp_path / 'mute'},{tmp_path / 'again'}]"  # a take of the same name, but another
    assert main(["label", "world=x", both, f"out={out}"]) == 2
    assert "expected takes of different names" in capsys.readouterr().err
    world.info = replace(info, frame_shape=(8, 8, 3))
    assert main(["label", "world=x", f"data={tmp_path / 'mute'}", f"out={out}"]) == 2
    assert "expected frames of (8, 8, 3)" in capsys.readouterr().err
    world.latent = None
    assert main(["label", "world=x", f"data={tmp_path / 'mute'}", f"out={out}"]) == 2
    assert "expected a world that learned to name actions" in capsys.readouterr().err


def test_columns_are_called_by_the_keys_that_press_them():
    bindings = [{"keys": [key], "set": {str(i): 1}} for i, key in enumerate(("w", "left shift"))]
    assert columns(gym.spaces.MultiBinary(3), {"bindings": bindings}) == ["w", "left_shift", "key_2"]
    both = gym.spaces.Dict({"axes": gym.spaces.Box(-1, 1, (2,)), "choices": gym.spaces.Discrete(3)})
    assert columns(both, None) == ["axis_0", "axis_1", "action_2"]


@pytest.mark.parametrize("sizes", [{"codes": 1}, {"codes": 65}, {"codes": 0, "numbers": 0}])
def test_sizes_out_of_range_are_refused(sizes):
    with pytest.raises(ValueError, match="expected codes from 2 to 64"):
        LatentActionConfig((SIDE, SIDE, 3), **sizes)


def test_frames_fold_to_about_32_positions_a_side():
    folds = {(64, 64): 2, (128, 128): 4, (96, 128): 2, (16, 16): 1, (65, 64): 1}
    assert {shape: LatentActionConfig((*shape, 3)).fold for shape in folds} == folds


@pytest.mark.parametrize(("codes", "space"), [(4, gym.spaces.Discrete(4)), (0, None)])
def test_a_world_of_a_video_nobody_labelled_is_played_by_codes(codes, space, tmp_path, capsys):
    recording(tmp_path / "data", episodes=3, actions=codes == 0)
    out = tmp_path / "run"
    tiny = ["preset=nano", "minutes=0.05", "actions=latent", f"codes={codes}", "numbers=2"]
    assert main(["train", f"data={tmp_path / 'data'}", f"out={out}", *tiny]) == 0
    world = bundle.load(out / "world")
    space = space or LatentActionConfig((SIDE, SIDE, 3), codes=0, numbers=2).space
    assert world.info.action_space == space and world.latent.config.codes == codes
    env = WorldModelEnv(world)
    env.reset(seed=0)
    frame, *_ = env.step(space.sample())
    assert frame.shape == (SIDE, SIDE, 3)
    again = bundle.load(bundle.save(world, tmp_path / "copy"))
    frames = torch.from_numpy(walk(5, 0)[0])
    assert torch.equal(again.latent.label(frames), world.latent.label(frames))
    assert json.loads((out / "run.json").read_text())["latent"][0]["codes"] == codes
    recording(tmp_path / "test", episodes=2, actions=codes == 0, seed=50)
    quick = ["quick=true", "starts=2", f"out={tmp_path / 'eval'}"]
    assert main(["eval", f"world={out / 'world'}", f"data={tmp_path / 'test'}", *quick]) == 0
    told = json.loads((tmp_path / "eval" / "metrics.json").read_text()).get("latent_actions")
    assert (told is not None) == (codes == 0) and (not told or set(told) == {"gain", "elsewhere"})
    assert main(["train", f"data={tmp_path / 'data'}", f"out={out}", *tiny[:2]]) == 2
    assert "expected" in capsys.readouterr().err


def test_recordings_in_which_nothing_moves_are_refused(tmp_path, capsys):
    info = DatasetInfo("still", (SIDE, SIDE, 3), None, 15.0, has_rewards=False)
    with EpisodeWriter(tmp_path / "data", info) as writer:
        for number in range(2):
            frames = np.full((20, SIDE, SIDE, 3), 40 + number, np.uint8)
            writer.append(Episode(frames, None, None, False, True, number, "import:still.mp4"))
    base = ["train", f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", "preset=nano", "minutes=1"]
    assert main([*base, "actions=latent"]) == 2
    assert "expected recordings in which something moves" in capsys.readouterr().err


def test_wrong_arguments_are_refused(tmp_path, capsys):
    recording(tmp_path / "data")
    base = ["train", f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", "preset=nano", "minutes=1"]
    for more, message in (
        (["actions=guessed"], "expected actions=recorded, actions=latent or actions=mixed"),
        (["actions=latent", "codes=1"], "expected codes from 2 to 64"),
        (["actions=latent", "labels=-1"], "expected labels= a whole number of steps"),
        (["actions=mixed", "labels=100"], "expected labels= with actions=latent, found actions=mixed"),
    ):
        assert main([*base, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_world_that_is_trained_on_keeps_what_its_latent_actions_mean(tmp_path):
    begun = tiny_world(latent={"codes": 4})
    run = SimpleNamespace(
        begun=begun,
        begin_from="old",
        torch_device="cpu",
        latent=partial(LatentActionConfig, codes=4, width=8),
        labels=0,
    )
    run.store = SimpleNamespace(mixed=False, info=SimpleNamespace(observation_shape=begun.info.frame_shape))
    run.action_codec = ActionCodec(gym.spaces.Discrete(4))
    assert _begun(run) is begun.latent
    for other in (replace(begun.latent.config, codes=5), None):
        run.begun = SimpleNamespace(latent=begun.latent, takes_latent_actions=other is not None)
        run.latent = partial(LatentActionConfig, codes=5 if other else 4, width=8)
        with pytest.raises(ValueError, match="to be a world with latent actions of the same sizes"):
            _begun(run)
    run.latent, run.begun, run.labels = partial(LatentActionConfig, codes=4, width=8), begun, 100
    with pytest.raises(ValueError, match="with the game's own actions, as labels teach"):
        _begun(run)
    run.latent = None
    with pytest.raises(ValueError, match="expected actions=latent with begin_from=old"):
        with_latent_actions(run)


def test_one_start_an_episode_is_compared_with_another(tmp_path):
    store = recording(tmp_path / "data", episodes=3)
    codes = store.with_actions(store.info, [store.actions(i) for i in range(3)])
    assert latent_actions(Walk(), ways_between, codes, store, [0, 1, 2], starts=1)["gain"]["mean"] > 5
