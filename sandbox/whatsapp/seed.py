"""The people who are there from the start, and the chats that a new account has already had with them.

The numbers are from +1 202 555 01xx, which is reserved for fiction.
"""

from __future__ import annotations

from sandbox.whatsapp.model import Behaviour, Entry, Person, user_chat
from sandbox.whatsapp.network import Network, new_message_id

ECHO = "12025550101"
"""Reads at once and sends everything back."""
AUTO = "12025550102"
"""Reads at once and answers with a fixed text."""
SILENT = "12025550103"
"""The phone is on, but messages are never read."""
ABSENT = "12025550104"
"""The phone is off: messages stay at one tick."""
READER = "12025550105"
"""Reads, never answers."""


def fill(network: Network) -> None:
    """Add the contacts to an empty network."""
    text = "Thank you for your message. We are open from 9 to 5."
    people = (
        (ECHO, "Ada Echo", Behaviour(reads=True, replies="echo"), False),
        (AUTO, "Bakery on Main", Behaviour(reads=True, replies="auto", text=text), True),
        (SILENT, "Carla Silent", Behaviour(), False),
        (ABSENT, "Dario Abroad", Behaviour(delivers=False), False),
        (READER, "Emma Reader", Behaviour(reads=True), False),
    )
    for number, name, behaviour, business in people:
        network.create(number, name=name, behaviour=behaviour, business=business, listed=True)


def history(person: Person, now: float) -> None:
    """Give `person` a few old chats, so that there is something to synchronise at pairing."""
    lines = ("Welcome to the sandbox!", "Nobody here is real.", "Write to me, I answer.")
    for place, number in enumerate(list(person.contacts)[:3]):
        chat = user_chat(number)
        for step, line in enumerate(lines[: place + 1]):
            entry = Entry(
                id=new_message_id(),
                chat=chat,
                from_me=False,
                sender=number,
                t=int(now) - 86_400 * (place + 1) + 60 * step,
                content={"type": "chat", "body": line},
                via="history",
                at=now,
                seen=True,
            )
            person.mailbox.setdefault(chat, []).append(entry)
