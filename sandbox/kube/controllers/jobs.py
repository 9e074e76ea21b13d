"""Jobs in their simplest honest form. Not there: indexed jobs, pod failure policies, success policies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.kube.admission import random_suffix
from sandbox.kube.api import Api
from sandbox.kube.controllers import Key, object_key
from sandbox.kube.controllers.base import (
    Actor,
    condition,
    is_active,
    is_ready,
    owned,
    owner_key,
    pod_from,
    with_condition,
)
from sandbox.kube.formats import parse_time
from sandbox.kube.resources import StorageKey
from sandbox.kube.store import Event

JsonObject = dict[str, Any]

_PODS: Final = ("", "pods")
_JOBS: Final = ("batch", "jobs")


class Jobs:
    """Runs Jobs to completion."""

    name = "jobs"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._actor = Actor(api, "job-controller")

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Jobs, and their pods."""
        if storage == _JOBS:
            yield object_key(event)
        elif storage == _PODS:
            yield from owner_key(self._api, _JOBS, event)

    def reconcile(self, key: Key) -> float | None:
        """Start what is to be started, then count."""
        found = self._api.store.get(_JOBS, (key[0], key[1]))
        if found is None or found.value["metadata"].get("deletionTimestamp"):
            return None
        job = found.value
        if (end := condition(job, "Complete") or condition(job, "Failed")) is not None:
            return self._expire(job, end)
        pods = [stored.value for stored in owned(self._api, _PODS, job)]
        active = [pod for pod in pods if is_active(pod)]
        succeeded = sum(1 for pod in pods if (pod.get("status") or {}).get("phase") == "Succeeded")
        failed = sum(1 for pod in pods if (pod.get("status") or {}).get("phase") == "Failed")
        spec, status = job["spec"], dict(job.get("status") or {})
        status.setdefault("startTime", self._api.now())
        wanted = spec.get("completions")
        complete = succeeded >= wanted if wanted is not None else succeeded > 0 and not active
        deadline = spec.get("activeDeadlineSeconds")
        started = parse_time(status["startTime"])
        overdue = deadline is not None and datetime.now(UTC) - started >= timedelta(seconds=deadline)
        verdict: tuple[str, str, str] | None = None
        if complete:
            verdict = ("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif overdue:
            verdict = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
        elif failed > spec.get("backoffLimit", 6):
            verdict = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        later = self._run(job, active, succeeded, failed) if verdict is None else None
        if verdict is not None:
            for pod in active:
                self._actor.delete(self._actor.resource("v1", "Pod"), pod)
        self._report(key, status, (succeeded, failed), verdict)
        if verdict is None and deadline is not None:
            remaining = (started + timedelta(seconds=deadline) - datetime.now(UTC)).total_seconds()
            return min(max(remaining, 0.1), later if later is not None else math.inf)
        return later

    def _run(self, job: JsonObject, active: list[JsonObject], succeeded: int, failed: int) -> float | None:
        spec = job["spec"]
        if spec.get("suspend"):
            for pod in active:
                self._actor.delete(self._actor.resource("v1", "Pod"), pod)
            return None
        wanted = spec.get("completions")
        open_places = spec.get("parallelism", 1) - len(active)
        if wanted is not None:
            open_places = min(open_places, wanted - succeeded - len(active))
        elif succeeded:
            open_places = 0  # A work queue is being emptied; no new workers.
        if open_places > 0 and failed:
            # Failed pods delay the next ones: 10 s, 20 s, 40 s, up to 6 minutes.
            ended = [
                parse_time(state["finishedAt"])
                for item in owned(self._api, _PODS, job)
                for status in (item.value.get("status") or {}).get("containerStatuses") or ()
                if (state := (status.get("state") or {}).get("terminated")) and state.get("exitCode")
            ]
            delay = min(10 * 2 ** (failed - 1), 360)
            left = (max(ended) + timedelta(seconds=delay) - datetime.now(UTC)).total_seconds() if ended else 0
            if left > 0:
                return left
        for _ in range(max(open_places, 0)):
            meta = job["metadata"]
            body = pod_from(job, spec["template"], f"{meta['name']}-")
            body["metadata"]["name"] = f"{meta['name'][:57]}-{random_suffix()}"
            self._actor.create(self._actor.resource("v1", "Pod"), meta["namespace"], body)
            self._actor.tell(job, "SuccessfulCreate", f"Created pod: {body['metadata']['name']}")
        return None

    def _report(
        self, key: Key, status: JsonObject, ended: tuple[int, int], verdict: tuple[str, str, str] | None
    ) -> None:
        found = self._api.store.get(_JOBS, (key[0], key[1]))
        if found is None:
            return
        job, now = found.value, self._api.now()
        pods = [stored.value for stored in owned(self._api, _PODS, job) if is_active(stored.value)]
        counts = {"active": len(pods), "ready": sum(map(is_ready, pods)), "succeeded": ended[0], "failed": ended[1]}
        for name, count in counts.items():
            if count or name == "ready":
                status[name] = count
            else:
                status.pop(name, None)
        if verdict is not None:
            kind, reason, message = verdict
            status.pop("active", None)
            former = status.get("conditions") or []
            target = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
            text = {"reason": reason, "message": message, "now": now}
            former = with_condition(former, target, status=True, update_time=False, **text)
            status["conditions"] = with_condition(former, kind, status=True, update_time=False, **text)
            for item in status["conditions"]:
                item.setdefault("lastProbeTime", now)
            if kind == "Complete":
                status["completionTime"] = now
                self._actor.tell(job, "Completed", "Job completed")
            else:
                self._actor.tell(job, reason, message, kind="Warning")
        self._actor.set_status(self._actor.resource("batch/v1", "Job"), job, status)

    def _expire(self, job: JsonObject, end: JsonObject) -> float | None:
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        if seconds is None:
            return None
        due = parse_time(end["lastTransitionTime"]) + timedelta(seconds=seconds)
        left = (due - datetime.now(UTC)).total_seconds()
        if left > 0:
            return left
        self._actor.delete(self._actor.resource("batch/v1", "Job"), job)
        return None
