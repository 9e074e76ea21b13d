"""Watches: on the stand-in and on a real API server."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.kube_cluster import WIDGET, Api, Cluster

BOOKMARKS = {"allowWatchBookmarks": "true"}


async def version(api: Api, path: str) -> str:
    """The resourceVersion to watch a collection from."""
    listed = (await api.get(path)).ok()
    return str(listed["metadata"]["resourceVersion"])


async def test_a_watch_tells_what_happens_after_a_version(api: Api) -> None:
    path = api.path(WIDGET)
    await api.create(path, api.widget("before"))
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since) as events:
        await api.create(path, api.widget("a"))
        await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 3}})
        await api.patch(api.path(WIDGET, "a", "status"), {"status": {"phase": "Ready"}})
        await api.delete(api.path(WIDGET, "a"))

        assert await events.take(4) == [("ADDED", "a"), ("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_what_happened_since_a_version_is_told_later(api: Api) -> None:
    path = api.path(WIDGET)
    since = await version(api, path)
    await api.create(path, api.widget("a"))
    await api.delete(api.path(WIDGET, "a"))

    async with api.watch(path, resourceVersion=since) as events:
        first, second = await events.next(), await events.next()

    assert (first["type"], second["type"]) == ("ADDED", "DELETED")
    assert int(second["object"]["metadata"]["resourceVersion"]) > int(first["object"]["metadata"]["resourceVersion"])


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}])
async def test_a_watch_without_a_version_begins_with_what_there_is(api: Api, query: dict[str, str]) -> None:
    path = api.path(WIDGET)
    for name in ("b", "a"):
        await api.create(path, api.widget(name))

    async with api.watch(path, **query) as events:
        assert sorted(await events.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
        await api.create(path, api.widget("c"))
        assert await events.take(1) == [("ADDED", "c")]


async def test_a_watch_sees_its_namespace_only(api: Api) -> None:
    path = api.path(WIDGET)
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since) as events:
        await api.create(api.path(WIDGET, namespace="default"), api.widget(api.namespace))
        await api.create(path, api.widget("mine"))

        assert await events.take(1) == [("ADDED", "mine")]


async def test_an_object_that_stops_matching_is_deleted_for_the_watcher(api: Api) -> None:
    path, one = api.path(WIDGET), api.path(WIDGET, "a")
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since, labelSelector="on=yes") as events:
        await api.create(path, api.widget("a"))
        await api.patch(one, {"metadata": {"labels": {"on": "yes"}}})
        await api.patch(one, {"spec": {"size": 3}})
        gone = (await api.patch(one, {"metadata": {"labels": {"on": "no"}}, "spec": {"size": 4}})).ok()
        await api.delete(one)
        await api.create(path, api.widget("b", metadata={"labels": {"on": "yes"}}))

        added, modified, deleted, last = [await events.next() for _ in range(4)]

    assert [event["type"] for event in (added, modified, deleted, last)] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    assert deleted["object"]["metadata"]["labels"] == {"on": "yes"}
    assert deleted["object"]["spec"]["size"] == 3
    assert deleted["object"]["metadata"]["resourceVersion"] == gone["metadata"]["resourceVersion"]
    assert last["object"]["metadata"]["name"] == "b"


async def test_a_watch_of_one_name_sees_one_object(api: Api) -> None:
    path = api.path(WIDGET)
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since, fieldSelector="metadata.name=b") as events:
        for name in ("a", "b", "c"):
            await api.create(path, api.widget(name))

        assert await events.take(1) == [("ADDED", "b")]


async def test_a_watch_ends_when_its_time_is_over(api: Api) -> None:
    path = api.path(WIDGET)
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since, timeoutSeconds=1) as events:
        assert [event["type"] for event in await events.rest()] == []


async def test_bookmarks_tell_how_far_a_watch_has_come(api: Api) -> None:
    """A real server sends one before the end of a watch as well, so that no test waits for a minute."""
    path = api.path(WIDGET)
    since = await version(api, path)

    async with api.watch(path, resourceVersion=since, timeoutSeconds=5, **BOOKMARKS) as events:
        await api.create(path, api.widget("a"))
        bookmark = (await events.rest())[-1]

    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "Widget"
    assert set(bookmark["object"]) <= {"kind", "apiVersion", "metadata", "spec"}
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(since)


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    path = api.path(WIDGET)
    await api.create(path, api.widget("a"))
    query = {**BOOKMARKS, "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    async with api.watch(path, **query) as events:
        first, end = await events.next(), await events.next()
        await api.create(path, api.widget("b"))
        after = await events.next()

    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "a")
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert (after["type"], after["object"]["metadata"]["name"]) == ("ADDED", "b")


async def test_a_version_that_is_forgotten_is_gone(api: Api) -> None:
    """The stand-in's history is bounded; a real server has just begun its own, so that 1 is before it."""
    if api.cluster.standin is not None:
        api.cluster.standin.store.compact()

    async with api.watch(api.path(WIDGET), resourceVersion=1) as events:
        found = await events.rest()

    assert [event["type"] for event in found] == ["ERROR"]
    status = found[0]["object"]
    assert (status["code"], status["reason"], status["kind"]) == (410, "Expired", "Status")
    assert status["message"].startswith("too old resource version: 1 (")


async def test_a_version_from_the_future_is_refused(api: Api) -> None:
    future = int(await version(api, api.path(WIDGET))) + 100_000

    answer = await api.get(api.path(WIDGET), resourceVersion=future, resourceVersionMatch="NotOlderThan")

    assert answer.status == 504
    assert answer.message.startswith(f"Timeout: Too large resource version: {future}, current: ")
    assert {cause[0] for cause in answer.causes} == {"ResourceVersionTooLarge"}


async def test_the_history_of_the_stand_in_is_bounded(standin_api: Api) -> None:
    path = standin_api.path("configmaps")
    since = await version(standin_api, path)
    await standin_api.create(path, standin_api.config_map("a"))
    for number in range(450):
        await standin_api.patch(f"{path}/a", {"data": {"n": str(number)}})

    async with standin_api.watch(path, resourceVersion=since) as events:
        found = await events.rest()

    assert found[0]["object"]["code"] == 410


async def test_many_watchers_see_the_same(standin: Cluster, standin_api: Api) -> None:
    path = standin_api.path(WIDGET)
    since = await version(standin_api, path)

    async def one() -> list[tuple[str, str]]:
        async with standin_api.watch(path, resourceVersion=since) as events:
            opened.release()
            return await events.take(20)

    opened = asyncio.Semaphore(0)
    watchers = [asyncio.create_task(one()) for _ in range(20)]
    for _ in watchers:
        await opened.acquire()
    for number in range(20):
        await standin_api.create(path, standin_api.widget(f"w{number}"))

    assert await asyncio.gather(*watchers) == [[("ADDED", f"w{number}") for number in range(20)]] * 20


async def test_a_watch_in_table_form_tells_rows(api: Api) -> None:
    path = api.path(WIDGET)
    since = await version(api, path)
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

    async with api.watch(path, accept=accept, resourceVersion=since) as events:
        await api.create(path, api.widget("a", color="green"))
        event = await events.next()

    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][:2] == ["a", "green"]
    assert event["object"]["rows"][0]["object"]["metadata"]["name"] == "a"
