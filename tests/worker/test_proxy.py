"""Sessions behind a proxy that asks for a password."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from sandbox.whatsapp import Settings, WhatsAppServer
from session_worker.contract import Phase, Proxy, SessionKey, WorkerSpec
from tests.support.redis_server import RedisServer
from tests.support.worker_world import Worker, WorkerWorld, eventually, processes_of

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

PASSWORD = "s3cret:with@signs"


class ProxyServer:
    """An HTTP proxy with Basic authentication. Use it as an async context manager."""

    def __init__(self, user: str, password: str) -> None:
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.passed: list[str] = []
        """Methods and targets of the requests that were let through."""
        self.refused = 0
        self._server: asyncio.Server
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            method, target, _ = first.split()
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            given = next((line.split(": ", 1)[1] for line in lines if line.lower().startswith("proxy-auth")), "")
            if given != self._expected:
                self.refused += 1
                writer.write(
                    b'HTTP/1.1 407 Log in\r\nProxy-Authenticate: Basic realm="p"\r\nContent-Length: 0\r\n'
                    b"Connection: close\r\n\r\n"
                )
                await writer.drain()
                writer.close()
                return
            self.passed.append(f"{method} {target}")
            host = target if method == "CONNECT" else headers["host"]
            name, _, port = host.partition(":")
            upstream = await asyncio.open_connection(name, int(port or 80))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                kept = [line for line in lines if line and not line.lower().startswith(("proxy-", "connection"))]
                upstream[1].write(
                    "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode()
                )
            await asyncio.gather(_pump(reader, upstream[1]), _pump(upstream[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # the other side has gone; so do we
    finally:
        writer.close()


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerWorld]:
    """Redis and WhatsApp; the latter in a hurry."""
    directory = tmp_path_factory.mktemp("proxy")
    settings = Settings(time_scale=0.1, reconnect=1, keepalive=0.5)
    async with (
        RedisServer(directory) as redis,
        WhatsAppServer(settings=settings) as whatsapp,
        WorkerWorld(directory, redis, whatsapp) as everybody,
    ):
        yield everybody


def test_a_proxy_is_read_from_its_address() -> None:
    proxy = Proxy.parse(" http://user:s3cret%3Awith%40signs@proxy.example:3128/\n")
    assert (proxy.server, proxy.username) == ("http://proxy.example:3128", "user")
    assert proxy.password.get_secret_value() == PASSWORD
    spec = WorkerSpec(proxy=proxy)
    assert WorkerSpec.model_validate_json(spec.to_json()) == spec
    assert PASSWORD not in repr(spec)
    assert Proxy.parse("socks5://[::1]:1080").server == "socks5://[::1]:1080"
    assert Proxy.parse("http://[2001:db8::1]:8080").server == "http://[2001:db8::1]:8080"


@pytest.mark.parametrize(
    "text",
    ["", "proxy:3128", "ftp://user:pw@host:21", "http://user:pw@host", "http://user:pw@host:x", "http://h:1/path"],
)
def test_what_is_no_proxy_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="a proxy is written as http://user:password@host:port") as caught:
        Proxy.parse(text)
    assert "pw" not in str(caught.value)
    assert "pw" not in repr(caught.value.__cause__)


def test_a_socks_proxy_with_a_login_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot log in to a SOCKS proxy"):
        Proxy.parse("socks5://user:pw@host:1080")


async def test_all_traffic_goes_through_the_proxy_and_the_password_is_nowhere_to_be_seen(
    world: WorkerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = SessionKey("team", "behind")
    async with ProxyServer("user", PASSWORD) as server, Worker(world.environment("w1")) as worker:
        proxy = Proxy.parse(f"http://user:s3cret%3Awith%40signs@127.0.0.1:{server.port}")
        await world.pair(worker.config, key, "5511930000001", proxy=proxy, proxy_required=True)
        assert any(line.startswith("GET http://127.0.0.1") for line in server.passed)
        assert any(line.startswith("CONNECT 127.0.0.1") for line in server.passed)
        sockets = [line for line in server.passed if line.startswith("CONNECT 127.0.0.1")]
        assert sockets
        for pid in processes_of(world.directory / "profiles" / "team" / "behind"):
            with suppress(OSError):  # it ended while we were looking
                assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert "s3cret" not in caplog.text
        state = await world.state(key)
        assert "s3cret" not in repr(state)

        # The Secret changes: a new browser takes the new one, and says what is wrong with it.
        wrong = Proxy.parse(f"http://user:wrong@127.0.0.1:{server.port}")
        await world.assign(worker.config, key, proxy=wrong, proxy_required=True)
        state = await world.until(key, Phase.FAILED)
        assert state.message == "the proxy refuses the user name or the password of spec.proxySecretRef"
        await world.assign(worker.config, key, proxy=proxy, proxy_required=True)
        await world.until(key, Phase.CONNECTED)
        await world.release(worker.config, key)


async def test_without_the_proxy_that_its_spec_names_a_session_does_not_go_out(world: WorkerWorld) -> None:
    key = SessionKey("team", "exposed")
    async with Worker(world.environment("w2")) as worker:
        await world.assign(worker.config, key, proxy_required=True)

        async def waiting() -> bool:
            state = await world.state(key)
            return state is not None and state.message == "the Secret of spec.proxySecretRef cannot be read"

        await eventually("the reason", waiting)
        assert worker.session(key).browser_pid is None
        assert await world.registry.offer(key) is None
        await world.release(worker.config, key)
