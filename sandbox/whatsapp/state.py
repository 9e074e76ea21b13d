"""The saved state: one JSON file, written whole and put in place at once.

Must not know what the state means.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import ValidationError

from sandbox.whatsapp.model import State


def load(path: Path | None) -> State | None:
    """The state kept in `path`, or None if there is none yet.

    Raises:
        ValueError: the file is there but is no state of this version.
    """
    if path is None or not path.exists():
        return None
    try:
        return State.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a saved state of this version; delete it to start anew ({error})") from error


class Keeper:
    """Writes the state when it has changed."""

    def __init__(self, state: State, path: Path | None) -> None:
        self._state = state
        self._path = path
        self._written = ""

    async def save(self) -> None:
        """Write the state if it differs from what was written last."""
        if self._path is None:
            return
        text = self._state.model_dump_json()
        if text != self._written:
            await asyncio.to_thread(self._write, self._path, text)
            self._written = text

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(path.suffix + ".new")
        draft.write_text(text)
        draft.replace(path)
