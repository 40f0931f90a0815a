"""The workflow for the public forge asks for three systems and two Pythons, and runs what everybody runs."""

from pathlib import Path

import yaml

WORKFLOW = yaml.safe_load((Path(__file__).parents[1] / ".github" / "workflows" / "ci.yml").read_text())


def test_the_workflow_runs_the_check_on_three_systems_and_two_pythons():
    job = WORKFLOW["jobs"]["check"]
    matrix = job["strategy"]["matrix"]
    assert matrix.keys() == {"os", "python"}  # nothing is left out
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.13"]
    checks = [step for step in job["steps"] if "run" in step]
    assert [(step["run"], step["shell"]) for step in checks] == [(".ci/run", "bash")]
    assert WORKFLOW["permissions"] == {"contents": "read"}
