"""Both custom resources as pydantic models: the single source of the CRDs, and the types that the operator reads.

Owns the meaning, defaults and limits of every field. Must not know the Kubernetes client, nor decide anything.
`crds.py` turns these models into `crds/*.yaml`; field descriptions below are what `kubectl explain` prints.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from session_worker.contract import GROUP, PairingMethod, Phase

DURATION_PATTERN = r"^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$"

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, min_length=2, max_length=18, examples=["90s"])]
"""A duration as Kubernetes writes it: `90s`, `10m`, `1h30m`."""

Quantity = Annotated[str, Field(pattern=r"^[0-9]{1,15}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$", max_length=24)]
"""An amount of memory as Kubernetes writes it: `100Mi`, `2Gi`."""

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]

EventName = Literal[
    "*", "session.status", "message", "message.any", "message.reaction", "message.ack", "message.ack.group",
    "message.waiting", "message.revoked", "message.edited", "state.change", "group.join", "group.leave",
    "group.v2.join", "group.v2.leave", "group.v2.update", "group.v2.participants", "presence.update", "poll.vote",
    "poll.vote.failed", "chat.archive", "call.received", "call.accepted", "call.rejected", "label.upsert",
    "label.deleted", "label.chat.added", "label.chat.deleted", "event.response", "event.response.failed",
    "engine.event",
]  # fmt: skip
"""WAHA's event names; `*` means all."""

_DURATION_PART = re.compile(r"(\d+)([hms])")
_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?$")
_QUANTITY_UNIT = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def parse_duration(text: str) -> timedelta:
    """Read a `Duration`.

    Raises:
        ValueError: `text` is not of the form `1h30m10s`.
    """
    if not text or not re.match(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m or 1h30m")
    unit = {"h": "hours", "m": "minutes", "s": "seconds"}
    return sum((timedelta(**{unit[part[1]]: int(part[0])}) for part in _DURATION_PART.findall(text)), timedelta())


def parse_quantity(text: str) -> int:
    """Read a `Quantity` as bytes, rounded down.

    Raises:
        ValueError: `text` is not an amount of memory.
    """
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount of memory such as 100Mi or 2Gi")
    return int(float(match[1]) * _QUANTITY_UNIT[match[2] or ""])


def format_memory(size: int) -> str:
    """Bytes as whole `Mi`, the unit that `kubectl top` uses."""
    return f"{size // 2**20}Mi"


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """CEL rules for a model's `json_schema_extra`: an expression over `self`, and what to say when it is false."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


class Resource(BaseModel):
    """Base of everything inside a custom resource: frozen, camelCase outside, tolerant of fields of a newer CRD."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


# --- WhatsAppSession --------------------------------------------------------------------------------------------------


class SessionState(StrEnum):
    """What the user wants of a session."""

    RUNNING = "Running"
    STOPPED = "Stopped"


class DeletionPolicy(StrEnum):
    """What happens to an account's profile when its session object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"
    LOGOUT = "Logout"


class PoolRef(Resource):
    """Names the pool, in the session's own namespace."""

    name: ObjectName = Field("default", description="Name of a WhatsAppWorkerPool in the same namespace.")


class Pairing(Resource):
    """How the account gets linked to its browser."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.method != 'PairingCode' || has(self.phoneNumber)",
                "phoneNumber is required when method is PairingCode: give the account's number, digits only",
            ),
            (
                "duration(self.timeout) >= duration('60s') && duration(self.timeout) <= duration('24h')",
                "timeout must be between 60s and 24h",
            ),
        )
    )
    method: PairingMethod = Field(
        PairingMethod.QR_CODE,
        description="QRCode: the phone scans a code. PairingCode: the person types eight characters into the phone.",
    )
    phone_number: Annotated[str, Field(pattern=r"^[1-9][0-9]{6,14}$")] | None = Field(
        None,
        description="The account's number with country code, digits only. Required for PairingCode.",
        examples=["5511987654321"],
    )
    timeout: Duration = Field(
        "10m", description="How long codes are shown before the session becomes Failed; restart it for new ones."
    )


class SecretKeyRef(Resource):
    """One key of a Secret in the session's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = Field(description="Key in the Secret.")


class RetryPolicy(StrEnum):
    """How the delay between webhook attempts grows."""

    CONSTANT = "constant"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


class Retries(Resource):
    """When a webhook is tried again."""

    policy: RetryPolicy = Field(RetryPolicy.CONSTANT, description="How the delay grows from attempt to attempt.")
    delay_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(2, description="Delay before the second attempt.")
    attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        15, description="Attempts before the event goes to the dead letters."
    )


