"""Density of our launch profile: `python -m bench.density`.

What one more session costs in memory, what it costs while nothing happens, and how long it takes to be ready; against
Chromium as whatsapp-web.js starts it, on the same page in the same run. The page stands for a busy account without
WhatsApp: a script of 2.4 MB, 60,000 objects, a database, images, a timer, and a websocket with a message every 5 s.

Rounds of both take turns, and medians are shown: absolute figures are this machine's, ratios carry over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from aiohttp import WSMsgType, web

from session_worker.chromium import BrowserSettings, Chromium, find_browser
from session_worker.memory import per_browser, session_members

SIZES = (1, 4, 8)
SETTLE = 8.0
"""Seconds after the last page is ready before anything is measured."""
CPU_WINDOW = 10.0
READY_TIMEOUT = 60.0
MESSAGE_EVERY = 5.0

PUPPETEER = (
    "--allow-pre-commit-input",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-hang-monitor",
    "--disable-infobars",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-renderer-backgrounding",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--enable-automation",
    "--export-tagged-pdf",
    "--generate-pdf-document-outline",
    "--force-color-profile=srgb",
    "--metrics-recording-only",
    "--no-first-run",
    "--password-store=basic",
    "--use-mock-keychain",
    "--disable-features=Translate,AcceptCHFrame,MediaRouter,OptimizationHints,RenderDocument,IsolateSandboxedIframes",
    "--enable-features=PdfOopif",
    "--headless=new",
    "--hide-scrollbars",
    "--mute-audio",
)
"""Default arguments of puppeteer 24, which whatsapp-web.js 1.34 starts Chromium with: `headless: true` and a user
agent are all that it adds."""

_PAGE = """<!doctype html><meta charset=utf-8><title>density</title><div id=images></div>
<script src=/bundle.js></script>
<script>
(async () => {
  const models = new Map();
  for (let n = 0; n < 60000; n++) {
    const attributes = { body: `message ${n} `.repeat(6), t: n, ack: n % 4, star: false, from: `${n % 500}@c.us` };
    models.set(`true_${n % 500}@c.us_3EB0${n.toString(16).padStart(18, "0")}`, { attributes, listeners: new Set(), n });
  }
  window.models = models;
  const database = await new Promise((resolve, reject) => {
    const request = indexedDB.open("store", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("message", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const transaction = database.transaction("message", "readwrite");
  for (let n = 0; n < 3000; n++) transaction.objectStore("message").put({ id: n, body: "x".repeat(300) });
  await new Promise((resolve) => (transaction.oncomplete = resolve));
  for (let n = 0; n < 60; n++) {
    const image = new Image();
    image.src = `/image.svg?${n}`;
    document.getElementById("images").append(image);
  }
  setInterval(() => document.title = `density ${Date.now()}`, 1000);
  const socket = new WebSocket(`ws://${location.host}/socket${location.search}`);
  socket.onmessage = ({ data }) => models.set("latest", JSON.parse(data));
  socket.onopen = () => socket.send("ready");
})();
</script>"""
_IMAGE = '<svg xmlns="http://www.w3.org/2000/svg" width="48" height="48"><circle cx="24" cy="24" r="20"/></svg>'


def _bundle() -> str:
    """2.4 MB of functions that a page has to parse and keep."""
    return "\n".join(
        f"window.f{n} = (a, b) => {{ const x = [a, b, {n}]; return x.map((y) => y + 'text {n}'.length); }}; f{n}(1);"
        for n in range(22_000)
    )


class PageServer:
    """Serves the page, and hears when it is ready. Use it as an async context manager."""

    def __init__(self) -> None:
        self._bundle = _bundle()
        self._ready: dict[str, asyncio.Event] = {}
        self._runner: web.AppRunner
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/", self._text(_PAGE, "text/html"))
        app.router.add_get("/bundle.js", self._text(self._bundle, "text/javascript"))
        app.router.add_get("/image.svg", self._text(_IMAGE, "image/svg+xml"))
        app.router.add_get("/socket", self._socket)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def page(self, name: str) -> tuple[str, asyncio.Event]:
        """An address of the page, and what is set when it is ready."""
        self._ready[name] = asyncio.Event()
        return f"{self.url}?{name}", self._ready[name]

    @staticmethod
    def _text(text: str, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(_: web.Request) -> web.Response:
            return web.Response(text=text, content_type=kind)

        return serve

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sender = asyncio.create_task(self._send(socket))
        async for message in socket:
            if message.type is WSMsgType.TEXT and message.data == "ready":
                self._ready[request.query_string].set()
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        return socket

    @staticmethod
    async def _send(socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await asyncio.sleep(MESSAGE_EVERY)
            await socket.send_json({"body": "hello", "t": time.time(), "listeners": []})


class Browser(Protocol):
    """One running session."""

    @property
    def pid(self) -> int:
        """Leader of its processes."""

    async def close(self) -> None:
        """End it."""


class Default:
    """Chromium as puppeteer starts it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Leader of its processes."""
        return self._process.pid

    async def close(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


Start = Callable[[Path, str], Awaitable[Browser]]
"""Start a browser on a profile directory and open an address in it."""


def find_default(given: str | None) -> str:
    """The full Chromium, which whatsapp-web.js starts; the real binary rather than a wrapper.

    Raises:
        FileNotFoundError: There is none.
    """
    candidates = [given] if given else ["/usr/lib/chromium/chromium", "chromium", "google-chrome"]
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError("the default launch needs the full Chromium: install it, or name it with --default")
    return found


async def starters(cache: Path, full: str) -> dict[str, Start]:
    """How each variant is started."""
    executable, version = await find_browser(None)

    async def ours(profile: Path, url: str) -> Browser:
        settings = BrowserSettings(executable=executable, url=url, wa_js="", version=version, cache_dir=cache)
        browser = await Chromium.launch(settings, profile, lambda _: None)
        await browser.open()
        return browser

    async def default(profile: Path, url: str) -> Browser:
        process = await asyncio.create_subprocess_exec(
            full, *PUPPETEER, "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}", url,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        return Default(process)

    return {"default": default, "ours": ours}


@dataclass(slots=True)
class Figures:
    """Of one variant: lists with one entry for each round."""

    pss: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    """MB of all sessions, by their number."""
    cpu: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    """Per cent of a core for each session."""
    ready: list[float] = field(default_factory=list)
    """Seconds."""
    processes: list[float] = field(default_factory=list)
    """For each session."""

    def marginal(self) -> float:
        """MB of one more session."""
        low, high = SIZES[-2:]
        pairs = zip(self.pss[low], self.pss[high], strict=True)
        return statistics.median((more - less) / (high - low) for less, more in pairs)


def cpu_seconds(leaders: list[int]) -> float:
    """Processor time that the browsers' processes have used."""
    ticks = 0
    for pids in session_members(leaders).values():
        for pid in pids:
            with suppress(OSError):  # it ended while we were looking
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(start: Start, server: PageServer, directory: Path, name: str, figures: Figures) -> None:
    """One round of one variant: 1, 4 and 8 sessions, one after the other."""
    async with AsyncExitStack() as stack:
        leaders: list[int] = []
        for size in SIZES:
            while len(leaders) < size:
                url, ready = server.page(f"{name}-{len(leaders)}")
                profile = directory / f"{name}-{len(leaders)}" / "chromium"
                profile.mkdir(parents=True)
                began = time.monotonic()
                browser = await start(profile, url)
                stack.push_async_callback(browser.close)
                async with asyncio.timeout(READY_TIMEOUT):
                    await ready.wait()
                figures.ready.append(time.monotonic() - began)
                leaders.append(browser.pid)
            await asyncio.sleep(SETTLE)
            figures.pss[size].append(sum(per_browser(leaders).values()) / 1e6)
            before, since = cpu_seconds(leaders), time.monotonic()
            await asyncio.sleep(CPU_WINDOW)
            used = cpu_seconds(leaders) - before
            figures.cpu[size].append(100 * used / (time.monotonic() - since) / size)
        figures.processes.append(sum(map(len, session_members(leaders).values())) / len(leaders))


async def run(rounds: int, full: str) -> dict[str, Figures]:
    """Measure all variants, `rounds` times in turns."""
    with tempfile.TemporaryDirectory(prefix="density-", ignore_cleanup_errors=True) as text:
        directory = Path(text)
        variants = await starters(directory, full)
        figures = {name: Figures() for name in variants}
        async with PageServer() as server:
            for number in range(rounds):
                for name, start in variants.items():
                    await measure(start, server, directory, f"{name}-{number}", figures[name])
                    sys.stderr.write(f"round {number + 1} of {rounds}: {name}\n")
        return figures


def report(figures: dict[str, Figures]) -> str:
    """A table in Markdown: medians, and ours as a share of the default."""
    median = statistics.median
    rows: list[tuple[str, Callable[[Figures], float], str]] = [
        *((f"PSS of {size}, MB", lambda one, size=size: median(one.pss[size]), ".0f") for size in SIZES),
        ("PSS of one more session, MB", Figures.marginal, ".0f"),
        *(
            (f"idle CPU per session at {size}, % of a core", lambda one, size=size: median(one.cpu[size]), ".2f")
            for size in SIZES
        ),
        ("time to ready, s", lambda one: median(one.ready), ".2f"),
        ("processes per session", lambda one: median(one.processes), ".1f"),
    ]
    lines = ["| | default | ours | ratio |", "|---|---|---|---|"]
    for name, value, form in rows:
        default, ours = value(figures["default"]), value(figures["ours"])
        ratio = f"{ours / default:.2f}" if default else "-"
        lines.append(f"| {name} | {default:{form}} | {ours:{form}} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.density", description="Density against a default launch.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--default", metavar="PATH", help="the full Chromium; found where Debian installs it")
    arguments = parser.parse_args()
    try:
        figures = asyncio.run(run(arguments.rounds, find_default(arguments.default)))
    except FileNotFoundError as error:
        sys.exit(str(error))
    sys.stdout.write(report(figures) + "\n")


if __name__ == "__main__":
    main()
