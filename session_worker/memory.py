"""Memory of this worker and of each browser, in bytes.

Owns the reading of /proc and of control groups, version 1 and 2. Must not decide what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""Control groups of version 1 say "no limit" with a number near 2^63."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the worker uses of what it may use."""

    used: int
    limit: int
    """0 when there is none."""


class MemoryReader:
    """Reads memory figures; `limit` is the container's limit where the pod says it by MEMORY_LIMIT_BYTES."""

    def __init__(self, limit: int | None = None, *, proc: Path = _PROC, groups: Path = _CGROUP) -> None:
        self._group = _own_group(proc, groups)
        group_limit = _group_value(self._group, "memory.max", "memory.limit_in_bytes")
        self._in_group = group_limit is not None and group_limit < _UNLIMITED
        self._limit = limit or (group_limit if self._in_group and group_limit else 0)

    def usage(self, browsers: Iterable[int]) -> Usage:
        """Use of this worker with its browsers.

        Inside a container with a limit it is the control group's own figure without the page cache that can be
        dropped, which is what the kernel kills for and what the kubelet shows. Elsewhere it is the proportional set
        size of this process and the browsers.

        Args:
            browsers: Process ids of the browsers' group leaders.
        """
        if self._in_group and (used := self._group_use()) is not None:
            return Usage(used, self._limit)
        members = session_members(browsers)
        return Usage(_pss("self") + sum(map(_pss, (pid for pids in members.values() for pid in pids))), self._limit)

    def _group_use(self) -> int | None:
        current = _group_value(self._group, "memory.current", "memory.usage_in_bytes")
        if current is None:
            return None
        return max(0, current - _inactive_file(self._group))


def per_browser(browsers: Iterable[int]) -> dict[int, int]:
    """Proportional set size of each browser with all its processes, by the id of its group leader."""
    return {leader: sum(map(_pss, pids)) for leader, pids in session_members(browsers).items()}


def session_members(leaders: Iterable[int]) -> Mapping[int, list[int]]:
    """The processes of each session, by the id of its leader. Browsers are started as leaders of their own session."""
    wanted: dict[int, list[int]] = {leader: [] for leader in leaders}
    if not wanted:
        return wanted
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it ended while we were looking
        # The name of the program stands in parentheses and may hold anything; the session is the fourth field after it.
        session = int(stat.rpartition(")")[2].split()[3])
        if session in wanted:
            wanted[session].append(int(entry.name))
    return wanted


def _pss(pid: int | str) -> int:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0  # it ended while we were looking
    return 0


def _own_group(proc: Path, groups: Path) -> Path:
    """The directory of this process' memory control group."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        number, controllers, path = line.split(":", 2)
        relative = path.lstrip("/")
        if number == "0" and not controllers:
            # In a container the group's own path is hidden, and its files lie at the root.
            return candidate if (candidate := groups / relative).joinpath("memory.current").exists() else groups
        if "memory" in controllers.split(","):
            root = groups / "memory"
            return candidate if (candidate := root / relative).exists() else root
    return groups


def _group_value(group: Path, *names: str) -> int | None:
    for name in names:
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        return None if text == "max" else int(text)
    return None


def _inactive_file(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