class Header(Resource):
    """One HTTP header."""

    name: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=128)] = Field(
        description="Header name."
    )
    value: Annotated[str, Field(max_length=4096)] = Field(
        description="Header value; secrets belong into hmacSecretRef, not here."
    )


class Webhook(Resource):
    """One receiver of events."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] = Field(
        description="Where events are POSTed."
    )
    events: Annotated[list[EventName], Field(min_length=1, max_length=32)] = Field(
        ["*"], description="Event names in WAHA's terms; * means all."
    )
    hmac_secret_ref: SecretKeyRef | None = Field(
        None, description="Key that signs each body (HMAC-SHA512, header X-Webhook-Hmac)."
    )
    retries: Retries = Field(Retries(), description="When a failed delivery is tried again.")
    custom_headers: Annotated[list[Header], Field(max_length=32)] = Field(
        [], description="Headers added to each request."
    )


class Throttle(Resource):
    """Pace of outgoing messages: a token bucket."""

    messages_per_minute: Annotated[int, Field(ge=1, le=600)] = Field(20, description="Sustained rate of sends.")
    burst: Annotated[int, Field(ge=1, le=100)] = Field(5, description="Messages that may go out at once after a pause.")


class Ignore(Resource):
    """Chats whose events are not delivered."""

    status: bool = Field(default=False, description="Ignore status updates (stories).")
    groups: bool = Field(default=False, description="Ignore groups.")
    channels: bool = Field(default=False, description="Ignore channels.")
    broadcast: bool = Field(default=False, description="Ignore broadcast lists.")


class SessionSpec(Resource):
    """What the user wants of one WhatsApp account."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "oldSelf.state != 'Running' || self.state != 'Running' || self.poolRef.name == oldSelf.poolRef.name",
                "poolRef is immutable while state is Running: set state to Stopped, change the pool, then start again",
            ),
            (
                "!has(self.hibernateAfter) || duration(self.hibernateAfter) >= duration('60s')",
                "hibernateAfter must be at least 60s",
            ),
        )
    )
    pool_ref: PoolRef = Field(PoolRef(), description="The pool whose workers run this session.")
    state: SessionState = Field(
        SessionState.RUNNING, description="Running: a browser holds the account. Stopped: none does, the login is kept."
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        0, description="Who gets room first when it is short; higher first."
    )
    pairing: Pairing = Field(Pairing(), description="How the account gets linked.")
    webhooks: Annotated[list[Webhook], Field(max_length=16)] = Field(
        [], description="Receivers of this session's events."
    )
    throttle: Throttle = Field(Throttle(), description="Pace of outgoing messages.")
    ignore: Ignore = Field(Ignore(), description="Chats whose events are not delivered.")
    proxy_secret_ref: SecretKeyRef | None = Field(
        None,
        description="Secret key that holds the proxy URL of this account's browser, as http://user:password@host:port.",
    )
    hibernate_after: Duration | None = Field(
        None,
        description="Close the browser after so long without a message, and wake it for the next one. Absent: never.",
    )
    deletion_policy: DeletionPolicy = Field(
        DeletionPolicy.RETAIN,
        description="What deleting this object does to the login. Retain: keeps the profile. Delete: removes it. "
        "Logout: unlinks the device from the phone, then removes it.",
    )
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = Field(
        {}, description="Free map of strings, repeated in every webhook."
    )


