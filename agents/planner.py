"""A planner that knows nothing but the world: it dreams plans ahead and takes the best (the cross-entropy method).

Played in a dream or in the real game. There it sees frames only: the last few become the prompt of the dream in which
it plans. Candidates are dreamed undecoded, all in one batch, by `rollout` with expected rewards; their luck is drawn
anew and the same for all, so that none is chosen for its luck. A plan is a few choices, each held for some steps.

    python -m worldsim.agents.planner --world arena --episodes 100 --limit 50

Source: Rubinstein and Kroese 2004; a plan's beginning is what is left of the last one, as in Pinneri et al. 2020.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import worldsim
from worldsim.actions import unpack_rows
from worldsim.agents.random_policy import dream_envs, interval, real_envs, returns


class Planner:
    """Plans for every row of a state of dreams whose actions are numbers (`actions="discrete"`)."""

    def __init__(
        self, dream: Any, choices: int = 3, hold: int = 4, candidates: int = 16, rounds: int = 2, elites: int = 4,
        discount: float = 0.95, seed: int = 0,
    ):  # fmt: skip
        """A plan is `choices` actions, held for `hold` steps each; `rounds` times `candidates` of them are dreamed."""
        self._dream, self._rng = dream, np.random.default_rng(seed)
        self._shape, self._rounds, self._elites = (candidates, choices), rounds, elites
        self._worth = discount ** np.arange(choices * hold)
        self.hold, self._num_actions = hold, int(dream.single_action_space.n)
        self._last: np.ndarray | None = None

    def __call__(self, state: Any) -> np.ndarray:
        """Returns the action `[n]` that each row of the state should hold for `hold` steps."""
        rows, (candidates, choices) = len(state.terminated), self._shape
        odds = np.full((rows, choices, self._num_actions), 1 / self._num_actions)
        best = self._continued(rows)
        for _ in range(self._rounds):
            plans = self._draw(odds, candidates)  # [n candidates choices]
            plans[:, 0] = best
            scores = self._scores(state, plans)
            order = np.argsort(-scores, axis=1)[:, : self._elites]
            elites = np.take_along_axis(plans, order[..., None], 1)
            best = elites[:, 0]
            share = (elites[..., None] == np.arange(self._num_actions)).mean(1)
            odds = 0.8 * share + 0.2 / self._num_actions  # never sure
        self._last = best
        return best[:, 0]

    def _continued(self, rows: int) -> np.ndarray:
        """Returns the last plans without what was done of them, and a random choice at their end."""
        fresh = self._rng.integers(self._num_actions, size=(rows, self._shape[1]))
        return fresh if self._last is None else np.concatenate((self._last[:, 1:], fresh[:, -1:]), 1)

    def _draw(self, odds: np.ndarray, candidates: int) -> np.ndarray:
        """Draws plans `[n candidates choices]`, spread evenly: each choice takes every action by its odds."""
        places = np.broadcast_to(np.arange(candidates)[:, None], (len(odds), candidates, odds.shape[1]))
        drawn = (self._rng.permuted(places, axis=1) + self._rng.random(places.shape)) / candidates
        return (drawn[..., None] > odds.cumsum(-1)[:, None]).sum(-1).clip(max=self._num_actions - 1)

    def _scores(self, state: Any, plans: np.ndarray) -> np.ndarray:
        """Returns the discounted reward `[n candidates]` that each plan is expected to bring."""
        rows, candidates, _ = plans.shape
        each = np.repeat(np.arange(rows), candidates)
        luck = [int(self._rng.integers(2**62))] * len(each)
        actions = plans.reshape(len(each), -1).repeat(self.hold, 1)
        state = state.select(torch.from_numpy(each).to(state.terminated.device))
        rewards, _ = self._dream.rollout(state, actions, seed=luck, expected=True)
        return (rewards @ self._worth).reshape(rows, candidates)


class Player:
    """A policy that asks the planner every `hold` steps. `look` returns the state to plan from.

    `look(frames, taken)` is given the last frames `[n H W 3]` and the actions `[n]` between them, as lists; `native`
    makes the game's actions of numbers, where the game takes no numbers.
    """

    def __init__(self, planner: Planner, look: Callable, window: int = 1, native: Callable | None = None):
        self._planner, self._look, self._window, self._native = planner, look, window, native
        self._frames: list[np.ndarray] = []
        self._taken: list[np.ndarray] = []
        self._left = 0

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        self._frames = [*self._frames, observations][-self._window :]
        if self._left == 0:
            self._action, self._left = self._planner(self._look(self._frames, self._taken)), self._planner.hold
        self._left -= 1
        self._taken = [*self._taken, self._action][1 - self._window :] if self._window > 1 else []
        return self._action if self._native is None else self._native(self._action)


def look_at(dream: Any) -> Callable:
    """Returns what turns the last frames of real games into the dream's state after them."""

    def look(frames: list[np.ndarray], taken: list[np.ndarray]) -> Any:
        clip = {"frames": np.stack(frames, 1), "actions": np.stack(taken, 1) if taken else None}
        dream.reset(seed=0, options={"prompt": clip})
        return dream.get_state()

    return look


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="arena", help="a shipped world's name or a bundle's path (%(default)s)")
    parser.add_argument("--where", choices=["dream", "real", "both"], default="both", help="(%(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="all at once (%(default)s)")
    parser.add_argument("--limit", type=int, default=50, help="steps after which an episode is cut (%(default)s)")
    parser.add_argument("--choices", type=int, default=3, help="actions in a plan (%(default)s)")
    parser.add_argument("--hold", type=int, default=4, help="steps that each of them is held for (%(default)s)")
    parser.add_argument("--candidates", type=int, default=16, help="plans dreamed at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="times that better ones are drawn (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="network evaluations a dreamed frame (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(arguments)
    world, quick = worldsim.load(args.world), worldsim.load(args.world, steps=args.steps)
    dream = worldsim.WorldModelVectorEnv(quick, args.episodes, actions="discrete")
    for where in ("dream", "real") if args.where == "both" else (args.where,):
        planner = Planner(dream, args.choices, args.hold, args.candidates, args.rounds, seed=args.seed)
        if where == "dream":
            envs = dream_envs(world, args.episodes, args.limit, actions="discrete")
            native = lambda numbers: numbers  # noqa: E731 (used at once)
            player = Player(planner, lambda frames, taken: envs.get_state())  # noqa: B023 (used at once)
        else:
            envs = real_envs(world, args.episodes, args.limit)
            space = envs.single_action_space
            native = lambda numbers: unpack_rows(space, world.action_codec.table[numbers])  # noqa: B023, E731 (used at once)
            player = Player(planner, look_at(dream), world.prompts.latents.shape[1], native)
        rng = np.random.default_rng(args.seed)
        drawn = lambda: rng.integers(len(world.action_codec.table), size=args.episodes)  # noqa: B023, E731 (used at once)
        chance = returns(envs, lambda _: native(drawn()), args.seed)  # noqa: B023
        began = time.perf_counter()
        planned = returns(envs, player, args.seed)
        seconds = time.perf_counter() - began
        print(
            f"{where:>5}: planner {interval(planned)}, random {interval(chance)}; "
            f"{args.episodes} episodes of {args.limit} steps in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
