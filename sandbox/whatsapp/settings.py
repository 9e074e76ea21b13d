"""How the WhatsApp stand-in behaves: durations and defaults, read once.

Must not read the environment or the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Durations in seconds; the defaults are WhatsApp's own, as far as they are known."""

    time_scale: float = 1.0
    """Factor for pairing times, behaviours, reconnection and the reload after an update; the rest stays as it is."""
    first_ref_delay: float = 1.0
    """Time from a page's request to its first QR code: the round trips that the real page needs."""
    first_ref: float = 60.0
    next_ref: float = 20.0
    refs: int = 6
    """After these the page is idle until it asks again."""
    ref_grace: float = 5.0
    """A phone may still scan a code that has just left the screen."""
    link_code: float = 195.0
    """Life of a pairing code (3.25 minutes)."""
    keepalive: float = 5.0
    """Seconds between two frames of an otherwise silent server."""
    update_reload: float = 3.0
    """Time from the news of a forced update to the reload of the page."""
    reconnect: float = 0.5
    """The page's first wait before it connects again; it doubles up to 20 times this."""
    require_platform: bool = False
    """Refuse QR codes without the fifth field, as some phones may."""
    seed_contacts: bool = True
    """Start with a few people who answer, and give new accounts some history."""
    auto_create: bool = True
    """Make an account for any number that scans or is asked for."""
    state_file: Path | None = None
    """Where to keep the state between two runs; media lies in a folder beside it."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a duration is negative, or there would be no QR code at all.
        """
        for name in ("time_scale", "first_ref", "next_ref", "link_code", "keepalive"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero")
        for name in ("first_ref_delay", "ref_grace", "update_reload", "reconnect"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.refs < 1:
            raise ValueError("refs must be at least 1: a page without QR codes cannot be paired")

    def scaled(self, seconds: float) -> float:
        """`seconds` on this server's clock."""
        return seconds * self.time_scale
