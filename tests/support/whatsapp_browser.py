"""A real Chromium with the real page API on the WhatsApp stand-in, for tests.

Owns the browser process and the CDP connection. The browser is our own subprocess, because pyppeteer's `launch` blocks
the loop and leaves processes behind; listeners only collect, because an exception in one ends the connection silently.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pyppeteer
import pytest

from sandbox.whatsapp import Phone, WhatsAppServer

PAGE_API = Path(__file__).parents[2] / "node_modules/@wppconnect/wa-js/dist/wppconnect-wa.js"
CANDIDATES = ("/usr/lib/chromium/chromium-headless-shell", "chromium-headless-shell", "chromium", "google-chrome")
PATIENCE = 30.0
"""Seconds until a test that waits for the page gives up; generous, for slow and busy machines."""

EVENTS = [
    "conn.auth_code_change",
    "conn.link_code_change",
    "conn.authenticated",
    "conn.logout",
    "conn.logout_reason",
    "conn.main_init",
    "conn.main_loaded",
    "conn.main_ready",
    "conn.needs_update",
    "conn.qrcode_idle",
    "conn.require_auth",
    "conn.stream_mode_changed",
    "conn.stream_info_changed",
    "conn.backend_event",
    "loader.injected",
    "loader.ready",
    "loader.full_ready",
    "chat.new_message",
    "chat.msg_ack_change",
    "chat.new_reaction",
    "chat.msg_edited",
    "chat.msg_revoke",
    "chat.poll_response",
    "chat.presence_change",
    "chat.new_chat",
    "chat.unread_count_changed",
    "chat.update_label",
    "call.incoming_call",
    "group.participant_changed",
    "blocklist.sync",
]

BRIDGE = """
self.WPPConfig = {disableGoogleAnalytics: true};
%(api)s
;(() => {
  const short = (value, depth = 0) => {
    if (value === null || ['string', 'number', 'boolean'].includes(typeof value)) return value;
    if (value instanceof Error) return String(value);
    if (typeof value !== 'object' || depth > 4) return undefined;
    if (Array.isArray(value)) return value.map((one) => short(one, depth + 1));
    if (value.attributes) {
      const {id, type, body, caption, ack, subtype} = value.attributes;
      const {from, to, author, unreadCount, isNewMsg} = value.attributes;
      return short({id: String(id), type, body: body ?? null, caption, ack, subtype, unreadCount, isNewMsg,
        fromMe: id?.fromMe, from: from && String(from), to: to && String(to), author: author && String(author)}, depth);
    }
    const text = String(value);
    if (text !== '[object Object]') return text;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, short(one, depth + 1)]));
  };
  for (const name of %(events)s) {
    WPP.on(name, (...args) => report(JSON.stringify([name, ...args.map((one) => short(one) ?? null)])));
  }
})();
"""


def executable() -> str:
    """The Chromium to use; skips the test where there is none."""
    for name in filter(None, (os.environ.get("CHROMIUM"), *CANDIDATES)):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("there is no Chromium here; set CHROMIUM to its path")


async def _user_agent(binary: str) -> str:
    process = await asyncio.create_subprocess_exec(
        binary, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    version = re.search(rb"(\d+)\.[\d.]+", output)
    major = version.group(1).decode() if version else "130"
    return f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36"


class Tab:
    """One browser on one profile, showing the stand-in."""

    def __init__(self, profile: Path, *, headless_agent: bool = False) -> None:
        self.profile = profile
        self.events: list[list[Any]] = []
        """`[name, payload…]` of every event of the page API, in order and over reloads."""
        self.exceptions: list[str] = []
        self._headless_agent = headless_agent
        self._process: asyncio.subprocess.Process | None = None
        self._browser: Any = None
        self._page: Any = None
        self._client: Any = None
        self._changed = asyncio.Condition()
        self._drain: asyncio.Task[bytes] | None = None
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int:
        """Process id of the browser."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> Self:
        binary = executable()
        self.profile.mkdir(parents=True, exist_ok=True)
        agent = [] if self._headless_agent else [f"--user-agent={await _user_agent(binary)}"]
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "--headless",
            "--no-sandbox",
            "--remote-debugging-port=0",
            f"--user-data-dir={self.profile}",
            *agent,
            "--lang=en-US",
            "--disable-gpu",
            "--disable-software-rasterizer",
            "--enable-features=NetworkServiceInProcess2",
            "--js-flags=--optimize-for-size --max-semi-space-size=1",
            "--mute-audio",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-breakpad",
            "--password-store=basic",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            endpoint = None
            while endpoint is None:
                line = await self._process.stderr.readline()
                assert line, "the browser ended before it listened"
                endpoint = re.search(rb"DevTools listening on (ws://\S+)", line)
        self._drain = asyncio.create_task(self._process.stderr.read())
        with warnings.catch_warnings():
            # pyppeteer calls its websocket library in a way that is deprecated there.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._browser = await pyppeteer.connect(
                browserWSEndpoint=endpoint.group(1).decode(), defaultViewport=None, ignoreHTTPSErrors=False
            )
        self._page = (await self._browser.pages())[0]
        self._page.on("error", lambda error: self._note(["browser.crash", str(error)]))
        # Our own session: pyppeteer's listens to bindings too, and fails on payloads that are not its own.
        self._client = await self._page.target.createCDPSession()
        await self._client.send("Page.enable", {})
        await self._client.send("Runtime.enable", {})
        self._client.on("Runtime.bindingCalled", lambda event: self._note(json.loads(event["payload"])))
        self._client.on("Runtime.exceptionThrown", self._exception)
        await self._client.send("Runtime.addBinding", {"name": "report"})
        script = BRIDGE % {"api": PAGE_API.read_text(), "events": json.dumps(EVENTS)}
        guarded = f"if (location.protocol === 'http:') {{ {script} }}"
        await self._client.send("Page.addScriptToEvaluateOnNewDocument", {"source": guarded})
        return self

    def _note(self, event: list[Any]) -> None:
        self.events.append(event)
        task = asyncio.ensure_future(self._notify())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    def _exception(self, event: dict[str, Any]) -> None:
        details = event.get("exceptionDetails", {})
        self.exceptions.append(str(details.get("exception", {}).get("description", details.get("text"))))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def open(self, url: str) -> None:
        """Go to the page."""
        await self._client.send("Page.navigate", {"url": url + "/"})

    async def reload(self) -> None:
        """Load the page again."""
        await self._client.send("Page.reload", {})

    async def until(
        self, test: Callable[[list[Any]], bool], *, since: int = 0, patience: float = PATIENCE
    ) -> list[Any]:
        """The first event after the first `since` that passes `test`."""

        def found() -> list[Any] | None:
            return next((event for event in self.events[since:] if test(event)), None)

        async with asyncio.timeout(patience), self._changed:
            await self._changed.wait_for(lambda: found() is not None)
        event = found()
        assert event is not None
        return event

    async def event(self, name: str, *payload: Any, since: int = 0, patience: float = PATIENCE) -> list[Any]:
        """The first event of this name (and with this payload, if given) after the first `since`."""
        return await self.until(
            lambda event: event[0] == name and (not payload or tuple(event[1:]) == payload),
            since=since,
            patience=patience,
        )

    async def messages(self, count: int, *, since: int = 0, test: Callable[[Any], bool] = bool) -> list[Any]:
        """Wait until `count` new messages have been reported that pass `test`."""

        def seen() -> list[Any]:
            return [event[1] for event in self.events[since:] if event[0] == "chat.new_message" and test(event[1])]

        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: len(seen()) >= count)
        return seen()

    def names(self, since: int = 0) -> list[str]:
        """Names of the events after the first `since`; of a stream's mode with the mode."""
        return [
            f"{event[0]} {event[1]}" if event[0] == "conn.stream_mode_changed" else event[0]
            for event in self.events[since:]
        ]

    async def evaluate(self, script: str, *, patience: float = PATIENCE) -> Any:
        """The JSON value of an async function body in the page; the time limit is kept inside the page."""
        code = f"""(() => Promise.race([
            (async () => {{ {script} }})(),
            new Promise((_, no) => setTimeout(() => no(new Error('no answer in time')), {patience * 1000})),
        ]).then((value) => JSON.stringify({{value}}), (error) => JSON.stringify({{error: {{
            name: error?.name, message: error?.message ?? String(error), code: error?.code, text: String(error),
            kind: typeof error }}}})))()"""
        text = await self._page.evaluate(code, force_expr=True)
        answer = json.loads(text)
        if "error" in answer:
            raise PageError(answer["error"])
        return answer.get("value")

    async def ready(self) -> None:
        """Wait until the page API is ready and the account connected."""
        await self.event("loader.full_ready")
        await self.holds("WPP.whatsapp.Stream.mode === 'MAIN' && WPP.whatsapp.Socket.stream === 'CONNECTED'")

    async def holds(self, expression: str, *, patience: float = PATIENCE) -> None:
        """Wait until `expression` is true in the page, over reloads."""
        async with asyncio.timeout(patience):
            while True:
                try:
                    if await self._page.evaluate(f"Boolean({expression})", force_expr=True):
                        return
                except pyppeteer.errors.PyppeteerError:
                    # The page is between two documents, or not that far yet.
                    pass
                await asyncio.sleep(0.05)

    async def qr(self, *, since: int = 0) -> str:
        """The next QR code's text."""
        event = await self.until(lambda one: one[0] == "conn.auth_code_change" and one[1] is not None, since=since)
        return str(event[1]["fullCode"])

    async def screenshot(self, path: Path) -> None:
        """A picture of the page."""
        answer = await self._client.send("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self, *, kill: bool = False) -> None:
        """End the browser, gracefully unless told otherwise."""
        process = self._process
        if process is None:
            return
        self._process = None
        if process.returncode is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await process.wait()
            if self._drain is not None:
                await self._drain
        if self._browser is not None:
            await self._browser.disconnect()
        await asyncio.gather(*self._notices)


class PageError(Exception):
    """A promise in the page was rejected; `details` has name, message, code, text and kind."""

    def __init__(self, details: dict[str, Any]) -> None:
        super().__init__(details["text"])
        self.details = details


async def eventually(test: Callable[[], Awaitable[bool]], *, patience: float = PATIENCE) -> None:
    """Wait until `test` says yes; for what nobody announces."""
    async with asyncio.timeout(patience):
        while True:
            if await test():
                return
            await asyncio.sleep(0.05)


class Tabs:
    """Makes tabs, each with its own profile and process, and closes them all at the end."""

    def __init__(self, folder: Path, server: WhatsAppServer) -> None:
        self.folder = folder
        self.server = server
        self._tabs: list[Tab] = []
        self._phones: list[Phone] = []

    async def open(self, name: str, *, headless_agent: bool = False) -> Tab:
        """A tab on the profile `name`, showing the page."""
        tab = Tab(self.folder / name, headless_agent=headless_agent)
        self._tabs.append(tab)
        await tab.start()
        await tab.open(self.server.url)
        return tab

    def phone(self, number: str) -> Phone:
        """The phone of `number`."""
        phone = Phone(self.server.url, number)
        self._phones.append(phone)
        return phone

    async def paired(self, number: str, name: str | None = None) -> tuple[Tab, Phone]:
        """A tab that is linked to the account `number`, ready to use."""
        tab = await self.open(name or number)
        phone = self.phone(number)
        await phone.scan(await tab.qr())
        await tab.ready()
        return tab, phone

    def copy(self, name: str, new_name: str) -> None:
        """Copy a profile, with what a backup of it would hold."""
        for part in ("IndexedDB", "Local Storage"):
            shutil.copytree(self.folder / name / "Default" / part, self.folder / new_name / "Default" / part)

    async def close(self) -> None:
        """Close everything."""
        for tab in self._tabs:
            await tab.close()
        for phone in self._phones:
            await phone.aclose()
