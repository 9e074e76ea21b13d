"""The life of one session as a table: (stage, signal) -> (next stage, effect).

Two rules. All transitions are in `TABLE` and nowhere else; and the table knows no browser, clock or store: what comes
in is a `Signal`, what goes out is an `Effect` for `session` to carry out. A signal that the table does not have for a
stage raises `IllegalSignalError` and changes nothing.

Signals come from `classify`, which reads the page's own account of itself. It goes by whether credentials exist, by
the stream's mode and by the socket, because `main_ready` and `isFullReady` are true on the QR screen too, and because
a page that lost its network goes on saying MAIN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from session_worker.contract import Payload, Phase


class Stage(StrEnum):
    """Where a session is in its life, finer than the phase that the outside sees."""

    LAUNCHING = "Launching"
    """Its browser is being started."""
    LOADING = "Loading"
    """The page loads, until it says whether it is linked."""
    PAIRING = "Pairing"
    """A code is on show."""
    SYNCING = "Syncing"
    """Linked; the page fetches its first data."""
    CONNECTED = "Connected"
    RECONNECTING = "Reconnecting"
    """Linked, and without a connection to WhatsApp."""
    WAITING = "Waiting"
    """The browser failed; it is started again after a delay."""
    HIBERNATED = "Hibernated"
    """The browser is closed to save memory; the login is kept."""
    FAILED = "Failed"
    """It keeps failing, or nobody paired it in time; the browser is closed."""
    PURGED = "Purged"
    """The object is being deleted: the profile is removed, and the operator has yet to take the session away."""
    CLOSING = "Closing"
    """The browser is being closed for good."""
    CLOSED = "Closed"
    """This worker has no part in the session any more."""


class Signal(StrEnum):
    """What may happen to a session."""

    BROWSER_UP = "BrowserUp"
    BROWSER_DOWN = "BrowserDown"
    """The browser ended, could not be started, or no longer talks to us."""
    PAGE_CRASHED = "PageCrashed"
    NAVIGATED = "Navigated"
    """The page was loaded anew, by itself or by us."""
    UNLINKED = "Unlinked"
    """The page has no credentials and asks to be paired."""
    LINKED = "Linked"
    """The page has credentials and is fetching data."""
    ONLINE = "Online"
    OFFLINE = "Offline"
    """The page has credentials and no connection."""
    BLOCKED = "Blocked"
    """WhatsApp refuses this client: outdated, proxy blocked, terms of service."""
    UNHEALTHY = "Unhealthy"
    """The page does not answer, or claims to be connected and is not."""
    TIMEOUT = "Timeout"
    """The stage has lasted too long."""
    RETRY = "Retry"
    """The delay before the next start is over."""
    EXHAUSTED = "Exhausted"
    """It failed too often in a short time."""
    RESTART = "Restart"
    """A person asks for a new browser."""
    HIBERNATE = "Hibernate"
    WAKE = "Wake"
    PURGE = "Purge"
    """The object is being deleted, and its profile with it."""
    STOP = "Stop"
    """The operator takes the session away, or the worker ends."""
    ENDED = "Ended"
    """The browser is closed and the profile is safe."""


class Effect(StrEnum):
    """What `session` does on a transition."""

    NONE = "None"
    LAUNCH = "Launch"
    LOAD = "Load"
    """Open WhatsApp in the new browser."""
    RELOAD = "Reload"
    """Load the page again in the same browser."""
    PAIR = "Pair"
    """Show codes."""
    CLOSE_AND_WAIT = "CloseAndWait"
    """Close the browser, then start again after a backoff."""
    CLOSE_AND_LAUNCH = "CloseAndLaunch"
    """Close the browser and start again at once."""
    CLOSE = "Close"
    """Close the browser and keep it closed."""
    PURGE = "Purge"
    """Unlink the account if asked, close the browser, remove the profile."""
    FINISH = "Finish"
    """Close the browser and end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the table."""

    stage: Stage
    effect: Effect = Effect.NONE


class IllegalSignalError(Exception):
    """The table has no entry for this signal in this stage: a bug of the caller."""


PHASES: dict[Stage, Phase] = {
    Stage.LAUNCHING: Phase.STARTING,
    Stage.LOADING: Phase.STARTING,
    Stage.PAIRING: Phase.PAIRING,
    Stage.SYNCING: Phase.STARTING,
    Stage.CONNECTED: Phase.CONNECTED,
    Stage.RECONNECTING: Phase.RECONNECTING,
    Stage.WAITING: Phase.RECONNECTING,
    Stage.HIBERNATED: Phase.HIBERNATED,
    Stage.FAILED: Phase.FAILED,
    Stage.PURGED: Phase.STOPPED,
    Stage.CLOSING: Phase.DRAINING,
    Stage.CLOSED: Phase.STOPPED,
}

TIMEOUTS: dict[Stage, float] = {
    # Chromium is up in 0.3 s on an idle node; a node that starts fifteen at once takes its time.
    Stage.LAUNCHING: 60,
    # The page is ready in about a second; sometimes it never is, when its modules arrive late, and a reload helps.
    Stage.LOADING: 60,
    # The first synchronisation of a large account takes minutes.
    Stage.SYNCING: 300,
    # WhatsApp reconnects by itself with growing delays; a page that was replaced by another browser never does.
    Stage.RECONNECTING: 90,
    # A profile that could not be removed is tried again.
    Stage.PURGED: 5,
    Stage.CLOSING: 20,
    # A failed session is tried again slowly.
    Stage.FAILED: 300,
}
"""Seconds after which a stage gets TIMEOUT. PAIRING has its own from the session's spec, WAITING from the backoff."""

