"""States: saved, branched, rewound, sent to another process, and started from; beside prompts of one's own."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_world import ACTION, AGE, EPISODE, FakeWorld, read
from fake_world import PROMPT as PROMPT_BAND
from gymnasium import spaces
from tiny_world import conv_backbone, next_frame, random_clip, recalling, tiny_world, transformer_backbone

from worldsim import bundle
from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

WORLDS = pytest.mark.parametrize(
    "make_world",
    [
        lambda: FakeWorld(spaces.MultiBinary(4), keymap=None),
        tiny_world,
        lambda: tiny_world(forecaster=recalling),
        lambda: tiny_world(forecaster=next_frame),
        lambda: tiny_world(transformer_backbone, context_level=0.1),
        lambda: tiny_world(latent={"codes": 4}),
        lambda: tiny_world(latent={"codes": 0, "numbers": 2}),
    ],
    ids=["fake", "conv", "recalling", "foreseeing", "transformer", "codes", "latent numbers"],
)
ENVS = pytest.mark.parametrize(
    "make_env", [WorldModelEnv, lambda world, **more: WorldModelVectorEnv(world, 3, **more)], ids=["single", "vector"]
)


def play(env, seed, steps=4):
    """Steps by actions of a seed; returns everything that came of it."""
    env.action_space.seed(seed)
    return [env.step(env.action_space.sample()) for _ in range(steps)]


def same(found, expected):
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in found)
    if isinstance(found, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return np.array_equal(found, expected)


@WORLDS
@ENVS
def test_a_restored_env_goes_on_bit_for_bit_whatever_happened_between(make_world, make_env):
    env = make_env(make_world(), max_episode_steps=6, render_mode="rgb_array")
    env.reset(seed=1)
    info_then = play(env, 0)[-1][-1]
    state, shown = env.get_state(), env.render()
    expected = play(env, 1, steps=8)  # over the end of an episode
    play(env, 2), env.reset(seed=9)
    observation, info = env.set_state(state)
    assert same(env.render(), shown) and same(observation, shown if isinstance(env, WorldModelEnv) else np.stack(shown))
    assert same(info, info_then) and same(play(env, 1, steps=8), expected)


@WORLDS
def test_forks_step_alike_by_the_same_actions_and_apart_by_others(make_world):
    env = WorldModelVectorEnv(make_world(), 2, obs="latent")  # an untrained network's actions move latents, not pixels
    env.reset(seed=1), play(env, 0)
    before = env.get_state().to_bytes()
    forked = env.fork(2)
    rows = forked.get_state().world.address[:, 0].tolist()
    forked.action_space.seed(0)
    actions = forked.action_space.sample()
    while np.array_equal(actions[2], actions[3]):
        actions = forked.action_space.sample()
    actions[1] = actions[0]
    observations, rewards, *_ = forked.step(actions)
    assert rows == [1, 1, 2, 2] and np.array_equal(observations[0], observations[1]) and rewards[0] == rewards[1]
    assert rewards[2] != rewards[3]
    assert env.get_state().to_bytes() == before and forked.world is env.world


def test_a_fork_is_as_the_env_it_came_from_but_for_what_is_asked():
    env = WorldModelEnv(FakeWorld(end=0), actions="discrete", max_episode_steps=3, obs="latent")
    env.reset(seed=1), env.step(2)
    forked = env.fork(4, output="torch", autoreset_mode="SameStep", obs="rgb")
    assert forked.single_action_space == env.action_space and forked.single_observation_space.shape == (40, 48, 3)
    assert [forked.step([1] * 4)[3].tolist() for _ in range(2)] == [[False] * 4, [True] * 4]  # two of three were left
    assert (env.fork(2).output, env.fork(2).single_observation_space) == ("numpy", env.observation_space)


def test_forks_of_a_seed_draw_luck_of_their_own_from_there_on():
    env = WorldModelEnv(FakeWorld(end=0))
    env.reset(seed=1), env.step(2)
    forked = env.fork(3, seed=100)
    rewards = forked.step([1, 1, 1])[1]
    assert len(set(rewards)) == 3 and rewards.tolist() == env.fork(3, seed=100).step([1, 1, 1])[1].tolist()
    assert forked.get_state().world.address.tolist() == [[100 + row, 0, 2] for row in range(3)]


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_a_fork_into_a_bad_number_is_one_sentence(n):
    env = WorldModelEnv(FakeWorld())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^expected a fork into at least 1, found"):
        env.fork(n)


def test_a_state_is_a_value_that_neither_side_can_write_to():
    env = WorldModelEnv(FakeWorld(end=0))
    env.reset(seed=0), env.step(1)
    state = env.get_state()
    kept = state.to_bytes()
    env.step(3)
    assert state.to_bytes() == kept
    env.set_state(state)
    state.world.latent.zero_(), state.terminated.fill_(True)
    assert env.get_state().to_bytes() == kept


def test_a_row_that_is_due_to_start_anew_is_so_after_a_restore():
    env = WorldModelVectorEnv(FakeWorld(end=0), 2, max_episode_steps=1)
    env.reset(seed=0), env.step([1, 1])
    other = WorldModelVectorEnv(FakeWorld(end=0), 2, max_episode_steps=1)
    other.set_state(env.get_state())
    assert [read(frame, EPISODE) for frame in other.step([1, 1])[0]] == [1, 1]


@WORLDS
def test_bytes_are_the_state_and_rows_of_it_can_be_taken(make_world):
    world = make_world()
    envs, single = WorldModelVectorEnv(world, 3), WorldModelEnv(world)
    envs.reset(seed=1), play(envs, 0)
    state = envs.get_state()
    single.set_state(state.select(torch.tensor([1])).to_bytes())
    assert single.row_seed == 2 and torch.equal(single.get_state().world.latent[0], state.world.latent[1])
    envs.reset(seed=5), envs.set_state(state.to_bytes())
    assert envs.get_state().to_bytes() == state.to_bytes()


CONTINUE = """
import hashlib, sys
import numpy as np
from worldsim.dream.vector_env import WorldModelVectorEnv
envs = WorldModelVectorEnv(sys.argv[1], 2)
envs.set_state(open(sys.argv[2], "rb").read())
digest = hashlib.sha256()
for _ in range(4):
    for part in envs.step(np.ones((2, 4), np.int8))[:4]:
        digest.update(np.ascontiguousarray(part))
