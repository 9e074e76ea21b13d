"""What a page is told about people, chats, messages, groups and channels: the JSON of stanzas and answers.

Must not decide who is told, and must not change anything.
"""

from __future__ import annotations

from typing import Any

from sandbox.whatsapp.model import Channel, ChatState, Entry, Group, Person, State, lid_of

JSON = dict[str, Any]


def contact_view(state: State, viewer: Person, number: str) -> JSON:
    """A person as `viewer`'s devices know them."""
    other = state.people.get(number)
    return {
        "number": number,
        "lid": lid_of(number),
        "name": viewer.contacts.get(number),
        "pushname": other.name if other else None,
        "business": bool(other and other.business),
        "picture": other.picture if other else None,
    }


def chat_view(person: Person, chat: str) -> JSON:
    """The state of a chat, with its unread count."""
    box = person.mailbox.get(chat, [])
    unread = sum(1 for entry in box if not entry.from_me and not entry.seen)
    state = person.chats.get(chat, ChatState())
    return {"id": chat, "unread": unread, "t": box[-1].t if box else 0, **state.model_dump()}


def message_view(state: State, entry: Entry, *, new: bool) -> JSON:
    """A message as its holder's devices get it."""
    sender = state.people.get(entry.sender)
    return {
        "id": entry.id,
        "chat": entry.chat,
        "fromMe": entry.from_me,
        "sender": entry.sender,
        "senderLid": lid_of(entry.sender),
        "pushname": sender.name if sender else None,
        "t": entry.t,
        "content": entry.content,
        "ack": entry.ack,
        "seen": entry.seen,
        "revoked": entry.revoked,
        "starred": entry.starred,
        "new": new,
    }


def group_view(group: Group) -> JSON:
    """A group with the lids of its participants."""
    people = [{"number": number, "lid": lid_of(number), "role": role} for number, role in group.participants.items()]
    return {**group.model_dump(), "participants": people}


def channel_view(channel: Channel, viewer: Person) -> JSON:
    """A channel as one follower sees it."""
    fields = channel.model_dump(exclude={"subscribers", "muted", "next_server_id"})
    muted = viewer.number in channel.muted
    mine = channel.owner == viewer.number
    return {**fields, "mine": mine, "muted": muted, "subscribers": len(channel.subscribers)}


def entry_view(entry: Entry) -> JSON:
    """A message as people and tests read it in the control API."""
    return {
        **entry.model_dump(exclude={"content"}),
        "type": entry.content.get("type"),
        "text": entry.text,
        "content": entry.content,
    }
