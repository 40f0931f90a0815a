"""Few steps without the blur: a student does in 1 to 8 evaluations what its teacher does in many.

`METHODS` names the ways to teach it; each is one function from a `Task` to a loss.
"""

from dataclasses import dataclass

from worldsim.distill.consistency import consistency, continuous_consistency
from worldsim.distill.drifting import GROUP, drifting
from worldsim.distill.matching import adversarial_matching, matching
from worldsim.distill.mean_flow import mean_flow
from worldsim.distill.progressive import ROUNDS, progressive
from worldsim.distill.regression import regression
from worldsim.distill.shortcut import shortcut
from worldsim.distill.task import Method


@dataclass(frozen=True)
class Known:
    """A method, and what it needs beside a batch."""

    loss: Method
    rounds: int = 1  # trainings one after the other, each the teacher of the next
    first: int = 1  # the evaluations a frame that the first round's student is for; half as many every round after
    group: int = 1  # rows of a batch that share a history
    critic: bool = False  # a second network, that learns the student's frames
    share: float = 1.0  # of the learning rate, for the student: a critic has to keep up with it


METHODS = {
    "regression": Known(regression),
    "shortcut": Known(shortcut),
    "progressive": Known(progressive, rounds=ROUNDS, first=2 ** (ROUNDS - 1)),
    "consistency": Known(consistency),
    "continuous_consistency": Known(continuous_consistency),
    "mean_flow": Known(mean_flow),
    "matching": Known(matching, critic=True, share=0.1),
    "adversarial_matching": Known(adversarial_matching, critic=True, share=0.1),
    "drifting": Known(drifting, group=GROUP),
}