_RUNNING = (Stage.LOADING, Stage.PAIRING, Stage.SYNCING, Stage.CONNECTED, Stage.RECONNECTING)
"""Stages with a browser and a page."""
_ALIVE = (Stage.LAUNCHING, *_RUNNING, Stage.WAITING, Stage.HIBERNATED, Stage.FAILED)

_STAY: dict[Stage, Iterable[Signal]] = {
    Stage.LAUNCHING: (Signal.NAVIGATED,),
    # A restored page is offline for a moment before it connects; when it stays so, the stage's timeout reloads it.
    Stage.LOADING: (Signal.NAVIGATED, Signal.OFFLINE, Signal.HIBERNATE, Signal.WAKE),
    Stage.PAIRING: (Signal.UNLINKED, Signal.OFFLINE, Signal.HIBERNATE, Signal.WAKE),
    Stage.SYNCING: (Signal.LINKED, Signal.OFFLINE, Signal.HIBERNATE, Signal.WAKE),
    Stage.CONNECTED: (Signal.ONLINE, Signal.LINKED, Signal.WAKE),
    Stage.RECONNECTING: (Signal.OFFLINE, Signal.LINKED, Signal.HIBERNATE, Signal.WAKE),
}
"""Signals that say what is known already."""
_LATE = (
    Signal.BROWSER_UP, Signal.BROWSER_DOWN, Signal.PAGE_CRASHED, Signal.NAVIGATED, Signal.UNLINKED, Signal.LINKED,
    Signal.ONLINE, Signal.OFFLINE, Signal.BLOCKED, Signal.UNHEALTHY, Signal.RETRY, Signal.EXHAUSTED,
)  # fmt: skip
"""Signals of a browser that is gone by now: they were on their way."""

_CLOSED = (Stage.WAITING, Stage.HIBERNATED, Stage.FAILED, Stage.PURGED, Stage.CLOSING, Stage.CLOSED)
"""Stages without a browser, or with one that is on its way out."""
_ASKED = (Signal.HIBERNATE, Signal.WAKE, Signal.RESTART, Signal.PURGE, Signal.STOP)
"""Signals from outside."""


