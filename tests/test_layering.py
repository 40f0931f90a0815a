"""Who may import whom, read from the source: lower layers know nothing of higher ones.

Here because a layering that is not tested is a wish.
Leaves out what imports do at run time, but for `import worldsim` itself, which must stay light.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import worldsim

ROOT = Path(__file__).parent.parent

# A module may import from layers below its own, from its own folder, and from the units beside it in its layer.
LAYERS = (
    ("types", "messages", "pixels", "noise", "files", "threads", "_checkout", "_pygame"),
    ("diffusion", "actions"),
    ("models", "data", "training"),
    ("objectives", "distill", "world_model", "bundle"),
    ("dream", "evaluation", "play"),
    ("pipeline",),
    ("cli", "__main__"),
)
STRANGERS = ("models", "data", "training")  # beside one another in a layer, but they do not import one another

LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
OUTSIDE = ("agents", "envs", "configs")
LOWEST = ("types", "pixels", "noise", "files", "actions", "threads")  # what values are, how they are drawn and kept
PUBLIC = {*worldsim.__all__, *LOWEST}
ADAPTERS = ("worldsim.dream.sb3.",)

# Optional extras, the only imports that may stand inside a function; pygame is no extra, but needs an intact install.
LATE = (
    "matplotlib",
    "torch.utils.tensorboard",
    "tensorboard",
    "torchmetrics",
    "pygame",
    "vizdoom",
    "ale_py",
    "minari",
    "h5py",
    "pyarrow",
    "mcap",
    "aiohttp",
    "mss",
    "pynput",
    "Xlib",
)
HEAVY = ("torch", "pygame", "hydra", "omegaconf", "imageio", "matplotlib", "accelerate")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "worldsim" else ("worldsim", *parts))


def imports(tree: ast.AST, module: str = "", is_package: bool = False) -> Iterator[str]:
    """Yields the dotted name of everything imported: `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)


def imports_of(path: Path) -> list[str]:
    return list(imports(ast.parse(path.read_text()), module_name(path), path.name == "__init__.py"))


def unit_of(name: str) -> str | None:
    """The first name below worldsim, where there is one: worldsim.models.conv belongs to models."""
    parts = name.split(".")
    return parts[1] if parts[0] == "worldsim" and len(parts) > 1 else None


def is_allowed(source: str, target: str) -> bool:
    if source == target or LEVEL[target] < LEVEL[source]:
        return True
    strangers = source in STRANGERS and target in STRANGERS
    return LEVEL[target] == LEVEL[source] and not strangers


LIBRARY = [path for path in sources("worldsim") if path != ROOT / "worldsim" / "__init__.py"]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_every_module_of_the_library_stands_in_a_layer():
    assert {unit_of(module_name(path)) for path in LIBRARY} <= set(LEVEL)


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_modules_import_only_downward(path):
    source = unit_of(module_name(path))
    targets = {unit for name in imports_of(path) if (unit := unit_of(name)) and unit not in OUTSIDE}
    assert targets <= set(LEVEL)  # by module: the public names of worldsim itself are for its users
    assert [target for target in targets if not is_allowed(source, target)] == []


@pytest.mark.parametrize(
    ("source", "target"),
    [("types", "models"), ("models", "data"), ("training", "models"), ("world_model", "dream"), ("play", "cli")],
)
def test_the_rule_itself_forbids_looking_up_or_sideways(source, target):
    assert not is_allowed(source, target)


def test_imports_have_no_cycles():
    graph = {}
    for path in LIBRARY:
        targets = (longest_module(name) for name in imports_of(path))
        graph[module_name(path)] = {target for target in targets if target and target != module_name(path)}
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # raises CycleError, which names the cycle


MODULES = {module_name(path) for path in LIBRARY}


def longest_module(name: str) -> str | None:
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_the_library_imports_agents_envs_and_configs_only_in_the_cli(path):
    if unit_of(module_name(path)) != "cli":
        assert [name for name in imports_of(path) if unit_of(name) in OUTSIDE] == []


OUTER = sources("agents") + sources("envs")


@pytest.mark.parametrize("path", OUTER, ids=names(OUTER))
def test_agents_and_envs_use_only_public_names(path):
    folder = unit_of(module_name(path))
    names = [name for name in imports_of(path) if not name.startswith(ADAPTERS)]
    assert {unit_of(name) for name in names} - {None, folder} <= PUBLIC


EVERYTHING = LIBRARY + OUTER


@pytest.mark.parametrize("path", EVERYTHING, ids=names(EVERYTHING))
def test_only_optional_extras_are_imported_inside_functions(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    late = [name for function in functions for name in imports(function, module_name(path))]
    assert [name for name in late if not f"{name}.".startswith(tuple(f"{extra}." for extra in LATE))] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=names(EVERYTHING))
def test_pygame_is_imported_only_by_the_front_end(path):
    if not module_name(path).startswith(("worldsim.play", "worldsim._pygame")):
        assert [name for name in imports_of(path) if name.split(".")[0] == "pygame"] == []


def in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True).stdout


def test_importing_worldsim_pulls_in_nothing_heavy():
    code = f"import sys, worldsim; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_fresh_process(code).strip() == "[]"


def test_importing_worldsim_touches_no_global_state():
    code = """
import gymnasium, logging, os, random, sys, warnings
import numpy as np
def state():
    return (dict(os.environ), list(sys.path), warnings.filters[:], random.getstate(), repr(np.random.get_state()),
            np.geterr(), logging.root.level, list(logging.root.handlers), os.getcwd())
before = state()
import worldsim
print(state() == before)
"""
    assert in_a_fresh_process(code).strip() == "True"


def test_public_names_are_imported_when_first_used():
    for name in worldsim.__all__:
        assert getattr(worldsim, name) is not None
        assert name in dir(worldsim)


def test_an_unknown_public_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="WorldModelEnv"):
        _ = worldsim.WorldModelEnvironment
