"""The operator's cache: never older than its own writes, whatever order the news comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kubeclient import ConflictError, NotFoundError
from tests.support.kube_product import ProductApi
from whatsapp_operator.cluster import Cluster, Kind, merge_patch
from whatsapp_operator.resources import FINALIZER


@pytest.fixture
async def cluster(kube: ProductApi, namespace: str) -> AsyncIterator[Cluster]:
    """The operator's hands, for the test's namespace."""
    hands = Cluster(await kube.connect(), (namespace,))
    yield hands
    await hands.aclose()


async def test_news_from_before_our_own_write_changes_nothing(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "a")
    await cluster.load()
    before = cluster.cache.objects[Kind.SESSION][namespace, "a"]
    await cluster.write_status(Kind.SESSION, before, {"observedGeneration": 1, "phase": "Pending"})
    ours = cluster.cache.objects[Kind.SESSION][namespace, "a"]
    assert ours["status"]["phase"] == "Pending"
    assert cluster.see(Kind.SESSION, before, deleted=False) is False
    assert cluster.cache.objects[Kind.SESSION][namespace, "a"] is ours
    assert cluster.see(Kind.SESSION, await kube.patch(namespace, "a", {"spec": {"priority": 1}}), deleted=False)


async def test_a_write_on_old_knowledge_fails_and_brings_the_new(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    stale = await kube.create(namespace, "a")
    await kube.patch(namespace, "a", {"spec": {"priority": 5}})
    cluster.see(Kind.SESSION, stale, deleted=False)
    with pytest.raises(ConflictError):
        await cluster.write_status(Kind.SESSION, stale, {"observedGeneration": 1})
    known = cluster.cache.objects[Kind.SESSION][namespace, "a"]
    assert known["spec"]["priority"] == 5
    await cluster.write_status(Kind.SESSION, known, {"observedGeneration": 2})


async def test_a_status_is_replaced_as_a_whole(kube: ProductApi, cluster: Cluster, namespace: str) -> None:
    await kube.create(namespace, "a")
    await cluster.load()
    for status in ({"observedGeneration": 1, "message": "x", "phase": "Pending"}, {"observedGeneration": 1}):
        await cluster.write_status(Kind.SESSION, cluster.cache.objects[Kind.SESSION][namespace, "a"], status)
    left = (await kube.get(namespace, "a"))["status"]
    assert {name for name in left if left[name]} == {"observedGeneration"}


async def test_an_object_that_is_gone_is_forgotten_when_it_is_written(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    made = await kube.create(namespace, "a")
    cluster.see(Kind.SESSION, made, deleted=False)
    await kube.client.delete(kube.path(namespace, "a"))
    with pytest.raises(NotFoundError):
        await cluster.write_status(Kind.SESSION, made, {"observedGeneration": 1})
    assert cluster.cache.objects[Kind.SESSION] == {}


async def test_the_finalizer_keeps_an_object_until_it_is_taken_off(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "a")
    await kube.patch(namespace, "a", {"metadata": {"finalizers": ["example.test/other"]}})
    await cluster.load()
    await cluster.set_finalizer(cluster.cache.objects[Kind.SESSION][namespace, "a"], present=True)
    await kube.client.delete(kube.path(namespace, "a"))
    leaving = await kube.get(namespace, "a")
    assert leaving["metadata"]["finalizers"] == ["example.test/other", FINALIZER]
    cluster.see(Kind.SESSION, leaving, deleted=False)
    await cluster.set_finalizer(leaving, present=False)
    # Somebody else's finalizer still holds it.
    kept = cluster.cache.objects[Kind.SESSION][namespace, "a"]
    assert kept["metadata"]["finalizers"] == ["example.test/other"]
    await kube.patch(namespace, "a", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFoundError):
        await kube.get(namespace, "a")


async def test_the_end_of_an_old_object_is_not_that_of_the_new_one(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    old = await kube.create(namespace, "a")
    cluster.see(Kind.SESSION, old, deleted=False)
    await kube.client.delete(kube.path(namespace, "a"))
    new = await kube.create(namespace, "a")
    cluster.see(Kind.SESSION, new, deleted=False)
    cluster.see(Kind.SESSION, old, deleted=True)
    known = cluster.cache.objects[Kind.SESSION][namespace, "a"]
    assert known["metadata"]["uid"] == new["metadata"]["uid"]


async def test_a_full_list_removes_what_went_unnoticed(kube: ProductApi, cluster: Cluster, namespace: str) -> None:
    await kube.create(namespace, "a")
    await kube.create(namespace, "b")
    await cluster.load()
    await kube.client.delete(kube.path(namespace, "a"))
    await cluster.load()
    assert set(cluster.cache.objects[Kind.SESSION]) == {(namespace, "b")}


async def test_an_event_is_posted_where_kubectl_describe_looks(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    item = await kube.create(namespace, "a")
    await cluster.record(Kind.SESSION, item, severity="Warning", reason="NoRoom", message="x" * 2000)
    events, _ = await kube.client.list(f"/api/v1/namespaces/{namespace}/events")
    (event,) = [event for event in events if event["involvedObject"]["uid"] == item["metadata"]["uid"]]
    assert (event["reason"], event["type"], len(event["message"])) == ("NoRoom", "Warning", 1024)


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_a_merge_patch_says_only_what_differs(
    old: dict[str, object], new: dict[str, object], patch: dict[str, object]
) -> None:
    assert merge_patch(old, new) == patch
