"""Films of recordings: every frame, in order, at the recording's rate, whole or not at all."""

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from tiny_world import record

from worldsim.cli.main import main
from worldsim.data.episodes import EpisodeStore
from worldsim.play.video import VideoWriter


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_episodes_become_a_film_of_every_frame(tmp_path, suffix, capsys):
    record(tmp_path / "data")
    store, film = EpisodeStore(tmp_path / "data"), tmp_path / f"film{suffix}"
    assert main(["export", f"data={tmp_path / 'data'}", f"out={film}", "episodes=2"]) == 0
    frames = np.concatenate([store.observations(i) for i in range(2)])
    seen = iio.imread(film)[..., :3]
    assert len(seen) == len(frames) and f"2 episodes, {len(frames)} frames" in capsys.readouterr().out
    factor = seen.shape[1] // frames.shape[1]
    small = seen.reshape(len(seen), frames.shape[1], factor, frames.shape[2], factor, 3).mean((2, 4))
    assert np.abs(small.mean((1, 2)) - frames.mean((1, 2))).mean() < 8  # grey levels: what coding loses
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [film.name]


def test_a_film_s_suffix_and_episodes_of_a_data_set_are_refused_in_one_line(tmp_path, capsys):
    record(tmp_path / "data")
    assert main(["export", f"data={tmp_path / 'data'}", "out=mine-v0", "episodes=2"]) == 2
    assert "expected episodes= for a film" in capsys.readouterr().err
    assert main(["export", f"data={tmp_path / 'data'}", "out=film.mp4", "episodes=0"]) == 2
    assert "expected episodes" in capsys.readouterr().err


def test_frames_that_stand_still_and_doom_s_rate_are_kept_in_a_gif(tmp_path):
    frames = [np.full((16, 16, 3), grey, np.uint8) for grey in (0, 0, 80, 80, 80, 160)]
    with VideoWriter(tmp_path / "still.gif", 35) as film:
        for frame in frames * 10:
            film.append(frame)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "still.gif"))
    assert count == 60 and abs(seconds - 60 / 35) < 0.05
