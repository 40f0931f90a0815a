"""The page's server, by real sockets on the fake world: who may come in, what keys do, and what is left of who left."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count

import imageio.v3 as iio
import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
from fake_world import ACTION, AGE, EPISODE, FakeWorld, read
from gymnasium import spaces
from omegaconf import OmegaConf
from tiny_world import tiny_world

from worldsim import bundle
from worldsim.actions import Keymap
from worldsim.cli import play
from worldsim.dream.action_reader import ActionReader
from worldsim.dream.env import WorldModelEnv
from worldsim.play.players import Player, Start, Step, advance
from worldsim.play.server import AHEAD, PlayServer, read_address, read_token

FPS = 200.0


def fake(**facts):
    return FakeWorld(**({"end": 0, "fps": FPS} | facts))


class Page:
    """A browser's page without a browser: tells of keys, and reads the newest picture and facts."""

    def __init__(self, socket):
        self.socket, self.picture, self.num_pictures, self.facts = socket, None, 0, {}

    async def say(self, *message):
        await self.socket.send_str(json.dumps(message))

    async def next(self):
        """Reads up to the next update; returns its facts."""
        while True:
            message = await self.socket.receive(timeout=10)
            if message.type is WSMsgType.BINARY:
                self.picture = iio.imread(message.data)
                self.num_pictures += 1
                continue
            assert message.type is WSMsgType.TEXT, message
            self.facts = json.loads(message.data)
            if "age" in self.facts:
                await self.say("shown")
            return self.facts

    async def until(self, holds):
        while not holds(self):
            await self.next()


@asynccontextmanager
async def served(world=None, **arguments):
    """Yields a server that runs, and a function that visits it: `visit(path)` connects a page."""
    world, said = world or fake(), asyncio.Queue()
    server = PlayServer(world, WorldModelEnv(world).keymap, **arguments)
    running = asyncio.create_task(server.run("127.0.0.1", 0, said.put_nowait))
    try:
        async with ClientSession((await said.get()).split()[2].split("?")[0]) as session:
            yield server, session
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def visit(session, path="/play", **arguments):
    page = Page(await session.ws_connect(path, **arguments))
    await page.next()
    return page


def run(test):
    asyncio.run(asyncio.wait_for(test(), 60))


def test_two_players_see_different_pictures_under_different_keys_and_each_its_own():
    async def test():
        async with served() as (_, session):
            left, right = [await visit(session, "/play?seed=3") for _ in range(2)]
            await left.say("down", "a")
            await right.say("down", "d")
            await left.until(lambda page: page.picture is not None and read(page.picture, ACTION) == 8)
            await right.until(lambda page: page.picture is not None and read(page.picture, ACTION) == 16)
            await left.say("up", "a")
            await left.until(lambda page: read(page.picture, ACTION) == 0)
            await right.next()
            assert read(right.picture, ACTION) == 16
            assert left.facts["players"] == right.facts["players"] == 2

    run(test)


def played(world, keymap, keys, others, seed):
    """Returns the frames of a player under the key of each step, beside others who come and go; ends are left out."""
    reader, player = ActionReader(world.action_codec, "native", world.device), Player(keymap, iter([seed]), 15.0)
    crowd, frames = [Player(keymap, count(50), 15.0) for _ in range(3)], []
    for index, key in enumerate(["", *keys]):
        if key:
            player.hear(json.dumps(["down", key]))
        here = [*crowd[: others[index % len(others)]], player]
        jobs = [one.choose() for one in here]
        assert isinstance(jobs[-1], Step if key else Start)
        for one, job, moment in zip(here, jobs, advance(world, reader, jobs), strict=True):
            one.show(job, replace(moment, ended=False))
        frames.append(iio.imread(player.moment.picture))
        player.hear('["release"]')
    return np.stack(frames)


