"""Names and files that tests of the WhatsApp stand-in send around."""

from __future__ import annotations

import zlib

from sandbox.whatsapp.model import lid_of


def chat(number: str) -> str:
    """The chat with a number, as the page names it."""
    return f"{number}@c.us"


def lid(number: str) -> str:
    """The hidden address of a number."""
    return f"{lid_of(number)}@lid"


def png(width: int, height: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    rows = b"".join(b"\0" + bytes([128]) * width for _ in range(height))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
