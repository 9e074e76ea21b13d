"""What the operator, the workers and the gateway agree on: names, Redis keys, payloads and the worker's HTTP paths.

Owns every string that two parts must spell alike. Must not do I/O, nor import anything that does.

Redis keys put the session between braces, so that a Redis Cluster keeps all keys of one session in one slot and a
Lua script may touch several of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer
from pydantic.alias_generators import to_camel
from ulid import ULID

GROUP = "whatsapp.28web.io"
"""API group of both custom resources, and the prefix of all labels and annotations of ours."""
VERSION = "v1alpha1"
SESSION_PLURAL = "whatsappsessions"
POOL_PLURAL = "whatsappworkerpools"

SESSION_NAME_ANNOTATION = f"{GROUP}/session-name"
"""The name that HTTP clients use, where it is not a valid object name."""

HEARTBEAT_INTERVAL = timedelta(seconds=5)
"""How often a worker renews its lease."""
LEASE_DURATION = timedelta(seconds=15)
"""A worker whose last heartbeat is older than this no longer counts as alive: three beats may be lost."""
SELF_STOP_AFTER = timedelta(seconds=45)
"""A worker that could not renew its lease for this long closes its browsers, so that others may take its sessions."""
SELF_STOP_MARGIN = timedelta(seconds=10)
"""Time that closing the browsers may take; only after both is a silent worker known to run none."""
HEARTBEAT_KEPT = SELF_STOP_AFTER + SELF_STOP_MARGIN
"""Life of a heartbeat's key: when it is gone, the worker has closed its browsers by itself."""
STREAM_MAX_EVENTS = 10_000
"""Entries kept in `events_key()`; readers that fall behind further look at the state hashes, which are the truth."""
INBOUND_MAX_EVENTS = 10_000
"""Entries kept per session in `inbound_key()`: about a day of a busy account while no gateway reads."""
TOLD_MAX_IDS = 5_000
"""Ids kept per session in `told_key()` and in `sent_key()`."""
DEAD_MAX_EVENTS = 1_000
"""Dead letters kept per session."""

BROWSER_URL = "https://web.whatsapp.com/"
"""WhatsApp Web."""
CONTROL_PORT = 3001
"""The worker's HTTP port (`PORT`)."""
METRICS_PORT = 9090
"""The Prometheus port (`PROMETHEUS_PORT`)."""


class SessionKey(NamedTuple):
    """Namespace and name of a `WhatsAppSession`: how all parts name a session. Its text form is `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form.

        Raises:
            ValueError: `text` is not `namespace/name`.
        """
        namespace, slash, name = text.partition("/")
        if not (namespace and slash and name) or "/" in name:
            raise ValueError(f"{text!r} is not of the form namespace/name")
        return cls(namespace, name)


class WorkerKey(NamedTuple):
    """Namespace and name of a worker pod. Its text form is `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


# --- Redis keys -----------------------------------------------------------------------------------------------------


def worker_key(worker: WorkerKey) -> str:
    """String with a `Heartbeat`, kept for `HEARTBEAT_KEPT`.

    It outlives the lease on purpose: its remaining life tells how old the last beat is without comparing clocks, and
    its absence means that the worker has stopped its browsers by itself.
    """
    return f"wa:worker:{{{worker}}}"


def assigned_key(worker: WorkerKey) -> str:
    """Hash written by the operator: session key -> `Assignment`, and `REVISION_FIELD` -> the publication's number."""
    return f"wa:assigned:{{{worker}}}"


REVISION_FIELD = "revision"
"""Field of `assigned_key()`. No session key can equal it, because those hold a slash."""


TERM_FIELD = "term"
"""Field of `assigned_key()` with the term of the leader that published; likewise no session key."""


def wake_key(worker: WorkerKey) -> str:
    """Stream of one entry by which the operator says that `assigned_key()` changed. Losing it costs one poll."""
    return f"wa:wake:{{{worker}}}"


def session_key(session: SessionKey) -> str:
    """Hash with the session's `RuntimeState`, written by its owner only and guarded by its epoch."""
    return f"wa:session:{{{session}}}"


def qr_key(session: SessionKey) -> str:
    """String with the `PairingOffer` on show, expiring with it."""
    return f"wa:qr:{{{session}}}"


def idempotency_key(session: SessionKey, key: str) -> str:
    """String with what became of the request that a client has named by this key; kept by the gateways."""
    return f"wa:once:{{{session}}}:{key}"