def test_the_same_seed_and_keys_give_the_frames_of_a_plain_env_to_rounding_whoever_plays_beside():
    world = tiny_world()
    bindings = [{"keys": [key], "set": {index: 1}} for index, key in enumerate("wsad")]
    keymap, keys = Keymap(world.info.action_space, {"bindings": bindings}), "wdwsaadw"
    frames = played(world, keymap, keys, (0, 3, 1, 2), seed=7)
    env = WorldModelEnv(world)
    expected = [env.reset(seed=7)[0], *(env.step(keymap.packed({key}).astype(np.int8))[0] for key in keys)]
    assert np.abs(frames.astype(int) - np.stack(expected)).max() <= 1
    assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 8  # else nothing was compared


def test_a_player_s_start_and_next_episode_are_those_of_a_plain_env():
    async def test():
        async with served() as (_, session):
            page = await visit(session, "/play?seed=5")
            await page.say("down", ".")
            await page.until(lambda page: page.facts.get("word") == "paused")
            await page.say("down", "r")
            await page.until(lambda page: page.facts["episode"] == 1)
            env = WorldModelEnv(fake())
            env.reset(seed=5)
            assert (page.picture == env.reset()[0]).all()
            assert (page.facts["age"], page.facts["seed"], read(page.picture, EPISODE)) == (0, "5", 1)

    run(test)


def test_players_get_seeds_in_turn_and_n_gives_another():
    async def test():
        async with served(seed=40) as (_, session):
            first, second = [await visit(session) for _ in range(2)]
            assert [(await page.next())["seed"] for page in (first, second)] == ["40", "41"]
            await first.say("down", "n")
            await first.until(lambda page: page.facts["seed"] == "42")
            assert first.facts["episode"] == 0

    run(test)


