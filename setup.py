"""Maps the checkout's top-level folders to sub-packages of worldsim.

Here because automatic discovery refuses this layout; a new sub-package is found without being listed.
Leaves out all metadata: that stands in pyproject.toml.
"""

from setuptools import find_packages, setup

ROOTS = {"worldsim": "worldsim", "worldsim.agents": "agents", "worldsim.configs": "configs", "worldsim.envs": "envs"}

setup(
    packages=[name for root, path in ROOTS.items() for name in (root, *(f"{root}.{p}" for p in find_packages(path)))],
    package_dir=ROOTS,
)
