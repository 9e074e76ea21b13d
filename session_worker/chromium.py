"""One headless Chromium with one page of WhatsApp Web.

Owns the browser's process, its command line, the connection to it and the page's scripts. It is the only module that
knows pyppeteer. Must not know sessions' lives: it tells what happens through a callback and does what it is asked.

How pyppeteer is used here, and why:

- The browser is our own subprocess, and pyppeteer connects to it: its launcher blocks the event loop, takes over
  signals and leaves browsers behind.
- No `Page` objects: each enables five CDP domains, and a crash of the page without a listener, or a console message
  from a context that is gone, ends its connection in silence. A CDP session on the page's target does all we need.
- Listeners never raise and never await, and no CDP future is ever cancelled: either would end the connection too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyppeteer
from pyppeteer.errors import PyppeteerError

from session_worker.contract import Proxy
from session_worker.logs import fields

log = logging.getLogger(__name__)
# At DEBUG both write down everything that passes between us and the browser: message texts, codes, passwords.
for _name in ("pyppeteer", "websockets"):
    logging.getLogger(_name).setLevel(logging.WARNING)

START_TIMEOUT = 45.0
"""Seconds until a started browser must have opened its debugging port."""
CLOSE_TIMEOUT = 10.0
"""Seconds for an orderly end, which takes 0.1 s when the browser is well; then the process group is killed."""
CALL_TIMEOUT = 30.0
"""Seconds that a page call may take unless its caller says otherwise."""
_POLL = 0.02
_BINDING = "__bridgeEmit"
_WA_JS = Path("node_modules/@wppconnect/wa-js/dist/wppconnect-wa.js")
_BRIDGE = Path(__file__).with_name("bridge.js")

Event = dict[str, Any]
"""`{"type": …}` and what belongs to it: `page`, `code`, `message`, `ack`, … from `bridge.js`; `navigated`, `crashed`
and `gone` from here."""


class PageError(Exception):
    """WhatsApp or wa-js refused a call; `code` is wa-js's where it has one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PageTimeoutError(Exception):
    """The page did not answer in time; whether the call had an effect is not known."""


class BrowserGoneError(Exception):
    """The browser ended or no longer talks to us; whether a call under way had an effect is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSettings:
    """How browsers are started; the same for all sessions of a worker."""

    executable: str
    url: str
    sandbox: bool = False
    args: tuple[str, ...] = ()
    wa_js: str
    """Source of wa-js."""
    version: str
    """The engine's version, `156.0.8078.79`."""
    cache_dir: Path
    """Where caches go: local to the pod, for they need not survive it."""

    @property
    def user_agent(self) -> str:
        """The engine's own user agent without "Headless": WhatsApp serves headless browsers no page at all."""
        major = self.version.partition(".")[0]
        return (
            f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36"
        )