def test_a_pause_stops_the_frames_and_a_step_brings_one():
    async def test():
        async with served() as (_, session):
            page = await visit(session)
            await page.until(lambda page: page.num_pictures > 3)
            await page.say("down", "space")
            await page.until(lambda page: page.facts["word"] == "paused")
            shown, age = page.num_pictures, page.facts["age"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(page.next(), 0.2)  # forty ticks
            assert page.num_pictures == shown
            # The reading was cut short, which closes nothing: one frame, still paused, then on again.
            await page.say("down", ".")
            await page.next()
            assert (page.num_pictures, page.facts["age"], page.facts["word"]) == (shown + 1, age + 1, "paused")
            await page.say("down", "space")
            await page.until(lambda page: page.facts["age"] > age + 5)

    run(test)


def player(**facts):
    world = fake(**facts)
    one = Player(Keymap(world.info.action_space, world.info.keymap), count(), 15.0)
    reader = ActionReader(world.action_codec, "native", world.device)

    def tick(*messages):
        for message in messages:
            assert one.hear(json.dumps(message)) is None
        if job := one.choose():
            one.show(job, advance(world, reader, [job])[0])
        frame = iio.imread(one.moment.picture)
        return read(frame, AGE), read(frame, ACTION)

    tick()
    return one, tick


def test_a_tap_between_two_frames_acts_once_and_lost_focus_lets_go():
    _, tick = player()
    assert tick(["down", "a"], ["up", "a"]) == (1, 8)
    assert tick() == (2, 0)
    assert tick(["down", "d"]) == (3, 16)
    assert tick() == (4, 16)
    assert tick(["release"]) == (5, 0)


def test_backspace_goes_back_while_it_is_held_and_the_same_keys_bring_back_the_same_pictures():
    one, tick = player()
    pictures = {}
    for age, key in enumerate("aaddad", 1):
        tick(["down", key], ["up", key])
        pictures[age] = one.moment.picture
    assert tick(["down", "backspace"])[0] == 5
    assert one.facts()["word"] == "back"
    assert [tick()[0] for _ in range(6)] == [4, 3, 2, 1, 0, 0]
    tick(["up", "backspace"], ["down", "a"], ["up", "a"])
    assert one.moment.picture == pictures[1]
    tick(["down", "d"], ["up", "d"])
    assert one.moment.picture != pictures[2]


def test_slow_motion_takes_every_fourth_tick():
    _, tick = player()
    assert tick(["down", ","])[0] <= 1
    begun = tick()[0]
    assert [tick()[0] for _ in range(8)][-1] == begun + 2


def test_the_end_stands_a_second_and_then_the_next_episode_begins():
    one, tick = player(end=1)
    tick()
    assert one.facts()["word"] == "the end"
    assert [tick(["down", "a"], ["up", "a"]) and one.moment.start.episode for _ in range(16)] == [0] * 15 + [1]
    assert tick() == (1, 0)  # what was typed at the end is not meant for the beginning


def test_a_mouse_moves_and_its_buttons_act():
    plain = {
        "bindings": [{"keys": ["mouse left"], "set": {"0": -1}}],
        "mouse": [{"axis": "x", "component": 1, "scale": 0.1}],
    }
    one = Player(Keymap(spaces.Box(-1, 1, (2,), np.float32), plain), count(), 15.0)
    world = fake(action_space=spaces.Box(-1, 1, (2,), np.float32), keymap=plain)
    job = one.choose()
    one.show(job, advance(world, ActionReader(world.action_codec, "native", world.device), [job])[0])
    for message in (["move", 2, 9], ["move", 3, 0.5], ["down", "mouse left"]):
        one.hear(json.dumps(message))
    assert np.allclose(one.choose().action, [-1, 0.5])


@pytest.mark.parametrize(
    "message",
    ["", "{", "7", '["down"]', '["down", 3]', '["down", "q"]', '["move", NaN, 0]', '["move", 1e9, 0]', "[[[["],
)
def test_a_message_that_makes_no_sense_ends_the_connection(message):
    async def test():
        async with served() as (server, session):
            page = await visit(session)
            await page.socket.send_str(message)
            await ended(page)
            await emptied(server)

    run(test)


async def ended(page):
    while (await page.socket.receive(timeout=10)).type in (WSMsgType.TEXT, WSMsgType.BINARY):
        pass
    assert page.socket.closed


async def emptied(server):
    """Waits until nobody is there any more; the test's own limit is the clock."""
    while server.players:
        await asyncio.sleep(0.01)


def test_fifty_connections_that_come_and_go_leave_no_row_and_no_task_behind():
    async def test():
        async with served() as (server, session):
            stays = await visit(session)
            before = len(asyncio.all_tasks())

            async def come_and_go(index):
                page = await visit(session)
                await page.next()
                if index % 3 == 0:
                    await asyncio.sleep(0.1)  # and has not shown what was sent
                if index % 2:
                    await page.socket.close()
                else:
                    page.socket._response.connection.transport.abort()  # vanishes without a word

            for start in range(0, 50, 10):
                await asyncio.gather(*map(come_and_go, range(start, start + 10)))
            while len(server.players) > 1:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert len(asyncio.all_tasks()) <= before
            await stays.until(lambda page: page.num_pictures > AHEAD + 5)  # and who stayed plays on

    run(test)


def test_escape_ends_and_more_than_the_most_are_told_so():
    async def test():
        async with served(most=1) as (server, session):
            first = await visit(session)
            other = await visit(session)
            assert other.facts["word"] == "as many play as can, 1; come later"
            await ended(other)
            await first.say("down", "escape")
            await ended(first)
            await emptied(server)
            assert (await (await visit(session)).next())["players"] == 1

    run(test)


def test_few_updates_wait_for_a_slow_page_and_the_next_one_is_new():
    async def test():
        async with served() as (_, session):
            slow, quick = [await visit(session) for _ in range(2)]
            await quick.until(lambda page: page.facts.get("age", 0) > 60)
            waiting = []
            with suppress(TimeoutError):
                while True:
                    message = await slow.socket.receive(timeout=0.3)
                    waiting += [json.loads(message.data)["age"]] if message.type is WSMsgType.TEXT else []

            assert len(waiting) == AHEAD and waiting[-1] < 30
            await slow.socket.send_str('["shown"]')
            await slow.next()
            assert slow.facts["age"] > 60

    run(test)


def test_without_the_token_nothing_is_shown():
    async def test():
        async with served(token="open-sesame") as (server, session):
            for path in ("/", "/?token=wrong", "/?token=", "/play", "/play?token=%C3%A4"):
                answer = await session.get(path)
                assert (answer.status, "lacks the token" in await answer.text()) == (403, True)
            assert (await session.get("/?token=open-sesame")).status == 200
            assert (await (await visit(session, "/play?token=open-sesame")).next())["age"] >= 0
            assert len(server.players) == 1

    run(test)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "[:x"}, {"Host": "10.0.0.7:8000"}])
