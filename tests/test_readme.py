"""What README and docs say runs as it stands there, their links lead somewhere, and the words stay few."""

import re
import shlex
from pathlib import Path

import pytest

from worldsim.cli.compose import compose

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
    assert compose(words[0], words[1:]) is not None


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
