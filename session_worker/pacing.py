"""The pace of outgoing messages: a token bucket, as a value.

Must not sleep or read a clock: it says how long to wait.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """`burst` messages at once, then `rate` per second."""

    rate: float
    """Tokens per second."""
    burst: int
    tokens: float
    """May be negative: that many messages have taken their turn already."""
    updated: float
    """Clock of the last change, in seconds."""

    @classmethod
    def full(cls, *, per_minute: float, burst: int, now: float) -> TokenBucket:
        """A bucket that has rested."""
        return cls(per_minute / 60, burst, float(burst), now)

    def wait(self, now: float) -> float:
        """Seconds until a message that takes its turn now may go."""
        return max(0.0, (1 - self._tokens(now)) / self.rate)

    def take(self, now: float) -> float:
        """Take a turn; seconds to wait before using it."""
        delay = self.wait(now)
        self.tokens, self.updated = self._tokens(now) - 1, now
        return delay

    def adjust(self, *, per_minute: float, burst: int, now: float) -> None:
        """Change the pace without giving away tokens."""
        self.tokens, self.updated = min(self._tokens(now), float(burst)), now
        self.rate, self.burst = per_minute / 60, burst

    def _tokens(self, now: float) -> float:
        return min(float(self.burst), self.tokens + (now - self.updated) * self.rate)