def _table() -> dict[tuple[Stage, Signal], Step]:
    table: dict[tuple[Stage, Signal], Step] = {}

    def on(stages: Iterable[Stage], signals: Iterable[Signal], stage: Stage, effect: Effect = Effect.NONE) -> None:
        table.update(dict.fromkeys(((before, signal) for before in stages for signal in signals), Step(stage, effect)))

    # Signals of a closed browser are heard and change nothing. These come first: what follows says more.
    for stage in (*_CLOSED, Stage.LAUNCHING):
        on([stage], (*_LATE, *_ASKED, Signal.ENDED), stage)
    for stage, signals in _STAY.items():
        on([stage], signals, stage)

    # Starting
    on([Stage.LAUNCHING], [Signal.BROWSER_UP], Stage.LOADING, Effect.LOAD)
    on(_RUNNING, [Signal.BROWSER_UP], Stage.LOADING, Effect.LOAD)
    on([Stage.LAUNCHING], [Signal.BROWSER_DOWN, Signal.TIMEOUT], Stage.WAITING, Effect.CLOSE_AND_WAIT)
    on([Stage.LOADING], [Signal.TIMEOUT], Stage.LOADING, Effect.RELOAD)

    # What the page says of itself
    on([*_RUNNING[:1], *_RUNNING[2:]], [Signal.UNLINKED], Stage.PAIRING, Effect.PAIR)
    on([Stage.LOADING, Stage.PAIRING], [Signal.LINKED], Stage.SYNCING)
    on([Stage.LOADING, Stage.PAIRING, Stage.SYNCING, Stage.RECONNECTING], [Signal.ONLINE], Stage.CONNECTED)
    on([Stage.CONNECTED], [Signal.OFFLINE], Stage.RECONNECTING)
    on([Stage.PAIRING, Stage.SYNCING, Stage.CONNECTED, Stage.RECONNECTING], [Signal.NAVIGATED], Stage.LOADING)

    # What goes wrong
    on([Stage.PAIRING], [Signal.TIMEOUT], Stage.FAILED, Effect.CLOSE)
    on([Stage.SYNCING, Stage.RECONNECTING], [Signal.TIMEOUT], Stage.LOADING, Effect.RELOAD)
    on(_RUNNING, [Signal.UNHEALTHY, Signal.PAGE_CRASHED, Signal.BROWSER_DOWN], Stage.WAITING, Effect.CLOSE_AND_WAIT)
    on(_RUNNING, [Signal.BLOCKED], Stage.FAILED, Effect.CLOSE)
    on([Stage.WAITING], [Signal.RETRY], Stage.LAUNCHING, Effect.LAUNCH)
    on([Stage.LAUNCHING, Stage.WAITING, *_RUNNING], [Signal.EXHAUSTED], Stage.FAILED, Effect.CLOSE)
    on([Stage.FAILED], [Signal.TIMEOUT], Stage.LAUNCHING, Effect.LAUNCH)

    # What people and the memory manager ask for
    on([Stage.LAUNCHING, *_RUNNING], [Signal.RESTART], Stage.LAUNCHING, Effect.CLOSE_AND_LAUNCH)
    on([Stage.WAITING, Stage.HIBERNATED, Stage.FAILED], [Signal.RESTART], Stage.LAUNCHING, Effect.LAUNCH)
    on([Stage.CONNECTED], [Signal.HIBERNATE], Stage.HIBERNATED, Effect.CLOSE)
    on([Stage.HIBERNATED], [Signal.WAKE], Stage.LAUNCHING, Effect.LAUNCH)

    # The end. Removing a profile that is in use elsewhere fails; it is tried again until the operator gives up.
    on(_ALIVE, [Signal.PURGE], Stage.PURGED, Effect.PURGE)
    on([Stage.PURGED], [Signal.TIMEOUT], Stage.PURGED, Effect.PURGE)
    on([*_ALIVE, Stage.PURGED], [Signal.STOP], Stage.CLOSING, Effect.FINISH)
    on([Stage.CLOSING], [Signal.ENDED, Signal.TIMEOUT], Stage.CLOSED)
    return table


TABLE = _table()


def step(stage: Stage, signal: Signal) -> Step:
    """The next stage and what to do on the way.

    Raises:
        IllegalSignalError: The table has no such entry.
    """
    try:
        return TABLE[stage, signal]
    except KeyError:
        raise IllegalSignalError(f"{signal} in stage {stage}") from None


class Snapshot(Payload):
    """The page's account of itself, made by `bridge.js`."""

    injected: bool = False
    """wa-js has found WhatsApp's modules."""
    registered: bool = False
    """Credentials exist in this profile."""
    mode: str = ""
    """Mode of the stream: QR, SYNCING, MAIN, OFFLINE, CONFLICT, DEPRECATED_VERSION, …"""
    socket: str = ""
    """State of the socket: UNPAIRED, UNPAIRED_IDLE, CONNECTED, …"""
    stream: str = ""
    """State of the connection under it: CONNECTED, DISCONNECTED, SYNCING, RESUMING."""
    id: str | None = None
    """The account, `<number>@c.us`."""
    lid: str | None = None
    push_name: str = ""


BLOCKS = {
    "DEPRECATED_VERSION": "WhatsApp no longer serves this version of its page",
    "PROXYBLOCK": "WhatsApp refuses the proxy",
    "TOS_BLOCK": "WhatsApp has blocked the account for its terms of service",
    "SMB_TOS_BLOCK": "WhatsApp has blocked the business account for its terms of service",
}
"""Modes in which nothing but a person can help."""


def classify(page: Snapshot) -> Signal | None:
    """What the page's account of itself means; None while it means nothing yet."""
    if not page.injected or not (page.mode or page.socket):
        return None
    if page.mode in BLOCKS or page.socket in BLOCKS:
        return Signal.BLOCKED
    if not page.registered:
        return Signal.UNLINKED if page.mode == "QR" or page.socket.startswith("UNPAIRED") else None
    if page.mode == "SYNCING":
        return Signal.LINKED
    if page.mode == "MAIN" and page.stream == "CONNECTED":
        return Signal.ONLINE
    if page.mode in {"MAIN", "OFFLINE", "CONFLICT"}:
        return Signal.OFFLINE
    return None
