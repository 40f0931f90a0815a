"""What README and docs say runs as it stands there, their links lead somewhere, and the words stay few."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from import_sources import write_csv, write_video

from worldsim.cli.compose import compose
from worldsim.cli.main import main, split

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("worldsim/worlds/*/README.md"))]
BLOCK = re.compile(r"^```(python|python slow|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, *kinds):
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind in kinds]


def names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def run(page, folder, monkeypatch, *kinds):
    """Runs a page's blocks one after the other, as a reader would: later ones may use what earlier ones made."""
    monkeypatch.chdir(folder)
    known: dict = {"__name__": "readme"}
    for index, code in enumerate(blocks(page, *kinds)):
        exec(compile(code, f"<{page.name}, python block {index + 1}>", "exec"), known)
    return known


WITH_PYTHON = [page for page in PAGES if blocks(page, "python", "python slow")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_every_python_block_runs(page, tmp_path, monkeypatch):
    assert {"env", "envs", "observation"} <= run(page, tmp_path, monkeypatch, "python").keys()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_every_python_block_runs_with_those_that_take_minutes(page, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch, "python", "python slow")


def commands():
    """Yields the page and the words of every `worldsim` command in a bash block."""
    for page in PAGES:
        for line in "".join(blocks(page, "bash")).splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["worldsim"]:
                    yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_has_arguments_that_its_command_takes(words):
    assert compose(*split(words)) is not None


SMALL = {  # what makes a command take seconds
    "record": ["frames=400"],
    "train": ["minutes=0.4"],
    "play": ["headless=true", "frames=3"],
    "eval": ["quick=true", "starts=2", "episodes=2"],
    "bench": ["frames=150"],
    "agent train": ["minutes=0.05", "imagination.rows=4", "imagination.decisions=4", "imagination.horizon=8"],
    "agent eval": ["episodes=2", "max_episode_steps=5"],
}
WINDOWED = ("game=", "record=", "keymap=")  # what `play` wants a window for
AGENTS = {"ppo_sb3": ["--timesteps", "64", "--num-envs", "2"], "planner": ["--candidates", "2"], "random_policy": []}
BEFORE = {"formats.md": ["record game=gym game.id=CarRacing-v3 policy=sticky out=data/car"]}  # told on another page


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_runs_in_the_order_of_its_page_on_less(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    write_video(tmp_path / "play.mp4", np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), np.uint8))
    write_csv(tmp_path / "keys.csv", "left,right", [[i // 9 % 2, i // 5 % 2] for i in range(299)])
    with h5py.File(tmp_path / "game.hdf5", "w") as file:
        file["obs/rgb"] = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), np.uint8)
        file["act"], file["rew"] = np.zeros((300, 2)), np.zeros(300)
    (tmp_path / "keys.yaml").write_text("rest: [0]\nbindings: [{keys: [j], set: {'0': 1}}]\n")
    lines = [f"worldsim {words}" for words in BEFORE.get(page.name, [])]
    lines += [part for line in "".join(blocks(page, "bash")).splitlines() for part in line.split("&&")]
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[:1] == ["worldsim"] and not {"game=screen", "serve=127.0.0.1:8000"} & {*words}:  # nobody is there
            small = SMALL.get(split(words[1:])[0], [])
            windowed = words[1] == "play" and any(word.startswith(WINDOWED) for word in words)
            assert main([*words[1:], *(["frames=3"] if windowed else small)]) == 0
        elif words[:2] == ["python", "-m"] and words[2].startswith("worldsim.agents."):
            small = ["--episodes", "2", "--limit", "5", *AGENTS[words[2].rpartition(".")[2]]]
            subprocess.run([sys.executable, *words[1:], *small], check=True)


def test_what_readme_repeats_stands_so_on_the_page_it_is_from():
    readme, *pages = (page.read_text() for page in PAGES)
    repeated = [code for _, code in BLOCK.findall(readme) if "[dev]" not in code]
    repeated += re.findall(r"^\| `.*$", readme, re.MULTILINE)  # the table of worlds
    assert len(repeated) > 5 and [text for text in repeated if not any(text in page for page in pages)] == []


def slug(heading):
    """The anchor that GitHub gives a heading: lower case, without punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links():
    for page in LINKED:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in target:
                yield pytest.param(page, target, id=f"{page.relative_to(ROOT)}: {target}")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_every_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    if anchor:
        assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)}


def test_the_rules_are_short_and_readme_is_quick_to_read():
    readme, rules = ((ROOT / name).read_text().splitlines() for name in ("README.md", "CONTRIBUTING.md"))
    assert len(readme) <= 300 and len(rules) <= 200
    assert [line for line in readme if len(line) > 120 and not line.startswith("|")] == []
