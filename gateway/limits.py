"""Who a client is, and how often it may come.

Owns the reading of addresses behind proxies. The counting is in Redis, so that all gateways count together; while Redis
is away nobody is held back.
"""

from __future__ import annotations

import ipaddress
import logging
import uuid
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.errors import BusyError
from session_worker.logs import fields
from session_worker.registry import RegistryUnavailableError

if TYPE_CHECKING:
    from gateway.config import GatewayConfig, Network
    from gateway.records import Records

log = logging.getLogger(__name__)

LIMITED = "/api/"
"""Begins the paths that are counted."""


def address_of(request: web.Request, trusted: tuple[Network, ...]) -> str:
    """The client's address: the peer's, or what the proxies say that are trusted, from the nearest outwards."""
    found = request.remote or ""
    for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
        if not _within(found, trusted) or not hop.strip():
            break
        found = hop.strip()
    return found


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in networks if network.version == found.version)


async def count(request: web.Request, config: GatewayConfig, records: Records, key_id: str | None) -> None:
    """Count a request.

    Args:
        request: Its path says whether it is counted.
        config: The limit.
        records: Where it is counted.
        key_id: Names the key of the request; None when it has none that is ours, so that guessing keys is counted too.

    Raises:
        BusyError: 429, the client came too often.
    """
    if not config.rate_limit or not request.path.startswith(LIMITED):
        return
    address = address_of(request, config.trusted_proxies)
    if _within(address, config.rate_exempt):
        return
    client = f"{config.namespace}:{address}:{'?' if key_id is None else key_id}"
    try:
        wait = await records.count_request(client, uuid.uuid4().hex, window=config.rate_window, limit=config.rate_limit)
    except RegistryUnavailableError as error:
        log.warning("Requests are not counted", extra=fields(error=error))
        return
    if wait > 0:
        message = f"more than {config.rate_limit} requests in {config.rate_window:g} s"
        raise BusyError(message, status=429, retry_after=wait)
