"""Lets `import worldsim.envs` (and agents, configs) work from a checkout that is not installed.

Here because those folders stand beside `worldsim/` in a checkout, and a checkout on `sys.path` hides an installation.
Leaves out installed packages: the finder is asked last and steps aside where the folders are not there.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

FOLDERS = ("agents", "configs", "envs")


class _Finder:
    def __init__(self, root: Path):
        self.root = root

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, folder = name.partition(".")
        start = self.root / folder / "__init__.py"
        if package != "worldsim" or folder not in FOLDERS or not start.is_file():
            return None
        return spec_from_file_location(name, start, submodule_search_locations=[str(start.parent)])


def install(root: Path) -> None:
    """Adds the finder, once, where `root` is a checkout of this project."""
    is_checkout = (root / "pyproject.toml").is_file() and (root / "setup.py").is_file()
    if is_checkout and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder(root))