def rate_key(client: str) -> str:
    """Sorted set of the moments of a client's requests, kept by the gateways."""
    return f"wa:rate:{{{client}}}"


def outbound_key(session: SessionKey) -> str:
    """Stream of accepted messages that wait to be sent."""
    return f"wa:out:{{{session}}}"


def inbound_key(session: SessionKey) -> str:
    """Stream of `InboundEvent`s for webhooks and websockets."""
    return f"wa:in:{{{session}}}"


def told_key(session: SessionKey) -> str:
    """Sorted set of the ids of messages that were told, by their own time: no owner tells one of them again."""
    return f"wa:told:{{{session}}}"


def told_since_key(session: SessionKey) -> str:
    """String with the Unix time up to which all messages were told: what is older is history."""
    return f"wa:told-since:{{{session}}}"


def sent_key(session: SessionKey) -> str:
    """Sorted set of the ids of messages that were sent over the API, by the time of sending."""
    return f"wa:sent:{{{session}}}"


def events_key() -> str:
    """Stream that names sessions and workers whose state changed; it only wakes readers."""
    return "wa:events"


def deliveries_key(session: SessionKey) -> str:
    """Hash written by the gateways: webhook -> `Delivery`, how far its receiver has got in `inbound_key()`."""
    return f"wa:hooks:{{{session}}}"


def delivery_lock_key(session: SessionKey) -> str:
    """String held by the gateway that delivers a session's events, so that they stay in order."""
    return f"wa:hooks-lock:{{{session}}}"


def dead_key(session: SessionKey) -> str:
    """Stream of events that a receiver did not take after the last attempt."""
    return f"wa:dead:{{{session}}}"


def inbox_key(namespace: str) -> str:
    """Sorted set of a namespace's session keys with undelivered `InboundEvent`s, by the Unix time of the next attempt.

    One for each namespace, because a gateway knows the sessions of its own only.
    """
    return f"wa:inbox:{namespace}"


# --- Payloads -------------------------------------------------------------------------------------------------------


class Payload(BaseModel):
    """A frozen JSON value with camelCase names; unknown fields are ignored, so that parts upgrade one by one."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    def to_json(self) -> str:
        """The JSON text with the names of the contract."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class Phase(StrEnum):
    """Phases of a session, the same words in `status.phase` and in Redis.

    A worker reports every phase but the first two, which are the operator's.
    """

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    STARTING = "Starting"
    PAIRING = "Pairing"
    CONNECTED = "Connected"
    RECONNECTING = "Reconnecting"
    DRAINING = "Draining"
    HIBERNATED = "Hibernated"
    STOPPED = "Stopped"
    FAILED = "Failed"


class ConnectionStatus(StrEnum):
    """The three words that dashboards ask for."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


CONNECTION_STATUS: dict[Phase, ConnectionStatus] = {
    Phase.PENDING: ConnectionStatus.DISCONNECTED,
    Phase.ASSIGNED: ConnectionStatus.CONNECTING,
    Phase.STARTING: ConnectionStatus.CONNECTING,
    Phase.PAIRING: ConnectionStatus.CONNECTING,
    Phase.CONNECTED: ConnectionStatus.CONNECTED,
    Phase.RECONNECTING: ConnectionStatus.CONNECTING,
    Phase.DRAINING: ConnectionStatus.DISCONNECTED,
    Phase.HIBERNATED: ConnectionStatus.DISCONNECTED,
    Phase.STOPPED: ConnectionStatus.DISCONNECTED,
    Phase.FAILED: ConnectionStatus.DISCONNECTED,
}


class WahaStatus(StrEnum):
    """The words of WAHA's API for a session's state."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    SCAN_QR_CODE = "SCAN_QR_CODE"
    WORKING = "WORKING"
    FAILED = "FAILED"


WAHA_STATUS: dict[Phase, WahaStatus] = {
    Phase.PENDING: WahaStatus.STARTING,
    Phase.ASSIGNED: WahaStatus.STARTING,
    Phase.STARTING: WahaStatus.STARTING,
    Phase.PAIRING: WahaStatus.SCAN_QR_CODE,
    Phase.CONNECTED: WahaStatus.WORKING,
    Phase.RECONNECTING: WahaStatus.STARTING,
    Phase.DRAINING: WahaStatus.STARTING,
    # It wakes up for the next message, so clients may send.
    Phase.HIBERNATED: WahaStatus.WORKING,
    Phase.STOPPED: WahaStatus.STOPPED,
    Phase.FAILED: WahaStatus.FAILED,
}


