"""All pages that are connected: who is live, who was replaced, and how the network reaches a device.

Owns the connections and the count of live browsers per account. Must not serve HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from sandbox.whatsapp.connection import Connection
from sandbox.whatsapp.groups import Groups
from sandbox.whatsapp.media import MediaStore
from sandbox.whatsapp.model import Device, Person, State
from sandbox.whatsapp.network import Network, RefusedError
from sandbox.whatsapp.operations import Operations
from sandbox.whatsapp.pairing import PairingDesk
from sandbox.whatsapp.settings import Settings

log = logging.getLogger(__name__)


class Hub:
    """The meeting point of pages, phones and the network."""

    def __init__(self, settings: Settings, state: State, media: MediaStore) -> None:
        self.settings = settings
        self.state = state
        self.network = Network(state, self, auto_create=settings.auto_create)
        self.groups = Groups(self.network)
        self.pairing = PairingDesk(settings)
        self.operations = Operations(self.network, self.groups, media, self.now)
        self.online = True
        self.refs_released = asyncio.Event()
        """Cleared to keep QR codes back."""
        self.refs_released.set()
        self._connections: set[Connection] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    # --- What the network needs of the world ------------------------------------------------------------------------

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` after `delay` seconds of behaviour time."""

        def run() -> None:
            self._timers.discard(handle)
            try:
                action()
            except RefusedError as error:
                # A contact may want to answer in a group that it has been removed from in the meantime.
                log.info("A contact could not do what it wanted.", extra={"reason": str(error)})

        handle = asyncio.get_running_loop().call_later(self.settings.scaled(delay), run)
        self._timers.add(handle)

    def queued(self, device: Device) -> None:
        """Hand the newest stanza of the device to its live connection."""
        connection = self.live(device)
        if connection is not None:
            connection.send_stanza(device.queue[-1])

    def whisper(self, device: Device, frame: dict[str, Any]) -> None:
        """Send a frame only if the device is connected now."""
        connection = self.live(device)
        if connection is not None:
            connection.send(frame)

    # --- Connections ------------------------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """A page has connected."""
        self._connections.add(connection)

    def remove(self, connection: Connection) -> None:
        """A page's socket has closed."""
        connection.live = False
        self._connections.discard(connection)
        self.pairing.leave(connection.page)

    def live(self, device: Device) -> Connection | None:
        """The live connection of a device."""
        return next((one for one in self._connections if one.live and one.device is device), None)

    def connections(self, number: str | None = None) -> list[Connection]:
        """All connections, or those logged in to the account `number`."""
        if number is None:
            return list(self._connections)
        return [one for one in self._connections if one.live and one.person and one.person.number == number]

    def login(self, connection: Connection, person: Person, device: Device) -> None:
        """A page has proved who it is. An older one with the same credentials is replaced, and the overlap noted."""
        older = self.connections(person.number)
        tabs = {one.tab for one in older} | {connection.tab}
        self.state.max_live[person.number] = max(self.state.max_live.get(person.number, 0), len(tabs))
        for one in older:
            if one.tab != connection.tab:
                overlap = {
                    "number": person.number,
                    "at": self.now(),
                    "older_since": one.since,
                    "older_device": one.device.id if one.device else None,
                    "device": device.id,
                    "same_credentials": one.device is device,
                }
                self.state.overlaps.append(overlap)
                log.warning("Two browsers were live for one account.", extra=overlap)
            if one.device is device:
                one.freeze(frozen=False)
                one.end({"t": "stream_error", "reason": "replaced"})
        connection.live = True
        device.last_login = self.now()

    def logout(self, connection: Connection) -> None:
        """The page itself wants to be unlinked."""
        if connection.person and connection.device:
            self.network.unlink(connection.person, connection.device.id)

    def unlink(self, person: Person, device_id: str | None) -> list[str]:
        """The phone unlinks a device, or all; returns which.

        Raises:
            RefusedError: 404, nothing is linked under that id.
        """
        if device_id is None and not person.devices:
            raise RefusedError(404, f"{person.number} has no linked device")
        ids = list(person.devices) if device_id is None else [device_id]
        for one in ids:
            device = person.devices.get(one)
            self.network.unlink(person, one)
            for connection in self._connections:
                if connection.device is device and connection.live:
                    connection.freeze(frozen=False)
                    connection.end({"t": "stream_error", "reason": "device_removed"})
        return ids

    def pair(self, page: str, person: Person) -> Device:
        """The phone of `person` has accepted the page: link it and give it its credentials.

        Raises:
            RefusedError: 404, the page does not wait.
        """
        keys = self.pairing.keys(page)
        device = self.network.link(person, public_key=keys.login, noise_token=keys.noise_token, platform=keys.platform)
        connection = next(one for one in self._connections if one.page == page)
        connection.waiting = False
        self.pairing.leave(page)
        connection.end({"t": "paired", "device": device.id, "number": person.number, "lid": person.lid})
        return device

    def set_online(self, *, online: bool) -> None:
        """Cut the whole network, or bring it back; pages connect again by themselves."""
        self.online = online
        if not online:
            for connection in list(self._connections):
                connection.drop()

    def close(self) -> None:
        """Stop the timers and cut the connections."""
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
        for connection in list(self._connections):
            connection.drop()
