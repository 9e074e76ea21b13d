"""Container logs: files of timestamped lines, bounded in size, and reading them as `kubectl logs` asks.

Owns the format (`<RFC 3339 time> <stdout|stderr> <line>`) and rotation: one older file is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.kube.formats import format_micro_time, parse_time

MAX_BYTES: Final = 10 * 1024 * 1024
"""Size at which a file is put aside."""
_MAX_LINE: Final = 16 * 1024
"""Longer lines are split, as container runtimes do."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What of a log is wanted."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None


class ContainerLog:
    """The log of one run of one container."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._size = path.stat().st_size
        self._changed = asyncio.Condition()
        self.closed = False
        self.rotations = 0

    @property
    def path(self) -> Path:
        """The current file."""
        return self._path

    @property
    def older(self) -> Path:
        """The file before it."""
        return self._path.with_suffix(".log.1")

    async def pump(self, stream: asyncio.StreamReader, name: str) -> None:
        """Copy a process's output into the log until it ends."""
        while True:
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    await self._append(name, error.partial)
                return
            except asyncio.LimitOverrunError as error:
                line = await stream.readexactly(min(error.consumed, _MAX_LINE))
            await self._append(name, line)

    async def _append(self, name: str, line: bytes) -> None:
        if self.closed:
            return
        stamp = format_micro_time(datetime.now(UTC)).encode()
        record = stamp + b" " + name.encode() + b" " + line.rstrip(b"\n") + b"\n"
        if self._size + len(record) > self._max_bytes:
            self._rotate()
        self._file.write(record)
        self._file.flush()
        self._size += len(record)
        async with self._changed:
            self._changed.notify_all()

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self.older)
        self._file = self._path.open("ab")
        self._size = 0
        self.rotations += 1

    async def close(self) -> None:
        """The container has ended; readers that follow come to their end."""
        if self.closed:
            return
        self.closed = True
        self._file.close()
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_more(self, position: int, rotations: int) -> None:
        """Wait until there is something after `position`, or the log is closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or self._size != position or self.rotations != rotations)

    def read(self, query: LogQuery) -> AsyncIterator[bytes]:
        """The lines that are asked for, in pieces, as they come."""
        return _limited(self._lines(query), query.limit_bytes)

    async def _lines(self, query: LogQuery) -> AsyncIterator[bytes]:
        position, rotations = self._size, self.rotations
        for record in _tail(_records(self.older, self._path, position), query):
            yield _shown(record, query)
        while query.follow:
            await self._wait_for_more(position, rotations)
            closed = self.closed
            if self.rotations != rotations:
                # What was left of the old file, unless it has been put aside twice.
                if self.rotations == rotations + 1:
                    for record in _from(self.older, position):
                        yield _shown(record, query)
                rotations, position = self.rotations, 0
            for record in _from(self._path, position):
                position += len(record)
                yield _shown(record, query)
            if closed and self._size == position:
                return


def _from(path: Path, position: int) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(position)
        yield from file


def _records(older: Path, current: Path, size: int) -> Iterator[bytes]:
    yield from _from(older, 0)
    with current.open("rb") as file:
        yield from file.read(size).splitlines(keepends=True)


def _time_of(record: bytes) -> datetime:
    return parse_time(record.partition(b" ")[0].decode())


def _tail(records: Iterable[bytes], query: LogQuery) -> list[bytes]:
    since = query.since
    chosen = [record for record in records if since is None or _time_of(record) >= since]
    if query.tail is not None:
        return chosen[-query.tail :] if query.tail > 0 else []
    return chosen


def _shown(record: bytes, query: LogQuery) -> bytes:
    stamp, _, rest = record.partition(b" ")
    line = rest.partition(b" ")[2]
    return stamp + b" " + line if query.timestamps else line


async def _limited(lines: AsyncIterator[bytes], limit: int | None) -> AsyncIterator[bytes]:
    left = limit
    async for line in lines:
        if left is None:
            yield line
            continue
        yield line[:left]
        left -= len(line)
        if left <= 0:
            return


async def read_file(path: Path, query: LogQuery) -> AsyncIterator[bytes]:
    """The log of a container that has ended long ago."""
    records = list(_from(path.with_suffix(".log.1"), 0)) + list(_from(path, 0))

    async def lines() -> AsyncIterator[bytes]:
        for record in _tail(records, query):
            yield _shown(record, query)

    async for line in _limited(lines(), query.limit_bytes):
        yield line
