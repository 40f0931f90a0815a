"""A page to play a world in: frames go to browsers, keys come back, and all who play are rows of one batch.

Here for machines without a display. Leaves out what a row does (`players.py`) and how it looks (`page.html`).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.resources import files
from ipaddress import ip_address
from itertools import chain, count
from socket import gethostname
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any
from urllib.parse import quote

from worldsim.actions import Keymap
from worldsim.dream.action_reader import ActionReader
from worldsim.dream.options import read_seed
from worldsim.play.controls import REWIND
from worldsim.play.players import Player, advance
from worldsim.play.session import MEMORY
from worldsim.threads import Threads
from worldsim.world_model import WorldModel

MOST = 16  # players
HEARTBEAT = 10.0  # seconds; a browser that answers no ping for so long has gone
AHEAD = 3  # updates on their way to a page: full rate where an answer takes less than 0.15 s, else it lags by so many
LONGEST = 200  # bytes of a message of the page
SHORTEST = 8  # characters of a token


def read_address(serve: Any) -> tuple[str, int]:
    """Returns the host and port of `serve=`. Raises ValueError for what is none."""
    host, _, port = str(serve).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) >= 2**16:
        raise ValueError(f"expected serve= an address and a port, such as 127.0.0.1:8000, found {serve}")
    return host, int(port)


def read_token(token: Any, host: str) -> str | None:
    """Returns the token that requests need; None where only this machine can ask. Raises ValueError for a short one."""
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe()
    if isinstance(token, float):
        raise ValueError(f"expected token= as text, found the number {token}; take other characters")
    if len(str(token)) < SHORTEST:
        raise ValueError(f"expected token= of at least {SHORTEST} characters, found {len(str(token))}; leave it out")
    return str(token)


def is_loopback(host: str) -> bool:
    """Returns whether a host's name or address is this machine's own, which no other reaches."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    """Returns a host as an address shows it; this machine's name where it stands for all of its addresses."""
    host = gethostname() if host in ("0.0.0.0", "::") else host
    return f"[{host}]" if ":" in host else host


def import_web() -> ModuleType:
    """Returns `aiohttp.web`. Raises ImportError naming the extra."""
    try:
        from aiohttp import web
    except ImportError as error:
        raise ImportError('serve= needs aiohttp: pip install "worldsim-rl[web]"') from error
    return web


