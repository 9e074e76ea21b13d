"""The gateway's API as the sandbox's people use it. Owns its HTTP session; use it as a context manager."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import aiohttp

from sandbox.cluster import Access

JSON = dict[str, Any]
_POLL = 0.2


class GatewayError(Exception):
    """The gateway refused; the text says what and why."""


class GatewayClient:
    """Somebody with the API key."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(self._access.gateway_url, headers={"X-Api-Key": self._access.api_key})
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def request(self, method: str, path: str, body: JSON | None = None) -> Any:
        """One request; the JSON of its answer.

        Raises:
            GatewayError: The gateway refused.
        """
        assert self._http is not None
        async with self._http.request(method, path, json=body) as response:
            answer = await response.json()
            if response.status >= 400:
                raise GatewayError(f"{method} {path}: {response.status} {answer}")
            return answer

    async def code(self, session: str, *, within: float) -> str:
        """The text of the QR code that a session shows, as soon as it shows one.

        Raises:
            GatewayError: It shows none within so many seconds.
        """
        deadline = asyncio.get_running_loop().time() + within
        while True:
            try:
                return str((await self.request("GET", f"/api/{session}/auth/qr?format=raw"))["value"])
            except GatewayError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(_POLL)

    async def number(self, session: str) -> str:
        """The number of a session's account.

        Raises:
            GatewayError: There is no such session, or it is not linked.
        """
        me = await self.request("GET", f"/api/sessions/{session}/me")
        if me is None:
            raise GatewayError(f"{session} is not linked yet: python -m sandbox phone scan {session}")
        return str(me["id"]).partition("@")[0]
