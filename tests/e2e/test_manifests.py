"""What the API server says of manifests that cannot be right: the field, and the fix."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.people import KubectlError, World

pytestmark = pytest.mark.e2e

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "session",
        {"pairing": {"method": "PairingCode"}},
        "phoneNumber is required when method is PairingCode: give the account's number, digits only",
    ),
    ("session", {"pairing": {"timeout": "5s"}}, "timeout must be between 60s and 24h"),
    ("session", {"hibernateAfter": "10s"}, "hibernateAfter must be at least 60s"),
    ("session", {"state": "Paused"}, 'spec.state: Unsupported value: "Paused"'),
    ("session", {"pairing": {"phoneNumber": "+55 11 9"}}, "spec.pairing.phoneNumber"),
    ("session", {"webhooks": [{"url": "ftp://x"}]}, "spec.webhooks[0].url"),
    ("session", {"throttle": {"messagesPerMinute": 0}}, "spec.throttle.messagesPerMinute"),
    ("pool", {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}, "minReplicas must not exceed maxReplicas"),
    (
        "pool",
        {"autoscaling": {"minReplicas": 0}},
        "minReplicas 0 needs source keda: the HPA itself cannot scale to zero",
    ),
    ("pool", {"drain": {"timeout": "2h"}}, "timeout must be between 10s and 1h"),
    (
        "pool",
        {"browser": {"args": ["--user-data-dir=/x"]}},
        "args must not set --user-data-dir or --remote-debugging-*: the worker owns them",
    ),
    ("pool", {"memoryThreshold": 200}, "spec.memoryThreshold"),
]


@pytest.mark.parametrize(("kind", "spec", "message"), REFUSED)
async def test_a_bad_manifest_is_refused_with_the_field_and_the_fix(
    world: World, kind: str, spec: dict[str, Any], message: str
) -> None:
    manifest = world.session("bad", **spec) if kind == "session" else world.pool("bad", **spec)
    with pytest.raises(KubectlError) as refused:
        await world.kubectl.apply(manifest)
    assert message in str(refused.value)
    assert await world.kubectl.all("wa" if kind == "session" else "wapool") == []


async def test_a_running_session_cannot_change_its_pool_but_a_stopped_one_can(world: World) -> None:
    await world.kubectl.apply(world.session("movable"))
    with pytest.raises(KubectlError) as refused:
        await world.kubectl.apply(world.session("movable", pool="other"))
    assert "poolRef is immutable while state is Running: set state to Stopped" in str(refused.value)
    await world.kubectl.apply(world.session("movable", state="Stopped"))
    await world.kubectl.apply(world.session("movable", pool="other", state="Stopped"))
    assert (await world.kubectl.get("wa", "movable"))["spec"]["poolRef"]["name"] == "other"


async def test_a_misspelt_field_is_named(world: World) -> None:
    with pytest.raises(KubectlError) as refused:
        await world.kubectl.apply(world.session("typo", prority=3))
    assert "prority" in str(refused.value)
