"""Wrong input of `worldsim import`: named in one line, exit code 2, and nothing is written."""

import imageio.v3 as iio
import numpy as np
import pytest
from import_sources import grey_frames, write_csv, write_video

from worldsim.cli.main import main
from worldsim.data.importer import import_frames

TEXTS = {  # what stands in the action file, and what the line says of it; {} is its path
    "a word in a cell": ("a.csv", "w\n0\nleft\n", "expected a number for 'w' in line 3 of {}, found 'left'"),
    "an empty cell": ("a.csv", "w,s\n0,\n", "expected a number for 's' in line 2 of {}, found ''"),
    "a cell too many": ("a.csv", "w\n0\n1,1\n", "expected 1 values in line 3 of {}, found 2"),
    "an empty line": ("a.csv", "w\n0\n\n1\n", "expected 1 values in line 3 of {}, found 0"),
    "no header": ("a.csv", "0,1\n1,0\n", "expected a header of different names in the first line of {}, found '0,1'"),
    "a name twice": (
        "a.csv",
        "w,w\n1,0\n",
        "expected a header of different names in the first line of {}, found 'w,w'",
    ),
    "nothing": ("a.csv", "", "expected a header of different names in the first line of {}"),
    "no rows": ("a.csv", "w\n", "expected a row for each frame in {}, found none"),
    "not a number": ("a.csv", "w\nnan\n", "expected numbers in column 'w' of {}"),
    "no text": ("a.csv", "w\n\0\n", "expected text in {}, found other bytes"),
    "a frame number": (
        "a.csv",
        "n\n" + "0\n256\n" * 6,
        "expected fewer than 256 choices in column 'n' of {}, found 256",
    ),
    "half an end": ("a.csv", "w,terminated\n0,0.5\n", "expected 0 or 1 in column 'terminated' of {}, found 0.5"),
    "an end in the middle": ("a.csv", "w,terminated\n" + "0,1\n" + "0,0\n" * 11, "found it in row 1 of {}"),
    "a frame alone": ("a.csv", "w,episode\n" + "0,0\n" * 11 + "0,1\n", "in {}, found one frame alone, number 12"),
    "too few rows": ("a.csv", "w\n0\n", "expected 12 rows (one for each frame) or 11 (none for the last frame) in {}"),
    "too many rows": ("a.csv", "w\n" + "0\n" * 13, "for the 12 frames of play.mp4, found 13"),
    "no json": ("a.jsonl", "{", "expected JSON in line 1 of {}, found '{{'"),
    "other keys": ("a.jsonl", '{"w": 1}\n{"s": 1}\n', "expected w in line 2 of {}, found s"),
    "a list in json": ("a.jsonl", '{"w": [1]}\n', "expected numbers in line 1 of {}"),
    "no array": ("a.npy", "hello", "cannot read {} as an array of numbers"),
    "another file": ("a.txt", "hello", "expected actions= to be one of .csv, .jsonl, .npy, found {}"),
}
OTHERS = (
    *("cut mp4", "cut webm", "text mp4", "nothing there", "no actions there", "another suffix", "pickled npy"),
    *("npy of texts", "a data folder", "one file for two videos", "a video without actions", "videos of other columns"),
    *("videos of other rates", "empty folder", "pictures and videos", "one picture", "pictures of other sizes"),
    *("a cut picture", "a picture of 16 bits", "size", "fps", "max_episode_steps"),
)


def cut(path):
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    return path


