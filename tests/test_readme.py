"""What README says in Python runs as it stands there, on the world that ships."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python( slow)?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(blocks, folder, monkeypatch):
    """Runs blocks one after the other, as a reader would: later ones may use what earlier ones made."""
    monkeypatch.chdir(folder)
    names = {"__name__": "readme"}
    for index, (_, code) in enumerate(blocks):
        exec(compile(code, f"<README.md, python block {index + 1}>", "exec"), names)
    return names


def test_every_python_block_runs(tmp_path, monkeypatch):
    names = run([block for block in BLOCKS if not block[0]], tmp_path, monkeypatch)
    assert BLOCKS and {"env", "envs", "observation"} <= names.keys()


@pytest.mark.slow
def test_every_python_block_runs_with_those_that_take_minutes(tmp_path, monkeypatch):
    run(BLOCKS, tmp_path, monkeypatch)