class Condition(Resource):
    """A condition as Kubernetes defines it."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Name of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="One CamelCase word for programs.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="A sentence for people.")
    observed_generation: int | None = Field(None, description="Generation of the spec that this speaks of.")
    last_transition_time: AwareDatetime = Field(description="When status last changed.")


class AssignmentStatus(Resource):
    """The durable record of who owns the session."""

    worker: str | None = Field(None, description="Worker pod that owns the session; absent while none does.")
    epoch: Annotated[int, Field(ge=0)] = Field(0, description="Grows by one at every change of owner, never falls.")
    since: AwareDatetime | None = Field(None, description="When the owner last changed.")
    releasing: bool = Field(default=False, description="The session is being taken back from the worker.")


class AccountStatus(Resource):
    """The linked account."""

    id: str = Field(description="WhatsApp id, <number>@c.us.")
    push_name: str = Field("", description="Name that the account shows.")
    phone_number: str = Field("", description="The account's number, digits only.")


class SessionStatus(Resource):
    """What is."""

    observed_generation: int = Field(-1, description="Generation of the spec that this status speaks of.")
    phase: Phase | None = Field(None, description="Where the session is in its life.")
    message: str = Field("", description="A sentence for people: why the session is where it is.")
    conditions: list[Condition] = Field(
        [],
        description="Ready, Scheduled, Authenticated; while they hold only: Reconciling, Stalled.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    assignment: AssignmentStatus | None = Field(None, description="Who owns the session.")
    account: AccountStatus | None = Field(None, description="The linked account, once paired.")
    restarts: Annotated[int, Field(ge=0)] = Field(0, description="Times the browser was started anew by its worker.")
    last_transition: AwareDatetime | None = Field(None, description="When the phase last changed.")


# --- WhatsAppWorkerPool -----------------------------------------------------------------------------------------------


class Placement(StrEnum):
    """Which worker gets the next session."""

    PACK = "Pack"
    SPREAD = "Spread"


class MetricSource(StrEnum):
    """Who tells the HPA how many sessions there are."""

    PROMETHEUS_ADAPTER = "prometheus-adapter"
    KEDA = "keda"
    BUILTIN = "builtin"


class Autoscaling(Resource):
    """How the number of workers follows the load."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.minReplicas <= self.maxReplicas", "minReplicas must not exceed maxReplicas"),
            (
                "self.minReplicas > 0 || self.source == 'keda'",
                "minReplicas 0 needs source keda: the HPA itself cannot scale to zero",
            ),
        )
    )
    enabled: bool = Field(default=False, description="Let an HPA (or KEDA) write spec.replicas.")
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(2, description="Fewest workers.")
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="Most workers.")
    target_cpu: Annotated[int, Field(ge=1, le=100, alias="targetCPU")] = Field(
        70, description="Mean CPU use of the workers to aim at, percent of the request.", alias="targetCPU"
    )
    target_memory: Annotated[int, Field(ge=1, le=100)] = Field(
        80, description="Mean memory use of the workers to aim at, percent of the request."
    )
    target_sessions: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Mean sessions per worker to aim at. Absent: sessionsPerWorker divided by 1.1, so that the HPA's "
        "tolerance of 10 % never leaves a session waiting in silence.",
    )
    source: MetricSource = Field(
        MetricSource.PROMETHEUS_ADAPTER, description="Who serves the session metric to the HPA."
    )


class Drain(Resource):
    """How sessions leave a worker."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "duration(self.timeout) >= duration('10s') && duration(self.timeout) <= duration('1h')",
                "timeout must be between 10s and 1h",
            ),
        )
    )
    max_concurrent: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="Sessions that a draining worker gives away at a time."
    )
    timeout: Duration = Field("5m", description="After this a draining worker closes what it still runs.")


class Browser(Resource):
    """Chromium as the workers start it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!self.args.exists(a, a.startsWith('--user-data-dir') || a.startsWith('--remote-debugging'))",
                "args must not set --user-data-dir or --remote-debugging-*: the worker owns them",
            ),
        )
    )
    executable: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Path of the browser in the worker image. Absent: the image's own."
    )
    args: Annotated[list[Annotated[str, Field(pattern=r"^--[a-zA-Z0-9]", max_length=1024)]], Field(max_length=64)] = (
        Field([], description="Arguments added to the worker's own.")
    )
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] | None = Field(
        None,
        description="Address of WhatsApp Web. Absent: the operator's BROWSER_URL, else https://web.whatsapp.com/.",
    )
    sandbox: bool = Field(
        default=False,
        description="Use Chromium's own sandbox. It needs user namespaces in the pod (a node setting).",
    )


