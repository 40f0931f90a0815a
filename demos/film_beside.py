"""Films a real game beside its dream, which begins with the game's first frames, under the same actions.

python demos/film_beside.py arena beside.mp4
"""

import argparse

import numpy as np

from worldsim import WorldModelEnv, load
from worldsim.actions import unpack
from worldsim.data.policies import find_policy
from worldsim.dream.registration import endless
from worldsim.play.beside import Beside
from worldsim.play.video import VideoWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a shipped world's name or the path of a bundle, of a game of the library's own")
    parser.add_argument("out", help="mp4, webm or gif")
    parser.add_argument("--policy", default="sticky", help="who acts (%(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of game, dream and policy (%(default)s)")
    arguments = parser.parse_args()
    world = load(arguments.world)
    env = WorldModelEnv(world)
    game = Beside(endless(world.info.game), world, arguments.seed)
    policy = find_policy(arguments.policy)(env.action_space, np.random.default_rng(arguments.seed))
    frame, _ = env.reset(seed=arguments.seed, options={"prompt": game.prompt()})
    dream_ended, started = False, np.array([True])
    with VideoWriter(arguments.out, world.info.fps) as video:
        video.append(np.concatenate((game.frame, frame), 1))
        for _ in range(arguments.frames - 1):
            packed = policy(game.frame[None], started)[0]
            game.step(packed)
            if not dream_ended:
                frame, _, dream_ended, *_ = env.step(unpack(env.action_space, packed))
            video.append(np.concatenate((game.frame, frame), 1))
            started[:] = False
            if game.ended and dream_ended:
                break
    game.close()
    print(f"wrote {arguments.out}: the game on the left, the dream on the right; what has ended stands still")


if __name__ == "__main__":
    main()
