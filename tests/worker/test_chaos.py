"""What may be killed, frozen, filled or cut off: afterwards every session is connected again without a new scan, no
message is lost, and never were two browsers on one account."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.whatsapp import Phone, Settings, WhatsAppServer
from session_worker.contract import SELF_STOP_MARGIN, Phase, RuntimeState, SessionKey
from session_worker.memory import session_members
from session_worker.registry import RegistryUnavailableError
from session_worker.supervisor import Timing
from tests.support import people
from tests.support.redis_server import RedisServer
from tests.support.worker_world import Worker, WorkerWorld, eventually, processes_of

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

FRIEND = "5511940000099"
RECOVERY = 90.0
"""Seconds for a whole recovery: noticing takes ten, ending a frozen browser ten more, and then it waits a little."""


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerWorld]:
    """Redis and WhatsApp; the latter in a hurry."""
    directory = tmp_path_factory.mktemp("chaos")
    settings = Settings(time_scale=0.1, reconnect=1, keepalive=0.5)
    async with (
        RedisServer(directory) as redis,
        WhatsAppServer(settings=settings) as whatsapp,
        WorkerWorld(directory, redis, whatsapp) as everybody,
    ):
        yield everybody


async def recovered(world: WorkerWorld, key: SessionKey, **expected: object) -> RuntimeState:
    """Wait, with patience, until a session is connected with these values in its state."""

    async def look() -> RuntimeState | None:
        try:
            state = await world.state(key)
        except RegistryUnavailableError:
            return None
        assert state is not None
        found = {name: getattr(state, name) for name in expected}
        assert (state.phase, found) == (Phase.CONNECTED, expected), state
        return state

    state: RuntimeState = await people.eventually(f"{key} recovered", look, within=RECOVERY)
    return state


async def all_told_once(world: WorkerWorld, key: SessionKey, bodies: list[str]) -> None:
    """Wait until these texts were told; each once, and in order."""

    async def look() -> bool:
        found = [event.payload["body"] for event in await world.events(key, "message")]
        assert found == bodies
        return True

    await eventually(f"{len(bodies)} messages told", look)


async def one_login_and_one_browser(phone: Phone) -> None:
    """No second scan, and never a second browser."""
    account = await phone.account()
    assert len(account["devices"]) == 1
    assert account["devices"][0]["id"].endswith(":1")
    assert (account["max_live"], account["overlaps"]) == (1, [])


def renderer_of(browser: int) -> int:
    """The process that runs the page."""
    for pid in session_members([browser])[browser]:
        if b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("the browser has no renderer")


@pytest.mark.parametrize(
    ("what", "how", "number"),
    [
        ("renderer", "killed", "5511940000011"),
        ("browser", "killed", "5511940000012"),
        ("renderer", "frozen", "5511940000013"),
        ("browser", "frozen", "5511940000014"),
    ],
)
async def test_a_browser_that_dies_or_hangs_is_replaced(world: WorkerWorld, what: str, how: str, number: str) -> None:
    name = f"{what}-{how}"
    key = SessionKey("team", name)
    async with Worker(world.environment(f"w-{name}")) as worker:
        phone = await world.pair(worker.config, key, number)
        friend = world.phone(FRIEND)
        await friend.send(number, "before")
        await all_told_once(world, key, ["before"])
        browser = worker.session(key).browser_pid
        assert browser is not None
        members = [renderer_of(browser)] if what == "renderer" else session_members([browser])[browser]
        for pid in members:
            os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        await friend.send(number, "meanwhile", count=3)
        await recovered(world, key, restarts=1)
        await friend.send(number, "after")
        await all_told_once(world, key, ["before", "meanwhile #1", "meanwhile #2", "meanwhile #3", "after"])
        await one_login_and_one_browser(phone)
        assert not Path(f"/proc/{browser}").exists()


async def test_a_killed_worker_s_sessions_come_up_on_another(world: WorkerWorld) -> None:
    key, number = SessionKey("team", "worker"), "5511940000021"
    variables = world.environment("w-killed")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "session_worker", env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    phone = await world.pair(Worker(variables).config, key, number)
    process.kill()
    await process.wait()
    await world.phone(FRIEND).send(number, "meanwhile", count=3)
    async with Worker(world.environment("w-successor")) as worker:
        await world.assign(worker.config, key, epoch=2)
        await recovered(world, key, epoch=2)
        await all_told_once(world, key, ["meanwhile #1", "meanwhile #2", "meanwhile #3"])
        await one_login_and_one_browser(phone)


# --- Redis goes away. Times are a sixth of the real ones: 45 s until a worker stops itself.

TIMING = Timing(self_stop_after=7.5)


async def test_an_outage_of_redis_that_is_shorter_than_the_lease_stops_nothing(world: WorkerWorld) -> None:
    key, number = SessionKey("team", "short"), "5511940000022"
    async with Worker(world.environment("w-short"), TIMING) as worker:
        phone = await world.pair(worker.config, key, number)
        browser = worker.session(key).browser_pid
        await world.redis.stop()
        began = time.monotonic()
        await world.phone(FRIEND).send(number, "in the dark", count=3)
        await asyncio.sleep(20 / 6)
        await world.redis.start()
        assert time.monotonic() - began < TIMING.self_stop_after
        await all_told_once(world, key, ["in the dark #1", "in the dark #2", "in the dark #3"])
        await recovered(world, key, restarts=0)
        await world.publish(worker.config)
        assert worker.session(key).browser_pid == browser
        await one_login_and_one_browser(phone)


async def test_a_worker_that_cannot_renew_its_lease_closes_its_browsers_until_it_is_given_sessions_anew(
    world: WorkerWorld,
) -> None:
    key, number = SessionKey("team", "long"), "5511940000023"
    async with Worker(world.environment("w-long"), TIMING) as worker:
        phone = await world.pair(worker.config, key, number)
        friend = world.phone(FRIEND)
        await friend.send(number, "before")
        await all_told_once(world, key, ["before"])
        profile = world.directory / "profiles" / "team" / "long"
        await world.redis.stop()
        # These the page takes, and nobody can be told.
        await friend.send(number, "in the dark", count=3)

        async def stopped() -> bool:
            return not processes_of(profile) and not worker.supervisor.sessions

        await eventually("the self-stop", stopped)
        await friend.send(number, "asleep", count=3)
        await asyncio.sleep(90 / 6 - TIMING.self_stop_after)
        await world.redis.start()
        # What was published before is void: others may have the session by now.
        assert worker.supervisor.sessions == {}
        await world.publish(worker.config)
        await recovered(world, key)

        async def told() -> bool:
            found = [event.payload["body"] for event in await world.events(key, "message")]
            wanted = [*(f"in the dark #{n}" for n in range(1, 4)), *(f"asleep #{n}" for n in range(1, 4))]
            # Redis has come back empty: what was told shortly before may be told again, and nothing is lost.
            assert [body for body in found if body != "before"] == wanted
            return True

        await eventually("the messages", told)
        await one_login_and_one_browser(phone)


async def test_a_server_that_falls_silent_and_a_browser_that_hangs_do_not_hold_up_the_self_stop(
    world: WorkerWorld,
) -> None:
    """Others may have the session once the lease and the margin are over, so by then its browser must be gone."""
    key, number = SessionKey("team", "silent"), "5511940000025"
    async with Worker(world.environment("w-silent"), TIMING) as worker:
        phone = await world.pair(worker.config, key, number)
        browser = worker.session(key).browser_pid
        assert browser is not None
        redis = world.redis._process
        assert redis is not None
        os.kill(redis.pid, signal.SIGSTOP)
        began = time.monotonic()
        for pid in session_members([browser])[browser]:
            os.kill(pid, signal.SIGSTOP)
        try:
            profile = world.directory / "profiles" / "team" / "silent"

            async def stopped() -> bool:
                return not processes_of(profile)

            await eventually("the self-stop", stopped)
            assert time.monotonic() - began <= TIMING.self_stop_after + SELF_STOP_MARGIN.total_seconds()
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        await world.publish(worker.config)
        await recovered(world, key)
        await one_login_and_one_browser(phone)


# --- The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A volume of 64 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("a volume that can be filled needs root, to mount a tmpfs")
    volume = tmp_path / "volume"
    volume.mkdir()
    if os.spawnv(os.P_WAIT, mount, [mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(volume)]) != 0:
        pytest.skip("a volume that can be filled needs the right to mount a tmpfs")
    yield volume
    assert os.spawnv(os.P_WAIT, umount, [umount, "-l", str(volume)]) == 0


async def test_a_full_volume_is_said_and_costs_no_login_once_there_is_room(
    world: WorkerWorld, small_disk: Path
) -> None:
    key, number = SessionKey("team", "full"), "5511940000024"
    variables = {**world.environment("w-full"), "PROFILE_DIR": str(small_disk / "profiles")}
    async with Worker(variables) as worker:
        phone = await world.pair(worker.config, key, number)
        friend = world.phone(FRIEND)
        await friend.send(number, "before")
        await all_told_once(world, key, ["before"])
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):  # which is the purpose
            while True:
                file.write(bytes(1 << 16))
        browser = worker.session(key).browser_pid
        assert browser is not None
        await friend.send(number, "full", count=3)
        os.killpg(browser, signal.SIGKILL)

        async def said() -> bool:
            state = await world.state(key)
            return state is not None and state.message.startswith("the volume of the profiles is full: ")

        await eventually("the reason", said)
        ballast.unlink()
        await recovered(world, key)
        await friend.send(number, "after")
        await all_told_once(world, key, ["before", "full #1", "full #2", "full #3", "after"])
        await one_login_and_one_browser(phone)
        await world.release(worker.config, key)

        async def gone() -> bool:
            return key not in worker.supervisor.sessions

        await eventually("its end", gone)