class PairingMethod(StrEnum):
    """How an account is linked to its browser."""

    QR_CODE = "QRCode"
    PAIRING_CODE = "PairingCode"


class Account(Payload):
    """The WhatsApp account of a paired session."""

    id: str
    """`<number>@c.us`."""
    push_name: str = ""
    lid: str | None = None

    @property
    def phone_number(self) -> str:
        """Digits only."""
        return self.id.partition("@")[0]


class Proxy(Payload):
    """The proxy that a session's browser goes through.

    The password travels in `assigned_key()`: workers hold no rights in Kubernetes, so the operator hands it to them.
    Whoever can read Redis can read it, as they can the pairing codes, which are worth more. It never shows in a repr,
    and so in no log.
    """

    server: str
    """`scheme://host:port`, without credentials: it stands on the browser's command line."""
    username: str = ""
    password: SecretStr = SecretStr("")

    @field_serializer("password")
    def _plain(self, password: SecretStr) -> str:
        return password.get_secret_value()

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `scheme://user:password@host:port`, user and password percent-encoded where they hold `:`, `@` or `/`.

        Raises:
            ValueError: It is not of this form; the text does not repeat it.
        """
        parts = urlsplit("")
        host, port = None, None
        with suppress(ValueError):  # said below, without the text
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        if not host or not port or parts.scheme not in PROXY_SCHEMES or parts.path.strip("/"):
            raise ValueError("a proxy is written as http://user:password@host:port")
        if parts.username and parts.scheme.startswith("socks"):
            raise ValueError("Chromium cannot log in to a SOCKS proxy; use an HTTP proxy, or one without a login")
        name = f"[{host}]" if ":" in host else host
        return cls(
            server=f"{parts.scheme}://{name}:{port}",
            username=unquote(parts.username or ""),
            password=SecretStr(unquote(parts.password or "")),
        )


PROXY_SCHEMES = ("http", "https", "socks4", "socks5")


class WorkerSpec(Payload):
    """The part of a session's spec that its worker acts on."""

    pairing_method: PairingMethod = PairingMethod.QR_CODE
    phone_number: str | None = None
    pairing_timeout_seconds: float = 600
    messages_per_minute: float = 20
    burst: int = 5
    hibernate_after_seconds: float | None = None
    ignore: frozenset[Literal["status", "groups", "channels", "broadcast"]] = frozenset()
    proxy_required: bool = False
    """The spec names a proxy: without `proxy` the browser does not start, for it would show the pod's own address."""
    proxy: Proxy | None = None
    purge: Literal["Delete", "Logout"] | None = None
    """The object is being deleted: remove the profile, after unlinking the account from the phone for `Logout`."""


class Assignment(Payload):
    """One entry of a worker's desired set."""

    epoch: int = Field(ge=1)
    uid: str
    """UID of the `WhatsAppSession`: a session deleted and made anew under the same name is another session."""
    generation: int
    spec: WorkerSpec


class Running(Payload):
    """A session that a worker runs, in its heartbeat."""

    epoch: int
    phase: Phase
    memory_bytes: int | None = None


class Heartbeat(Payload):
    """What a worker says of itself every `HEARTBEAT_INTERVAL`."""

    uid: str
    """UID of the pod."""
    address: str
    """`host:port` of the control API."""
    version: str
    capacity: int
    revision: int
    """The publication of `assigned_key()` that this worker has acted on: what it is to release is in `running` until
    it is released, so a revision seen and a session not running means that the session is free."""
    void_revision: int = 0
    """Publications up to this one are void: the worker has stopped itself since, and others may have its sessions by
    now. It starts nothing until the operator, who knows, publishes again."""
    running: dict[str, Running] = Field(default_factory=dict)
    memory_used_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_cores: float = 0.0
    draining: bool = False
    stopped: bool = False
    """The worker has closed its last browser and is about to exit."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's last heartbeat, as read."""

    heartbeat: Heartbeat
    age: float
    """Seconds since it was written, by Redis' clock."""


