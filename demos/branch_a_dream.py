"""Branches and rewinds a dream: one past, then two futures beside one another, as a gif.

python demos/branch_a_dream.py arena branches.gif
"""

import argparse

import numpy as np

from worldsim import WorldModelEnv
from worldsim.play.video import VideoWriter

PAST, FUTURE = 30, 30  # frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a shipped world's name or the path of a bundle")
    parser.add_argument("out", help="mp4, webm or gif")
    parser.add_argument("--seed", type=int, default=0, help="of the dream and of its actions (%(default)s)")
    arguments = parser.parse_args()
    env = WorldModelEnv(arguments.world, actions="discrete")
    rng, actions = np.random.default_rng(arguments.seed), env.action_space.n
    frame, _ = env.reset(seed=arguments.seed)
    past = [frame, *(env.step(int(rng.integers(actions)))[0] for _ in range(PAST))]
    moment = env.get_state()
    futures, back = [], []
    for action in rng.choice(actions, 2, replace=False):
        env.set_state(moment)
        states, future = [], []
        for _ in range(FUTURE):
            states.append(env.get_state())
            future.append(env.step(int(action))[0])
        futures.append(future)
        back.append([env.set_state(state)[0] for state in reversed(states)])
    film = [(frame, frame) for frame in past] + [*zip(*futures, strict=True)] + [*zip(*back, strict=True)]
    with VideoWriter(arguments.out, env.metadata["render_fps"]) as video:
        for pair in film:
            video.append(np.concatenate(pair, 1))
    print(f"wrote {arguments.out}: {PAST} frames of one past, {FUTURE} of two futures, and back")


if __name__ == "__main__":
    main()
