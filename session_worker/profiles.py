"""Browser profiles on disk: who may use one, and where it lies.

A profile holds the account's keys; whoever has it is that account, and two browsers on it corrupt it. Chromium's
headless shell takes no lock of its own, so this module does:

- `flock` on `lock` for as long as the browser is open. The browser inherits the descriptor, so the lock ends when both
  the worker and the browser have ended, however that comes about; on a shared volume other nodes see it too.
- `owner.json` with the epoch of the last owner: an older owner that comes back late is refused.

Owns the layout below `PROFILE_DIR`: `<namespace>/<name>/{lock, owner.json, told.json, chromium/}`. Must not know
browsers.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from session_worker.contract import SessionKey

MIN_FREE = 16 << 20
"""Bytes that the volume must have left for a browser to start: a fresh profile takes 7 MiB."""
_LOCK_POLL = 0.1


class ProfileTakenError(Exception):
    """Another owner has the profile, or a newer one had it since: this one must not touch it."""


class ProfileUnusableError(Exception):
    """The directory cannot be written: the message says which and why."""


@dataclass(slots=True)
class Profile:
    """A profile that this process holds. `close` gives it back."""

    directory: Path
    """Chromium's user data directory."""
    _lock: int

    def fileno(self) -> int:
        """The descriptor that holds the lock, for the browser to inherit."""
        return self._lock

    def close(self) -> None:
        """Give the profile back, once the browser has ended too."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_new(self) -> bool:
        """Whether no browser has ever written to it."""
        return not (self.directory / "Default").exists()

    @property
    def told_since(self) -> float | None:
        """Unix time up to which the messages of this profile were told, as its last owner knew; None if it did not.

        Redis knows better, unless it has lost its memory.
        """
        try:
            return float(json.loads((self.directory.parent / "told.json").read_text())["since"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note_told_since(self, since: float) -> None:
        """Keep it with the login.

        Raises:
            ProfileUnusableError: It cannot be written.
        """
        path = self.directory.parent / "told.json"
        try:
            replacement = path.with_name("told.json.new")
            replacement.write_text(json.dumps({"since": since}))
            replacement.replace(path)
        except OSError as error:
            raise ProfileUnusableError(f"profile {path}: {error.strerror}") from error

    def check_room(self) -> None:
        """Make sure that a browser could write to it: one that cannot hangs at its start, or damages what is there.

        Raises:
            ProfileUnusableError: The volume is full.
        """
        free = shutil.disk_usage(self.directory).free
        if free < MIN_FREE:
            raise ProfileUnusableError(
                f"the volume of the profiles is full: {free >> 20} MiB are left, a browser needs {MIN_FREE >> 20}"
            )

    def wipe(self) -> None:
        """Remove what the browser has written. The login is gone then."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete the whole profile, the record of its owners included. `close` it then.

        Raises:
            ProfileUnusableError: Something of it cannot be removed.
        """
        try:
            shutil.rmtree(self.directory.parent)
        except OSError as error:
            raise ProfileUnusableError(f"profile {self.directory.parent}: {error.strerror}") from error


class ProfileStore:
    """All profiles of a volume."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> None:
        """Make sure that profiles can be written.

        Raises:
            ProfileUnusableError: They cannot.
        """
        probe = self._root / f".probe-{os.getpid()}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            raise ProfileUnusableError(f"PROFILE_DIR {self._root} cannot be written: {error.strerror}") from error

    async def open(self, session: SessionKey, *, epoch: int, uid: str, worker: str, wait: float) -> Profile:
        """Take a session's profile.

        Args:
            session: Whose.
            epoch: The owner's; one below the last owner's is refused.
            uid: UID of the session object; another object of the same name counts its epochs anew.
            worker: Name of the pod, for people who look at the volume.
            wait: Seconds to wait for the former owner to let go.

        Raises:
            ProfileTakenError: Somebody else has it, or had it later.
            ProfileUnusableError: The volume cannot be written.
        """
        home = self._root / session.namespace / session.name
        lock = await _take(home, wait)
        try:
            _check_owner(home / "owner.json", epoch=epoch, uid=uid)
            owner = json.dumps({"epoch": epoch, "uid": uid, "worker": worker})
            replacement = home / "owner.json.new"
            replacement.write_text(owner)
            replacement.replace(home / "owner.json")
            directory = home / "chromium"
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            os.close(lock)
            raise ProfileUnusableError(f"profile {home}: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise
        return Profile(directory, lock)


async def _take(home: Path, wait: float) -> int:
    """A descriptor with the lock."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            if (lock := _try(home)) is not None:
                return lock
        except OSError as error:
            raise ProfileUnusableError(f"profile {home}: {error.strerror}") from error
        if loop.time() >= deadline:
            raise ProfileTakenError(f"profile {home} is in use by {_owner_of(home)}")
        await asyncio.sleep(_LOCK_POLL)


def _try(home: Path) -> int | None:
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    if os.fstat(lock).st_nlink == 0:
        # Between the two calls its last owner removed the profile: this is the lock of nothing.
        os.close(lock)
        return None
    return lock


def _owner_of(home: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        return f"worker {json.loads((home / 'owner.json').read_text())['worker']}"
    return "another process"


def _check_owner(path: Path, *, epoch: int, uid: str) -> None:
    if not path.exists():
        return
    try:
        last = json.loads(path.read_text())
    except ValueError:
        # Written whole or not at all; a broken one comes from outside, and the lock has been taken.
        return
    if last.get("uid") == uid and last.get("epoch", 0) > epoch:
        raise ProfileTakenError(
            f"epoch {epoch} is over: worker {last.get('worker')} had the profile with epoch {last['epoch']}"
        )