class RuntimeState(Payload):
    """What the owner of a session knows about it: the hash at `session_key()`."""

    epoch: int
    phase: Phase
    worker: str
    """Name of the pod."""
    address: str
    since: float
    """Unix time of the last change of `phase`, in seconds."""
    last_activity: float
    """Unix time of the last message in either direction, in seconds."""
    generation: int = 0
    restarts: int = 0
    account: Account | None = None
    message: str = ""
    """One sentence for people: why the session is where it is."""
    pairing_expires: float | None = None
    """Unix time at which the code on show loses its value."""
    purged: bool = False
    """The profile was removed as `WorkerSpec.purge` asked."""

    @property
    def status(self) -> ConnectionStatus:
        """The phase in the three words of a dashboard."""
        return CONNECTION_STATUS[self.phase]

    def to_fields(self) -> dict[str, str]:
        """The fields of the hash: plain text where a person may read it, JSON for the account."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        account = values.pop("account", None)
        fields = {name: str(value) for name, value in values.items()}
        return {**fields, "status": self.status, **({"account": json.dumps(account)} if account else {})}

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read the fields of the hash.

        Raises:
            pydantic.ValidationError: The hash is not one of ours.
        """
        account = fields.get("account")
        return cls.model_validate({**fields, "account": json.loads(account) if account else None})


class PairingOffer(Payload):
    """What the phone has to scan or type. Whoever has it can link the account, so it is never logged."""

    method: PairingMethod
    code: str
    expires: float
    """Unix time in seconds."""


class InboundEvent(Payload):
    """One event of a session, for webhooks and websockets."""

    id: str
    """`evt_` and a lower-case ULID: the same at every delivery."""
    event: str
    """WAHA's name: `message`, `message.ack`, `session.status`, …"""
    timestamp: int
    """Unix time in milliseconds."""
    payload: dict[str, Any]
    account: Account | None = None

    @classmethod
    def new(cls, event: str, payload: dict[str, Any], *, now: float, account: Account | None = None) -> Self:
        """An event of this moment, `now` being Unix time in seconds."""
        event_id = f"evt_{str(ULID.from_timestamp(now)).lower()}"
        return cls(id=event_id, event=event, timestamp=int(now * 1000), payload=payload, account=account)


class Delivery(Payload):
    """How far one receiver of a session's events has got."""

    done: str = "0-0"
    """Stream id of the last event that it has taken, or that was given up."""
    attempts: int = 0
    """Failed attempts at the one after it."""
    due: float = 0.0
    """Unix time of the next attempt."""


# --- The worker's HTTP API, for the gateway and the operator only -----------------------------------------------------


class Method(StrEnum):
    """What the gateway can ask of a session's page (`call_path()`)."""

    # Sending: these wait for their turn at the session's pace.
    SEND_TEXT = "sendText"
    SEND_FILE = "sendFile"
    SEND_LOCATION = "sendLocation"
    SEND_CONTACTS = "sendContacts"
    SEND_POLL = "sendPoll"
    SEND_LIST = "sendList"
    SEND_EVENT = "sendEvent"
    FORWARD = "forward"
    SEND_STATUS = "sendStatus"
    # Messages
    DOWNLOAD = "downloadMedia"
    NEW_MESSAGE_ID = "newMessageId"
    SET_REACTION = "setReaction"
    SET_STAR = "setStar"
    SEND_SEEN = "sendSeen"
    EDIT_MESSAGE = "editMessage"
    DELETE_MESSAGE = "deleteMessage"
    PIN_MESSAGE = "pinMessage"
    GET_MESSAGES = "getMessages"
    GET_MESSAGE = "getMessage"
    DELETE_STATUS = "deleteStatus"
    REJECT_CALL = "rejectCall"
    # Chats and presence
    GET_CHATS = "getChats"
    GET_OVERVIEW = "getOverview"
    ACT_ON_CHAT = "actOnChat"
    READ_CHAT = "readChat"
    SET_PRESENCE = "setPresence"
    GET_PRESENCE = "getPresence"
    SUBSCRIBE_PRESENCE = "subscribePresence"
    # People
    CHECK_EXISTS = "checkExists"
    GET_CONTACTS = "getContacts"
    GET_CONTACT = "getContact"
    GET_ABOUT = "getAbout"
    GET_PICTURE = "getPicture"
    SET_BLOCKED = "setBlocked"
    SAVE_CONTACT = "saveContact"
    GET_LIDS = "getLids"
    GET_LID = "getLid"
    GET_PROFILE = "getProfile"
    SET_PROFILE = "setProfile"
    # Groups
    CREATE_GROUP = "createGroup"
    GET_GROUPS = "getGroups"
    GET_GROUP = "getGroup"
    GET_PARTICIPANTS = "getParticipants"
    CHANGE_PARTICIPANTS = "changeParticipants"
    SET_GROUP = "setGroup"
    GET_INVITE = "getInvite"
    GET_INVITED_GROUP = "getInvitedGroup"
    JOIN_GROUP = "joinGroup"
    LEAVE_GROUP = "leaveGroup"
    SET_PICTURE = "setPicture"
    GET_JOIN_REQUESTS = "getJoinRequests"
    ANSWER_JOIN_REQUESTS = "answerJoinRequests"
    # Labels and channels
    GET_LABELS = "getLabels"
    PUT_LABEL = "putLabel"
    DELETE_LABEL = "deleteLabel"
    GET_CHAT_LABELS = "getChatLabels"
    SET_CHAT_LABELS = "setChatLabels"
    GET_LABELLED_CHATS = "getLabelledChats"
    GET_CHANNELS = "getChannels"
    GET_CHANNEL = "getChannel"
    CREATE_CHANNEL = "createChannel"
    DELETE_CHANNEL = "deleteChannel"
    FOLLOW_CHANNEL = "followChannel"
    MUTE_CHANNEL = "muteChannel"
    SEARCH_CHANNELS = "searchChannels"


