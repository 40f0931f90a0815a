"""From a game to a window on its dream: records it, asks whether the data are sound, trains a world, opens it.

python demos/my_game.py runs/mine game=screen game.window="My game" policy=human        # a game on your screen
python demos/my_game.py runs/mine game=gym game.id=CarRacing-v3 policy=sticky            # a Gymnasium game
"""

import argparse
import subprocess
import sys


def worldsim(*words: str) -> None:
    print("worldsim", *words, flush=True)
    subprocess.run((sys.executable, "-m", "worldsim", *words), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder for everything")
    parser.add_argument("words", nargs="+", help="what `worldsim record` is told beside frames= and out=")
    parser.add_argument("--frames", type=int, default=20_000, help="to record (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15, help="to train (%(default)s)")
    parser.add_argument("--preset", default="nano", help="of the training (%(default)s)")
    parser.add_argument("--play", type=int, help="frames to play; all you want where it is left out")
    arguments = parser.parse_args()
    data, run = f"{arguments.out}/data", f"{arguments.out}/run"
    worldsim("record", *arguments.words, f"frames={arguments.frames}", f"out={data}")
    worldsim("check", f"data={data}", f"out={arguments.out}/check.html")
    worldsim("train", f"data={data}", f"out={run}", f"preset={arguments.preset}", f"minutes={arguments.minutes}")
    frames = [f"frames={arguments.play}"] if arguments.play else []
    worldsim("play", f"world={run}/world", f"out={arguments.out}/play.mp4", *frames)


if __name__ == "__main__":
    main()
