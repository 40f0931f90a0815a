"""Tensors in, tensors out: the same dream as NumPy's, and a step that never looks at the host."""

from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import torch
from fake_world import FakeWorld
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from tiny_world import conv_backbone, tiny_world, transformer_backbone
from torch.utils._python_dispatch import TorchDispatchMode

from worldsim import bundle
from worldsim.dream.vector_env import WorldModelVectorEnv

DOOM_LIKE = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})
MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)

# What makes a GPU and its host wait for one another: reading a value, a shape that depends on values, and a constant
# made on the host (torch.tensor, from_numpy) that is then moved.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "lift_fresh", "is_nonzero", "equal")
CONVERSIONS = ("cpu", "cuda", "numpy", "item", "tolist", "__array__", "__bool__", "__int__", "__float__", "__index__")
CONSTRUCTORS = ("tensor", "as_tensor", "from_numpy", "asarray")


class _Waits(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed = name in ("index", "index_put", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if name in WAITING or indexed:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted():
    """Yields a list that everything is added to that would make a GPU wait, while it is open."""
    found = []

    def note(owner, name):
        original = getattr(owner, name)

        def noted(*args, **kwargs):
            if owner is torch.Tensor or not isinstance(args[0], torch.Tensor):
                found.append(name)
            return original(*args, **kwargs)

        return patch.object(owner, name, noted)

    with ExitStack() as stack:
        for owner, names in ((torch.Tensor, CONVERSIONS), (torch, CONSTRUCTORS)):
            for name in names:
                stack.enter_context(note(owner, name))
        stack.enter_context(_Waits(found))
        yield found


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.cpu(), lambda x: x.numpy(), lambda x: x.tolist(), lambda x: np.asarray(x), lambda x: bool(x[0]),
        lambda x: x[x > 0], lambda x: torch.tensor([1.0]), lambda x: x.sum().item(), lambda x: float(x[0]),
    ],
    ids=["cpu", "numpy", "tolist", "array", "bool", "mask", "tensor", "item", "float"],
)  # fmt: skip
def test_the_counter_itself_notices_whatever_waits(wait):
    with counted() as found:
        wait(torch.ones(3))
    assert found


def make(world, num_envs=4, **arguments):
    return WorldModelVectorEnv(world, num_envs, output="torch", **arguments)


def as_tensors(action):
    return {k: torch.from_numpy(v) for k, v in action.items()} if isinstance(action, dict) else torch.from_numpy(action)


@MODES
@pytest.mark.parametrize("obs", ["rgb", "latent"])
@pytest.mark.parametrize("backbone", [conv_backbone, transformer_backbone])
def test_a_step_and_a_masked_reset_make_no_host_copy(backbone, obs, mode):
    envs = make(tiny_world(backbone), obs=obs, autoreset_mode=mode, max_episode_steps=3)
    envs.reset(seed=0)
    actions, mask = as_tensors(envs.action_space.sample()), torch.tensor([True, False, False, True])
    envs.step(actions)  # the first one computes the sampler's constants
    with counted() as found:
        for _ in range(4):
            envs.step(actions)
        envs.reset(options={"reset_mask": mask})
    assert found == []


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(4), "native"), (DOOM_LIKE, "native"), (DOOM_LIKE, "discrete"),
        (spaces.MultiDiscrete([3, 2]), "native"),
    ],
    ids=str,
)  # fmt: skip
def test_reading_actions_of_any_space_makes_no_host_copy(space, actions):
    envs = make(FakeWorld(space, keymap=None), actions=actions)
    sample = as_tensors(envs.action_space.sample())
    with counted() as found:
        vectors, _ = envs._dream.reader.read_tensors(sample, 4)
    assert found == []
    assert torch.equal(vectors, envs._dream.reader.read(sample, 4))


