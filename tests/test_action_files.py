"""Action files: what columns make of an action space, a packed action and a keymap."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.actions import Keymap, unpack
from worldsim.data.action_files import key_name, make_layout, read_actions


def layout_of(tmp_path, text, name="a.csv"):
    (tmp_path / name).write_text(text)
    file = read_actions(tmp_path / name)
    layout = make_layout([file])
    return layout, layout.pack(file)


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("w,space\n0,1\n1,0\n", spaces.MultiBinary(2)),
        ("w,jump\ntrue,False\nFALSE,True\n", spaces.MultiBinary(2)),
        ("move\n0\n4\n", spaces.Discrete(5)),
        ("action\n0\n1\n", spaces.Discrete(2)),
        ("move,gear\n0,2\n4,1\n", spaces.MultiDiscrete([5, 3])),
        ("steer\n-0.5\n0.25\n", spaces.Box(-1, 1, (1,), np.float32)),
        ("steer\n-5\n4\n", spaces.Box(-5, 5, (1,), np.float32)),
        ("mouse_x,mouse_y\n0,1\n1,300\n", spaces.Box(np.float32([-1, -300]), np.float32([1, 300]))),
        (
            "w,steer,gear\n0,0.5,3\n1,-0.5,0\n",
            spaces.Dict(axes=spaces.Box(-1, 1, (1,)), choices=spaces.Discrete(4), keys=spaces.MultiBinary(1)),
        ),
    ],
)
def test_columns_make_the_action_space(tmp_path, text, space):
    layout, packed = layout_of(tmp_path, text)
    assert layout.space == space
    for row in packed:
        assert unpack(space, row) in space


def test_packed_actions_come_in_the_order_of_the_space(tmp_path):
    layout, packed = layout_of(tmp_path, "w,steer,gear,s\n0,0.5,3,1\n1,-0.5,0,0\n")
    assert packed.tolist() == [[0.5, 3, 0, 1], [-0.5, 0, 1, 0]]
    action = unpack(layout.space, packed[0])
    assert action["axes"] == 0.5 and action["choices"] == 3 and action["keys"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "space", "packed"),
    [
        ("a.jsonl", '{"w": 0, "steer": 0.5}\n{"w": true, "steer": 1}\n', None, [[0.5, 0], [1, 1]]),
        ("a.jsonl", "2\n0\n\n", spaces.Discrete(3), [[2], [0]]),
        ("a.jsonl", "[0, 1]\n[1, 1]\n", spaces.MultiBinary(2), [[0, 1], [1, 1]]),
        ("a.npy", np.array([1, 0, 1]), spaces.Discrete(2), [[1], [0], [1]]),
        ("a.npy", np.array([1, 0], np.uint64), spaces.Discrete(2), [[1], [0]]),
        ("a.npy", np.array([True, False]), spaces.MultiBinary(1), [[1], [0]]),
        ("a.npy", np.array([[1, 0], [0, 0]], np.uint8), spaces.MultiBinary(2), [[1, 0], [0, 0]]),
        ("a.npy", np.array([[0.25], [-1]]), spaces.Box(-1, 1, (1,)), [[0.25], [-1]]),
    ],
)
def test_jsonl_and_npy_mean_what_csv_means(tmp_path, name, content, space, packed):
    path = tmp_path / name
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_text(content)
    file = read_actions(path)
    layout = make_layout([file])
    assert space is None or layout.space == space
    assert layout.pack(file).tolist() == packed


@pytest.mark.parametrize(
    ("column", "key"),
    [
        ("w", "w"),
        ("W", "w"),
        ("Space", "space"),
        ("left_shift", "left shift"),
        ("shift", "left shift"),
        ("mouse_left", "mouse left"),
        ("-", "-"),
        ("jump", None),
    ],
)
def test_columns_with_names_of_keys_are_these_keys(column, key):
    assert key_name(column) == key


def test_keys_and_mouse_of_the_columns_play_the_world(tmp_path):
    layout, _ = layout_of(tmp_path, "w,jump,mouse_x,steer\n0,1,-40,-2.5\n1,0,12,0.5\n")
    keymap = Keymap(layout.space, layout.keymap())  # packed: mouse_x, steer, w, jump
    assert keymap.packed({"w"}).tolist() == [0, 0, 1, 0]
    assert keymap.packed(set(), (7.0, 3.0)).tolist() == [7, 0, 0, 0]  # whole pixels: one for one
    named = {binding["keys"][0]: binding["set"] for binding in layout.keymap()["bindings"]}
    assert named["w"] == {"2": 1.0}
    assert [part for key, part in named.items() if "3" in part] == [{"3": 1.0}]  # jump has some other key
    assert {part["1"] for part in named.values() if "1" in part} == {-2.5, 2.5}


def test_a_mouse_within_one_moves_as_in_the_games_that_ship(tmp_path):
    layout, _ = layout_of(tmp_path, "mouse_x\n-0.5\n1.0\n")
    assert layout.keymap()["mouse"] == [{"axis": "x", "component": 0, "scale": 0.05}]


def pretraining(keys, buttons, dx, dy):
    """A line as Video PreTraining's contractors recorded it."""
    mouse = {"x": 640.0, "y": 360.0, "dx": dx, "dy": dy, "scaledX": 0.0, "dwheel": 0.0, "buttons": buttons}
    keyboard = {"keys": [f"key.keyboard.{key}" for key in keys], "newKeys": [], "chars": ""}
    return json.dumps({"mouse": mouse, "keyboard": keyboard, "hotbar": 0, "tick": 7, "isGuiOpen": False})


def test_recordings_of_video_pretraining_are_read_as_they_are_published(tmp_path):
    lines = [pretraining(["w", "left.control"], [0], -12.5, 3.0), pretraining(["space"], [1], 0.0, 0.0)]
    path = tmp_path / "cheeky-cornflower.jsonl"
    path.write_text("\n".join(lines) + "\n")
    file = read_actions(path)
    layout = make_layout([file])
    packed = layout.pack(file)
    names = [column.name for column in layout.columns]
    assert isinstance(layout.space, spaces.Dict) and layout.space.contains(unpack(layout.space, packed[0]))
    held = [{name for name, x in zip(names, row, strict=True) if x} for row in packed]
    assert held == [{"mouse_x", "mouse_y", "w", "left_ctrl", "mouse_left"}, {"space", "mouse_right"}]
    assert packed[0][names.index("mouse_x")] == -12.5
    keys = {key for binding in layout.keymap()["bindings"] for key in binding["keys"]}
    assert keys == {"w", "space", "left ctrl", "mouse left", "mouse right"}  # those that were pressed


def test_a_line_of_video_pretraining_without_its_mouse_is_named(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_text('{"mouse": {"dx": 1}, "keyboard": {"keys": []}}\n')
    with pytest.raises(ValueError, match=r"in line 1 of .*torn\.jsonl"):
        read_actions(path)