print(digest.hexdigest())
"""


def test_a_state_saved_by_one_process_goes_on_in_another(tmp_path):
    folder = bundle.save(tiny_world(transformer_backbone), tmp_path / "world")
    envs, digest = WorldModelVectorEnv(folder, 2), hashlib.sha256()
    envs.reset(seed=3), play(envs, 0)
    (tmp_path / "state").write_bytes(envs.get_state().to_bytes())
    for _ in range(4):
        for part in envs.step(np.ones((2, 4), np.int8))[:4]:
            digest.update(np.ascontiguousarray(part))
    command = [sys.executable, "-c", CONTINUE, str(folder), str(tmp_path / "state")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == digest.hexdigest()


def test_a_copy_of_a_world_takes_its_states_and_another_world_refuses_them_in_one_sentence(tmp_path):
    world = tiny_world()
    envs = WorldModelVectorEnv(world, 2)
    envs.reset(seed=0)
    copy = WorldModelVectorEnv(bundle.save(world, tmp_path / "copy"), 2)
    copy.set_state(envs.get_state())
    with torch.no_grad():
        world.denoiser.backbone.head.bias += 0.01
    foreign = WorldModelVectorEnv(bundle.save(world, tmp_path / "foreign"), 2)
    foreign.reset(seed=1)
    before = foreign.get_state().to_bytes()
    for state in (envs.get_state(), envs.get_state().to_bytes()):
        with pytest.raises(ValueError, match=r"^expected a state of this world \(\w{12}\), found one of another"):
            foreign.set_state(state)
        with pytest.raises(ValueError, match="found one of another"):
            foreign.reset(options={"state": state})
    assert foreign.get_state().to_bytes() == before


@WORLDS
def test_reset_from_a_state_is_a_new_episode_that_begins_where_it_stands(make_world):
    env = WorldModelEnv(make_world())
    env.reset(seed=1), play(env, 0)
    state = env.get_state()
    options = {"state": state.to_bytes()}
    observation, info = env.reset(seed=7, options=options)
    begun = env.get_state().world
    assert info == {"age": 0} and begun.address.tolist() == [[7, 0, 0]] and [*options] == ["state"]
    assert torch.equal(begun.latent, state.world.latent)
    moved = replace(state.world, address=begun.address, age=begun.age)
    assert replace(state, world=moved, terminated=begun.age > 0).to_bytes() == env.get_state().to_bytes()
    envs = WorldModelVectorEnv(env.world, 2)
    assert np.abs(envs.reset(seed=7, options={"state": state})[0][0].astype(int) - observation).max() <= 1


def test_some_rows_may_start_from_a_state_while_others_go_on():
    envs = WorldModelVectorEnv(FakeWorld(end=0), 3)
    envs.reset(seed=0), envs.step([1, 1, 1])
    state = envs.get_state().select(torch.tensor([2]))
    envs.step([2, 2, 2])
    observations, infos = envs.reset(options={"state": state, "reset_mask": np.array([True, False, False])})
    assert [read(frame, ACTION) for frame in observations] == [8, 16, 16] and infos["_age"].tolist() == [1, 0, 0]
    assert [read(frame, AGE) for frame in observations] == [0, 2, 2]


def test_an_image_or_a_clip_is_where_episodes_start():
    world, image = FakeWorld(), np.full((40, 48, 3), 77, np.uint8)
    single, envs = WorldModelEnv(world), WorldModelVectorEnv(world, 2)
    clip = {"frames": np.stack((image - 7, image)), "actions": np.array([3])}
    images, actions = np.stack((image, image + 1)), np.array([[3], [1]])
    clips = {"frames": np.stack((images - 7, images), 1), "actions": actions}
    for prompt, prompts in ((image, images), (clip, clips), ({"frames": image[None]}, {"frames": images[:, None]})):
        alone = single.reset(seed=0, options={"prompt": prompt})[0]
        together = envs.reset(seed=0, options={"prompt": prompt})[0]
        apart = envs.reset(seed=0, options={"prompt": prompts})[0]
        assert read(alone, PROMPT_BAND) == 77 and np.array_equal(alone, together[0])
        assert [read(frame, PROMPT_BAND) for frame in together] == [77, 77]
        assert [read(frame, PROMPT_BAND) for frame in apart] == [77, 78] and np.array_equal(apart[0], alone)
    assert [*clip] == ["frames", "actions"] and actions.tolist() == [[3], [1]]


def test_the_actions_of_a_clip_are_in_the_agents_own_space():
    space = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})
    world, frames = FakeWorld(space, keymap=None), np.zeros((2, 3, 40, 48, 3), np.uint8)
    keys, look = np.ones((2, 2, 3), np.int8), np.full((2, 2, 2), 15.0, np.float32)
    envs, single = WorldModelVectorEnv(world, 2), WorldModelEnv(world)
    envs.reset(seed=0, options={"prompt": {"frames": frames, "actions": {"keys": keys, "look": look}}})
    single.reset(seed=0, options={"prompt": {"frames": frames[0], "actions": {"keys": keys[0], "look": look[0]}}})
    assert torch.equal(envs.get_state().world.context[0], single.get_state().world.context[0])
    single.reset(seed=0, options={"prompt": {"frames": frames[0], "actions": {"keys": keys[0] * 0, "look": look[0]}}})
    assert not torch.equal(envs.get_state().world.context[0], single.get_state().world.context[0])


@pytest.mark.parametrize("backbone", [conv_backbone, transformer_backbone])
def test_a_clips_latents_and_actions_enter_the_history_of_a_real_world(backbone):
    world = tiny_world(backbone)
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    actions = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], np.int8)
    env = WorldModelEnv(world)
    env.reset(seed=5, options={"prompt": {"frames": frames, "actions": actions}})
    vectors = torch.cat((world.action_codec.null[None], world.action_codec.encode(actions)))
    clip = replace(
        random_clip(1, 3, world.autoencoder.latent_shape, world.action_codec),
        latents=world.encode(torch.from_numpy(frames))[None], action=vectors[None],
    )  # fmt: skip
    expected = world.initial(clip, torch.tensor([[5, 0, 0]]))
    found = env.get_state()
    assert replace(found, world=expected).to_bytes() == found.to_bytes()


@pytest.mark.parametrize("backbone", [conv_backbone, transformer_backbone])
def test_resetting_one_row_of_a_real_world_changes_no_other_by_a_bit(backbone):
    envs, undisturbed = (WorldModelVectorEnv(tiny_world(backbone), 3) for _ in range(2))
    envs.reset(seed=0), undisturbed.reset(seed=0)
    play(envs, 0, 2), play(undisturbed, 0, 2)
    envs.reset(options={"reset_mask": np.array([False, True, False]), "prompt": 1})
    kept = torch.tensor([0, 2])
    for _ in range(4):
        assert envs.get_state().select(kept).to_bytes() == undisturbed.get_state().select(kept).to_bytes()
        play(envs, 1, 1), play(undisturbed, 1, 1)


def test_latent_observations_are_within_their_documented_bounds():
    env = WorldModelEnv(tiny_world(), obs="latent", render_mode="rgb_array")
    space = env.observation_space
    assert (space.shape, space.dtype) == ((4, 2, 2), np.float32) and np.isfinite((space.low, space.high)).all()
    white = np.full((16, 16, 3), 255, np.uint8)
    observations = [env.reset(seed=0)[0], env.reset(options={"prompt": white})[0], *(step[0] for step in play(env, 0))]
    assert all(observation in space for observation in observations) and env.render().shape == (16, 16, 3)
