"""Which addresses the gateway may be sent to by what clients say: webhooks, and files to fetch.

Owns the rules and the fetching of files. Must not know what is done with an answer.

Addresses are judged after names are resolved, and the connection goes to the very address that was judged: a name that
resolves to something else a moment later (DNS rebinding) gains nothing. Redirects are followed by ourselves, each one
judged anew.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import mimetypes
import socket
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from gateway.errors import BadRequestError, UnprocessableError

MAX_REDIRECTS = 3
_BLOCK = 256 * 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenTargetError(Exception):
    """An address that the gateway must not be sent to."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed."""

    private: bool
    """Private, loopback and shared addresses, such as those of a cluster's own services. Link-local addresses, where
    clouds keep the credentials of their machines, are never allowed."""

    def check(self, address: str) -> None:
        """Judge one IP address.

        Raises:
            ForbiddenTargetError: It is not allowed; says why.
        """
        found = _plain(ipaddress.ip_address(address.partition("%")[0]))
        if (
            found.is_link_local
            or found.is_multicast
            or found.is_unspecified
            or (found.is_reserved and not found.is_loopback)
        ):
            raise ForbiddenTargetError(f"{found} is a link-local, multicast or reserved address")
        if not self.private and not found.is_global:
            raise ForbiddenTargetError(f"{found} is a private address")

    def check_url(self, url: str) -> None:
        """Judge what an address says by itself, before any name in it is resolved.

        Raises:
            ForbiddenTargetError: It is not allowed; says why.
        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ForbiddenTargetError(f"the address cannot be read: {error}") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise ForbiddenTargetError("the address must begin with http:// or https:// and name a host")
        if _is_address(host.rstrip(".")):
            self.check(host.rstrip("."))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside an IPv6 one, where there is one: the rules are for where a packet ends up."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class JudgingResolver(AbstractResolver):
    """Resolves names to allowed addresses only."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a name.

        Raises:
            ForbiddenTargetError: One of them is not allowed.
        """
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self._rules.check(result["host"])
        return found

    async def close(self) -> None:
        """Nothing is kept open."""
        await self._inner.close()


def client(rules: Rules, *, timeout: float, limit: int = 100) -> aiohttp.ClientSession:
    """A session whose connections obey the rules; addresses in URLs have to be given to `check_url` besides."""
    connector = aiohttp.TCPConnector(limit=limit, resolver=JudgingResolver(rules))
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout), connector=connector, trust_env=False, auto_decompress=True
    )


class Fetcher:
    """Gets the files that clients send: from their address, or from base64."""

    def __init__(self, rules: Rules, *, max_bytes: int, timeout: float) -> None:
        self._rules = rules
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._http: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def load(self, file: dict[str, Any]) -> dict[str, Any]:
        """A file with its content: `{mimetype, filename, data}`, `data` in base64.

        Raises:
            BadRequestError: It is no base64, too large, or from where nothing may be fetched.
            UnprocessableError: It cannot be fetched.
        """
        if "url" in file:
            return await self._fetch(file)
        data = str(file["data"])
        header, comma, rest = data.partition(",")
        if comma and header.startswith("data:"):  # a data URL, as browsers make them
            data = rest
            file = {"mimetype": header[5:].partition(";")[0] or None, **file}
        try:
            size = len(base64.b64decode(data, validate=True)) if len(data) <= self._max_bytes * 4 / 3 + 4 else -1
        except binascii.Error:
            raise BadRequestError("file.data: must be base64") from None
        if size < 0 or size > self._max_bytes:
            raise self._too_large()
        if size == 0:
            raise BadRequestError("file.data: is empty")
        return _named(file, data, None, None)

    async def _fetch(self, file: dict[str, Any]) -> dict[str, Any]:
        url = str(file["url"])
        if self._http is None:
            self._http = client(self._rules, timeout=self._timeout)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._rules.check_url(url)
                async with self._http.get(url, allow_redirects=False) as response:
                    if response.status in {301, 302, 303, 307, 308} and "Location" in response.headers:
                        url = urljoin(url, response.headers["Location"])
                        continue
                    if response.status != 200:
                        raise UnprocessableError(f"file.url: the server answered with status {response.status}")
                    content = await self._read(response)
                    kind = response.content_type if "Content-Type" in response.headers else None
                    return _named(file, base64.b64encode(content).decode(), kind, url)
            raise UnprocessableError(f"file.url: redirected more than {MAX_REDIRECTS} times")
        except ForbiddenTargetError as error:
            raise BadRequestError(f"file.url: {error}") from None
        except aiohttp.InvalidURL:
            raise BadRequestError("file.url: is not an address") from None
        except TimeoutError:
            raise UnprocessableError(f"file.url: not there within {self._timeout:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise UnprocessableError(f"file.url: cannot be fetched ({type(error).__name__})") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        content = bytearray()
        async for block in response.content.iter_chunked(_BLOCK):
            content += block
            if len(content) > self._max_bytes:
                raise self._too_large()
        return bytes(content)

    def _too_large(self) -> BadRequestError:
        return BadRequestError(f"file: has more than {self._max_bytes} bytes")


def _named(file: dict[str, Any], data: str, kind: str | None, url: str | None) -> dict[str, Any]:
    path = PurePosixPath(unquote(urlsplit(url).path)).name if url else ""
    filename = file.get("filename") or path or None
    guessed = mimetypes.guess_type(filename or "")[0]
    mimetype = file.get("mimetype") or kind or guessed or "application/octet-stream"
    if filename is None:
        filename = f"file{mimetypes.guess_extension(mimetype.partition(';')[0].strip()) or ''}"
    return {"mimetype": mimetype, "filename": filename, "data": data}