class SecretRef(Resource):
    """A Secret in the pool's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class Profiles(Resource):
    """Where logins live, so that they survive their pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("!has(self.url)", "url is not supported yet: give volumeClaimName"),
            ("!(has(self.volumeClaimName) && has(self.url))", "give volumeClaimName or url, not both"),
            (
                "!has(self.url) || has(self.encryptionKeySecretRef)",
                "url needs encryptionKeySecretRef: a profile is the account, and is never stored in clear",
            ),
        )
    )
    volume_claim_name: ObjectName | None = Field(
        None, description="A ReadWriteMany claim in the pool's namespace that all workers mount."
    )
    url: Annotated[str, Field(pattern=r"^(s3|gs|az|file)://[^\s]+$", max_length=2048)] | None = Field(
        None, description="Object store for encrypted snapshots: s3://, gs://, az:// or file://."
    )
    secret_ref: SecretRef | None = Field(
        None, description="Secret with the object store's credentials as environment variables."
    )
    encryption_key_secret_ref: SecretRef | None = Field(
        None, description="Secret whose keys encrypt the snapshots, by key id."
    )


class PoolSpec(Resource):
    """What the user wants of a pool of workers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.autoscaling.targetSessions) || self.autoscaling.targetSessions <= self.sessionsPerWorker",
                "autoscaling.targetSessions must not exceed sessionsPerWorker",
            ),
        )
    )
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        2, description="Workers wanted. Leave it out of Git when an autoscaler writes it."
    )
    sessions_per_worker: Annotated[int, Field(ge=1, le=200)] = Field(15, description="Most sessions in one worker.")
    memory_per_session: Quantity = Field("100Mi", description="Estimate for a session that was not measured yet.")
    memory_threshold: Annotated[int, Field(ge=10, le=100)] = Field(
        80, description="No new session on a worker above this share of its memory limit, percent."
    )
    spare_sessions: Annotated[int, Field(ge=0, le=10000)] = Field(
        0, description="Free places that the autoscaler keeps for the next burst."
    )
    placement: Placement = Field(
        Placement.PACK, description="Pack: the fullest worker that fits. Spread: the emptiest."
    )
    autoscaling: Autoscaling = Field(Autoscaling(), description="How the number of workers follows the load.")
    drain: Drain = Field(Drain(), description="How sessions leave a worker.")
    browser: Browser = Field(Browser(), description="Chromium as the workers start it.")
    profiles: Profiles = Field(Profiles(), description="Where logins live. Absent: in the pod, and lost with it.")
    template: dict[str, Any] = Field(
        {},
        description="Overlay on the worker's pod template (metadata and spec); containers, env and volumes merge by "
        "name. The worker's own container is called worker.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class WorkerState(StrEnum):
    """What a worker pod is doing."""

    STARTING = "Starting"
    READY = "Ready"
    UNRESPONSIVE = "Unresponsive"
    DRAINING = "Draining"
    TERMINATING = "Terminating"


class WorkerStatus(Resource):
    """One worker in the pool's status."""

    name: str = Field(description="Name of the pod.")
    state: WorkerState = Field(description="What it is doing.")
    sessions: int = Field(0, description="Sessions assigned to it.")
    memory: str = Field("", description="Memory in use.")


class PoolStatus(Resource):
    """What is."""

    observed_generation: int = Field(-1, description="Generation of the spec that this status speaks of.")
    replicas: int = Field(0, description="Workers that serve: draining ones are not counted.")
    ready_replicas: int = Field(0, description="Workers that are ready for sessions.")
    draining_replicas: int = Field(0, description="Workers whose sessions are leaving.")
    capacity: int = Field(0, description="Places of all ready workers by sessionsPerWorker.")
    effective_capacity: int = Field(0, description="Places of all ready workers by what their memory really holds.")
    sessions: int = Field(0, description="Sessions assigned.")
    pending_sessions: int = Field(0, description="Sessions that wait for a place.")
    selector: str = Field("", description="Label selector of the workers that serve, for the scale subresource.")
    workers: list[WorkerStatus] = Field(
        [],
        description="The workers.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    conditions: list[Condition] = Field(
        [],
        description="Ready; while they hold only: Reconciling, Stalled.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


def utc_text(moment: datetime) -> str:
    """A moment as Kubernetes writes it, in whole seconds: `2026-01-31T12:00:00Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


ALL_EVENTS: frozenset[str] = frozenset(get_args(EventName)) - {"*"}

FINALIZER = f"{GROUP}/worker"
"""Keeps a session object until no worker runs its browser any more."""
