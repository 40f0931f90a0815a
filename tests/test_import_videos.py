"""`worldsim import` of videos as they come: pixel formats, colours, sizes, unequal time stamps, containers that lie."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from import_sources import NUM_FRAMES, ffmpeg, grey_frames, write_csv, write_pictures, write_uneven, write_video

from worldsim import pixels
from worldsim.data import frame_files
from worldsim.data.episodes import EpisodeStore
from worldsim.data.importer import import_frames

COLOUR = (200, 60, 30)
FORMATS = {  # codecs without loss, and the pixel formats that games, screens and cameras are filmed in
    "libx264": ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le", "nv12", "gray", "gray10le"),
    "ffv1": (
        "yuva420p",
        "yuv420p12le",
        "yuv420p16le",
        "rgb48le",
        "bgra",
        "rgba64le",
        "gray16le",
        "gbrp16le",
        "yuv410p",
    ),
    "libx264rgb": ("rgb24", "bgr24"),
}


def contents(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def shown(frames) -> list[int]:
    """Returns which of `grey_frames` each frame is."""
    return [round(level / 20) - 1 for level in frames.mean((1, 2, 3)).tolist()]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("shared") / "play.mkv", grey_frames())


# Pixel formats and sizes.


@pytest.mark.parametrize(("codec", "form"), [(codec, form) for codec, forms in FORMATS.items() for form in forms])
def test_every_pixel_format_gives_its_frames_and_colours(tmp_path, codec, form):
    one_colour = np.broadcast_to(np.array(COLOUR, np.uint8), (6, 32, 32, 3))
    folder = write_pictures(tmp_path / "frames", one_colour)
    lossless = ["-qp", 0] if "264" in codec else []
    film = tmp_path / "film.mkv"
    ffmpeg("-framerate", 20, "-i", folder / "frame%d.png", "-c:v", codec, *lossless, "-pix_fmt", form, film)
    size = None if form.startswith("yuv4") else 16
    assert import_frames(film, tmp_path / "data", size=size) == 6
    found = EpisodeStore(tmp_path / "data").observations(0).astype(int)
    expected = 0.299 * 200 + 0.587 * 60 + 0.114 * 30 if form.startswith("gray") else COLOUR
    assert found.shape[1:] == ((16, 16, 3) if size else (32, 32, 3))
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_colours_are_read_by_the_matrix_and_range_that_the_video_states(tmp_path, matrix, levels):
    folder = write_pictures(tmp_path / "frames", np.broadcast_to(np.array(COLOUR, np.uint8), (4, 32, 32, 3)))
    convert = f"scale=out_color_matrix={matrix}:out_range={levels},format=yuv444p"
    states = ["-colorspace", matrix, "-color_range", levels]
    ffmpeg("-i", folder / "frame%d.png", "-vf", convert, *states, "-c:v", "libx264", "-qp", 0, tmp_path / "film.mp4")
    import_frames(tmp_path / "film.mp4", tmp_path / "data", size=16)
    assert np.abs(EpisodeStore(tmp_path / "data").observations(0).astype(int) - COLOUR).max() <= 3


@pytest.mark.parametrize("form", ["yuv444p", "yuv420p"])
@pytest.mark.parametrize(("width", "height"), [(640, 360), (1280, 720), (64, 64), (40, 24), (300, 500)])
def test_ffmpeg_makes_frames_small_as_a_recorded_game_does(tmp_path, width, height, form):
    film, source = tmp_path / "film.mkv", f"testsrc2=size={width}x{height}:rate=10:duration=0.5,format={form}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "ffv1", film)
    full = np.stack([*frame_files.open_takes([film])[0].frames()])
    import_frames(film, tmp_path / "data")
    expected = pixels.resize(torch.from_numpy(full), 64, 64).numpy().astype(int)
    difference = np.abs(EpisodeStore(tmp_path / "data").observations(0).astype(int) - expected)
    assert full.shape == (5, height, width, 3)
    # Not everywhere: where a test picture's colours are beyond RGB they are clipped before or after the average.
    few, mean = (1, 0.3) if form == "yuv444p" else (8, 1)
    assert np.percentile(difference, 99) <= few and difference.mean() < mean


def test_a_rotated_video_stands_upright(tmp_path):
    frames = np.zeros((4, 16, 32, 3), np.uint8)
    frames[:, :, 24:] = 255  # on the right
    film = write_video(tmp_path / "film.mp4", frames)
    ffmpeg("-display_rotation", 90, "-i", film, "-c", "copy", tmp_path / "turned.mp4")
    import_frames(tmp_path / "turned.mp4", tmp_path / "data", size=None)
    found = EpisodeStore(tmp_path / "data").observations(0)
    assert found.shape == (4, 32, 16, 3) and (found[:, :6] > 245).all() and (found[:, 10:] < 10).all()  # now on top


# Time stamps.


def test_a_variable_rate_is_made_constant_and_said(tmp_path, video, capsys):
    times = [0, 0.1, 0.2, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    assert import_frames(write_uneven(tmp_path / "uneven.mkv", video, times), tmp_path / "data", size=16, fps=10) == 13
    store = EpisodeStore(tmp_path / "data")
    assert shown(store.observations(0)) == [0, 1, 2, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11] and store.info.fps == 10
    said = "uneven.mkv has a variable rate: its 12 frames became 13, at 10 a second\n"
    assert capsys.readouterr().out == said


def test_a_variable_rate_becomes_the_one_that_the_video_states(tmp_path, video):
    ffmpeg("-i", video, "-vf", "setpts='(N+5*gte(N,6))/15/TB'", "-fps_mode", "passthrough", tmp_path / "u.mp4")
    import_frames(tmp_path / "u.mp4", tmp_path / "data", size=16)
    store, stated = EpisodeStore(tmp_path / "data"), iio.immeta(tmp_path / "u.mp4", plugin="FFMPEG")["fps"]
    assert store.info.fps == stated and len(store.observations(0)) == round(16 / 15 * stated) + 1


@pytest.mark.parametrize("rate", [15, 24, "24000/1001", 25, "30000/1001", 50, 60, 144, 240])
def test_time_stamps_in_whole_milliseconds_are_no_variable_rate(tmp_path, rate, capsys):
    film = tmp_path / "film.webm"
    ffmpeg("-f", "lavfi", "-i", f"color=size=16x16:rate={rate}:duration=2", "-c:v", "libvpx", film)
    count, exact = import_frames(film, tmp_path / "data", size=16), eval(str(rate))
    assert count == round(2 * exact) and EpisodeStore(tmp_path / "data").info.fps == pytest.approx(exact, rel=0.001)
    assert not capsys.readouterr().out


def test_a_wrongly_stated_rate_gives_way_to_the_time_stamps(tmp_path, video, monkeypatch, capsys):
    monkeypatch.setattr(frame_files, "_stated_rate", lambda path: 1000.0)  # as browsers write it
    import_frames(video, tmp_path / "data", size=16)
    assert EpisodeStore(tmp_path / "data").info.fps == pytest.approx(15, abs=0.05) and not capsys.readouterr().out


def test_a_variable_rate_that_nobody_states_is_asked_for(tmp_path, video, monkeypatch):
    film = write_uneven(tmp_path / "uneven.mkv", video, np.arange(NUM_FRAMES) ** 2 / 50)
    monkeypatch.setattr(frame_files, "_stated_rate", lambda path: 1000.0)
    with pytest.raises(ValueError, match="whose frames are unequally long, found none in it; give fps="):
        import_frames(film, tmp_path / "data")


def test_a_gif_is_a_video_with_delays_of_its_own(tmp_path, capsys):
    frames = list(grey_frames(5))
    iio.imwrite(tmp_path / "even.gif", frames, duration=50, plugin="pillow")
    iio.imwrite(tmp_path / "uneven.gif", frames, duration=[50, 50, 200, 50, 50], plugin="pillow")
    for name, expected in (("even", [0, 1, 2, 3, 4]), ("uneven", [0, 1, 2, 2, 2, 2, 3, 4])):
        import_frames(tmp_path / f"{name}.gif", tmp_path / name, size=16, fps=20)
        assert shown(EpisodeStore(tmp_path / name).observations(0)) == expected
    assert capsys.readouterr().out == "uneven.gif has a variable rate: its 5 frames became 8, at 20 a second\n"


# Containers that lie.


def claim(monkeypatch, extra):
    """Makes containers claim more frames than there are; decoding tells the truth."""
    read = frame_files._read_times

    def lie(path, decode):
        times = read(path, decode)
        return times if decode else np.arange(len(times) + extra) / 15

    monkeypatch.setattr(frame_files, "_read_times", lie)


@pytest.mark.parametrize("extra", [-1, 1, 3])
@pytest.mark.parametrize("with_actions", [False, True])
def test_frames_are_those_decoded_whatever_the_container_claims(tmp_path, video, monkeypatch, extra, with_actions):
    actions = write_csv(tmp_path / "a.csv", "gear", [[i % 5] for i in range(NUM_FRAMES)]) if with_actions else None
    import_frames(video, tmp_path / "whole", actions, max_episode_steps=4)
    claim(monkeypatch, extra)
    assert import_frames(video, tmp_path / "data", actions, max_episode_steps=4) == 14  # two frames on both sides
    assert contents(tmp_path / "data") == contents(tmp_path / "whole") and not (tmp_path / "data.partial").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_trimmed_video_gives_what_is_shown_in_one_decode(tmp_path, video, monkeypatch, suffix):
    ffmpeg("-i", video, "-c:v", "libx264", "-g", 50, "-bf", 2, "-qp", 5, tmp_path / f"all{suffix}")
    ffmpeg("-ss", 4 / 15, "-i", tmp_path / f"all{suffix}", "-c", "copy", tmp_path / f"cut{suffix}")
    seen, read = [], frame_files._read_times
    monkeypatch.setattr(frame_files, "_read_times", lambda path, decode: seen.append(decode) or read(path, decode))
    import_frames(tmp_path / f"cut{suffix}", tmp_path / "data", size=16)
    found = shown(EpisodeStore(tmp_path / "data").observations(0))
    assert found == [*range(NUM_FRAMES - len(found), NUM_FRAMES)] and len(found) in (8, 9) and seen == [False]


def test_rows_that_match_only_the_claimed_frames_are_refused(tmp_path, video, monkeypatch):
    claim(monkeypatch, 3)
    actions = write_csv(tmp_path / "a.csv", "gear", [[i % 5] for i in range(NUM_FRAMES + 3)])
    with pytest.raises(ValueError, match=r"for the 12 frames of play\.mkv, found 15"):
        import_frames(video, tmp_path / "data", actions)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_damaged_video_leaves_a_data_folder_as_it_was(tmp_path):
    (tmp_path / "videos").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    write_video(tmp_path / "videos/1.mkv", frames)
    import_frames(tmp_path / "videos", tmp_path / "data", max_episode_steps=5)
    before, film = contents(tmp_path / "data"), write_video(tmp_path / "videos/2.mkv", frames)
    middle = film.stat().st_size // 2
    film.write_bytes(film.read_bytes()[:middle] + bytes(200) + film.read_bytes()[middle + 200 :])
    for out in ("data", "new"):
        with pytest.raises(ValueError, match=r"2\.mkv is damaged or no video after \d+ frames"):
            import_frames(tmp_path / "videos", tmp_path / out, max_episode_steps=5)
    assert contents(tmp_path / "data") == before and not [*tmp_path.glob("new*")]
