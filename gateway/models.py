"""Requests and answers of WAHA's API, with its names, as pydantic models.

Owns shapes and limits of what crosses the public API. Must not know how anything is done. Requests are lenient as
WAHA is: unknown fields are ignored, null stands for absent, a missing session means "default".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from session_worker.contract import WahaStatus

SessionName = Annotated[
    str,
    Field(min_length=1, max_length=54, pattern=r"^[a-zA-Z0-9_-]+$", examples=["default"]),
]


class Model(BaseModel):
    """Base of all models: WAHA's names are camelCase already, so fields carry them as they are."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


# --- Chat ids


def chat_id(value: str) -> str:
    """A chat id with its server; a bare number is a person's."""
    value = value.strip()
    if "@" in value:
        return value.replace("@s.whatsapp.net", "@c.us")
    digits = value.lstrip("+").replace(" ", "").replace("-", "")
    if not digits.isdigit():
        raise ValueError("chatId must be a number or an id such as 5511987654321@c.us")
    return f"{digits}@c.us"


ChatId = Annotated[str, Field(min_length=1, max_length=100, examples=["11111111111@c.us"]), AfterValidator(chat_id)]


# --- Sessions


class HmacConfiguration(Model):
    """Key that signs webhooks."""

    key: str | None = None


class RetriesConfiguration(Model):
    """When a webhook is tried again."""

    delaySeconds: float | None = None
    attempts: int | None = None
    policy: Literal["linear", "exponential", "constant"] | None = None


class CustomHeader(Model):
    """A header added to webhooks."""

    name: str
    value: str


class WebhookConfig(Model):
    """A receiver of events."""

    url: str
    events: list[str]
    hmac: HmacConfiguration | None = None
    retries: RetriesConfiguration | None = None
    customHeaders: list[CustomHeader] | None = None


class ProxyConfig(Model):
    """A proxy of a session's browser."""

    server: str
    username: str | None = None
    password: str | None = None


class IgnoreConfig(Model):
    """Chats whose events are not delivered."""

    status: bool | None = None
    groups: bool | None = None
    channels: bool | None = None
    broadcast: bool | None = None


class SessionConfig(Model):
    """A session's configuration. Settings of engines other than ours are kept and given back."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    metadata: dict[str, str] | None = None
    proxy: ProxyConfig | None = None
    ignore: IgnoreConfig | None = None
    webhooks: list[WebhookConfig] | None = None


class SessionCreateRequest(Model):
    """Body of POST /api/sessions."""

    name: SessionName | None = None
    start: bool | None = True
    config: SessionConfig | None = None


class SessionUpdateRequest(Model):
    """Body of PUT /api/sessions/{session}: replaces the configuration as a whole."""

    config: SessionConfig | None = None


class MeInfo(Model):
    """The linked account."""

    id: str
    pushName: str
    lid: str | None = None


class SessionDTO(Model):
    """A session after a change."""

    name: str
    status: WahaStatus
    config: SessionConfig | None = None


class Timestamps(Model):
    """When a session was last active, Unix time in milliseconds."""

    activity: int | None = None


class SessionInfo(SessionDTO):
    """A session in lists."""

    me: MeInfo | None = None
    assignedWorker: str | None = None
    presence: dict[str, Any] | None = None
    timestamps: Timestamps = Timestamps()


class EngineInfo(Model):
    """What drives the session."""

    engine: str
    state: str | None = None


class SessionDetailedInfo(SessionInfo):
    """A session by itself."""

    engine: EngineInfo


# --- Pairing


class QRCodeValue(Model):
    """The text of a QR code."""

    value: str


class Base64File(Model):
    """A file in JSON."""

    mimetype: str
    data: str


class RequestCodeRequest(Model):
    """Body of POST /api/{session}/auth/request-code."""

    phoneNumber: Annotated[str, Field(pattern=r"^\+?[0-9]{7,15}$")]
    method: str | None = None


class PairingCode(Model):
    """A pairing code, `ABCD-EFGH`."""

    code: str


# --- Chatting


class MessageTextRequest(Model):
    """Body of POST /api/sendText."""

    session: str = "default"
    chatId: ChatId
    text: Annotated[str, Field(max_length=65_536)]
    id: str | None = None
    reply_to: str | None = None
    mentions: list[str] | None = None
    linkPreview: bool | None = True
    linkPreviewHighQuality: bool | None = False


class WAMessage(Model):
    """A message."""

    model_config = ConfigDict(extra="allow")

    id: str
    timestamp: int
    from_: str = Field(alias="from")
    fromMe: bool
    source: Literal["api", "app"]
    to: str | None
    participant: str | None
    body: str
    hasMedia: bool
    ack: int
    ackName: str


class WANumberExistResult(Model):
    """Whether a number is on WhatsApp."""

    numberExists: bool
    chatId: str | None = None


class CheckExistsQuery(Model):
    """Query of GET /api/contacts/check-exists."""

    phone: ChatId
    session: str = "default"


class SessionsQuery(Model):
    """Query of GET /api/sessions."""

    all: bool = False


class QrQuery(Model):
    """Query of GET /api/{session}/auth/qr."""

    format: Literal["image", "raw"] = "image"


class PingResponse(Model):
    """Answer of GET /ping."""

    message: Literal["pong"] = "pong"
