"""The wheel: what it holds, and that it works away from the checkout.

Here because a checkout on sys.path hides what a wheel forgets; so the checks run in a process elsewhere.
Leaves out dependencies: the wheel is installed without them, next to this environment's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("worldsim", "agents", "configs", "envs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel installed, built from a copy so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", source / "wheel", source)
    (wheel,) = (source / "wheel").glob("worldsim_rl-*.whl")
    pip("install", "--no-deps", "--target", target, wheel)
    return target


def pip(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def python(installed: Path, *arguments: str) -> str:
    """Runs Python in the installed folder, which stands first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=installed, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_only_worldsim_lands_in_site_packages(installed):
    names = {path.name for path in installed.iterdir()} - {"bin"}
    (metadata,) = installed.glob("worldsim_rl-*.dist-info")
    assert names == {"worldsim", metadata.name}


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_data_file(installed):
    wanted = set()
    for root, package in {"worldsim": "", "agents": "agents", "configs": "configs", "envs": "envs"}.items():
        files = [path for path in (ROOT / root).rglob("*") if path.suffix in (".py", ".yaml", ".json", ".safetensors")]
        wanted |= {str(Path(package) / path.relative_to(ROOT / root)) for path in files}
    assert wanted | {"py.typed"} <= {
        str(path.relative_to(installed / "worldsim"))
        for path in installed.rglob("*")
        if path.is_relative_to(installed / "worldsim")
    }


@pytest.mark.slow
def test_gymnasium_ids_resolve_from_the_wheel(installed):
    code = """
import gymnasium as gym, worldsim
from gymnasium.envs.registration import load_env_creator
assert "site-packages" in worldsim.__file__ or worldsim.__file__.startswith({root!r}), worldsim.__file__
specs = [spec for name, spec in gym.registry.items() if name.startswith(("worldsim/", "worldsim-real/"))]
for spec in specs:
    load_env_creator(spec.entry_point)
    if spec.vector_entry_point:
        load_env_creator(spec.vector_entry_point)
    spec.to_json()
print(*sorted(spec.id for spec in specs))
"""
    found = python(installed, "-c", code.replace("{root!r}", repr(str(installed)))).split()
    folders = [path.parent.name for path in (ROOT / "worldsim" / "worlds").glob("*/world.json")]
    real = {"worldsim-real/Arena-v0", "worldsim-real/DoomMaze-v0", "worldsim-real/DoomTakeCover-v0"}
    assert {"worldsim/World-v0", *real} <= set(found)
    assert len(found) == 1 + len(real) + len(folders)


@pytest.mark.slow
def test_commands_find_their_configs_in_the_wheel(installed):
    code = """
from worldsim.cli.compose import compose
print(compose("record", ["game=arena", "policy=random", "frames=9", "out=x"]).out, compose("worlds", []))
"""
    assert python(installed, "-c", code) == "x {}"
    assert "game=arena" in python(installed, "-m", "worldsim", "record", "--help")


@pytest.mark.slow
def test_top_level_names_of_the_checkout_do_not_exist_in_the_wheel(installed):
    code = "import importlib.util as u; print([name for name in ('agents', 'configs', 'envs') if u.find_spec(name)])"
    assert python(installed, "-c", code) == "[]"