@MODES
@pytest.mark.parametrize("space", [spaces.Discrete(4), DOOM_LIKE], ids=["Discrete", "Dict"])
def test_torch_output_is_the_numpy_output_as_tensors_of_their_own(mode, space):
    arguments = {"autoreset_mode": mode, "max_episode_steps": 9}
    envs, expected = (
        make(FakeWorld(space, keymap=None), **arguments),
        WorldModelVectorEnv(FakeWorld(space, keymap=None), 4, **arguments),
    )
    first, _ = envs.reset(seed=0)
    kept, _ = expected.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(40):
        actions = envs.action_space.sample()
        found, reference = envs.step(as_tensors(actions)), expected.step(actions)
        for part, reference_part in zip(found[:4], reference[:4], strict=True):
            assert np.allclose(part.numpy(), reference_part)
        assert_final_parts_agree(found[4], reference[4])
        ended = reference[2] | reference[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": torch.from_numpy(ended)}), expected.reset(options={"reset_mask": ended})
    assert [part.dtype for part in found[:4]] == [torch.uint8, torch.float32, torch.bool, torch.bool]
    assert found[4]["age"].dtype == torch.int64 and found[4]["_age"].all() and not found[4]["bad_action"].any()
    assert np.array_equal(first.numpy(), kept)


def assert_final_parts_agree(found, expected):
    if "final_obs" in expected:
        for row in np.flatnonzero(expected["_final_obs"]):
            assert np.array_equal(found["final_obs"][row].numpy(), expected["final_obs"][row])
        assert np.array_equal(found["final_info"]["age"].numpy(), expected["final_info"]["age"])
    if "final_obs" in found:
        assert found["_final_obs"].any() == ("final_obs" in expected)


@pytest.mark.parametrize(
    "bad", [4, -1, 2**40, float("nan"), float("inf"), 0.5], ids=["high", "low", "huge", "nan", "inf", "half"]
)
def test_a_value_out_of_the_space_is_the_null_action_and_the_infos_say_so(bad):
    envs = make(FakeWorld(end=0))
    envs.reset(seed=0)
    actions = torch.tensor([1, 2, bad, 3])
    infos = envs.step(actions)[4]
    assert infos["bad_action"].tolist() == [False, False, True, False] and infos["_bad_action"].all()
    vectors, _ = envs._dream.reader.read_tensors(actions, 4)
    assert torch.equal(vectors[2], envs.world.action_codec.null)
    assert torch.equal(vectors[[0, 1, 3]], envs._dream.reader.read(np.array([1, 2, 3]), 3))


def test_arrays_and_lists_are_checked_on_the_host_as_ever():
    envs = make(FakeWorld())
    envs.reset(seed=0)
    for bad in ([0, 0, 0, 4], np.full(4, np.nan)):
        with pytest.raises(ValueError, match="expected"):
            envs.step(bad)
    assert "bad_action" not in envs.step([0, 1, 2, 3])[4]


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(4, 1), torch.zeros(4, dtype=torch.complex64)], ids=str)
def test_a_tensor_of_a_wrong_shape_is_one_sentence(bad):
    envs = make(FakeWorld())
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"^expected an action of shape \(4,\) for Discrete\(4\), found"):
        envs.step(bad)


def test_an_ended_row_that_is_not_reset_dreams_on():
    envs = make(FakeWorld(end=0), autoreset_mode="Disabled", max_episode_steps=2)
    envs.reset(seed=0)
    truncated = [envs.step(torch.zeros(4, dtype=torch.long))[3].any().item() for _ in range(4)]
    assert truncated == [False, True, True, True]


@pytest.mark.gpu
@MODES
@pytest.mark.parametrize("backbone", [conv_backbone, partial(conv_backbone, older=(5, 8)), transformer_backbone])
def test_on_a_gpu_a_step_never_waits(tmp_path, backbone, mode):
    folder = bundle.save(tiny_world(backbone), tmp_path / "world")
    envs = WorldModelVectorEnv(folder, 4, device="cuda", output="torch", autoreset_mode=mode, max_episode_steps=3)
    envs.reset(seed=0)
    actions, mask = torch.ones(4, 4, device="cuda"), torch.tensor([True, False, False, True], device="cuda")
    envs.step(actions)  # the first one loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            envs.step(actions)
        envs.reset(options={"reset_mask": mask})
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_million_row_steps_neither_grow_nor_break():
    envs = make(tiny_world(steps=1), 64, obs="latent", max_episode_steps=100)
    envs.reset(seed=0)
    actions = [as_tensors(envs.action_space.sample()) for _ in range(97)]
    process, sizes, finite = psutil.Process(), [], torch.tensor(True)
    for step in range(1_000_000 // 64 + 1):
        observations, rewards, *_ = envs.step(actions[step % 97])
        finite &= observations.isfinite().all() & rewards.isfinite().all()
        if step % 100 == 0:
            sizes.append(process.memory_info().rss)
    settled = len(sizes) // 10  # by then every buffer that there will be is there
    assert finite and max(sizes[settled:]) <= 1.01 * sizes[settled]
