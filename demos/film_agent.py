"""Films an agent in the real game beside the same agent in a dream that begins with the same frame.

python demos/film_agent.py doom-take-cover doom-take-cover dodger.mp4
"""

import argparse

import numpy as np

from worldsim import WorldModelEnv, load
from worldsim.agents.agent import Agent
from worldsim.cli.agents import agent_folder
from worldsim.dream.registration import endless
from worldsim.play.video import VideoWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", help="folder of an agent, or the shipped world that it came with")
    parser.add_argument("world", help="a shipped world's name or the path of a bundle, of a game of the library's own")
    parser.add_argument("out", help="mp4, webm or gif")
    parser.add_argument("--frames", type=int, default=300, help="at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the game and of the dream's luck (%(default)s)")
    arguments = parser.parse_args()
    world = load(arguments.world)
    game, dream = endless(world.info.game), WorldModelEnv(world)
    first, _ = game.reset(seed=arguments.seed)
    dream.reset(seed=arguments.seed, options={"prompt": first})
    folder = agent_folder(arguments.agent) or arguments.agent
    sides = [(env, Agent.load(folder)) for env in (game, dream)]
    frames, over = [first, first], [False, False]
    with VideoWriter(arguments.out, world.info.fps) as film:
        film.append(np.concatenate(frames, 1))
        for step in range(arguments.frames - 1):
            for side, (env, agent) in enumerate(sides):
                if not over[side]:
                    action = agent.act(frames[side], started=step == 0)
                    frames[side], _, terminated, truncated, _ = env.step(action)
                    over[side] = terminated or truncated
            film.append(np.concatenate(frames, 1))
            if all(over):
                break
    game.close()
    print(f"wrote {arguments.out}: the game on the left, the dream on the right")


if __name__ == "__main__":
    main()
