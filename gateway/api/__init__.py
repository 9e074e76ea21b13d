"""The operations of WAHA's API, one module for each of its sections."""

from __future__ import annotations

from gateway.api import chatting, contacts, observability, pairing, sessions
from gateway.operations import Operation

ALL: list[Operation] = [
    *sessions.OPERATIONS.items,
    *pairing.OPERATIONS.items,
    *chatting.OPERATIONS.items,
    *contacts.OPERATIONS.items,
    *observability.OPERATIONS.items,
]
"""Every operation, in the order of the documentation."""
