"""Logs of all parts: JSON lines with one schema.

Owns the format. A log call gives a constant sentence and fields: `log.info("Connected", extra=fields(session=key))`.
Must never get message text, codes, keys, or above DEBUG a phone number.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_FIELDS = "fields"
"""Attribute of a log record that holds our fields: a name that the logging module does not use."""


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Fields of a log call, for its `extra` argument; None is left out."""
    return {_FIELDS: {name: _plain(value) for name, value in values.items() if value is not None}}


def _plain(value: object) -> object:
    """Keys of sessions and workers are tuples with a text form of their own."""
    return str(value) if isinstance(value, (tuple, Exception)) else value


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "part", "logger", "message", …fields, "error"}` in one line."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def configure(part: str, level: str) -> None:
    """Send all logs of this process to standard output as JSON lines.

    Args:
        part: `operator`, `worker` or `gateway`.
        level: Lowest level of our own logs; libraries are heard from WARNING on.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(part))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("whatsapp_operator", "session_worker", "gateway", "sandbox"):
        logging.getLogger(name).setLevel(level)
