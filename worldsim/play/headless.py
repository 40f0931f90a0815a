"""Play without a window: a policy acts, a video shows what it saw.

Here for machines without a display, for tests and for demonstrations. Leaves out choosing the policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldsim.data.policies import Policy
from worldsim.dream.env import WorldModelEnv
from worldsim.play.session import Session
from worldsim.play.video import VideoWriter
from worldsim.threads import Threads


def play_headless(
    env: WorldModelEnv, policy: Policy, frames: int, out: str | Path, seed: int | None = None, prompt: Any = None
) -> Session:
    """Plays `frames` frames into the mp4 `out`; an episode that ends is followed by the next.

    The first one starts from a `prompt`, see `Session.begin`.
    """
    session = Session(env, seed, num_times=frames, prompt=prompt)
    with VideoWriter(out, env.metadata["render_fps"]) as video, Threads() as threads:
        video.append(session.frame)
        for _ in range(frames - 1):
            threads.adjust()
            if session.ended:
                session.begin()
            else:
                session.step(session.choose(policy))
            video.append(session.frame)
    return session
