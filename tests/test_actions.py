"""Actions: packing is lossless for every space, encoding is what it says, keymaps fall back sensibly."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.actions import (
    ActionCodec,
    Keymap,
    default_keymap,
    default_table,
    pack,
    packed_width,
    rest_action,
    space_from_json,
    space_to_json,
    unpack,
)

SPACES = [
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), dtype=np.float64),
    spaces.Box(0, 255, (2, 2), np.uint8),
    spaces.Dict(keys=spaces.MultiBinary(4), mouse=spaces.Box(-1, 1, (1,), np.float32)),
    spaces.Tuple((spaces.Discrete(2), spaces.Dict(a=spaces.Box(-2, 3, (2,), np.float32)))),
]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_packing_is_lossless(space):
    space.seed(0)
    for _ in range(50):
        action = space.sample()
        packed = pack(space, action)
        assert packed.shape == (packed_width(space),)
        restored = unpack(space, packed)
        assert same(restored, action) and space.contains(restored)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_batch_packs_like_its_rows(space):
    batched = batch_space(space, 3)
    batched.seed(0)
    actions = batched.sample()
    rows = [pack(space, action) for action in iterate(batched, actions)]
    assert np.array_equal(pack(space, actions, rows=3), np.stack(rows))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_encoded_actions_are_finite_distinct_from_the_null_and_of_the_stated_width(space):
    codec = ActionCodec(space)
    space.seed(1)
    encoded = codec.encode(np.stack([pack(space, space.sample()) for _ in range(20)]))
    assert encoded.shape == (20, codec.width) and encoded.dtype == torch.float32 and torch.isfinite(encoded).all()
    assert (encoded[:, -1] == 0).all() and codec.null[-1] == 1


def test_choices_are_one_hot_and_boxes_scaled():
    codec = ActionCodec(spaces.Tuple((spaces.Discrete(3, start=-1), spaces.Box(0, 10, (1,), np.float64))))
    assert codec.encode(np.array([1.0, 10.0])).tolist() == [0, 0, 1, 1, 0]
    assert codec.encode(np.array([-1.0, 5.0])).tolist() == [1, 0, 0, 0, 0]


BAD = [
    (spaces.Discrete(3), 3),
    (spaces.Discrete(3), 1.5),
    (spaces.Discrete(3), "left"),
    (spaces.MultiBinary(4), [0, 1, 2, 0]),
    (spaces.MultiBinary(4), [0, 1]),
    (spaces.Box(-1, 1, (2,)), [np.nan, 0]),
    (spaces.Box(-1, 1, (2,)), [2, 0]),
    (spaces.Dict(a=spaces.Discrete(2)), {"b": 0}),
    (spaces.Dict(a=spaces.Discrete(2)), 1),
    (spaces.Tuple((spaces.Discrete(2),)), (0, 1)),
]


@pytest.mark.parametrize(("space", "action"), BAD, ids=str)
def test_an_action_out_of_its_space_is_refused_in_one_sentence(space, action):
    with pytest.raises(ValueError, match="expected") as error:
        pack(space, action)
    assert "\n" not in str(error.value)


def test_an_unknown_space_names_what_is_possible():
    with pytest.raises(ValueError, match="Discrete, MultiDiscrete"):
        packed_width(spaces.Text(5))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_table_lists_every_combination_of_a_small_space(sizes):
    space = spaces.MultiDiscrete(sizes)
    table = default_table(space)
    if np.prod(sizes) <= 64:
        assert len({tuple(row) for row in table}) == np.prod(sizes)
    for row in table:
        assert space.contains(unpack(space, row))


def test_the_table_of_a_space_far_from_zero_is_in_it():
    for space in (spaces.Box(2000, 3000, (1,)), spaces.Box(-np.inf, -5000, (1,)), spaces.Box(-np.inf, np.inf, (1,))):
        table = default_table(space)
        assert len(table) and all(space.contains(row.astype(np.float32)) for row in table)


def test_the_table_of_a_large_space_changes_one_number_at_a_time():
    space = spaces.MultiBinary(10)
    table = default_table(space)
    assert len(table) == 11 and (np.abs(table - rest_action(space)).sum(1) <= 1).all()


KEYS = {
    "rest": [0, 0, 0],
    "bindings": [
        {"keys": ["w"], "set": {"0": 1}},
        {"keys": ["d"], "set": {"1": 1}},
        {"keys": ["w", "space"], "set": {"0": 0}},
    ],
    "mouse": [{"axis": "x", "component": 2, "scale": 0.1}],
}
MOUSE_SPACE = spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (1,), np.float32)))


def test_held_keys_combine_and_longer_bindings_win():
    keymap = Keymap(MOUSE_SPACE, KEYS)
    assert keymap.packed({"w", "d"}).tolist() == [1, 1, 0]
    assert keymap.packed({"w", "space", "x"}).tolist() == [0, 0, 0]
    assert keymap.packed(set()).tolist() == [0, 0, 0]


def test_the_mouse_moves_its_component_and_stays_in_bounds():
    keymap = Keymap(MOUSE_SPACE, KEYS)
    assert keymap.uses_mouse
    assert np.isclose(keymap.packed(set(), (5, 100))[2], 0.5)
    assert keymap.packed(set(), (-500, 0))[2] == -1


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_default_keymap_gives_actions_in_the_space(space):
    keymap = Keymap(space, default_keymap(space))
    for key in keymap.keys:
        assert space.contains(unpack(space, keymap.packed({key})))


def test_a_keymap_of_another_space_is_refused():
    with pytest.raises(ValueError, match="3 numbers, found 2"):
        Keymap(MOUSE_SPACE, {"rest": [0, 0]})
