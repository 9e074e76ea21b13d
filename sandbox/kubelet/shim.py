"""The first process of every container: starts the main process, reaps everything below it, and leaves nothing behind.

Run as a program of its own, without the rest of the package: `python -I -S shim.py PARENT STATUS_FD DIRECTORY ARGV...`.
It owns what a PID namespace and a container runtime give elsewhere: when the main process ends, everything it started
ends with it; when the pod runner dies, however it dies, so does the container.

On STATUS_FD it writes lines of JSON: `{"pid": N}` once the main process runs, `{"error": "..."}` where it could not be
started, and at the end `{"code": N}` or `{"signal": N}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PARENT_DIED: Final = signal.SIGUSR1


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib would double the start-up time of every container
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123  # as above
                # The name of the program stands in parentheses and may hold anything.
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue  # It ended while we looked.
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    pending = list(children.get(pid, ()))
    while pending:
        current = pending.pop(0)
        found.append(current)
        pending.extend(children.get(current, ()))
    return found


def _kill(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # It ended before we came.


def _kill_everything() -> None:
    """Kill and reap until nothing is left; orphans come to us, because we are their subreaper."""
    while True:
        _kill(descendants(os.getpid()), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _exec(argv: list[str], directory: str, failure: int) -> NoReturn:
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, _PARENT_DIED):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir(directory)
        os.execvp(argv[0], argv)  # noqa: S606  # starting programs is what this is for
    except OSError as error:
        os.write(failure, f"{error.strerror}: {error.filename or argv[0]}".encode())
        os._exit(127)


def main(parent: int, status: int, directory: str, argv: list[str]) -> None:
    """Run a container."""

    def report(value: dict[str, object]) -> None:
        try:
            os.write(status, json.dumps(value).encode() + b"\n")
        except BrokenPipeError:
            return  # The runner is gone, and its death signal is on the way.

    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(status, False)  # noqa: FBT003  # the only form there is
    reading, writing = os.pipe()
    blocked = {signal.SIGTERM, signal.SIGINT, _PARENT_DIED}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    _prctl(_PR_SET_PDEATHSIG, _PARENT_DIED)
    if os.getppid() != parent:
        return  # The runner died before we asked to be told.
    child = os.fork()
    if child == 0:
        os.close(reading)
        _exec(argv, directory, writing)
    os.close(writing)

    def forward(number: int, _frame: FrameType | None) -> None:
        _kill([child], number)

    def die(_number: int, _frame: FrameType | None) -> None:
        _kill_everything()
        os._exit(1)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.signal(_PARENT_DIED, die)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    failure = os.read(reading, 4096)
    os.close(reading)
    report({"error": failure.decode(errors="replace")} if failure else {"pid": child})
    while True:
        pid, result = os.waitpid(-1, 0)
        if pid == child:
            break
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _kill_everything()
    code = os.waitstatus_to_exitcode(result)
    if not failure:
        report({"code": code} if code >= 0 else {"signal": -code})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
