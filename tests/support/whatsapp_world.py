"""A world for the rules of the simulated network: its time passes only when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.whatsapp.groups import Groups
from sandbox.whatsapp.model import Device, Person, State
from sandbox.whatsapp.network import Network


class World:
    """Clock, timers and the frames that were only whispered."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.whispers: list[tuple[str, dict[str, Any]]] = []
        self.network = Network(State(), self, auto_create=True)
        self.groups = Groups(self.network)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self._timers.append((self.time + delay, len(self._timers), action))

    def queued(self, device: Device) -> None:
        pass

    def whisper(self, device: Device, frame: dict[str, Any]) -> None:
        self.whispers.append((device.id, frame))

    def pass_time(self, seconds: float = 60.0) -> None:
        """Let time pass, and with it everything that was to happen."""
        end = self.time + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            timer = min(due)
            self._timers.remove(timer)
            self.time = timer[0]
            timer[2]()
        self.time = end

    def link(self, person: Person) -> Device:
        """Link a device, and let it store its history."""
        device = self.network.link(person, public_key={}, noise_token="", platform="test")
        self.network.stored(person, device, device.next_seq)
        return device


def stanzas(device: Device, kind: str) -> list[dict[str, Any]]:
    """Bodies of the stanzas of one kind that the device has not stored yet."""
    return [stanza.body for stanza in device.queue if stanza.kind == kind]
