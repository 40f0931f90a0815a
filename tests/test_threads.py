"""Threads are given up where other programs keep cores busy, and taken back when they stop."""

import subprocess
import sys
import time

import psutil
import pytest
import torch

from worldsim import threads as module
from worldsim.threads import Threads, threads_for


@pytest.mark.parametrize(
    ("cores", "others", "most", "expected"),
    [
        (2, 0.0, 2, 2),
        (2, 0.2, 2, 2),  # a quarter of a core is spared
        (2, 0.3, 2, 1),
        (2, 1.0, 2, 1),
        (2, 2.0, 2, 1),  # never none
        (16, 1.0, 8, 8),  # never more than torch had
        (16, 10.5, 8, 5),
    ],
)
def test_as_many_threads_as_cores_are_left(cores, others, most, expected):
    assert threads_for(cores, others, most) == expected


class Machine:
    """A clock and two cores whose use a test sets: seconds that all and this process have been busy."""

    def __init__(self, monkeypatch):
        self.time = self.busy = self.own = 0.0
        monkeypatch.setattr(Threads, "_look", lambda threads: (self.time, self.busy, self.own))
        monkeypatch.setattr(Threads, "_cores", lambda threads: [0, 1])
        monkeypatch.setattr(module.time, "monotonic", lambda: self.time)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(self, "threads", count))
        self.threads = 2

    def run(self, seconds, own, others):
        self.time += seconds
        self.busy += (own + others) * seconds
        self.own += own * seconds


def test_a_loop_gives_a_thread_up_beside_a_busy_process_and_takes_it_back(monkeypatch):
    machine = Machine(monkeypatch)
    with Threads() as threads:
        found = []
        for own, others in ((2, 0), (1.1, 0.9), (1, 1), (1, 0), (2, 0)):
            machine.run(1.5, own, others)
            threads.adjust()
            found.append(machine.threads)
        assert found == [2, 1, 1, 2, 2]
        machine.run(0.5, 1, 1)
        threads.adjust()
        assert machine.threads == 2  # it looks once a second
        machine.run(1, 1, 1)
        threads.adjust()
        assert machine.threads == 1
    assert machine.threads == 2


def test_what_a_process_itself_uses_is_not_counted_as_others(monkeypatch):
    with Threads() as threads:
        began = threads._look()
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        now = threads._look()
    assert 0.2 < now[2] - began[2] < 0.6 and now[1] - began[1] > 0.1


def test_another_process_is_seen():
    with Threads() as threads:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        began = threads._look()
        try:
            before = psutil.Process(busy.pid).cpu_times().user
            time.sleep(0.8)
            used = psutil.Process(busy.pid).cpu_times().user - before
        finally:
            busy.kill()
            busy.wait()
        now = threads._look()
    assert (now[1] - began[1]) - (now[2] - began[2]) > 0.5 * used
