"""From recorded episodes to a world, stage by stage; and from a world to a faster one.

Here as the layer right under the command line.
Leaves out everything that a stage is made of.
"""

from worldsim.pipeline.distillation import Distillation, distill_world
from worldsim.pipeline.run import Preset, Run, StageSizes
from worldsim.pipeline.stages import STAGES, train_world

__all__ = ["STAGES", "Distillation", "Preset", "Run", "StageSizes", "distill_world", "train_world"]