def broken_video(kind, folder, play):
    """Makes wrong input of videos; returns the command's arguments and what its one line must say."""
    if kind == "cut mp4":
        return {"source": cut(play)}, f"{play} is damaged or no video after 0 frames"
    if kind == "cut webm":
        frames = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
        webm = cut(write_video(folder / "play.webm", frames))
        return {"source": webm}, f"{webm} is damaged or no video after"
    if kind == "text mp4":
        play.write_text("hello")
        return {"source": play}, f"{play} is damaged or no video after 0 frames"
    if kind == "nothing there":
        return {"source": folder / "no.mp4"}, f"found nothing at {folder / 'no.mp4'}"
    if kind == "another suffix":
        text = write_csv(folder / "a.csv", "w", [[0]])
        return {"source": text}, f"expected a video (.mp4, .webm, .mkv, .mov, .avi, .gif) or a folder, found {text}"
    if kind == "a data folder":
        import_frames(play, folder / "done")
        return {"source": folder / "done"}, "is a data folder already; shift= moves its actions"
    if kind in ("size", "fps", "max_episode_steps"):
        return {"source": play, kind: 0}, f"expected {kind} to be"
    (folder / "videos").mkdir()
    for name, header in (("1", "w,s"), ("2", "w,a")):
        (folder / f"videos/{name}.mp4").write_bytes(play.read_bytes())
        write_csv(folder / f"videos/{name}.csv", header, [(0, 1)] * 12)
    if kind == "videos of other columns":
        return (
            {"source": folder / "videos", "actions": folder / "videos"},
            f"expected {folder / 'videos/2.csv'} to have the columns of 1.csv (w, s), found w, a",
        )
    assert kind == "videos of other rates"
    write_video(folder / "videos/2.mp4", grey_frames(3), fps=30)
    return {"source": folder / "videos"}, "expected videos of one frame rate, found 1.mp4 15.0, 2.mp4 30.0; give fps="


def broken_actions(kind, folder, play):
    path = folder / "a.npy"
    if kind == "no actions there":
        return {"source": play, "actions": path}, f"expected a file of actions at {path}, found nothing"
    if kind == "pickled npy":
        np.save(path, np.array([{}], object), allow_pickle=True)
        return {"source": play, "actions": path}, "Object arrays cannot be loaded when allow_pickle=False"
    if kind == "npy of texts":
        np.save(path, np.array(["a"]))
        return {"source": play, "actions": path}, f"expected numbers [T] or [T k] in {path}"
    (folder / "many").mkdir()
    if kind == "a video without actions":
        message = f"expected one of play{{.csv,.jsonl,.npy}} in {folder / 'many'}, found none"
        return {"source": play, "actions": folder / "many"}, message
    assert kind == "one file for two videos"
    for name in ("1.mp4", "2.mp4"):
        (folder / "many" / name).write_bytes(play.read_bytes())
    message = "expected actions= to be a folder with a file for each of 2 videos"
    return {"source": folder / "many", "actions": write_csv(folder / "a.csv", "w", [[0]])}, message


def broken_pictures(kind, folder, play):
    mine = folder / "mine"
    mine.mkdir()
    first, second = mine / "1.png", mine / "2.png"
    if kind == "empty folder":
        return {"source": mine}, f"expected pictures (.png, .jpg, .jpeg) or videos in {mine}, found neither"
    iio.imwrite(first, np.zeros((8, 8, 3), np.uint8))
    if kind == "pictures and videos":
        play.rename(mine / "play.mp4")
        return {"source": mine}, "found both"
    if kind == "one picture":
        return {"source": mine}, "found one frame alone"
    if kind == "a picture of 16 bits":
        iio.imwrite(second, np.zeros((8, 8), np.uint16))
        return {"source": mine}, f"cannot read {second} as a picture: expected one of 8-bit RGB or grey"
    iio.imwrite(second, np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    if kind == "a cut picture":
        return {"source": mine}, f"cannot read {cut(second)} as a picture"
    assert kind == "pictures of other sizes"
    return {"source": mine}, f"expected {second} to have 8x8 pixels like 1.png, found 9x8"


def broken(kind, folder, video):
    play = folder / "play.mp4"
    play.write_bytes(video.read_bytes())
    if kind in TEXTS:
        name, text, message = TEXTS[kind]
        (folder / name).write_text(text, errors="surrogateescape")
        return {"source": play, "actions": folder / name}, message.format(folder / name)
    if "picture" in kind or kind == "empty folder":
        return broken_pictures(kind, folder, play)
    if "actions" in kind or "npy" in kind or kind == "one file for two videos":
        return broken_actions(kind, folder, play)
    return broken_video(kind, folder, play)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("shared") / "play.mp4", grey_frames())


@pytest.mark.parametrize("kind", [*TEXTS, *OTHERS])
def test_wrong_input_is_named_in_one_line_and_nothing_is_written(tmp_path, video, capsys, kind):
    arguments, message = broken(kind, tmp_path, video)
    code = main(["import", f"out={tmp_path / 'data'}", *(f"{key}={value}" for key, value in arguments.items())])
    out, err = capsys.readouterr()
    assert code == 2 and not out and err.startswith("worldsim import: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "data").exists() and not (tmp_path / "data.partial").exists()