class PlayServer:
    """Serves a world to players; `players` holds those who are connected, by their sockets."""

    def __init__(
        self, world: WorldModel, keymap: Keymap, seed: int | None = 0, most: int = MOST, token: str | None = None
    ):
        """The first player gets the seed, the next one seed + 1 and so on; without a seed it is drawn."""
        self._world, self._keymap = world, keymap
        self._reader = ActionReader(world.action_codec, "native", world.device)
        self._seeds = (seed % 2**63 for seed in count(secrets.randbelow(2**63) if seed is None else seed))
        self._most, self._token, self._web = most, token, import_web()
        self._page = (files("worldsim.play") / "page.html").read_text(encoding="utf-8")
        self._seconds: deque[float] = deque(maxlen=60)
        self._ticked = asyncio.Condition()
        self.players: dict[Any, Player] = {}

    async def run(self, host: str, port: int, say: Callable[[str], None]) -> None:
        """Serves until it is cancelled; says the page's address first. Port 0 takes a free one."""
        app = self._web.Application()
        app.router.add_get("/", self._show_page)
        app.router.add_get("/play", self._play)
        runner = self._web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner, host, port)
            port = runner.addresses[0][1]
            token = "" if self._token is None else f"?token={quote(self._token)}"
            say(f"play at http://{_shown(host)}:{port}/{token} (Ctrl-C stops)")
            await self._tick_on()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: Any, host: str, port: int) -> None:
        try:
            await self._web.TCPSite(runner, host, port).start()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"cannot serve at {host}:{port} ({error}); choose another address in serve=") from error

    async def _tick_on(self) -> None:
        """Ticks at the world's rate; what came late is not caught up with."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        with Threads() as threads, ThreadPoolExecutor(1) as pool:
            while True:
                await loop.run_in_executor(pool, threads.adjust)
                await self._tick(pool)
                due = max(due + 1 / self._world.info.fps, loop.time())
                await asyncio.sleep(due - loop.time())

    async def _tick(self, pool: ThreadPoolExecutor) -> None:
        """Dreams the next frames in the pool's thread, so that keys are heard meanwhile."""
        found = ((player, player.choose()) for player in list(self.players.values()))
        jobs = [(player, job) for player, job in found if job is not None]
        if jobs:
            began = perf_counter()
            work = partial(advance, self._world, self._reader, [job for _, job in jobs])
            moments = await asyncio.get_running_loop().run_in_executor(pool, work)
            self._seconds.append(perf_counter() - began)
            for (player, job), moment in zip(jobs, moments, strict=True):
                player.show(job, moment)
        async with self._ticked:
            self._ticked.notify_all()

    async def _show_page(self, request: Any) -> Any:
        self._admit(request)
        self._read_seed(request)
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": "frame-ancestors 'none'"}
        return self._web.Response(text=self._page, content_type="text/html", headers=headers)

    async def _play(self, request: Any) -> Any:
        """Is one player's connection, from its beginning to its end."""
        self._admit(request)
        seed = self._read_seed(request)
        limits = {"heartbeat": HEARTBEAT, "max_msg_size": LONGEST, "timeout": 1.0}
        socket = self._web.WebSocketResponse(**limits, compress=False)  # pictures are compressed already
        await socket.prepare(request)
        if len(self.players) >= self._most:
            await socket.send_json({"word": f"as many play as can, {self._most}; come later"})
            await socket.close()
            return socket
        seeds = self._seeds if seed is None else chain([seed], self._seeds)
        player = Player(self._keymap, seeds, self._world.info.fps, lambda: MEMORY // max(1, len(self.players)))
        credits = asyncio.Semaphore(AHEAD)
        self.players[socket] = player
        shower = asyncio.create_task(self._show(socket, player, credits))
        try:
            await self._hear(socket, player, credits)
        finally:
            del self.players[socket]
            shower.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await shower
        return socket

    async def _hear(self, socket: Any, player: Player, credits: asyncio.Semaphore) -> None:
        """Takes in what the page says, until it says no more or what makes no sense."""
        async for message in socket:
            try:
                command = player.hear(message.data) if message.type is self._web.WSMsgType.TEXT else "quit"
            except ValueError:
                command = "quit"
            if command == "shown":
                credits.release()
            elif command == "quit":
                await socket.close()

    async def _show(self, socket: Any, player: Player, credits: asyncio.Semaphore) -> None:
        """Sends what is new after a tick. A slow connection misses ticks; no more than AHEAD updates wait for it."""
        info, keymap = self._world.info, self._keymap
        hello = {"name": info.name, "shape": info.frame_shape, "mouse": keymap.uses_mouse, "keys": sorted(keymap.keys)}
        await socket.send_json(hello | {"commands": player.commands, "rewind": REWIND})
        shown: Any = None
        told: dict[str, Any] = {}
        while True:
            async with self._ticked:
                await self._ticked.wait()
            await credits.acquire()
            moment, facts = player.moment, player.facts() | {"players": len(self.players)}
            if moment is None or (moment is shown and facts == told):
                credits.release()
                continue
            if moment is not shown:
                await socket.send_bytes(moment.picture)
            await socket.send_json(facts | {"ms": median(self._seconds) * 1e3})
            told, shown = facts, moment

    def _read_seed(self, request: Any) -> int | None:
        text = request.query.get("seed")
        try:
            return None if text is None else read_seed(int(text))
        except ValueError as error:
            raise self._web.HTTPBadRequest(text=f"expected ?seed= from 0 to 2**63 - 1, found {text[:40]}") from error

    def _admit(self, request: Any) -> None:
        """Raises HTTPForbidden without the token, and for a page of another site.

        Where there is no token only a loopback name will do: else a site whose name leads here could play along.
        """
        given = request.query.get("token", "").encode()
        if self._token is None and not is_loopback(re.sub(r":\d+$", "", request.host).strip("[]")):
            raise self._web.HTTPForbidden(text="without token= this plays at 127.0.0.1 only")
        if self._token is not None and not secrets.compare_digest(given, self._token.encode()):
            raise self._web.HTTPForbidden(text="the address lacks the token; open the one that worldsim play printed")
        if request.headers.get("Origin", f"://{request.host}").partition("://")[2] != request.host:
            raise self._web.HTTPForbidden(text="expected a page of this server, found one of another")
