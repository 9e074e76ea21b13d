"""Evictions under disruption budgets, and the scale subresource, on the stand-in and on a real API server."""

from __future__ import annotations

from typing import Any

from tests.support.kube_cluster import WIDGET, Answer, Api, ready_pod

BUDGETS = "policy/v1/poddisruptionbudgets"


async def pods(api: Api, count: int) -> list[str]:
    """Pods that are ready, as far as their status says."""
    names = [f"p{index}" for index in range(count)]
    for name in names:
        (await api.create(api.path("pods"), api.pod(name, metadata={"labels": {"app": "web"}}))).ok()
        await ready_pod(api, name)
    return names


async def budget(api: Api, allowed: int, name: str = "web", **spec: Any) -> None:
    """A budget for the pods, once it allows so many disruptions."""
    body = {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}}
    (await api.create(api.path(BUDGETS), body)).ok()

    def counted(answer: Answer) -> bool:
        status = answer.body.get("status") or {}
        return status.get("observedGeneration") == 1 and status["disruptionsAllowed"] == allowed

    await api.until(api.path(BUDGETS, name), counted)


async def evict(api: Api, name: str, **more: Any) -> Answer:
    """Ask for an eviction."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **more}
    return await api.create(api.path("pods", name, "eviction"), body)


async def test_an_eviction_without_a_budget_deletes_the_pod(api: Api) -> None:
    await pods(api, 1)

    answer = await evict(api, "p0")

    assert (answer.status, answer.body["status"]) == (201, "Success")
    await api.until_gone(api.path("pods", "p0"))


async def test_an_eviction_within_the_budget_is_granted_and_one_beyond_it_refused(api: Api) -> None:
    await pods(api, 3)
    await budget(api, 1, minAvailable=2)

    granted = await evict(api, "p0")
    refused = await evict(api, "p1")

    assert granted.status == 201
    assert (refused.status, refused.body["reason"]) == (429, "TooManyRequests")
    assert refused.message == "Cannot evict pod as it would violate the pod's disruption budget."
    [cause] = refused.body["details"]["causes"]
    assert cause["reason"] == "DisruptionBudget"
    assert (await api.get(api.path("pods", "p1"))).status == 200


async def test_a_refused_eviction_says_how_many_pods_the_budget_needs(api: Api) -> None:
    await pods(api, 2)
    await budget(api, 0, minAvailable=2)

    refused = await evict(api, "p1")

    assert refused.causes == {
        ("DisruptionBudget", "", "The disruption budget web needs 2 healthy pods and has 2 currently")
    }


async def test_a_budget_counts_again_once_another_pod_is_ready(api: Api) -> None:
    await pods(api, 2)
    await budget(api, 0, minAvailable=2)
    assert (await evict(api, "p0")).status == 429

    (await api.create(api.path("pods"), api.pod("more", metadata={"labels": {"app": "web"}}))).ok()
    await ready_pod(api, "more")
    await api.until(api.path(BUDGETS, "web"), lambda answer: answer.body["status"]["disruptionsAllowed"] == 1)

    assert (await evict(api, "p0")).status == 201


async def test_a_pod_that_is_not_ready_yet_is_evicted_whatever_the_budget(api: Api) -> None:
    await pods(api, 1)
    (await api.create(api.path("pods"), api.pod("new", metadata={"labels": {"app": "web"}}))).ok()
    await budget(api, 0, minAvailable=1)

    assert (await evict(api, "new")).status == 201


async def test_a_dry_run_evicts_nothing(api: Api) -> None:
    await pods(api, 1)

    assert (await evict(api, "p0", deleteOptions={"dryRun": ["All"]})).status == 201
    assert (await api.get(api.path("pods", "p0"))).status == 200


async def test_two_budgets_for_one_pod_are_an_error(api: Api) -> None:
    await pods(api, 1)
    await budget(api, 1, "one", minAvailable=0)
    await budget(api, 1, "two", minAvailable=0)

    answer = await evict(api, "p0")

    assert answer.status == 500
    assert "more than one PodDisruptionBudget" in answer.message


async def test_an_eviction_of_nothing_is_not_found(api: Api) -> None:
    answer = await evict(api, "nobody")

    assert (answer.status, answer.message) == (404, 'pods "nobody" not found')


# --- Scale ------------------------------------------------------------------------------------------------------------


async def test_a_custom_resource_is_scaled(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", replicas=2))
    await api.patch(api.path(WIDGET, "a", "status"), {"status": {"replicas": 1, "selector": "app=web"}})
    path = api.path(WIDGET, "a", "scale")

    scale = (await api.get(path)).ok()
    answer = await api.replace(path, {**scale, "spec": {"replicas": 5}})

    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 1, "selector": "app=web"})
    assert answer.ok()["spec"] == {"replicas": 5}
    widget = (await api.get(api.path(WIDGET, "a"))).ok()
    assert (widget["spec"]["replicas"], widget["metadata"]["generation"]) == (5, 2)


async def test_a_scale_is_patched(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", replicas=2))

    answer = await api.patch(api.path(WIDGET, "a", "scale"), {"spec": {"replicas": 0}})

    assert answer.ok()["spec"].get("replicas", 0) == 0
    assert (await api.get(api.path(WIDGET, "a"))).ok()["spec"]["replicas"] == 0


async def test_a_custom_resource_without_a_number_of_replicas_has_no_scale(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.get(api.path(WIDGET, "a", "scale"))

    assert answer.status == 500
    assert 'the spec replicas field ".spec.replicas" does not exist' in answer.message


async def test_a_stale_scale_is_a_conflict(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", replicas=2))
    path = api.path(WIDGET, "a", "scale")
    scale = (await api.get(path)).ok()
    await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 1}})

    assert (await api.replace(path, {**scale, "spec": {"replicas": 5}})).status == 409


async def test_a_deployment_is_scaled(api: Api) -> None:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "example/main:1"}]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    path = api.path("apps/v1/deployments", "web")
    (await api.create(api.path("apps/v1/deployments"), {"metadata": {"name": "web"}, "spec": spec})).ok()
    await api.until(path, lambda answer: answer.body.get("status", {}).get("replicas") == 1)

    (await api.patch(f"{path}/scale", {"spec": {"replicas": 3}})).ok()
    await api.until(path, lambda answer: answer.body["status"].get("replicas") == 3)

    assert (await api.get(f"{path}/scale")).ok()["status"] == {"replicas": 3, "selector": "app=web"}
