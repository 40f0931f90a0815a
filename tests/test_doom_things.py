"""The reader of Take Cover: as exact on real frames as it says, and blind to what is not there."""

from contextlib import closing

import numpy as np
import pytest

from worldsim.envs import doom_things
from worldsim.envs.doom import SIZE, DoomTakeCover
from worldsim.envs.doom_things import YELLOW, _reader, accuracy, labelled, things


@pytest.fixture(scope="module")
def seen():
    return labelled(400, seed=3_000_000)  # neither trained nor held out


def test_real_imps_and_fireballs_are_read_where_they_are(seen):
    figures = accuracy(_reader(), *seen)
    for kind, least in (("imp", 0.85), ("fireball", 0.6)):
        assert figures[kind]["precision"] > least and figures[kind]["recall"] > least
        assert figures[kind]["read"] == pytest.approx(figures[kind]["true"], rel=0.2)


def test_an_imp_that_is_painted_over_is_not_read(seen):
    frames, places = seen
    alone = next(i for i, p in enumerate(places) if p["imp"] and not p["fireball"] and 10 < p["imp"][0][0] < 54)
    frame, (x, y) = frames[alone].copy(), map(int, places[alone]["imp"][0])
    before = len(things(frame)["imp"])
    frame[y - 6 : y + 7, x - 4 : x + 5] = frame[y - 6 : y + 7, x - 6 : x - 5]  # the wall beside it
    assert len(things(frame)["imp"]) < before
    assert things(np.full((SIZE, SIZE, 3), 90, np.uint8)) == {"imp": [], "fireball": []}


def test_a_fireball_is_yellow(seen, monkeypatch):
    """What dreams show of walls looks like one to the network, but is grey."""
    dulled = seen[0].copy()
    dulled[..., 2] = np.maximum(dulled[..., 2], dulled[..., :2].min(-1) - YELLOW // 2)
    count = lambda: sum(len(read["fireball"]) for read in _reader().read(dulled))  # noqa: E731
    now = count()
    monkeypatch.setattr(doom_things, "YELLOW", -255)
    assert now == 0 < count()


def test_the_game_says_where_things_are_when_asked_and_plays_the_same(seen):
    with closing(DoomTakeCover()) as plain, closing(DoomTakeCover(labels=True)) as told:
        pairs = [(plain.reset(seed=7), told.reset(seed=7))]
        pairs += [(plain.step(1), told.step(1)) for _ in range(20)]
    assert all(np.array_equal(a[0], b[0]) for a, b in pairs)
    assert not any("things" in a[-1] for a, _ in pairs) and all("things" in b[-1] for _, b in pairs)
    assert any("DoomImp" in b[-1]["things"] for _, b in pairs)
