"""The data of the WhatsApp stand-in: people, their phones' mailboxes, linked devices, groups and channels.

Owns the shapes and their JSON form, which is also the form of the saved state. Must not decide anything and must not
do I/O: the rules are in `network`, `groups` and `pairing`.

One idea carries the rest: everybody is a `Person`. A person who links a device is what the rest of the project calls
an account; a person who never does is a contact. Both have a phone, and the phone keeps a mailbox, so that "what was
sent" and "what arrived" are two records that a test can compare.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STATUS_CHAT = "status@broadcast"
"""The chat that carries stories."""


SendFault = Literal[
    "ok", "hang", "lost_answer", "ERROR_NETWORK", "ERROR_EXPIRED", "ERROR_UNKNOWN", "ERROR_CANCELLED", "ERROR_UPLOAD"
]
"""`hang`: the message goes nowhere and no answer comes. `lost_answer`: it is delivered, but no answer comes. The rest
are WhatsApp's own results, which the page resolves with."""


def user_chat(number: str) -> str:
    """The chat id of a one-to-one chat with `number`, in the phone-number form."""
    return f"{number}@c.us"


def lid_of(number: str) -> str:
    """The `@lid` user of a number: 15 digits that do not reveal it, and the same in every run."""
    digest = int.from_bytes(hashlib.sha256(number.encode()).digest()[:8], "big")
    return str(10**14 + digest % (9 * 10**14))


class Record(BaseModel):
    """A mutable value with a JSON form; assignments are checked, so that the control API cannot plant nonsense."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Behaviour(Record):
    """What a person's phone does with a message by itself."""

    delivers: bool = True
    """The phone is on: the sender gets ack 2. Otherwise the message stays at ack 1."""
    reads: bool = False
    """The person opens the chat: the sender gets ack 3."""
    replies: Literal["none", "echo", "auto"] = "none"
    text: str = ""
    """The answer of `replies: auto`."""
    delay: float = Field(default=0.15, ge=0)
    """Seconds between two steps (delivered, read, reply), before the server's time scale."""
    ciphertext_first: bool = False
    """Messages of this person arrive undecryptable first and are decrypted later under the same id."""


class Stanza(Record):
    """One thing that a device must hear of, kept until the device says that it has stored it."""

    seq: int
    kind: str
    body: dict[str, Any]
    sent: int = 0
    """How many times it was written to a connection."""


class Device(Record):
    """A linked browser, by its credentials: copies of one profile are one device."""

    id: str
    """`<number>:<n>`."""
    public_key: dict[str, Any]
    """JWK of the ECDSA P-256 key whose private half never leaves the page's IndexedDB."""
    noise_token: str
    """The secret of the page's localStorage; both are needed to log in."""
    platform: str
    linked_at: float
    next_seq: int = 1
    queue: list[Stanza] = Field(default_factory=list)
    last_login: float | None = None


class Delivery(Record):
    """How one device got one message."""

    writes: int = 0
    stored_at: float | None = None
    """Unix time at which the page said that it has stored the message."""


class Entry(Record):
    """One message as one person's phone keeps it."""

    id: str
    """The stanza id, such as `3EB0…`; the page builds the full key from it."""
    chat: str
    from_me: bool
    sender: str
    """Number of the author."""
    t: int
    """Unix time in seconds."""
    content: dict[str, Any]
    """The page's message attributes without addresses: `type`, `body`, `caption`, `directPath`, …"""
    ack: int = 1
    via: Literal["history", "page", "phone", "peer"] = "peer"
    """Who put it here: the seed, a linked page, the account's own phone, or another person."""
    device: str | None = None
    at: float = 0.0
    """Unix time at which the server accepted it."""
    sends: int = 1
    """How many times a page sent this id; the copies after the first go to nobody."""
    ack_times: dict[int, float] = Field(default_factory=dict)
    receipts: dict[str, int] = Field(default_factory=dict)
    """Ack by participant, in groups."""
    reactions: dict[str, str] = Field(default_factory=dict)
    """Emoji by number."""
    votes: dict[str, list[str]] = Field(default_factory=dict)
    """Chosen poll options by number."""
    revoked: bool = False
    edited: bool = False
    starred: bool = False
    seen: bool = False
    """An incoming message that the account has marked as read."""
    deliveries: dict[str, Delivery] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text that people read: body or caption."""
        return str(self.content.get("body") or self.content.get("caption") or "")


class ChatState(Record):
    """What an account has decided about one chat."""

    archived: bool = False
    pinned: int = 0
    """Unix time in seconds, 0 for not pinned."""
    mute_until: int = 0
    marked_unread: bool = False
    labels: list[str] = Field(default_factory=list)
    cleared_at: int = 0


class Label(Record):
    """A business account's label."""

    name: str
    color: int


