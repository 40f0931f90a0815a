"""From recorded episodes to a world, stage by stage.

Here as the layer right under the command line.
Leaves out everything that a stage is made of.
"""

from worldsim.pipeline.run import Preset, Run, StageSizes
from worldsim.pipeline.stages import STAGES, train_world

__all__ = ["STAGES", "Preset", "Run", "StageSizes", "train_world"]
