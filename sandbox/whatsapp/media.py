"""The files that people send: kept in memory, or in a folder when the state is kept.

Must not interpret them.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from pathlib import Path

from aiohttp import web

MAX_UPLOAD = 128 * 1024 * 1024
"""Bytes; above the largest file that WhatsApp's page accepts by default (100 MiB)."""


class MediaStore:
    """Files by path below `/mms/d/`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, tuple[bytes, str]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    async def put(self, data: bytes, mimetype: str) -> str:
        """Keep a file; returns its path on this server."""
        name = secrets.token_urlsafe(18)
        self._files[name] = (data, mimetype)
        if self._folder is not None:
            folder = self._folder
            await asyncio.to_thread((folder / name).write_bytes, data)
            await asyncio.to_thread((folder / f"{name}.json").write_text, json.dumps({"mimetype": mimetype}))
        return f"/mms/d/{name}"

    async def get(self, path: str) -> tuple[bytes, str] | None:
        """The file's bytes and MIME type, or None."""
        name = path.removeprefix("/mms/d/")
        if name not in self._files and self._folder is not None and re.fullmatch(r"[\w-]+", name):
            file = self._folder / name
            if await asyncio.to_thread(file.exists):
                data = await asyncio.to_thread(file.read_bytes)
                about = json.loads(await asyncio.to_thread((self._folder / f"{name}.json").read_text))
                self._files[name] = (data, about["mimetype"])
        return self._files.get(name)

    async def upload(self, request: web.Request) -> web.Response:
        """`POST /mms/upload`: the body is the file."""
        data = await request.read()
        path = await self.put(data, request.content_type)
        return web.json_response({"directPath": path, "size": len(data)})

    async def download(self, request: web.Request) -> web.Response:
        """`GET /mms/d/{name}`."""
        found = await self.get(request.path)
        if found is None:
            raise web.HTTPNotFound(text="no such file; the stand-in keeps files only as long as it runs\n")
        data, mimetype = found
        return web.Response(body=data, content_type=mimetype, headers={"Cache-Control": "private, max-age=86400"})