class Faults(Record):
    """What goes wrong for one account on purpose. The defaults are a healthy network."""

    offline: bool = False
    """The server refuses this account's sockets."""
    freeze: bool = False
    """New sockets of this account are accepted, then nothing is sent or answered on them."""
    latency: float = Field(default=0.0, ge=0)
    """Seconds added to every frame in each direction."""
    bandwidth: float | None = Field(default=None, gt=0)
    """Bytes per second towards the page."""
    send: SendFault = "ok"
    """What becomes of messages sent from a page."""
    send_count: int | None = Field(default=None, ge=1)
    """How many sends `send` spoils before it is over; unset for all."""


class Person(Record):
    """Somebody with a phone number."""

    number: str = Field(pattern=r"^[0-9]{7,15}$")
    name: str
    about: str = "Hey there! I am using WhatsApp."
    picture: str | None = None
    """Path of the picture on this server."""
    business: bool = False
    listed: bool = False
    """Stands in everybody's address book."""
    lid_migrated: bool = False
    """One-to-one chats of this account are addressed by `@lid`, as WhatsApp does since its migration."""
    read_receipts: bool = True
    behaviour: Behaviour = Field(default_factory=Behaviour)
    contacts: dict[str, str] = Field(default_factory=dict)
    """The address book: saved name by number."""
    blocked: list[str] = Field(default_factory=list)
    devices: dict[str, Device] = Field(default_factory=dict)
    next_device: int = 1
    mailbox: dict[str, list[Entry]] = Field(default_factory=dict)
    """Messages by chat, oldest first."""
    chats: dict[str, ChatState] = Field(default_factory=dict)
    labels: dict[str, Label] = Field(default_factory=dict)
    faults: Faults = Field(default_factory=Faults)

    @property
    def lid(self) -> str:
        """The `@lid` user."""
        return lid_of(self.number)

    def entry(self, chat: str, message_id: str) -> Entry | None:
        """The message `message_id` of `chat`, if this phone has it."""
        for entry in reversed(self.mailbox.get(chat, [])):
            if entry.id == message_id:
                return entry
        return None

    def chat_state(self, chat: str) -> ChatState:
        """The state of `chat`, made on first use."""
        return self.chats.setdefault(chat, ChatState())


class Group(Record):
    """A group chat."""

    id: str
    subject: str
    owner: str
    created: int
    description: str = ""
    description_id: str = ""
    participants: dict[str, Literal["member", "admin", "superadmin"]] = Field(default_factory=dict)
    invite: str = ""
    announce: bool = False
    restrict: bool = False
    ephemeral: int = 0
    picture: str | None = None


class Channel(Record):
    """A newsletter."""

    id: str
    name: str
    owner: str
    created: int
    invite: str
    description: str = ""
    picture: str | None = None
    subscribers: list[str] = Field(default_factory=list)
    muted: list[str] = Field(default_factory=list)
    next_server_id: int = 100


class State(Record):
    """Everything that a restarted stand-in would have to remember."""

    people: dict[str, Person] = Field(default_factory=dict)
    groups: dict[str, Group] = Field(default_factory=dict)
    channels: dict[str, Channel] = Field(default_factory=dict)
    revision: int = 1_045_220_589
    """The third part of WhatsApp's version, `2.3000.<revision>`."""
    max_live: dict[str, int] = Field(default_factory=dict)
    """Most browsers seen at one time, by number."""
    overlaps: list[dict[str, Any]] = Field(default_factory=list)
    """Every time a second browser came while one was live."""
