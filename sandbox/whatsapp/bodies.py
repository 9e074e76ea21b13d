"""The bodies of the control API's requests.

Must not do anything; `control` says what each is for.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.whatsapp.model import Behaviour, SendFault

JSON = dict[str, Any]


class Body(BaseModel):
    """A request body; unknown fields are refused, so that a mistyped switch is not a silent no-op."""

    model_config = ConfigDict(extra="forbid")


class NewAccount(Body):
    """Body of `POST /sandbox/accounts`."""

    number: str
    name: str = ""
    business: bool = False
    lid_migrated: bool = False
    behaviour: Behaviour = Field(default_factory=Behaviour)


class AccountChange(Body):
    """Body of `PATCH /sandbox/accounts/{n}`."""

    name: str | None = None
    about: str | None = None
    business: bool | None = None
    lid_migrated: bool | None = None
    read_receipts: bool | None = None
    behaviour: Behaviour | None = None


class FaultChange(Body):
    """Body of `PATCH …/faults`: only the fields that are given change."""

    offline: bool | None = None
    freeze: bool | None = None
    latency: float | None = None
    bandwidth: float | None = None
    send: SendFault | None = None
    send_count: int | None = None


class Scan(Body):
    """Body of `…/scan`."""

    qr: str


class Code(Body):
    """Body of `…/code`."""

    code: str


class Unlink(Body):
    """Body of `…/unlink`."""

    device: str | None = None


class File(Body):
    """A file to send."""

    data: str
    mimetype: str
    filename: str | None = None
    caption: str | None = None
    voice: bool = False


class Send(Body):
    """Body of `…/send`."""

    to: str
    text: str | None = None
    content: JSON | None = None
    file: File | None = None
    count: int = Field(default=1, ge=1, le=10_000)
    interval: float = Field(default=0.0, ge=0)
    id: str | None = None


class OnMessage(Body):
    """Body of what is done to one message."""

    chat: str
    id: str
    text: str = ""
    emoji: str = ""
    options: list[str] = Field(default_factory=list)


class OnChat(Body):
    """Body of what is done to one chat."""

    chat: str
    state: Literal["composing", "recording", "paused"] = "composing"


class Online(Body):
    """Body of `…/presence` and `/sandbox/network`."""

    online: bool


class Call(Body):
    """Body of `…/call`."""

    to: str
    video: bool = False


class GroupChange(Body):
    """Body of `…/group`."""

    action: Literal["create", "add", "remove", "promote", "demote", "join", "leave", "set"]
    group: str = ""
    subject: str = ""
    numbers: list[str] = Field(default_factory=list)
    invite: str = ""
    fields: JSON = Field(default_factory=dict)


class Freeze(Body):
    """Body of `…/freeze`."""

    frozen: bool = True


class Trouble(Body):
    """Body of `…/trouble`."""

    what: Literal["bloat", "hang", "exceptions", "reload"]
    megabytes: int = Field(default=100, ge=1, le=4096)
    seconds: float = Field(default=3600.0, gt=0)
    count: int = Field(default=100, ge=1)


class Update(Body):
    """Body of `/sandbox/update`."""

    revision: int | None = None
    hard: bool = True


class ColdLoad(Body):
    """Body of `/sandbox/cold-load`."""

    loads: int = Field(ge=0)
    seconds: float = Field(default=1.5, gt=0, le=30)


class Hold(Body):
    """Body of `/sandbox/refs`."""

    hold: bool
