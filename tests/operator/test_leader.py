"""Leader election: pure decisions, and candidates on a real (or stood-in) API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kubeclient import KubeClient, path_of
from sandbox.kube import KubeStandIn
from sandbox.kube.clients import connect
from whatsapp_operator.leader import TERM_ANNOTATION, Elector, Move, Seen, Timing, decide, next_term, observe, record_of

QUICK = Timing(duration=1, deadline=0.6, retry=0.1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(holder: str, renewed: str = "t1") -> dict[str, Any]:
    return {"metadata": {}, "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}


def test_a_missing_lease_is_made_and_one_that_was_given_up_is_taken() -> None:
    assert decide(None, "me", None, 0.0) is Move.CREATE
    assert decide(lease(""), "me", Seen("", 0.0), 0.0) is Move.TAKE


def test_a_holder_renews_its_lease_also_after_its_container_was_restarted() -> None:
    assert decide(lease("me"), "me", Seen("", 0.0), 100.0) is Move.RENEW


def test_another_s_lease_is_taken_only_when_it_has_not_moved_for_its_whole_duration_by_our_clock() -> None:
    seen = observe(lease("other"), None, 10.0)
    assert decide(lease("other"), "me", seen, 25.0) is Move.WAIT
    assert decide(lease("other"), "me", seen, 25.1) is Move.TAKE
    moved = observe(lease("other", "t2"), seen, 25.0)
    assert decide(lease("other", "t2"), "me", moved, 39.9) is Move.WAIT


def test_seeing_the_same_record_again_does_not_start_its_time_anew() -> None:
    seen = observe(lease("other"), None, 10.0)
    assert observe(lease("other"), seen, 20.0) is seen


def test_terms_grow_whatever_happens_to_the_lease() -> None:
    first = record_of(None, "a", term=next_term(None, 1000.0), now=NOW, taking=True)
    assert first["metadata"]["annotations"][TERM_ANNOTATION] == "1000"
    # By the count while clocks stand or run back, and by the clock where the lease was deleted or restored.
    assert next_term(first, 10.0) == 1001
    assert next_term(None, 2000.0) == 2000


def test_taking_a_lease_over_counts_a_transition_and_renewing_it_keeps_when_it_was_taken() -> None:
    taken = record_of(lease("other"), "me", term=2, now=NOW, taking=True)
    assert (taken["spec"]["leaseTransitions"], taken["spec"]["acquireTime"]) == (1, "2026-01-01T00:00:00.000000Z")
    renewed = record_of(taken, "me", term=2, now=NOW.replace(hour=1), taking=False)
    assert (renewed["spec"]["leaseTransitions"], renewed["spec"]["acquireTime"]) == (1, "2026-01-01T00:00:00.000000Z")
    assert renewed["spec"]["renewTime"] == "2026-01-01T01:00:00.000000Z"


# --- Candidates


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeClient]:
    directory: Path = tmp_path_factory.mktemp("leader")
    async with KubeStandIn() as kube:
        kube.write_kubeconfig(directory / "kubeconfig")
        found = await connect(directory / "kubeconfig")
        yield found
        await found.aclose()


@asynccontextmanager
async def candidate(client: KubeClient, name: str, identity: str) -> AsyncIterator[Elector]:
    elector = Elector(client, namespace="default", name=name, identity=identity, timing=QUICK)
    elector.start()
    try:
        yield elector
    finally:
        await elector.stop()


async def within(seconds: float, event: asyncio.Event) -> None:
    async with asyncio.timeout(seconds):
        await event.wait()


async def holder(client: KubeClient, name: str) -> str:
    found = await client.get(path_of("coordination.k8s.io/v1", "leases", namespace="default", name=name))
    return str(found["spec"]["holderIdentity"])


async def test_of_two_candidates_one_leads_and_the_other_follows_when_it_ends(client: KubeClient) -> None:
    async with candidate(client, "two", "a") as first:
        await within(10, first.elected)
        async with candidate(client, "two", "b") as second:
            assert first.leads
            assert not second.leads
            await first.stop()
            await within(10, second.elected)
            assert second.term > first.term
            assert await holder(client, "two") == "b"


async def test_a_lease_whose_holder_is_dead_is_taken_when_it_has_run_out(client: KubeClient) -> None:
    dead = record_of(None, "dead", term=7, now=NOW, taking=True, duration=1)
    dead["metadata"]["name"] = "dead"
    await client.create(path_of("coordination.k8s.io/v1", "leases", namespace="default"), dead)
    async with candidate(client, "dead", "heir") as heir:
        await within(20, heir.elected)
        assert heir.term > 7
        assert await holder(client, "dead") == "heir"


async def test_a_leader_whose_lease_was_taken_finds_out_and_does_not_stand_again(client: KubeClient) -> None:
    async with candidate(client, "stolen", "a") as first:
        await within(10, first.elected)
        path = path_of("coordination.k8s.io/v1", "leases", namespace="default", name="stolen")
        await client.patch(path, {"spec": {"holderIdentity": "thief"}})
        await within(10, first.lost)
        assert not first.leads
    assert await holder(client, "stolen") == "thief"


async def test_a_leader_that_cannot_reach_the_api_stops_leading_before_its_lease_has_run_out(tmp_path: Path) -> None:
    kube = KubeStandIn()
    await kube.start()
    kube.write_kubeconfig(tmp_path / "kubeconfig")
    own = await connect(tmp_path / "kubeconfig")
    try:
        async with candidate(own, "cut-off", "a") as first:
            await within(10, first.elected)
            await kube.aclose()
            await within(10, first.lost)
            assert not first.leads
    finally:
        await own.aclose()


def test_a_term_that_is_no_number_is_passed_over() -> None:
    assert next_term({"metadata": {"annotations": {TERM_ANNOTATION: "abc"}}}, 10.0) == 10