async def find_browser(executable: str | None) -> tuple[str, str]:
    """The browser's path and version.

    The real binary is preferred to the wrapper in /usr/bin, which does not `exec`: ending it leaves the browser.

    Raises:
        FileNotFoundError: There is no such browser.
    """
    candidates = (
        [executable]
        if executable
        else [
            "/usr/lib/chromium/chromium-headless-shell",
            "chromium-headless-shell",
            "/usr/lib/chromium/chromium",
            "chromium",
        ]
    )
    path = next((found for name in candidates if (found := shutil.which(name))), None)
    if path is None:
        raise FileNotFoundError(f"no browser found, looked for {', '.join(candidates)}")
    process = await asyncio.create_subprocess_exec(path, "--version", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    versions = [word for word in output.decode().split() if word[:1].isdigit()]
    if not versions:
        raise FileNotFoundError(f"{path} --version does not print a version")
    return path, versions[0]


def find_wa_js(variable: str | None) -> str:
    """The source of wa-js: the file named, or the one that `npm ci` has installed beside the code or below it.

    Raises:
        FileNotFoundError: It is not installed.
    """
    roots = [Path.cwd(), *Path(__file__).resolve().parents[1:3]]
    candidates = [Path(variable)] if variable else [root / _WA_JS for root in roots]
    for path in candidates:
        if path.is_file():
            return path.read_text()
    raise FileNotFoundError(f"wa-js is not installed (run npm ci), looked for {', '.join(map(str, candidates))}")


def arguments(settings: BrowserSettings, profile: Path, cache: Path, proxy: Proxy | None) -> list[str]:
    """The command line. Measured figures are proportional set size per session on a page with a 56 MB heap."""
    return [
        settings.executable,
        "--headless",
        "--remote-debugging-port=0",  # any free port; it is written to the profile
        f"--user-data-dir={profile}",
        f"--disk-cache-dir={cache}",
        "--disk-cache-size=33554432",
        f"--user-agent={settings.user_agent}",
        "--lang=en-US",
        *(() if settings.sandbox else ("--no-sandbox",)),  # a restricted pod has no user namespaces
        "--disable-gpu",
        "--disable-software-rasterizer",  # -12 MB: no GPU process to speak of; canvas and screenshots still work
        "--enable-features=NetworkServiceInProcess2",  # -10 MB: one process less
        "--js-flags=--optimize-for-size --max-semi-space-size=1",  # -23 MB
        "--disable-dev-shm-usage",  # containers have 64 MB there
        "--password-store=basic",  # cookies readable on another machine
        # The login's keys are in localStorage, which is otherwise written only every 5 s: a worker killed in between
        # would lose the login. With this it was there 1 s after the write, in 10 of 10 kills.
        "--enable-aggressive-domstorage-flushing",
        "--mute-audio",
        "--hide-scrollbars",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-default-apps",
        "--disable-extensions",
        "--disable-breakpad",
        "--disable-crash-reporter",
        "--metrics-recording-only",
        # A page that is never looked at must keep its timers and its socket.
        "--disable-background-timer-throttling",
        "--disable-renderer-backgrounding",
        "--disable-backgrounding-occluded-windows",
        *(_proxy_arguments(proxy) if proxy else ()),
        *settings.args,
        "about:blank",
    ]


def _proxy_arguments(proxy: Proxy) -> tuple[str, ...]:
    """Everything goes through the proxy: loopback addresses, which Chromium leaves out, and WebRTC, or nothing does."""
    return (
        f"--proxy-server={proxy.server}",
        "--proxy-bypass-list=<-loopback>",
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    )


class Chromium:
    """A running browser. Make it with `launch`; it must be ended with `close` or `kill`."""

    def __init__(
        self,
        settings: BrowserSettings,
        process: asyncio.subprocess.Process,
        cache: Path,
        on_event: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._process = process
        self._cache = cache
        self._on_event = on_event
        self._connection: Any = None
        self._session: Any = None
        self._closing = False
        self._watch: asyncio.Task[None] | None = None
        self.last_frame: float | None = None
        """`time.monotonic()` of the last frame that WhatsApp has sent."""

    @property
    def pid(self) -> int:
        """Leader of the browser's process group and session."""
        return self._process.pid

    # --- Start and end

    @classmethod
    async def launch(
        cls,
        settings: BrowserSettings,
        profile: Path,
        on_event: Callable[[Event], None],
        *,
        inherit: tuple[int, ...] = (),
        proxy: Proxy | None = None,
    ) -> Chromium:
        """Start a browser on a profile directory and connect to it.

        Args:
            settings: The worker's.
            profile: The user data directory; nobody else may have it open.
            on_event: Called for every event, from the event loop; must not raise.
            inherit: Descriptors that the browser keeps open for its life, such as the profile's lock.
            proxy: What the browser reaches the world through. Its password is given when the proxy asks for it, and
                is on no command line.

        Raises:
            BrowserGoneError: It did not come up.
        """
        cache = settings.cache_dir / f"{profile.parent.name}-{time.monotonic_ns()}"
        port_file = profile / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)
        # The browser must not outlive the worker, even when that is killed: the kernel sends TERM, which also makes
        # the browser write down what it has in memory.
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(cache), "TMPDIR": str(settings.cache_dir)}
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "TERM", "--", *arguments(settings, profile, cache, proxy),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=inherit,
            env=environment,
        )  # fmt: skip
        browser = cls(settings, process, cache, on_event)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await browser._connect(port_file, proxy)
        except BaseException as error:
            await browser.kill()
            if isinstance(error, (TimeoutError, PyppeteerError, OSError)):
                raise BrowserGoneError(f"the browser did not come up: {error or 'timeout'}") from error
            raise
        return browser

    async def _connect(self, port_file: Path, proxy: Proxy | None) -> None:
        while not (port_file.exists() and "\n" in (text := port_file.read_text())):
            if self._process.returncode is not None:
                raise BrowserGoneError(f"the browser ended at once with code {self._process.returncode}")
            await asyncio.sleep(_POLL)
        port, path = text.split("\n")[:2]
        browser = await pyppeteer.connect(browserWSEndpoint=f"ws://127.0.0.1:{port}{path}", defaultViewport=None)
        self._connection = browser._connection  # noqa: SLF001  # the only sign of life that pyppeteer has
        self._connection._recv_fut.add_done_callback(lambda _: self._lost())  # noqa: SLF001  # as above
        target = next(target for target in browser.targets() if target.type == "page")
        self._session = await target.createCDPSession()
        self._listen("Runtime.bindingCalled", self._bound)
        self._listen("Page.frameNavigated", self._navigated)
        self._listen("Inspector.targetCrashed", lambda _: self._tell({"type": "crashed"}))
        self._listen("Network.webSocketFrameReceived", self._framed)
        await self._send("Page.enable")
        await self._send("Inspector.enable")
        # Bodies are never asked for; without limits the browser would keep them.
        await self._send("Network.enable", {"maxTotalBufferSize": 0, "maxResourceBufferSize": 0})
        await self._send("Runtime.enable")
        await self._send("Runtime.addBinding", {"name": _BINDING})
        await self._send("Emulation.setUserAgentOverride", self._user_agent())
        await self._send("Page.addScriptToEvaluateOnNewDocument", {"source": self._script()})
        if proxy is not None and proxy.username:
            await self._answer_for(proxy)
        self._watch = asyncio.create_task(self._wait_for_end(), name=f"browser-{self.pid}")

    async def _wait_for_end(self) -> None:
        await self._process.wait()
        self._lost()

    def _lost(self) -> None:
        if not self._closing:
            self._tell({"type": "gone"})

    async def close(self) -> None:
        """End the browser so that it writes down everything; kill it when it does not end in time."""
        self._closing = True
        if self._process.returncode is None:
            # TERM flushes localStorage, cookies and databases and ends in 0.1 s; it needs no working connection.
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._process.wait()
        await self.kill()

    def kill_now(self) -> None:
        """End every process of the browser."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """End every process of the browser at once, and tidy up after it."""
        self._closing = True
        self.kill_now()
        await self._process.wait()
        if self._watch is not None:
            await self._watch
        if self._connection is not None:
            await self._connection.dispose()
            self._connection = None
        shutil.rmtree(self._cache, ignore_errors=True)

    # --- Doing things

    async def open(self) -> None:
        """Load WhatsApp.

        Raises:
            BrowserGoneError: The browser is gone.
            PageError: The address cannot be reached.
        """
        answer = await self._send("Page.navigate", {"url": self._settings.url})
        if answer and answer.get("errorText"):
            raise PageError("navigation", f"{self._settings.url}: {answer['errorText']}")

    async def reload(self) -> None:
        """Load the page again."""
        await self._send("Page.reload")

    async def call(self, method: str, params: dict[str, Any] | None = None, *, limit: float = CALL_TIMEOUT) -> Any:
        """Run one of the bridge's methods and return its result.

        Raises:
            PageError: WhatsApp refused.
            PageTimeoutError: No answer within `limit` seconds.
            BrowserGoneError: The browser is gone, or the page went away during the call.
        """
        expression = f"__bridge.call({json.dumps(method)}, {json.dumps(params or {})})"
        answer = await self._send(
            "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}, limit=limit
        )
        if "exceptionDetails" in answer:
            # The bridge catches everything, so this is a page that has none: not loaded yet, or another page.
            raise PageError("no_bridge", "the page is not ready")
        outcome = json.loads(answer["result"]["value"])
        if not outcome["ok"]:
            raise PageError(outcome["error"]["code"], outcome["error"]["message"])
        return outcome["result"]

    async def collect_garbage(self) -> None:
        """Make the page give back memory that it does not use.

        Raises:
            BrowserGoneError: The browser is gone.
            PageTimeoutError: The page does not answer.
        """
        await self._send("HeapProfiler.collectGarbage")

    async def drop_caches(self) -> None:
        """Empty the cache of responses, in memory and on disk, where it counts as memory of the pod too.

        Raises:
            BrowserGoneError: The browser is gone.
            PageTimeoutError: The browser does not answer.
        """
        await self._send("Network.clearBrowserCache")

    async def _send(self, method: str, params: dict[str, Any] | None = None, *, limit: float = CALL_TIMEOUT) -> Any:
        """One CDP command.

        The future is never cancelled, for pyppeteer's receiver dies of an answer to a cancelled one; when it is late,
        it is left to itself.
        """
        if self._session is None or self._closing:
            raise BrowserGoneError("the browser is closed")
        try:
            pending = self._dispatch(method, params or {})
        except (PyppeteerError, OSError) as error:
            raise BrowserGoneError(str(error)) from error
        done, _ = await asyncio.wait({pending}, timeout=limit)
        if not done:
            raise PageTimeoutError(f"{method} took longer than {limit:g} s")
        try:
            answer = pending.result()
        except (PyppeteerError, OSError) as error:
            raise BrowserGoneError(str(error)) from error
        if answer is None:
            # pyppeteer's way to say that the connection broke while it was sending.
            raise BrowserGoneError("the browser's connection is lost")
        return answer

    # --- Logging in to a proxy

    async def _answer_for(self, proxy: Proxy) -> None:
        """Log in when the proxy asks. Chromium remembers it for all that follows, websockets included."""
        asked: set[str] = set()

        def authenticate(params: dict[str, Any]) -> None:
            answer: dict[str, str] = {"response": "Default"}
            if params["authChallenge"].get("source") == "Proxy":
                if params["requestId"] in asked:
                    answer = {"response": "CancelAuth"}
                    self._tell({"type": "proxyRefused"})
                else:
                    password = proxy.password.get_secret_value()
                    answer = {"response": "ProvideCredentials", "username": proxy.username, "password": password}
                asked.add(params["requestId"])
            self._post("Fetch.continueWithAuth", {"requestId": params["requestId"], "authChallengeResponse": answer})

        def proceed(params: dict[str, Any]) -> None:
            asked.discard(params["requestId"])
            self._post("Fetch.continueRequest", {"requestId": params["requestId"]})

        self._listen("Fetch.authRequired", authenticate)
        self._listen("Fetch.requestPaused", proceed)
        # Only documents are held up: the first one logs in, before the page asks for anything else.
        patterns = [{"urlPattern": "*", "resourceType": "Document"}]
        await self._send("Fetch.enable", {"handleAuthRequests": True, "patterns": patterns})

    def _post(self, method: str, params: dict[str, Any]) -> None:
        """One CDP command from a listener, which must not wait; a browser that is gone says so elsewhere."""
        if not self._closing:
            self._dispatch(method, params)

    def _dispatch(self, method: str, params: dict[str, Any]) -> asyncio.Future[Any]:
        """Hand a command to pyppeteer, whose two futures of it may fail without anybody listening."""
        pending: asyncio.Future[Any] = asyncio.ensure_future(self._session.send(method, params))
        pending.add_done_callback(_retrieved)
        carrier = next(reversed(self._connection._callbacks.values()), None)  # noqa: SLF001  # pyppeteer forgets it
        if carrier is not None:
            carrier.add_done_callback(_retrieved)
        return pending

    # --- Events

    def _listen(self, event: str, handle: Callable[[dict[str, Any]], None]) -> None:
        def guarded(params: dict[str, Any]) -> None:
            try:
                handle(params)
            except Exception:  # an exception in a listener would end pyppeteer's connection in silence
                log.exception("A browser event could not be handled", extra=fields(event=event))

        self._session.on(event, guarded)

    def _tell(self, event: Event) -> None:
        self._on_event(event)

    def _bound(self, params: dict[str, Any]) -> None:
        if params.get("name") == _BINDING:
            self._tell(json.loads(params["payload"]))

    def _navigated(self, params: dict[str, Any]) -> None:
        if "parentId" not in params["frame"] and params["frame"]["url"] != "about:blank":
            self._tell({"type": "navigated"})

    def _framed(self, _: dict[str, Any]) -> None:
        self.last_frame = time.monotonic()

    # --- What the page gets

    def _script(self) -> str:
        """The init script: it runs in every document and frame, so it looks where it is first."""
        host = json.dumps(urlsplit(self._settings.url).netloc)
        # wa-js reports to Google Analytics unless told otherwise.
        configuration = 'self.WPPConfig = {"disableGoogleAnalytics": true};'
        bridge = _BRIDGE.read_text()
        return (
            f"if (location.host === {host} && window === top) {{ {configuration}\n{self._settings.wa_js}\n;{bridge}\n}}"
        )

    def _user_agent(self) -> dict[str, Any]:
        version = self._settings.version
        major = version.partition(".")[0]
        brands = [{"brand": "Chromium", "version": major}, {"brand": "Not)A;Brand", "version": "8"}]
        return {
            "userAgent": self._settings.user_agent,
            "acceptLanguage": "en-US,en",
            "userAgentMetadata": {
                "brands": brands,
                "fullVersionList": [{**brand, "version": version} for brand in brands[:1]],
                "platform": "Linux",
                "platformVersion": "",
                "architecture": "x86",
                "bitness": "64",
                "model": "",
                "mobile": False,
            },
        }


def _retrieved(future: Awaitable[Any]) -> None:
    """Take note of a late answer's exception, so that asyncio does not report it as lost."""
    if isinstance(future, asyncio.Future) and not future.cancelled():
        future.exception()
