"""The rules of the simulated WhatsApp network: who gets which message, and which receipts come back.

Owns the `State` and every change of it. Must not do I/O and must not read a clock: time, timers and the way to a
device are handed in, so that the rules can be tested without sockets.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

from sandbox.whatsapp.model import (
    STATUS_CHAT,
    Behaviour,
    Channel,
    Delivery,
    Device,
    Entry,
    Group,
    Person,
    Stanza,
    State,
    user_chat,
)
from sandbox.whatsapp.views import channel_view, chat_view, contact_view, group_view, message_view

ACK_SENT, ACK_DELIVERED, ACK_READ, ACK_PLAYED = 1, 2, 3, 4


class RefusedError(Exception):
    """The network said no.

    Attributes:
        code: an HTTP status: 400 the request is wrong, 403 not allowed, 404 there is no such thing, 409 it conflicts
            with the present state, 410 it has expired.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Outside(Protocol):
    """What the network needs from the world."""

    def now(self) -> float:
        """Unix time in seconds."""

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` after `delay` seconds of unscaled behaviour time."""

    def queued(self, device: Device) -> None:
        """A stanza was added to the device's queue."""

    def whisper(self, device: Device, frame: dict[str, Any]) -> None:
        """Send a frame that is worth nothing later: only if the device is connected now."""


def new_message_id() -> str:
    """A stanza id as phones make them."""
    return "3A" + secrets.token_hex(9).upper()


class Network:
    """The simulated network. All methods are synchronous and raise `RefusedError` when WhatsApp would refuse."""

    def __init__(self, state: State, outside: Outside, *, auto_create: bool) -> None:
        self.state = state
        self._outside = outside
        self._auto_create = auto_create

    # --- Directory ----------------------------------------------------------------------------------------------

    def person(self, number: str) -> Person:
        """The person with this number.

        Raises:
            RefusedError: 404, nobody has it.
        """
        person = self.state.people.get(number)
        if person is None:
            raise RefusedError(404, f"nobody has the number {number}; create it with POST /sandbox/accounts")
        return person

    def find(self, user: str) -> Person | None:
        """The person behind `user`: a number, `…@c.us`, `…@s.whatsapp.net` or `…@lid`."""
        name, _, server = user.partition("@")
        name = name.partition(":")[0]
        if server == "lid":
            return next((person for person in self.state.people.values() if person.lid == name), None)
        return self.state.people.get(name)

    def chat_id(self, to: str) -> str:
        """The chat for what a person or a page calls it: a number, `…@c.us`, `…@lid`, or the id of a group or channel.

        Raises:
            RefusedError: 404, nobody has this lid.
        """
        if "@" not in to:
            return user_chat(to.lstrip("+"))
        if to.endswith("@lid"):
            person = self.find(to)
            if person is None:
                raise RefusedError(404, f"nobody has the lid {to}")
            return user_chat(person.number)
        return to

    def account(self, number: str) -> Person:
        """The person with this number, made on the spot where the settings allow it.

        Raises:
            RefusedError: 404, nobody has it; 400, this is no number.
        """
        if number not in self.state.people and self._auto_create:
            return self.create(number)
        return self.person(number)

    def create(self, number: str, *, name: str = "", **fields: Any) -> Person:
        """Add a person, whose address book is everybody who is listed.

        Raises:
            RefusedError: 409, the number is taken; 400, it is not 7 to 15 digits.
        """
        if number in self.state.people:
            raise RefusedError(409, f"the number {number} is taken")
        if not (number.isascii() and number.isdigit() and 7 <= len(number) <= 15):
            raise RefusedError(
                400, f"number: {number!r} is not a phone number; give 7 to 15 digits with the country code"
            )
        person = Person(number=number, name=name or f"Account {number[-4:]}", **fields)
        person.contacts = {other.number: other.name for other in self.state.people.values() if other.listed}
        self.state.people[number] = person
        return person

    # --- Devices ------------------------------------------------------------------------------------------------

    def link(self, person: Person, *, public_key: dict[str, Any], noise_token: str, platform: str) -> Device:
        """Register a new device of `person` and queue the history for it."""
        device = Device(
            id=f"{person.number}:{person.next_device}",
            public_key=public_key,
            noise_token=noise_token,
            platform=platform,
            linked_at=self._outside.now(),
        )
        person.next_device += 1
        person.devices[device.id] = device
        for body in self._history(person):
            self._push(device, "history", body)
        return device

    def device(self, device_id: str) -> tuple[Person, Device] | None:
        """The device and its owner, or None if it was unlinked."""
        person = self.state.people.get(device_id.partition(":")[0])
        device = person.devices.get(device_id) if person else None
        return (person, device) if person and device else None

    def unlink(self, person: Person, device_id: str) -> None:
        """Forget a device.

        Raises:
            RefusedError: 404, it is not linked.
        """
        if person.devices.pop(device_id, None) is None:
            raise RefusedError(404, f"{person.number} has no device {device_id}")

    def stored(self, person: Person, device: Device, seq: int) -> None:
        """The device has stored everything up to `seq`."""
        now = self._outside.now()
        for stanza in device.queue:
            if stanza.seq > seq:
                break
            if stanza.kind == "message" and not stanza.body.get("placeholder"):
                entry = person.entry(stanza.body["chat"], stanza.body["id"])
                if entry is not None:
                    entry.deliveries.setdefault(device.id, Delivery()).stored_at = now
        device.queue = [stanza for stanza in device.queue if stanza.seq > seq]

    def wrote(self, person: Person, device: Device, stanza: Stanza) -> None:
        """A stanza was written to a connection of the device."""
        stanza.sent += 1
        if stanza.kind == "message" and not stanza.body.get("placeholder"):
            entry = person.entry(stanza.body["chat"], stanza.body["id"])
            if entry is not None:
                entry.deliveries.setdefault(device.id, Delivery()).writes += 1

    def _push(self, device: Device, kind: str, body: dict[str, Any]) -> None:
        device.queue.append(Stanza(seq=device.next_seq, kind=kind, body=body))
        device.next_seq += 1
        self._outside.queued(device)

    def tell(self, person: Person, kind: str, body: dict[str, Any], *, but: str | None = None) -> None:
        """Queue a stanza for all devices of `person` except `but`."""
        for device in person.devices.values():
            if device.id != but:
                self._push(device, kind, body)

    def _history(self, person: Person) -> Iterable[dict[str, Any]]:
        """The stanzas that bring a new device up to date: people first, then chats, then messages in portions."""
        numbers = set(person.contacts)
        for group in self.groups_of(person):
            numbers |= set(group.participants)
        for chat in person.mailbox:
            if chat.endswith("@c.us"):
                numbers.add(chat.partition("@")[0])
        yield {
            "contacts": [contact_view(self.state, person, number) for number in sorted(numbers | {person.number})],
            "groups": [group_view(group) for group in self.groups_of(person)],
            "channels": [channel_view(channel, person) for channel in self.channels_of(person)],
            "labels": [{"id": key, **label.model_dump()} for key, label in person.labels.items()],
            "blocked": person.blocked,
            "chats": [chat_view(person, chat) for chat in person.mailbox],
        }
        entries = sorted((entry for box in person.mailbox.values() for entry in box), key=lambda entry: entry.t)
        for start in range(0, len(entries), 200):
            portion = entries[start : start + 200]
            yield {"messages": [message_view(self.state, entry, new=False) for entry in portion]}

    # --- Memberships ----------------------------------------------------------------------------------------------

    def groups_of(self, person: Person) -> list[Group]:
        """Groups that `person` is in."""
        return [group for group in self.state.groups.values() if person.number in group.participants]

    def channels_of(self, person: Person) -> list[Channel]:
        """Channels that `person` follows or owns."""
        channels = self.state.channels.values()
        return [channel for channel in channels if person.number in (channel.owner, *channel.subscribers)]

    # --- Messages -----------------------------------------------------------------------------------------------

    def send(
        self,
        sender: Person,
        chat: str,
        content: dict[str, Any],
        *,
        via: Literal["page", "phone", "peer"],
        message_id: str | None = None,
        device: str | None = None,
    ) -> Entry:
        """Accept a message and pass it on. A page that repeats an id gets its first answer again and nothing else.

        Raises:
            RefusedError: 403, the sender may not write there; 404, there is no such group or channel.
        """
        message_id = message_id or new_message_id()
        known = sender.entry(chat, message_id)
        if known is not None:
            known.sends += 1
            return known
        recipients = self._recipients(sender, chat)
        now = self._outside.now()
        entry = Entry(
            id=message_id,
            chat=chat,
            from_me=True,
            sender=sender.number,
            t=int(now),
            content=content,
            via=via,
            device=device,
            at=now,
            ack_times={ACK_SENT: now},
            seen=True,
        )
        sender.mailbox.setdefault(chat, []).append(entry)
        sender.chat_state(chat)
        self._deliver(sender, entry, but=device)
        for recipient in recipients:
            self._receive(recipient, sender, entry)
        return entry

    def _recipients(self, sender: Person, chat: str) -> list[Person]:
        if chat == STATUS_CHAT:
            everybody = self.state.people.values()
            return [person for person in everybody if sender.number in person.contacts and person is not sender]
        if chat.endswith("@g.us"):
            group = self.group(chat)
            role = group.participants.get(sender.number)
            if role is None:
                raise RefusedError(403, f"{sender.number} is not in the group {chat}")
            if group.announce and role == "member":
                raise RefusedError(403, f"only admins may write in the group {chat}")
            numbers: Iterable[str] = group.participants
        elif chat.endswith("@newsletter"):
            channel = self.channel(chat)
            if channel.owner != sender.number:
                raise RefusedError(403, f"{sender.number} does not own the channel {chat}")
            numbers = channel.subscribers
        else:
            numbers = [chat.partition("@")[0]]
        people = (self.state.people.get(number) for number in numbers if number != sender.number)
        return [person for person in people if person is not None]

    def _receive(self, recipient: Person, sender: Person, original: Entry) -> None:
        if sender.number in recipient.blocked:
            return
        direct = original.chat.endswith("@c.us")
        entry = Entry(
            id=original.id,
            chat=user_chat(sender.number) if direct else original.chat,
            from_me=False,
            sender=sender.number,
            t=original.t,
            content=original.content,
            at=self._outside.now(),
        )
        behaviour = recipient.behaviour

        def arrive() -> None:
            # It may have been edited or deleted on its way.
            entry.content, entry.edited, entry.revoked = original.content, original.edited, original.revoked
            recipient.mailbox.setdefault(entry.chat, []).append(entry)
            recipient.chat_state(entry.chat)
            self._deliver(recipient, entry, ciphertext=sender.behaviour.ciphertext_first)
            if not original.chat.endswith(("@newsletter", "@broadcast")):
                self.receipt(recipient, sender, original, ACK_DELIVERED)
                self._react_to(recipient, sender, original, entry)

        if not behaviour.delivers:
            return
        if recipient.devices or not behaviour.delay:
            arrive()
        else:
            self._outside.later(behaviour.delay, arrive)

    def _react_to(self, recipient: Person, sender: Person, original: Entry, entry: Entry) -> None:
        behaviour = recipient.behaviour
        if not behaviour.reads:
            return

        def read() -> None:
            entry.seen = True
            self.receipt(recipient, sender, original, ACK_READ)
            if behaviour.replies == "none" or not entry.chat.endswith("@c.us"):
                return
            self.typing(recipient, user_chat(sender.number), "composing")
            self._outside.later(behaviour.delay, lambda: self._reply(recipient, behaviour, entry))

        self._outside.later(behaviour.delay, read)

    def _reply(self, recipient: Person, behaviour: Behaviour, entry: Entry) -> None:
        self.typing(recipient, entry.chat, "paused")
        if behaviour.replies == "echo":
            content = {key: value for key, value in entry.content.items() if not key.startswith("quoted")}
        else:
            content = {"type": "chat", "body": behaviour.text or "Thank you, we will be back to you."}
        self.send(recipient, entry.chat, content, via="peer")

    def _deliver(self, person: Person, entry: Entry, *, but: str | None = None, ciphertext: bool = False) -> None:
        body = message_view(self.state, entry, new=True)
        if ciphertext:
            self.tell(person, "message", {**body, "content": {"type": "ciphertext"}, "placeholder": True}, but=but)
        self.tell(person, "message", body, but=but)

    def receipt(self, reader: Person, sender: Person, original: Entry, ack: int) -> None:
        """Tell the sender that `reader` has got or read the message. Receipts never go back."""
        if not original.from_me:
            raise ValueError("receipts belong to the sender's copy of a message")
        if ack == ACK_READ and not reader.read_receipts:
            return
        before = original.receipts.get(reader.number, ACK_SENT)
        if ack <= before:
            return
        original.receipts[reader.number] = ack
        now = self._outside.now()
        if original.chat.endswith("@g.us"):
            members = [number for number in self.group(original.chat).participants if number != sender.number]
            total = min((original.receipts.get(number, ACK_SENT) for number in members), default=ack)
        else:
            total = ack
        if total > original.ack:
            original.ack = total
            original.ack_times.setdefault(total, now)
        body = {
            "chat": original.chat,
            "ids": [original.id],
            "ack": ack,
            "total": original.ack,
            "participant": reader.number if original.chat.endswith("@g.us") else None,
            "t": int(now),
        }
        self.tell(sender, "receipt", body)

    def seen(self, person: Person, chat: str, *, device: str | None, ack: int = ACK_READ) -> int:
        """`person` has read everything in `chat`; returns how many messages were new."""
        count = 0
        person.chat_state(chat).marked_unread = False
        for entry in person.mailbox.get(chat, []):
            if entry.from_me or (entry.seen and ack == ACK_READ):
                continue
            count += not entry.seen
            entry.seen = True
            author = self.state.people.get(entry.sender)
            original = self._original(person, author, entry) if author else None
            if author and original:
                self.receipt(person, author, original, ack)
        self.tell(person, "chat", chat_view(person, chat), but=device)
        return count

    def played(self, person: Person, chat: str, message_id: str) -> None:
        """`person` has listened to a voice message."""
        entry = self._need(person, chat, message_id)
        author = self.state.people.get(entry.sender)
        original = self._original(person, author, entry) if author else None
        if author and original and not entry.from_me:
            self.receipt(person, author, original, ACK_PLAYED)

    def _original(self, holder: Person, author: Person, entry: Entry) -> Entry | None:
        """The author's own copy of a message that `holder` has received."""
        chat = user_chat(holder.number) if entry.chat.endswith("@c.us") else entry.chat
        return author.entry(chat, entry.id)

    def copies(self, person: Person, entry: Entry) -> list[tuple[Person, Entry]]:
        """Every phone's copy of a message, the one of `person` first."""
        if entry.chat.endswith("@c.us"):
            peer = self.state.people.get(entry.chat.partition("@")[0])
            others = [(peer, user_chat(person.number))] if peer and peer is not person else []
        else:
            others = [(other, entry.chat) for other in self.state.people.values() if other is not person]
        found = [(person, entry)]
        for other, chat in others:
            copy = other.entry(chat, entry.id)
            if copy is not None:
                found.append((other, copy))
        return found

    def _need(self, person: Person, chat: str, message_id: str) -> Entry:
        entry = person.entry(chat, message_id)
        if entry is None:
            raise RefusedError(404, f"{person.number} has no message {message_id} in {chat}")
        return entry

    # --- Changes of messages --------------------------------------------------------------------------------------

    def edit(self, person: Person, chat: str, message_id: str, text: str, *, edit_id: str, device: str | None) -> None:
        """Replace the text of an own message everywhere.

        Raises:
            RefusedError: 403, it is somebody else's; 404, there is no such message.
        """
        entry = self._need(person, chat, message_id)
        if not entry.from_me:
            raise RefusedError(403, "only the author may edit a message")
        now = self._outside.now()
        for holder, copy in self.copies(person, entry):
            field = "body" if copy.content.get("type") == "chat" else "caption"
            copy.content = {**copy.content, field: text}
            copy.edited = True
            body = {"chat": copy.chat, "id": copy.id, "fromMe": copy.from_me, "sender": copy.sender}
            body |= {"text": text, "editId": edit_id, "t": int(now)}
            self.tell(holder, "edit", body, but=device)

    def revoke(self, person: Person, chat: str, message_id: str, *, revoke_id: str, device: str | None) -> None:
        """Delete a message for everybody. Group admins may delete others' messages.

        Raises:
            RefusedError: 403, not allowed; 404, there is no such message.
        """
        entry = self._need(person, chat, message_id)
        admin = chat.endswith("@g.us") and self.group(chat).participants.get(person.number, "member") != "member"
        if not entry.from_me and not admin:
            raise RefusedError(403, "only the author or a group admin may delete a message for everybody")
        for holder, copy in self.copies(person, entry):
            copy.revoked = True
            copy.content = {"type": "revoked"}
            body = {"chat": copy.chat, "id": copy.id, "fromMe": copy.from_me, "sender": copy.sender}
            body |= {"by": person.number, "revokeId": revoke_id, "t": int(self._outside.now())}
            self.tell(holder, "revoke", body, but=device)

    def react(self, person: Person, chat: str, message_id: str, emoji: str, *, device: str | None) -> None:
        """Set or (with an empty emoji) remove `person`'s reaction.

        Raises:
            RefusedError: 404, there is no such message.
        """
        entry = self._need(person, chat, message_id)
        reaction_id = new_message_id()
        now = self._outside.now()
        for holder, copy in self.copies(person, entry):
            if emoji:
                copy.reactions[person.number] = emoji
            else:
                copy.reactions.pop(person.number, None)
            body = {"chat": copy.chat, "id": copy.id, "fromMe": copy.from_me, "sender": copy.sender, "emoji": emoji}
            body |= {"by": person.number, "reactionId": reaction_id, "t": int(now * 1000)}
            self.tell(holder, "reaction", body, but=device if holder is person else None)

    def vote(self, person: Person, chat: str, message_id: str, options: list[str], *, device: str | None) -> None:
        """Vote in a poll; an empty list takes the vote back.

        Raises:
            RefusedError: 400, an option is not in the poll; 404, there is no such message.
        """
        entry = self._need(person, chat, message_id)
        offered = [option["name"] for option in entry.content.get("pollOptions", [])]
        for option in options:
            if option not in offered:
                raise RefusedError(400, f"options: {option!r} is not one of {offered}")
        vote_id = new_message_id()
        for holder, copy in self.copies(person, entry):
            copy.votes[person.number] = options
            body = {"chat": copy.chat, "id": copy.id, "fromMe": copy.from_me, "sender": copy.sender}
            body |= {"by": person.number, "voteId": vote_id, "options": [offered.index(option) for option in options]}
            body |= {"t": int(self._outside.now() * 1000)}
            self.tell(holder, "vote", body, but=device if holder is person else None)

    # --- Presence -----------------------------------------------------------------------------------------------

    def typing(self, person: Person, chat: str, state: str) -> None:
        """Show "typing…" to the others in a chat who are connected now."""
        for other in self._recipients(person, chat):
            direct = chat.endswith("@c.us")
            frame = {
                "t": "presence",
                "chat": user_chat(person.number) if direct else chat,
                "participant": person.number,
                "state": state,
            }
            for device in other.devices.values():
                self._outside.whisper(device, frame)

    def presence(self, person: Person, *, online: bool) -> None:
        """Show to everybody who knows `person` whether they are online."""
        frame = {
            "t": "presence",
            "chat": user_chat(person.number),
            "participant": person.number,
            "state": "available" if online else "unavailable",
            "lastSeen": int(self._outside.now()),
        }
        for other in self.state.people.values():
            if other is not person:
                for device in other.devices.values():
                    self._outside.whisper(device, frame)

    # --- Lookups of groups and channels ---------------------------------------------------------------------------

    def group(self, group_id: str) -> Group:
        """The group with this id.

        Raises:
            RefusedError: 404, there is none.
        """
        group = self.state.groups.get(group_id)
        if group is None:
            raise RefusedError(404, f"there is no group {group_id}")
        return group

    def channel(self, channel_id: str) -> Channel:
        """The channel with this id.

        Raises:
            RefusedError: 404, there is none.
        """
        channel = self.state.channels.get(channel_id)
        if channel is None:
            raise RefusedError(404, f"there is no channel {channel_id}")
        return channel