SENDS = frozenset(
    {
        Method.SEND_TEXT,
        Method.SEND_FILE,
        Method.SEND_LOCATION,
        Method.SEND_CONTACTS,
        Method.SEND_POLL,
        Method.SEND_LIST,
        Method.SEND_EVENT,
        Method.FORWARD,
        Method.SEND_STATUS,
    }
)
"""Calls that send a message: they go in order and at the session's pace."""


class Command(StrEnum):
    """What the gateway can ask of a session's supervisor (`command_path()`)."""

    RESTART = "restart"
    LOGOUT = "logout"
    REQUEST_CODE = "requestCode"


class CallRequest(Payload):
    """Body of `call_path()` and `command_path()`."""

    epoch: int
    """The owner that the caller believes in; a worker that holds another epoch refuses."""
    params: dict[str, Any] = Field(default_factory=dict)


class Refusal(StrEnum):
    """Why a worker did not do what it was asked: says to the caller what to do next."""

    NOT_HERE = "NotHere"
    """The session is not on this worker, or not under this epoch: look up the owner again."""
    WRONG_PHASE = "WrongPhase"
    """The session is here but not in a phase that allows this: tell the client."""
    BAD_REQUEST = "BadRequest"
    """The parameters are wrong: tell the client."""
    TOO_FAST = "TooFast"
    """The session's throttle would hold the message for too long: come back later."""
    PAGE = "Page"
    """WhatsApp's page refused: tell the client."""
    NOT_FOUND = "NotFound"
    """The message, group or person that the call is about is not there: tell the client."""
    NOT_IMPLEMENTED = "NotImplemented"
    """The page has no way to do this: tell the client."""
    UNKNOWN = "Unknown"
    """The page or the worker failed in the middle: whether it happened is not known."""


class CallError(Payload):
    """Body of a refused call."""

    refusal: Refusal
    message: str
    phase: Phase | None = None
    retry_after: float | None = None
    """Seconds, for `TOO_FAST`."""


REFUSAL_STATUS: dict[Refusal, int] = {
    Refusal.NOT_HERE: 409,
    Refusal.WRONG_PHASE: 422,
    Refusal.BAD_REQUEST: 400,
    Refusal.TOO_FAST: 429,
    Refusal.PAGE: 502,
    Refusal.NOT_FOUND: 404,
    Refusal.NOT_IMPLEMENTED: 501,
    Refusal.UNKNOWN: 504,
}
"""HTTP status of each refusal, gateway and worker alike."""


def call_path(session: SessionKey, method: Method) -> str:
    """`POST`: run one page call; body `CallRequest`, answer `{"result": …}` or `CallError`."""
    return f"/v1/sessions/{session.namespace}/{session.name}/call/{method}"


def command_path(session: SessionKey, command: Command) -> str:
    """`POST`: ask the supervisor; body `CallRequest`, answer `{"result": …}` or `CallError`."""
    return f"/v1/sessions/{session.namespace}/{session.name}/command/{command}"
