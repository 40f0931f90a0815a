"""Names of samplers, and whose word counts: the world's own or that of whoever loads it.

Here as one table of values to start from; Python users build their own.
Leaves out numbers beside the steps: a sampler with another grid or eta is built in Python and saved with its world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from worldsim.diffusion.guidance import Guidance
from worldsim.diffusion.samplers import (
    AdamsBashforthSampler,
    DPMSolverMultiSampler,
    DPMSolverSingleSampler,
    EulerSampler,
    HeunSampler,
    MidpointSampler,
    RungeKuttaSampler,
)
from worldsim.diffusion.stochastic import (
    AncestralSampler,
    ChurnSampler,
    DDIMSampler,
    EulerMaruyamaSampler,
    LangevinSampler,
    SDEDPMSolverSampler,
)
from worldsim.types import Sampler

SAMPLERS: dict[str, Sampler] = {
    "euler": EulerSampler(),
    "heun": HeunSampler(),
    "midpoint": MidpointSampler(),
    "rk4": RungeKuttaSampler(),
    "ab2": AdamsBashforthSampler(order=2),
    "ab3": AdamsBashforthSampler(order=3),
    "ab4": AdamsBashforthSampler(order=4),
    "dpm2s": DPMSolverSingleSampler(),
    "dpm2m": DPMSolverMultiSampler(order=2),
    "dpm3m": DPMSolverMultiSampler(order=3),
    "ddim": DDIMSampler(),
    "ddpm": AncestralSampler(),
    "sde-dpm": SDEDPMSolverSampler(),
    "churn": ChurnSampler(),
    "langevin": LangevinSampler(),
    "euler-maruyama": EulerMaruyamaSampler(),
}


def choose_sampler(own: Sampler, sampler: str | Sampler | None, steps: int | None) -> Sampler:
    """Returns a world's `own` sampler, or another by name with as many steps, or as it is; `steps` overrides all."""
    mine: Any = own  # samplers are dataclasses with `steps`, for which the protocol does not ask
    chosen: Any = own if sampler is None else sampler
    if sampler is not None and not hasattr(sampler, "steps"):
        if sampler not in SAMPLERS:
            raise ValueError(f"expected sampler one of {', '.join(SAMPLERS)}, found {sampler!r}")
        named: Any = SAMPLERS[sampler]
        chosen = replace(named, steps=mine.steps)
    return chosen if steps is None else replace(chosen, steps=steps)


def choose_guidance(own: Guidance | None, guidance: float | Guidance | None) -> Guidance | None:
    """Returns a world's `own` guidance, or another; a number is the scale of classifier-free guidance by the action."""
    if guidance is None or isinstance(guidance, Guidance):
        return own if guidance is None else guidance
    return Guidance(guidance)
