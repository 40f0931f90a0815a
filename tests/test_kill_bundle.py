"""`kill -9` at random moments of writing a bundle: what is at its path is whole, and saving again mends the rest.

Here as a slow test because only real processes can be killed.
Leaves out training.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_world import tiny_world

from worldsim import bundle

ROOT = Path(__file__).parent.parent
CODE = """
import sys
sys.path.insert(0, "tests")
from tiny_world import tiny_world
from worldsim import bundle
world = tiny_world()
print("ready", flush=True)
while True:
    bundle.save(world, sys.argv[1])
"""


@pytest.mark.slow
def test_a_bundle_killed_while_it_is_written_is_the_old_one_or_the_new_one(tmp_path):
    rng, folder = random.Random(0), tmp_path / "world"
    for _ in range(10):
        bundle.save(tiny_world(), folder)
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        whole = folder if folder.exists() else folder.with_name(".world.old")  # killed between the two renames
        assert bundle.load(whole).steps == 2
    bundle.save(tiny_world(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
