"""Desktop recordings in OWAMcap: what was held and moved between frames, from files in the published layout."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from import_sources import grey_frames, write_uneven, write_video
from mcap.writer import Writer

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.data.importer import import_mcap

COUNT, STEP, START = 12, 100_000_000, 1_700_000_000_000_000_000  # ten frames a second, nanoseconds
W, SPACE = 87, 32


def desktop(folder, events=(), name="play", times=None, uri=None):
    """Writes a video, and an mcap file of its frames and of (milliseconds, kind, message)."""
    folder.mkdir(exist_ok=True)
    video = write_video(folder / f"{name}.mkv", grey_frames(COUNT), fps=10)
    if times is not None:
        (folder / "even.mkv").unlink(missing_ok=True)
        video.rename(folder / "even.mkv")
        write_uneven(folder / f"{name}.mkv", folder / "even.mkv", times)
        (folder / "even.mkv").unlink()
    told = []
    for i in range(COUNT):
        at = i * STEP if times is None else round(times[i] * 1e9)
        media = {"uri": uri or f"{name}.mkv", "pts_ns": at}
        told.append((at, "ScreenCaptured", {"utc_ns": START + at, "shape": [32, 32], "media_ref": media}))
    told += [(ms * 1_000_000, kind, message) for ms, kind, message in events]
    with open(folder / f"{name}.mcap", "wb") as file:
        writer = Writer(file)
        writer.start(profile="owa", library="a test")
        channels = {}
        for at, kind, message in sorted(told, key=lambda part: part[0]):
            if kind not in channels:
                schema = writer.register_schema(f"desktop/{kind}", "jsonschema", b"{}")
                channels[kind] = writer.register_channel(kind.lower(), "json", schema)
            data = json.dumps(message | {"timestamp": START + at}).encode()
            writer.add_message(channels[kind], START + at, data, START + at)
        writer.finish()
    return folder


def key(ms, code, how):
    return ms, "KeyboardEvent", {"event_type": how, "vk": code}


def raw(ms, dx, dy, flags=0):
    return ms, "RawMouseEvent", {"last_x": dx, "last_y": dy, "us_flags": 0, "button_flags": flags, "button_data": 0}


def actions(store, name):
    """The column of a key, button or axis in the only episode's actions."""
    bindings = store.info.keymap["bindings"]
    place = {b["keys"][0]: int(next(iter(b["set"]))) for b in bindings}
    place |= {f"mouse {m['axis']}": m["component"] for m in store.info.keymap["mouse"]}
    return store.actions(0)[:, place[name]].tolist()


def test_keys_and_mouse_of_each_frame_are_those_until_the_next(tmp_path):
    events = [
        key(150, W, "press"), key(160, W, "press"), key(520, W, "release"),  # held keys repeat
        key(610, SPACE, "press"), key(640, SPACE, "release"),  # tapped between two frames
        raw(230, 3, -1), raw(260, 4, 0), raw(700, 0, 0, 0x1), raw(910, 0, 0, 0x2),
    ]  # fmt: skip
    assert import_mcap(desktop(tmp_path / "r", events), tmp_path / "data", size=None) == COUNT
    store = EpisodeStore(tmp_path / "data")
    assert store.info.fps == 10 and isinstance(store.info.action_space, spaces.Dict)
    assert actions(store, "w") == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert actions(store, "space") == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert actions(store, "mouse left") == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]
    assert actions(store, "mouse x") == [0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]
    assert actions(store, "mouse y") == [0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0]
    shown = store.observations(0)[:, 16, 16, 0].astype(int)
    assert np.abs(shown - grey_frames(COUNT)[:, 0, 0, 0]).max() <= 3


def test_what_was_over_before_the_first_frame_led_to_none(tmp_path):
    events = [key(-90, W, "press"), key(-80, W, "release"), key(-70, SPACE, "press"), key(250, SPACE, "release")]
    events += [key(260, W, "press"), key(270, W, "release"), raw(-60, 50, 0), raw(130, 3, 0)]
    import_mcap(desktop(tmp_path / "r", events), tmp_path / "data")
    store = EpisodeStore(tmp_path / "data")
    assert actions(store, "w")[:4] == [0, 0, 1, 0] and actions(store, "space")[:4] == [1, 1, 1, 0]
    assert actions(store, "mouse x")[:3] == [0, 3, 0]


def test_without_a_raw_mouse_its_places_tell_how_it_moved(tmp_path):
    place = lambda ms, x, y, **more: (ms, "MouseEvent", {"event_type": "move", "x": x, "y": y, **more})  # noqa: E731
    click = {"event_type": "click", "button": "right", "pressed": True}
    events = [place(50, 10, 10), place(350, 14, 10), place(380, 14, 12), place(410, 14, 12, **click)]
    import_mcap(desktop(tmp_path / "r", events), tmp_path / "data")
    store = EpisodeStore(tmp_path / "data")
    assert actions(store, "mouse x")[3] == 4 and actions(store, "mouse y")[3] == 2
    assert actions(store, "mouse right") == [0] * 4 + [1] * 7  # never let go


def test_files_of_a_folder_share_their_columns(tmp_path):
    desktop(tmp_path / "r", [key(100, W, "press"), key(300, W, "release")], "a")
    desktop(tmp_path / "r", [key(200, SPACE, "press"), key(250, SPACE, "release")], "b")
    assert main(["import", f"source={tmp_path / 'r'}", f"out={tmp_path / 'data'}"]) == 0
    store = EpisodeStore(tmp_path / "data")
    assert len(store) == 2 and store.info.action_space == spaces.MultiBinary(2)
    assert store.actions(0)[:, 1].sum() == 3 and store.actions(1)[:, 0].tolist()[2] == 1


def test_a_variable_rate_is_followed(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.1, 1.2, 1.3]
    said = []
    source = desktop(tmp_path / "r", [key(850, W, "press"), key(1050, W, "release")], times=times)
    import_mcap(source, tmp_path / "data", fps=10, say=said.append)
    store = EpisodeStore(tmp_path / "data")
    assert store.num_frames == 14 and actions(store, "w") == [0] * 8 + [1] * 3 + [0] * 2
    assert "variable rate" in said[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "expected a desktop recording"),
        (lambda path: path.with_suffix(".mkv").unlink(), "expected play.mcap's video at"),
        (lambda path: path.write_bytes(b"no mcap"), "expected a desktop recording"),
    ],
)
def test_what_is_damaged_is_named_in_one_line(spoil, message, tmp_path, capsys):
    source = desktop(tmp_path / "r", [key(100, W, "press")])
    spoil(source / "play.mcap")
    assert main(["import", f"source={source}", f"out={tmp_path / 'data'}"]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1 and not (tmp_path / "data").exists()


def test_frames_that_are_in_no_video_are_refused(tmp_path):
    source = desktop(tmp_path / "r", uri="data:image/png;base64,xyz")
    with pytest.raises(ValueError, match="in one video beside it"):
        import_mcap(source, tmp_path / "data")
