"""Videos, folders of pictures and action files to import."""

import subprocess

import imageio.v2 as imageio
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

NUM_FRAMES = 12


def grey_frames(count=NUM_FRAMES, height=32, width=32) -> np.ndarray:
    """Frames that a lossy codec keeps apart: frame i is flat, of brightness 20 (i + 1)."""
    return np.broadcast_to(20 * np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, height, width, 3))


def write_video(path, frames, fps=15):
    codec = {"codec": "libvpx-vp9"} if path.suffix == ".webm" else {}
    with imageio.get_writer(path, fps=fps, macro_block_size=1, ffmpeg_log_level="quiet", **codec) as writer:
        for frame in frames:
            writer.append_data(frame)
    return path


def write_pictures(folder, frames, suffix=".png"):
    folder.mkdir()
    for index, frame in enumerate(frames):
        iio.imwrite(folder / f"frame{index}{suffix}", frame)  # 10 after 9, which only a natural order has
    return folder


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)], check=True)


def write_uneven(path, video, times):
    """Copies a video's frames, lossless, frame i shown at `times[i]` seconds."""
    stamps = "+".join(f"eq(N,{i})*{time}" for i, time in enumerate(times))
    ffmpeg(
        "-i",
        video,
        "-vf",
        f"setpts='({stamps})/TB'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1:1000",
        "-c:v",
        "ffv1",
        path,
    )
    return path
