"""A small game that is no environment, for tests of the screen recorder: a square that keys move, and its own log.

Its frame's number stands in the picture as sixteen squares, black or white. Usage: `screen_game.py LOG FPS`.
"""

import json
import sys
import time

import pygame

SIDE, KEYS = 256, {pygame.K_a: "a", pygame.K_d: "d", pygame.K_SPACE: "space"}
BIT = SIDE // 16


def main() -> None:
    pygame.display.init()
    screen = pygame.display.set_mode((SIDE, SIDE))
    pygame.display.set_caption("Squares of screen_game")
    down, x, y, number, clock = set(), SIDE / 2, 200.0, 0, pygame.time.Clock()
    fps = int(sys.argv[2])
    with open(sys.argv[1], "w") as log:
        while True:
            tapped = set()
            for event in pygame.event.get():
                if event.type == pygame.QUIT:
                    return
                if event.type in (pygame.KEYDOWN, pygame.KEYUP) and event.key in KEYS:
                    name, pressed = KEYS[event.key], event.type == pygame.KEYDOWN
                    (down.add if pressed else down.discard)(name)
                    tapped |= {name} if pressed else set()
            held = down | tapped
            x = (x + 120 / fps * (("d" in held) - ("a" in held))) % SIDE
            y = max(80.0, y - 200 / fps) if "space" in held else min(200.0, y + 200 / fps)
            screen.fill((40, 60, 90))
            for bit in range(16):
                screen.fill((255 * (number >> bit & 1),) * 3, (bit * BIT, 0, BIT, BIT))
            screen.fill((250, 200, 40), (int(x) - 16, int(y), 32, 32))
            pygame.display.flip()
            log.write(json.dumps([number, time.time(), sorted(held)]) + "\n")
            log.flush()
            number += 1
            clock.tick(fps)


if __name__ == "__main__":
    main()
