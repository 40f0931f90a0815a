"""Record any game, train a world model of it, step the dream like any Gymnasium environment.

Here: the public names, imported when first used, and the Gymnasium ids. `import worldsim` stays light and quick.
Leaves out everything else; see CONTRIBUTING.md for what lives where.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldsim import _checkout
from worldsim.dream import registration

if TYPE_CHECKING:
    from worldsim.bundle import load
    from worldsim.data.episodes import EpisodeStore
    from worldsim.dream.env import WorldModelEnv
    from worldsim.dream.vector_env import WorldModelVectorEnv
    from worldsim.world_model import WorldModel

__version__ = "0.1.0"
__all__ = ["EpisodeStore", "WorldModel", "WorldModelEnv", "WorldModelVectorEnv", "load"]

_HOMES = {
    "EpisodeStore": "worldsim.data.episodes",
    "WorldModel": "worldsim.world_model",
    "WorldModelEnv": "worldsim.dream.env",
    "WorldModelVectorEnv": "worldsim.dream.vector_env",
    "load": "worldsim.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'worldsim' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_checkout.install(Path(__file__).resolve().parent.parent)
registration.register()
