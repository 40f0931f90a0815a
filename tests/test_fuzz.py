"""10,000 bad actions, seeds, options and states: each refused with one sentence, and the env stands where it stood."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_world import FakeWorld
from gymnasium import spaces
from safetensors.torch import load, save

from worldsim.dream.env import WorldModelEnv
from worldsim.dream.vector_env import WorldModelVectorEnv

CASES = 10_000
SHAPE = (40, 48, 3)
DOOM_LIKE = spaces.Dict({"keys": spaces.MultiBinary(3), "look": spaces.Box(-30, 30, (2,), np.float32)})
JUNK = (
    "left", b"left", 1.5, -1, 10**30, float("nan"), 2j, [[]], [1, [2]], {}, {"a": 1}, object(), np.array("x"),
    np.full(7, np.nan), np.array([None]), torch.full((3,), torch.nan), torch.zeros(0), range(9),
)  # fmt: skip


class Fuzzer:
    """Makes bad input for one env; `rng` chooses."""

    def __init__(self, env, rng):
        self.env, self.rng = env, rng
        self.rows = getattr(env, "num_envs", 1)
        self.is_vector = isinstance(env, WorldModelVectorEnv)
        env.action_space.seed(0)
        env.reset(seed=0), env.step(env.action_space.sample())
        self.state = env.get_state()
        self.data = self.state.to_bytes()

    def pick(self, values):
        return values[self.rng.integers(len(values))]

    def junk(self):
        return self.pick(JUNK)

    def number(self):
        """A number that no action and no index is."""
        return self.pick((np.nan, np.inf, -np.inf, 1e30, -self.rng.integers(1, 99) - 30.5, 99.5))

    def action(self):
        """Returns a call that steps with a bad action."""
        action = self.env.action_space.sample()
        kind = self.rng.integers(4)
        if kind == 0:
            action = self.junk()
        elif isinstance(action, dict):
            key = self.pick(sorted(action))
            if kind == 1:
                action = {**action, key: self.junk()}
            elif kind == 2:
                del action[key]
            else:
                action = {**action, key: self.spoil(action[key])}
        else:
            action = self.spoil(action)
        return lambda: self.env.step(action)

    def spoil(self, array):
        """Returns numbers like `array`, but of another shape or with one number that may not be."""
        array = np.array(array, np.float64)
        if self.rng.integers(2):
            return np.resize(array, (*array.shape, self.rng.integers(2, 5)))
        array[tuple(self.rng.integers(size) for size in array.shape)] = self.number()
        return array.astype(np.float32) if self.rng.integers(2) else torch.from_numpy(array)

    def seed(self):
        seed = self.pick((-1, 2**63, 1.5, "0", [0] * (self.rows + 1), np.nan, [-1] * self.rows, [[0]], {}, b"1"))
        return lambda: self.env.reset(seed=seed)

    def options(self):
        key = self.pick(("unknown", "all", "prompt", "image", "clip", "both", "mask"))
        options = {
            "unknown": lambda: {self.pick(("promt", "seed", 3, None, "", "mask")): 1},
            "all": lambda: self.pick(([1], "prompt", 7, b"x", (1, 2), True)),
            "prompt": lambda: {"prompt": self.pick((self.junk(), 5, -1, 10**9, 1.0, [0] * (self.rows + 1)))},
            "image": lambda: {"prompt": self.image()},
            "clip": lambda: {"prompt": self.clip()},
            "both": lambda: {"prompt": 1, "state": self.state},
            "mask": lambda: {"reset_mask": self.mask()},
        }[key]()
        return lambda: self.env.reset(seed=1, options=options)

    def image(self):
        good = np.zeros(SHAPE, np.uint8)
        return self.pick(
            (good.astype(np.float32), good.astype(int), good[1:], good[..., :1], good.transpose(2, 0, 1),
             np.stack([good] * (self.rows + 1)), good[None, None, None], torch.from_numpy(good).float())
        )  # fmt: skip

    def clip(self):
        frames, vector = np.zeros((3, *SHAPE), np.uint8), np.zeros(9)  # a vector is no action
        return self.pick(
            ({"frames": self.image()[None, None, None]}, {"frames": frames[:0]}, {"frames": self.junk()},
             {"actions": [1, 2]}, {"frames": frames, "actions": self.junk()}, {"frames": frames, "actions": vector},
             {"frames": frames, "action": [1, 2]}, {"frames": np.stack([frames] * (self.rows + 2)), "actions": [1, 2]},
             {"frames": frames, "actions": {"keys": np.zeros((3, 3)), "look": np.zeros((3, 2))}},
             {"frames": frames, "actions": {"keys": np.zeros((2, 3)), "look": np.full((2, 2), self.number())}})
        )  # fmt: skip

    def mask(self):
        good = np.ones(self.rows, bool)
        return self.pick(
            (self.junk(), good.astype(int), good.tolist(), ~good, good[None], np.ones(self.rows + 1, bool),
             torch.ones(self.rows), torch.ones(self.rows + 1, dtype=torch.bool))
        )  # fmt: skip

    def bad_state(self):
        state = self.pick((self.changed_state, self.changed_bytes, self.junk))()
        if self.rng.integers(2):
            return lambda: self.env.set_state(state)
        return lambda: self.env.reset(seed=1, options={"state": state})

    def changed_state(self):
        name = self.pick(("context", "latent", "age", "address"))
        value = getattr(self.state.world, name)
        changed = self.pick(
            (value.numpy(), None, 3, value[0], value[..., None], value[:0], value.repeat(3, *[1] * (value.dim() - 1)),
             value.double(), value.half(), value.bool(), value - 10**6, torch.full_like(value, -1) * 1e6)
        )  # fmt: skip
        if name == "latent" and isinstance(changed, torch.Tensor) and self.rng.integers(3) == 0:
            changed = value.clone()
            changed.view(-1)[self.rng.integers(changed.numel())] = self.pick((np.nan, np.inf, -np.inf, 1e5))
        other = replace(self.state, world=replace(self.state.world, **{name: changed}))
        foreign = replace(self.state, fingerprint=self.pick(("00" * 32, "", None, 7)))
        return self.pick((other, foreign, self.state.world))

    def changed_bytes(self):
        size, tensors = int(self.rng.integers(len(self.data))), load(self.data)
        key = self.pick(sorted(tensors))
        other = self.pick(
            ({**tensors, "more": tensors[key].clone()}, {k: v for k, v in tensors.items() if k != key},
             {**tensors, key: tensors[key].to(torch.float16)}, {**tensors, key: tensors[key][None]})
        )  # fmt: skip
        return self.pick(
            (self.data[:size], self.rng.bytes(size), self.data[:size] + self.rng.bytes(9), self.data + b"x",
             self.data.replace(b"fafa", b"fbfa"), self.data.replace(b"worldsim", b"wOrldsim"),
             save(other, {"worldsim-state-1": self.state.fingerprint}), save(tensors), bytearray(b""))
        )  # fmt: skip


@pytest.mark.parametrize(
    "make_env", [WorldModelEnv, lambda world: WorldModelVectorEnv(world, 2)], ids=["single", "vector"]
)
@pytest.mark.parametrize("space", [spaces.Discrete(4), DOOM_LIKE], ids=["Discrete", "Dict"])
def test_whatever_is_bad_is_refused_with_one_sentence_and_changes_nothing(make_env, space):
    fuzzer = Fuzzer(make_env(FakeWorld(space, keymap=None)), np.random.default_rng(0))
    attempts = (fuzzer.action, fuzzer.options, fuzzer.bad_state, fuzzer.action, fuzzer.seed)
    for case in range(CASES // 4):
        attempt = attempts[case % len(attempts)]()
        with pytest.raises(ValueError) as refusal:
            attempt()
        message = str(refusal.value)
        assert message.startswith("expected ") and "found" in message and "\n" not in message and len(message) < 500
        if case % 10 == 9:
            assert fuzzer.env.get_state().to_bytes() == fuzzer.data
    assert fuzzer.env.get_state().to_bytes() == fuzzer.data