def test_without_a_token_only_this_machine_s_own_name_will_do(headers):
    async def test():
        async with served() as (_, session):
            assert (await session.get("/", headers=headers)).status in (400, 403)
            assert (await session.get("/", headers={"Host": "localhost:8000"})).status == 200

    run(test)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_is_refused(origin):
    async def test():
        async with served() as (server, session):
            with pytest.raises(WSServerHandshakeError, match="403"):
                await session.ws_connect("/play", origin=origin)
            assert not server.players
            own = str(session._base_url).rstrip("/")
            assert (await (await visit(session, origin=own)).next())["players"] == 1

    run(test)


def test_a_bad_seed_is_one_sentence():
    async def test():
        async with served() as (_, session):
            for seed in ("-1", "x", str(2**63)):
                answer = await session.get(f"/?seed={seed}")
                assert (answer.status, await answer.text()) == (
                    400, f"expected ?seed= from 0 to 2**63 - 1, found {seed}",
                )  # fmt: skip

    run(test)


def test_an_error_of_the_world_ends_the_server_and_is_told():
    world = fake()

    def step(state, action):
        raise RuntimeError("out of memory")

    world.step = step

    async def test():
        with pytest.raises(RuntimeError, match="out of memory"):
            async with served(world) as (_, session):
                await ended(await visit(session))

    run(test)


@pytest.mark.parametrize(
    ("serve", "expected"),
    [("127.0.0.1:8000", ("127.0.0.1", 8000)), ("[::1]:80", ("::1", 80)), ("box.example:8080", ("box.example", 8080))],
)
def test_addresses(serve, expected):
    assert read_address(serve) == expected


def test_a_token_is_needed_wherever_others_can_ask():
    assert read_token(None, "127.0.0.1") is read_token(None, "localhost") is read_token(None, "::1") is None
    drawn = {read_token(None, host) for host in ("0.0.0.0", "::", "10.0.0.7", "box.example")}
    assert len(drawn) == 4 and min(map(len, drawn)) > 40
    assert read_token("open-sesame", "127.0.0.1") == "open-sesame"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"serve": "8000"}, "expected serve= an address and a port, such as 127.0.0.1:8000, found 8000"),
        ({"serve": ":8000"}, "found :8000"),
        ({"serve": "127.0.0.1:65536"}, "found 127.0.0.1:65536"),
        ({"serve": "127.0.0.1:x"}, "found 127.0.0.1:x"),
        ({"token": "open-sesame"}, "expected serve= beside token="),
        ({"players": 4}, "expected serve= beside players="),
        ({"serve": "127.0.0.1:0", "token": 12e45678}, "expected token= as text, found the number inf"),
        ({"serve": "127.0.0.1:0", "token": "short"}, "expected token= of at least 8 characters, found 5"),
        ({"serve": "127.0.0.1:0", "headless": True}, "expected serve= or headless=, found both"),
        ({"serve": "127.0.0.1:0", "agent": "random"}, "expected serve= or agent=, found both"),
        (
            {"serve": "127.0.0.1:0", "players": 0},
            "expected players to be null or a whole number of at least 1, found 0",
        ),
        ({"serve": "nowhere.invalid:0"}, "cannot serve at nowhere.invalid:0"),
    ],
)
def test_bad_arguments_are_one_sentence(given, message, monkeypatch):
    monkeypatch.setattr(bundle, "load", lambda *_, **__: fake())
    with pytest.raises(ValueError) as raised:
        play.main(OmegaConf.merge(OmegaConf.load("configs/play.yaml"), given))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_without_aiohttp_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    with pytest.raises(ImportError, match=r"worldsim-rl\[web\]"):
        PlayServer(fake(), WorldModelEnv(fake()).keymap)
