"""The page's connection as the real page API sees it: pairing, restoring, losing and ending it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.whatsapp import Sandbox, Settings, WhatsAppServer
from sandbox.whatsapp.phone import PhoneError
from tests.support.whatsapp_browser import Tab, Tabs

STREAM = "[WPP.whatsapp.Stream.mode, WPP.whatsapp.Socket.state, WPP.whatsapp.Socket.stream]"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[WhatsAppServer]:
    settings = Settings(time_scale=0.1, first_ref_delay=0, keepalive=0.5, reconnect=1.0, update_reload=1.0)
    async with WhatsAppServer(settings=settings) as server:
        yield server


@pytest.fixture
async def tabs(tmp_path: Path, server: WhatsAppServer) -> AsyncIterator[Tabs]:
    tabs = Tabs(tmp_path, server)
    yield tabs
    await tabs.close()


@pytest.fixture
async def sandbox(server: WhatsAppServer) -> AsyncIterator[Sandbox]:
    async with Sandbox(server.url) as sandbox:
        yield sandbox


def in_order(names: list[str], wanted: list[str]) -> bool:
    """Whether `wanted` is a subsequence of `names`."""
    rest = iter(names)
    return all(name in rest for name in wanted)


async def stream(tab: Tab) -> list[str]:
    result: list[str] = await tab.evaluate(f"return {STREAM}")
    return result


async def test_a_fresh_page_is_main_ready_and_full_ready_on_the_qr_screen(tabs: Tabs, sandbox: Sandbox) -> None:
    await sandbox.hold_refs()
    tab = await tabs.open("fresh")
    await tab.event("loader.full_ready")
    assert in_order(
        tab.names(),
        [
            "loader.injected",
            "conn.auth_code_change",
            "conn.require_auth",
            "conn.stream_mode_changed QR",
            "conn.main_ready",
            "conn.stream_info_changed",
            "conn.main_init",
            "loader.ready",
            "loader.full_ready",
        ],
    )
    assert tab.events[1] == ["conn.auth_code_change", None]
    assert await tab.evaluate("return [WPP.conn.isRegistered(), WPP.conn.isMainReady(), WPP.isFullReady]") == [
        False,
        True,
        True,
    ]
    await sandbox.hold_refs(hold=False)
    code = await tab.qr()
    assert len(code.split(",")) == 4
    platform = await tab.evaluate("return importNamespace('WAWebCompanionRegClientUtils').DEVICE_PLATFORM")
    await tab.holds("document.getElementById('qr').dataset.ref")
    assert await tab.evaluate("return document.getElementById('qr').dataset.ref") == f"{code},{platform}"


async def test_a_scan_goes_through_syncing_to_main_without_a_second_main_ready(tabs: Tabs) -> None:
    tab = await tabs.open("scan")
    code = await tab.qr()
    await tab.event("loader.full_ready")
    before = len(tab.events)
    device = await tabs.phone("12025550110").scan(code)
    await tab.event("conn.stream_mode_changed", "MAIN")
    assert device == "12025550110:1"
    assert in_order(
        tab.names(before),
        [
            "conn.stream_mode_changed SYNCING",
            "conn.authenticated",
            "conn.main_loaded",
            "conn.stream_mode_changed MAIN",
        ],
    )
    assert "conn.main_ready" not in tab.names(before)
    assert await stream(tab) == ["MAIN", "CONNECTED", "CONNECTED"]
    assert await tab.evaluate("return String(WPP.conn.getMyUserId())") == "12025550110@c.us"


async def test_a_code_with_another_pages_keys_is_refused(tabs: Tabs) -> None:
    tab = await tabs.open("keys")
    ref, static, identity, _adv = (await tab.qr()).split(",")
    phone = tabs.phone("12025550111")
    with pytest.raises(PhoneError) as caught:
        await phone.scan(f"{ref},{static},{identity},stolen")
    assert caught.value.status == 403
    with pytest.raises(PhoneError) as caught:
        await phone.scan("not a code")
    assert caught.value.status == 400


async def test_qr_codes_follow_each_other_until_the_page_is_idle_and_asks_again(tmp_path: Path) -> None:
    settings = Settings(first_ref=0.6, next_ref=0.3, refs=3, first_ref_delay=0, ref_grace=0)
    async with WhatsAppServer(settings=settings) as server:
        tabs = Tabs(tmp_path, server)
        try:
            tab = await tabs.open("idle")
            await tab.event("conn.qrcode_idle")
            codes = [event[1]["ref"] for event in tab.events if event[0] == "conn.auth_code_change" and event[1]]
            # The page API may have come after the first code.
            assert 2 <= len(set(codes)) <= 3
            assert await stream(tab) == ["QR", "UNPAIRED_IDLE", "DISCONNECTED"]
            with pytest.raises(PhoneError) as caught:
                await tabs.phone("12025550112").scan(f"{codes[-1]},a,b,c")
            assert caught.value.status == 410
            code = await tab.evaluate("return (await WPP.conn.refreshQR()).fullCode")
            assert code.split(",")[0] not in codes
            await tabs.phone("12025550112").scan(code)
            await tab.event("conn.stream_mode_changed", "MAIN")
        finally:
            await tabs.close()


async def test_a_pairing_code_links_only_the_phone_it_was_made_for(tabs: Tabs) -> None:
    tab = await tabs.open("code")
    # The page API silently drops a code that was asked for before main_ready.
    await tab.event("loader.full_ready")
    await tab.holds("WPP.whatsapp.Socket.state === 'UNPAIRED'")
    code = await tab.evaluate("return await WPP.conn.startLinkDeviceCodeForPhoneNumber('12025550113')")
    assert re.fullmatch("[1-9A-Z]{8}", code)
    assert await tab.event("conn.link_code_change") == ["conn.link_code_change", code]
    with pytest.raises(PhoneError) as caught:
        await tabs.phone("12025550114").enter_code(code)
    assert caught.value.status == 403
    await tabs.phone("12025550113").enter_code(f"{code[:4]}-{code[4:]}".lower())
    await tab.event("conn.authenticated")
    await tab.event("conn.stream_mode_changed", "MAIN")


async def test_a_copied_profile_comes_up_connected_without_a_scan(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550115", "original")
    await tab.close()
    tabs.copy("original", "copy")
    restored = await tabs.open("copy")
    await restored.ready()
    assert in_order(
        restored.names(),
        [
            "conn.main_loaded",
            "conn.stream_mode_changed MAIN",
            "conn.main_ready",
            "loader.ready",
            "loader.full_ready",
        ],
    )
    assert "conn.authenticated" not in restored.names()
    account = await phone.account()
    assert (account["live"], account["max_live"], account["overlaps"]) == (1, 1, [])


@pytest.mark.parametrize("lost", ["IndexedDB", "Local Storage"])
async def test_half_of_a_profile_is_no_login(tabs: Tabs, lost: str) -> None:
    number = {"IndexedDB": "12025550116", "Local Storage": "12025550117"}[lost]
    tab, _phone = await tabs.paired(number, "whole")
    await tab.close()
    tabs.copy("whole", "half")
    (tabs.folder / "half" / "Default" / lost).rename(tabs.folder / "gone")
    half = await tabs.open("half")
    await half.qr()
    assert await half.evaluate("return WPP.conn.isRegistered()") is False


async def test_a_second_browser_silences_the_first_and_is_counted(tabs: Tabs) -> None:
    first, phone = await tabs.paired("12025550118", "first")
    # localStorage reaches the disk in batches; closing the browser is the sure way to have all of it.
    await first.close()
    tabs.copy("first", "second")
    first = await tabs.open("first")
    await first.ready()
    second = await tabs.open("second")
    await second.ready()
    await first.holds("WPP.whatsapp.Socket.stream === 'DISCONNECTED'")
    assert await stream(first) == ["MAIN", "CONNECTED", "DISCONNECTED"]
    assert "conn.logout" not in first.names()
    account = await phone.account()
    assert (account["live"], account["max_live"]) == (1, 2)
    assert [overlap["same_credentials"] for overlap in account["overlaps"]] == [True]
    # The first stays silent by itself, and takes over when it is loaded again.
    await first.reload()
    await second.holds("WPP.whatsapp.Socket.stream === 'DISCONNECTED'")
    await first.ready()
    assert len((await phone.account())["overlaps"]) == 2


async def test_a_reload_is_no_second_browser(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550119")
    for _ in range(3):
        since = len(tab.events)
        await tab.reload()
        await tab.event("loader.full_ready", since=since)
    account = await phone.account()
    assert (account["max_live"], account["overlaps"]) == (1, [])


async def test_a_dropped_line_comes_back_by_itself_and_the_mode_stays_main(tabs: Tabs, sandbox: Sandbox) -> None:
    tab, phone = await tabs.paired("12025550120")
    since = len(tab.events)
    await sandbox.network(online=False)
    await tab.event("conn.backend_event", "socket_stream_disconnected", since=since)
    assert await stream(tab) == ["MAIN", "CONNECTED", "DISCONNECTED"]
    assert not [name for name in tab.names(since) if name.startswith("conn.") and name != "conn.backend_event"]
    ids = await phone.send("12025550101", "sent while the page was away")
    await sandbox.network(online=True)
    await tab.holds("WPP.whatsapp.Socket.stream === 'CONNECTED'")
    await tab.messages(1, since=since, test=lambda message: ids[0] in message["id"])
    assert await stream(tab) == ["MAIN", "CONNECTED", "CONNECTED"]


async def test_a_frozen_line_looks_connected_and_answers_nothing(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550121")
    assert await phone.freeze() == 1
    since = len(tab.events)
    await phone.send("12025550101", "nobody hears this")
    assert await stream(tab) == ["MAIN", "CONNECTED", "CONNECTED"]
    answer = await tab.evaluate(
        "return await Promise.race([WPP.contact.queryWidExists('12025550104@c.us').then(() => 'cached'),"
        "WPP.chat.sendTextMessage('12025550101@c.us', 'into the void').then(() => 'sent').catch(String),"
        "new Promise((yes) => setTimeout(() => yes('silence'), 1500))])"
    )
    assert answer in ("silence", "cached")
    assert not [m for m in tab.events[since:] if m[0] == "chat.new_message" and not m[1]["fromMe"]]
    assert (await phone.account())["frozen"] is True
    # A new browser on the same account is well.
    await tab.reload()
    await tab.event("loader.full_ready", since=since)
    await tab.ready()
    # What came before the page API was there is in the store, but was never announced.
    texts = await tab.evaluate(
        "return (await WPP.chat.getMessages('12025550101@c.us', {count: -1})).map((one) => one.body)"
    )
    assert "nobody hears this" in texts


async def test_a_line_can_stay_frozen_over_new_logins_until_it_is_mended(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550132", "frozen")
    await phone.faults(freeze=True)
    await tab.close()
    tab = await tabs.open("frozen")
    await tab.ready()
    assert (await phone.account())["frozen"] is True
    since = len(tab.events)
    await phone.send("12025550101", "late")
    await phone.faults(freeze=False)
    await tab.messages(1, since=since, test=lambda message: message["body"] == "late")


async def test_the_server_is_never_silent_for_long(tabs: Tabs) -> None:
    tab, _phone = await tabs.paired("12025550122")
    frames = await tab.evaluate(
        """const seen = [];
        const original = WebSocket.prototype.send;
        // The page answers every ping, so its own frames show the server's.
        return await new Promise((yes) => {
          WebSocket.prototype.send = function (data) {
            seen.push(JSON.parse(data).t);
            if (seen.filter((t) => t === 'pong').length >= 2) yes(seen);
            return original.call(this, data);
          };
        });"""
    )
    assert frames.count("pong") >= 2


async def test_a_logout_from_the_page_ends_on_a_fresh_qr_screen(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550123")
    since = len(tab.events)
    await tab.evaluate("void WPP.conn.logout()")
    await tab.event("conn.logout", since=since)
    await tab.event("conn.logout_reason", "user_initiated", since=since)
    await tab.until(lambda event: event[0] == "conn.auth_code_change" and event[1] is not None, since=since)
    await tab.event("conn.stream_mode_changed", "QR", since=since)
    assert await tab.evaluate("return [WPP.conn.isRegistered(), (await indexedDB.databases()).length > 0]") == [
        False,
        True,
    ]
    assert await tab.evaluate("return importNamespace('SandboxDatabase').count('message')") == 0
    assert (await phone.account())["devices"] == []
    await phone.scan(await tab.qr(since=since))
    await tab.event("conn.stream_mode_changed", "MAIN", since=since)


async def test_an_unlinked_device_forgets_everything_and_shows_a_qr_code(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550124")
    since = len(tab.events)
    assert await phone.unlink() == ["12025550124:1"]
    await tab.event("conn.logout", since=since)
    await tab.qr(since=since)
    assert await tab.evaluate("return [location.search.includes('post_logout=1'), WPP.conn.isRegistered()]") == [
        True,
        False,
    ]


async def test_a_device_that_was_unlinked_while_it_was_away_finds_out_at_its_next_start(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550125", "away")
    await tab.close()
    await phone.unlink()
    tab = await tabs.open("away")
    await tab.qr()
    assert await tab.evaluate("return WPP.conn.isRegistered()") is False


async def test_a_forced_update_reloads_the_page_by_itself(tabs: Tabs, sandbox: Sandbox) -> None:
    tab, _phone = await tabs.paired("12025550126")
    since = len(tab.events)
    revision = await sandbox.update()
    await tab.event("conn.needs_update", since=since)
    await tab.event("loader.full_ready", since=since)
    await tab.ready()
    assert await tab.evaluate("return WPP.conn.getBuildConstants().VERSION_STR") == f"2.3000.{revision}"


async def test_a_soft_update_only_says_so(tabs: Tabs, sandbox: Sandbox) -> None:
    tab, _phone = await tabs.paired("12025550127")
    since = len(tab.events)
    await sandbox.update(hard=False)
    await tab.event("conn.needs_update", since=since)
    assert await tab.evaluate("return WPP.conn.needsUpdate()") is True


async def test_a_page_that_starts_without_network_is_not_main_until_it_is_back(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550128", "offline")
    await tab.close()
    await phone.faults(offline=True)
    tab = await tabs.open("offline")
    await tab.event("loader.injected")
    await tab.event("conn.stream_info_changed", "OFFLINE")
    assert await tab.evaluate("return [WPP.conn.isRegistered(), WPP.whatsapp.Stream.mode]") == [True, "SYNCING"]
    assert "conn.main_ready" not in tab.names()
    await phone.faults(offline=False)
    await tab.ready()


async def test_a_cold_load_in_bursts_can_leave_the_page_api_without_main_ready(tabs: Tabs, sandbox: Sandbox) -> None:
    await sandbox.cold_load(loads=1, seconds=2.5)
    tab = await tabs.open("cold")
    await tab.event("loader.injected")
    await tab.holds("self.WPP && WPP.whatsapp.Stream && WPP.whatsapp.Stream.mode === 'QR'")
    assert await tab.evaluate("return [WPP.isInjected, WPP.isFullReady]") == [True, False]
    assert "conn.main_ready" not in tab.names()
    # Loading the page again is the cure.
    since = len(tab.events)
    await tab.reload()
    await tab.event("loader.full_ready", since=since)


async def test_a_headless_user_agent_gets_a_page_that_never_boots(tabs: Tabs) -> None:
    tab = await tabs.open("headless", headless_agent=True)
    await tab.holds("document.body.dataset.mode === 'UNSUPPORTED'")
    assert await tab.evaluate("return [typeof self.__d, typeof self.require]") == ["undefined", "undefined"]


async def test_a_conflict_from_the_server_is_the_same_as_a_second_browser(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550129")
    assert await phone.conflict() == 1
    await tab.holds("WPP.whatsapp.Socket.stream === 'DISCONNECTED'")
    assert await stream(tab) == ["MAIN", "CONNECTED", "DISCONNECTED"]
    assert (await phone.account())["live"] == 0


async def test_a_killed_browser_leaves_at_once_and_its_profile_comes_back(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550130", "killed")
    await tab.close()
    tab = await tabs.open("killed")
    await tab.ready()
    await tab.close(kill=True)
    tab = await tabs.open("killed")
    await tab.ready()
    account = await phone.account()
    assert (account["live"], account["max_live"]) == (1, 1)


async def test_a_hung_page_answers_nothing(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550131")
    assert await phone.trouble("hang", seconds=0.7) == 1
    # The answer comes when the page is through, not before.
    started = asyncio.get_running_loop().time()
    await tab.holds("Date.now() > 0")
    await tab.holds("WPP.whatsapp.Socket.stream === 'CONNECTED'")
    assert asyncio.get_running_loop().time() - started < 20
