"""What the worker uses of its memory, on both versions of control groups, and what it does about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.contract import SessionKey
from session_worker.memory import MemoryReader, Usage
from session_worker.relief import ROOMY, TIDY_EVERY, TIGHT, Awake, Relief, relieve

GIB = 1 << 30


def group(root: Path, files: dict[str, str], lines: str) -> MemoryReader:
    """A reader in a made-up /proc and /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryReader(proc=root / "proc", groups=root / "groups")


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        (
            "0::/kubepods/pod1/c1\n",
            {
                "groups/kubepods/pod1/c1/memory.current": "900\n",
                "groups/kubepods/pod1/c1/memory.max": "1000\n",
                "groups/kubepods/pod1/c1/memory.stat": "anon 700\ninactive_file 100\nactive_file 50\n",
            },
        ),
        (
            # Inside a container with its own namespace the group is the root.
            "0::/\n",
            {
                "groups/memory.current": "900\n",
                "groups/memory.max": "1000\n",
                "groups/memory.stat": "anon 700\ninactive_file 100\n",
            },
        ),
        (
            "5:cpu,cpuacct:/x\n4:memory:/kubepods/pod1/c1\n0::/\n",
            {
                "groups/memory/kubepods/pod1/c1/memory.usage_in_bytes": "900\n",
                "groups/memory/kubepods/pod1/c1/memory.limit_in_bytes": "1000\n",
                "groups/memory/kubepods/pod1/c1/memory.stat": "inactive_file 10\ntotal_inactive_file 100\n",
            },
        ),
        (
            "4:memory:/docker/elsewhere\n",
            {
                "groups/memory/memory.usage_in_bytes": "900\n",
                "groups/memory/memory.limit_in_bytes": "1000\n",
                "groups/memory/memory.stat": "total_inactive_file 100\n",
            },
        ),
    ],
    ids=["v2", "v2 in a container", "v1", "v1 in a container"],
)
def test_a_control_group_is_read_without_the_cache_that_can_be_dropped(
    tmp_path: Path, lines: str, files: dict[str, str]
) -> None:
    assert group(tmp_path, files, lines).usage([]) == Usage(800, 1000)


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/\n", {"groups/memory.current": "900\n", "groups/memory.max": "max\n"}),
        (
            "4:memory:/\n",
            {
                "groups/memory/memory.usage_in_bytes": "900\n",
                "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
        ),
    ],
    ids=["v2", "v1"],
)
def test_without_a_limit_the_processes_themselves_are_measured(
    tmp_path: Path, lines: str, files: dict[str, str]
) -> None:
    usage = group(tmp_path, files, lines).usage([])
    assert usage.used > 1_000_000
    assert usage.limit == 0


# --- The decision

keys = st.integers(0, 30).map(lambda number: SessionKey("ns", f"s{number}"))
seconds = st.floats(0, 10_000)
sessions = st.builds(
    Awake,
    key=keys,
    memory=st.integers(0, GIB),
    idle=st.none() | seconds,
    tidied=st.none() | seconds,
)
awake = st.lists(sessions, max_size=20, unique_by=lambda one: one.key)
asleep = st.dictionaries(keys, st.integers(0, GIB), max_size=5)
used = st.integers(0, 4 * GIB)


@given(used, awake, asleep)
def test_without_a_limit_nothing_is_done(used: int, awake: list[Awake], asleep: dict[SessionKey, int]) -> None:
    assert relieve(used, 0, awake, asleep, session_timeout=300) == Relief()


@given(st.integers(0, int(TIGHT * 2 * GIB)), awake, asleep)
def test_with_room_nothing_is_taken_and_only_what_fits_is_woken(
    used: int, awake: list[Awake], asleep: dict[SessionKey, int]
) -> None:
    todo = relieve(used, 2 * GIB, awake, asleep, session_timeout=300)
    assert (todo.tidy, todo.sleep) == ((), ())
    if todo.wake is not None:
        assert todo.wake == next(iter(asleep))
        assert used + asleep[todo.wake] <= ROOMY * 2 * GIB


@given(st.integers(int(TIGHT * 2 * GIB) + 1, 4 * GIB), awake, asleep)
def test_when_it_is_tight_the_cheap_means_come_first_and_the_longest_idle_next(
    used: int, awake: list[Awake], asleep: dict[SessionKey, int]
) -> None:
    todo = relieve(used, 2 * GIB, awake, asleep, session_timeout=300)
    by_key = {one.key: one for one in awake}
    assert todo.wake is None
    untidy = {one.key for one in awake if one.tidied is None or one.tidied >= TIDY_EVERY}
    assert set(todo.tidy) == untidy
    if untidy:
        assert todo.sleep == ()
    chosen = [by_key[key] for key in todo.sleep]
    idle = [one.idle for one in chosen]
    assert all(time is not None and time >= 300 for time in idle)
    # No session that was used later sleeps while one that was used earlier does not.
    left = [one.idle for one in awake if one.key not in todo.sleep and one.idle is not None]
    assert not chosen or max(left, default=0.0) <= min(time for time in idle if time is not None)
    # None more than needed: without the last it would still be tight.
    assert not chosen or used - sum(one.memory for one in chosen[:-1]) > TIGHT * 2 * GIB
    # Enough, unless there are no more or the last was never measured.
    enough = used - sum(one.memory for one in chosen) <= TIGHT * 2 * GIB
    more = [time for time in left if time >= 300]
    assert untidy or enough or not more or (chosen and chosen[-1].memory == 0)
