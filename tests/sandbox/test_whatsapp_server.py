"""The stand-in's HTTP side without a browser: the page's headers, the control API's manners, the saved state."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sandbox.whatsapp import Phone, Sandbox, Settings, WhatsAppServer
from sandbox.whatsapp.phone import PhoneError
from sandbox.whatsapp.seed import ECHO, SILENT
from tests.support.whatsapp_browser import Tabs, eventually


@pytest.fixture
async def server() -> AsyncIterator[WhatsAppServer]:
    async with WhatsAppServer(settings=Settings(time_scale=0.01)) as server:
        yield server


@pytest.fixture
async def sandbox(server: WhatsAppServer) -> AsyncIterator[Sandbox]:
    async with Sandbox(server.url) as sandbox:
        yield sandbox


@pytest.fixture
async def http(server: WhatsAppServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as http:
        yield http


async def test_the_page_has_the_strict_policy_of_the_real_one(http: aiohttp.ClientSession) -> None:
    async with http.get("/", headers={"User-Agent": "Chrome/156"}) as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe-inline" not in policy
    assert text.count(f'nonce="{nonce}"') == text.count("<script") > 10
    async with http.get("/", headers={"User-Agent": "HeadlessChrome/156"}) as response:
        assert "<script" not in await response.text()


async def test_a_qr_picture_is_drawn_for_any_text(http: aiohttp.ClientSession) -> None:
    async with http.post("/qr", data="2@abc,def,ghi,jkl,1") as response:
        assert response.content_type == "image/svg+xml"
        assert b"<svg" in await response.read()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/sandbox/accounts/12025550170/send", {"to": ECHO}, 400, "exactly one of text, content and file"),
        ("/sandbox/accounts/12025550170/send", {"to": ECHO, "texd": "x"}, 400, "texd"),
        ("/sandbox/accounts/12025550170/send", {"text": "x"}, 400, "to: Field required"),
        ("/sandbox/accounts/12025550170/send", {"to": "1@lid", "text": "x"}, 404, "lid"),
        ("/sandbox/accounts/12025550170/trouble", {"what": "fire"}, 400, "what"),
        ("/sandbox/accounts/12025550170/unlink", {}, 404, "no linked device"),
        ("/sandbox/accounts/nobody/send", {"to": ECHO, "text": "x"}, 400, "number"),
        ("/sandbox/accounts", {"number": ECHO}, 409, "taken"),
    ],
)
async def test_wrong_requests_are_answered_with_the_field_and_the_reason(
    http: aiohttp.ClientSession, path: str, body: dict[str, str], status: int, words: str
) -> None:
    async with http.post(path, json=body) as response:
        assert response.status == status
        assert words in (await response.json())["error"]


async def test_people_write_to_each_other_without_any_browser(sandbox: Sandbox) -> None:
    async with sandbox.phone("12025550171") as phone:
        await phone.send(ECHO, "anybody?")

        async def answered() -> bool:
            return [one["text"] for one in await phone.messages(from_me=False)] == ["anybody?"]

        await eventually(answered)
        [record] = await phone.messages(from_me=True)
    assert record["ack"] == 3
    assert sorted(record["ack_times"].values()) == list(record["ack_times"].values())


async def test_accounts_are_listed_with_what_is_live(sandbox: Sandbox) -> None:
    await sandbox.create("12025550172", name="Zoe")
    answer = await sandbox.accounts()
    [zoe] = [account for account in answer["accounts"] if account["number"] == "12025550172"]
    assert (zoe["name"], zoe["live"], zoe["max_live"], zoe["devices"]) == ("Zoe", 0, 0, [])
    assert answer["overlaps"] == []


async def test_unknown_numbers_are_refused_where_that_is_wanted() -> None:
    async with (
        WhatsAppServer(settings=Settings(auto_create=False)) as server,
        Phone(server.url, "12025550173") as phone,
    ):
        with pytest.raises(PhoneError) as caught:
            await phone.account()
        assert caught.value.status == 404
        assert "POST /sandbox/accounts" in str(caught.value)


async def test_media_comes_back_as_it_went(http: aiohttp.ClientSession) -> None:
    async with http.post("/mms/upload", data=b"\x00\xff", headers={"Content-Type": "image/png"}) as response:
        path = (await response.json())["directPath"]
    async with http.get(path) as response:
        assert (response.content_type, await response.read()) == ("image/png", b"\x00\xff")
    async with http.get("/mms/d/none") as response:
        assert response.status == 404


async def test_a_restarted_server_knows_its_accounts_and_their_browsers(tmp_path: Path) -> None:
    settings = Settings(time_scale=0.1, first_ref_delay=0, reconnect=0.5, state_file=tmp_path / "state.json")
    async with WhatsAppServer(settings=settings) as server:
        port = int(server.url.rpartition(":")[2])
        tabs = Tabs(tmp_path, server)
        tab, phone = await tabs.paired("12025550174")
        await phone.send_file(SILENT, b"kept", "text/plain")
    since = len(tab.events)
    try:
        async with WhatsAppServer(port=port, settings=settings) as server:
            await tab.holds("WPP.whatsapp.Socket.stream === 'CONNECTED'")
            [record] = await phone.messages()
            async with aiohttp.ClientSession(server.url) as http, http.get(record["content"]["directPath"]) as response:
                assert await response.read() == b"kept"
            await phone.send(SILENT, "after the restart")
            await tab.messages(1, since=since, test=lambda message: message["body"] == "after the restart")
            assert (await phone.account())["max_live"] == 1
    finally:
        await tabs.close()


async def test_a_state_that_is_none_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"people": 3}))
    with pytest.raises(ValueError, match="delete it to start anew"):
        WhatsAppServer(settings=Settings(state_file=path))


async def test_it_runs_by_itself_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sandbox.whatsapp",
        "--port",
        "0",
        "--state",
        str(tmp_path / "state.json"),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONUNBUFFERED": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = (await process.stdout.readline()).decode()
        url = line.split()[4].rstrip("/")
        async with Sandbox(url) as sandbox:
            assert (await sandbox.summary())["online"] is True
        process.send_signal(signal.SIGTERM)
        await process.stdout.read()
        assert await process.wait() == 0
    assert (tmp_path / "state.json").exists()
