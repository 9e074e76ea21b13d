"""The operations of WAHA's API, one module for each of its larger sections."""

from __future__ import annotations

from gateway.api import account, chats, chatting, contacts, groups, keys, observability, pairing, sessions, webhooks
from gateway.operations import Operation

ALL: list[Operation] = [
    *sessions.OPERATIONS.items,
    *pairing.OPERATIONS.items,
    *account.PROFILE.items,
    *chatting.OPERATIONS.items,
    *account.PRESENCE.items,
    *account.CHANNELS.items,
    *account.STATUS.items,
    *chats.OPERATIONS.items,
    *keys.OPERATIONS.items,
    *contacts.OPERATIONS.items,
    *groups.OPERATIONS.items,
    *chats.CALLS.items,
    *chatting.EVENTS.items,
    *account.LABELS.items,
    *chatting.MEDIA.items,
    *observability.APPS.items,
    *observability.OPERATIONS.items,
    *webhooks.OPERATIONS.items,
]
"""Every operation, in the order of the documentation."""
