"""From Kubernetes objects and heartbeats to the fleet.

Owns the reading of raw objects and the conclusions about a worker's life. Must not do I/O or read a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from session_worker.contract import (
    HEARTBEAT_KEPT,
    LEASE_DURATION,
    Assignment,
    Beat,
    Proxy,
    RuntimeState,
    SessionKey,
    WorkerKey,
    WorkerSpec,
)
from whatsapp_operator.fleet import Life, Pool, PoolKey, Session, Worker
from whatsapp_operator.pods import DRAINING_ANNOTATION, POOL_LABEL, TEMPLATE_LABEL, WORKER_CONTAINER
from whatsapp_operator.resources import (
    FINALIZER,
    DeletionPolicy,
    PoolSpec,
    SessionSpec,
    SessionState,
    SessionStatus,
    parse_duration,
    parse_quantity,
)

Object = dict[str, Any]

_LOST_CAUSES = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}
"""Waiting reasons that do not pass by themselves."""


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableError(Exception):
    """An object does not fit our models, though the CRD let it pass: the CRD is another release's."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of a worker beside its pod."""

    beat: Beat | None = None
    unheard_for: float = 0.0
    """Seconds since this worker was last heard, all of which this operator has listened."""
    owns: bool = False
    """Sessions are on record for it, so it was alive once."""
    cleared: frozenset[SessionKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A pod that is gone."""

    pool: str
    ended: bool
    """Its last status proved that its processes were over (`has_ended`)."""


def tombstone_of(pod: Object) -> Tombstone:
    """What a pod's last status says of its end."""
    return Tombstone((pod["metadata"].get("labels") or {}).get(POOL_LABEL, ""), has_ended(pod))


def key_of(item: Object) -> tuple[str, str]:
    """Namespace and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def moment(text: str | None) -> datetime | None:
    """A Kubernetes time."""
    return datetime.fromisoformat(text) if text else None


def session_spec(item: Object) -> SessionSpec:
    """The spec of a `WhatsAppSession`.

    Raises:
        UnreadableError: It does not fit the model.
    """
    try:
        return SessionSpec.model_validate(item.get("spec") or {})
    except ValidationError as error:
        raise UnreadableError(f"spec: {error}") from error


def session_of(item: Object) -> tuple[Session, SessionStatus, SessionSpec]:
    """A `WhatsAppSession`, without what its worker says.

    Raises:
        UnreadableError: It does not fit the models.
    """
    metadata = item["metadata"]
    spec = session_spec(item)
    try:
        status = SessionStatus.model_validate(item.get("status") or {})
    except ValidationError as error:
        raise UnreadableError(f"status: {error}") from error
    assignment = status.assignment
    created = moment(metadata["creationTimestamp"])
    if created is None:
        raise UnreadableError("metadata.creationTimestamp is missing")
    session = Session(
        key=SessionKey(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata["generation"],
        created=created,
        pool=spec.pool_ref.name,
        running=spec.state is SessionState.RUNNING,
        priority=spec.priority,
        deletion_policy=spec.deletion_policy,
        deleting_since=moment(metadata.get("deletionTimestamp")),
        finalizer=FINALIZER in metadata.get("finalizers", ()),
        worker=assignment.worker if assignment else None,
        epoch=assignment.epoch if assignment else 0,
        releasing=bool(assignment and assignment.worker and assignment.releasing),
        assigned_since=assignment.since if assignment else None,
        phase=status.phase,
    )
    return session, status, spec


def state_for(session: Session, state: RuntimeState | None) -> tuple[RuntimeState | None, int]:
    """The runtime state if its writer is the owner on record, and the highest epoch known."""
    if state is None:
        return None, session.epoch
    mine = state.epoch == session.epoch and state.worker == session.worker
    return (state if mine else None), max(session.epoch, state.epoch)


def assignment_of(session: Session, spec: SessionSpec, proxy: Proxy | None = None) -> Assignment:
    """What the owner of a session has to know; `proxy` is what `spec.proxySecretRef` holds, None if it is not there."""
    purge = session.deletion_policy if session.deleting_since else DeletionPolicy.RETAIN
    hibernate_after = parse_duration(spec.hibernate_after).total_seconds() if spec.hibernate_after else None
    return Assignment(
        epoch=session.epoch,
        uid=session.uid,
        generation=session.generation,
        spec=WorkerSpec(
            pairing_method=spec.pairing.method,
            phone_number=spec.pairing.phone_number,
            pairing_timeout_seconds=parse_duration(spec.pairing.timeout).total_seconds(),
            messages_per_minute=spec.throttle.messages_per_minute,
            burst=spec.throttle.burst,
            hibernate_after_seconds=hibernate_after,
            ignore=frozenset(name for name, ignored in spec.ignore.model_dump().items() if ignored),
            proxy_required=spec.proxy_secret_ref is not None,
            proxy=proxy,
            purge=None if purge is DeletionPolicy.RETAIN else purge.value,
        ),
    )


def pool_of(item: Object, spec: PoolSpec, template: str) -> Pool:
    """A `WhatsAppWorkerPool`; `template` is the hash of the pod template that it wants."""
    metadata = item["metadata"]
    return Pool(
        key=PoolKey(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata["generation"],
        replicas=spec.replicas,
        sessions_per_worker=spec.sessions_per_worker,
        memory_per_session=parse_quantity(spec.memory_per_session),
        memory_threshold=spec.memory_threshold / 100,
        spare_sessions=spec.spare_sessions,
        placement=spec.placement,
        max_concurrent_moves=spec.drain.max_concurrent,
        drain_timeout=parse_duration(spec.drain.timeout),
        template=template,
        deleting="deletionTimestamp" in metadata,
        max_replicas=spec.autoscaling.max_replicas if spec.autoscaling.enabled else None,
    )


def pool_spec(item: Object) -> PoolSpec:
    """The spec of a `WhatsAppWorkerPool`.

    Raises:
        UnreadableError: It does not fit the model.
    """
    try:
        return PoolSpec.model_validate(item.get("spec") or {})
    except ValidationError as error:
        raise UnreadableError(f"spec: {error}") from error


def has_ended(pod: Object) -> bool:
    """Whether a pod's own status proves that its processes are over.

    The kubelet's word on the worker's container does. The pod's phase does not: the pod garbage collector writes Failed
    into pods of nodes that it cannot reach, where the containers may well be running.
    """
    states = _worker_states(pod)
    if states:
        return all("terminated" in state for state in states)
    # A pod that no node has taken never had a process.
    return "nodeName" not in pod.get("spec", {})


def _worker_states(pod: Object) -> list[Object]:
    """States of the worker's container, or of all where none has its name: a sidecar may outlive the worker."""
    containers = pod.get("status", {}).get("containerStatuses") or []
    own = [container for container in containers if container.get("name") == WORKER_CONTAINER]
    return [container.get("state") or {} for container in own or containers]


def worker_of(pod: Object, sight: Sight) -> Worker:
    """A worker whose pod exists."""
    metadata, status = pod["metadata"], pod.get("status", {})
    beat = sight.beat if sight.beat and sight.beat.heartbeat.uid == metadata["uid"] else None
    ended_at, failed = _end(pod)
    said_goodbye = beat is not None and beat.heartbeat.stopped
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    return Worker(
        key=WorkerKey(metadata["namespace"], metadata["name"]),
        pool=labels.get(POOL_LABEL, ""),
        uid=metadata["uid"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        life=_life(pod, beat, sight),
        ready=_is_ready(status),
        deleting="deletionTimestamp" in metadata,
        draining_since=_lenient_moment(annotations.get(DRAINING_ANNOTATION)),
        ended_at=ended_at,
        # A worker that ends unasked has failed, whatever its exit code says.
        failed=failed or (ended_at is not None and not said_goodbye and "deletionTimestamp" not in metadata),
        problem=_problem(status),
        template=labels.get(TEMPLATE_LABEL, ""),
        heartbeat=beat.heartbeat if beat else None,
        cleared=sight.cleared,
        self_stopped=beat is None and sight.unheard_for > HEARTBEAT_KEPT.total_seconds(),
    )


def _lenient_moment(text: str | None) -> datetime | None:
    """A time that anybody may have written; one that is none counts as long past."""
    try:
        found = moment(text)
    except ValueError:
        return _LONG_AGO
    return found if found is None or found.tzinfo is not None else _LONG_AGO


def heard_at(
    before: Mapping[WorkerKey, float],
    ages: Mapping[WorkerKey, float | None],
    *,
    clock: float,
    since_last_look: float | None,
) -> dict[WorkerKey, float]:
    """When each worker was last heard, by the operator's own clock.

    Neither a missing key nor Redis' clock is trusted: after a failover, an eviction or a step of the clock, keys are
    missing of workers that live. One that lives is heard again within seconds, so silence counts where the operator
    listens, and only there.

    Args:
        before: The result of the last look.
        ages: All workers of interest -> seconds since the heartbeat that is there now, None where there is none.
        clock: `time.monotonic()`.
        since_last_look: Seconds, None for the first look. One that is longer ago than a lease lasts has missed too much
            to count as listening.
    """
    gap = since_last_look or 0.0
    deaf = gap if gap > LEASE_DURATION.total_seconds() else 0.0
    heard = {}
    for worker, age in ages.items():
        # Whoever is new to us counts as heard now; afterwards only a new heartbeat moves the time, never a clock.
        last = before[worker] + deaf if worker in before else clock
        heard[worker] = last if age is None else max(last, clock - age)
    return heard


def remains_of(
    key: WorkerKey,
    stone: Tombstone | None,
    beat: Beat | None,
    cleared: frozenset[SessionKey],
    *,
    unheard_for: float,
    now: datetime,
) -> Worker | None:
    """What is left of a worker without a pod; None when nothing of it can run any more.

    Args:
        key: Name of the pod.
        stone: What was seen of its end; None when it went before the operator started.
        beat: Its last heartbeat, kept by Redis until the self-stop deadline has passed.
        cleared: Sessions that it has given up.
        unheard_for: Seconds since it was last heard, all of which this operator has listened: after `HEARTBEAT_KEPT` it
            has stopped itself. A missing key alone proves nothing, for Redis may have lost it.
        now: Time of the observation.
    """
    if stone is not None and stone.ended:
        return None
    if beat.heartbeat.stopped if beat else unheard_for > HEARTBEAT_KEPT.total_seconds():
        return None
    return Worker(
        key=key,
        pool=stone.pool if stone else "",
        uid="",
        created=now,
        life=Life.VANISHED,
        heartbeat=beat.heartbeat if beat else None,
        cleared=cleared,
    )


def _life(pod: Object, beat: Beat | None, sight: Sight) -> Life:
    if (beat is not None and beat.heartbeat.stopped) or _ended_on_node(pod):
        return Life.ENDED
    if beat is not None and beat.age <= LEASE_DURATION.total_seconds():
        return Life.LIVE
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed") and not _worker_states(pod) and not sight.owns:
        return Life.ENDED  # refused by its node, or evicted before it ran
    was_alive = beat is not None or sight.owns or _is_ready(status)
    if was_alive and sight.unheard_for > 2 * LEASE_DURATION.total_seconds():
        return Life.SILENT
    # A lease that just ran out, or was never taken: too early to conclude anything.
    return Life.COMING


def _ended_on_node(pod: Object) -> bool:
    return "nodeName" in pod.get("spec", {}) and has_ended(pod)


def _is_ready(status: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions", [])
    )


def _end(pod: Object) -> tuple[datetime | None, bool]:
    """When a pod ended, and whether it failed."""
    status = pod.get("status", {})
    ends = [
        container["state"]["terminated"]
        for container in status.get("containerStatuses", [])
        if "terminated" in container.get("state", {})
    ]
    finished = [moment(end.get("finishedAt")) for end in ends]
    failed = status.get("phase") == "Failed" or any(end.get("exitCode") for end in ends)
    known = [time for time in finished if time is not None]
    if not known and not failed:
        return None, False
    return max(known, default=moment(pod["metadata"]["creationTimestamp"])), failed


def _problem(status: Object) -> str:
    """Why a pod does not get ready, in Kubernetes' own words; empty while it may still do so by itself."""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    for container in status.get("containerStatuses", []):
        state = container.get("state", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated", {})
        if waiting.get("reason") in _LOST_CAUSES:
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        if ended.get("exitCode"):
            return f"{ended.get('reason', 'Error')}: exit code {ended['exitCode']}"
    if status.get("phase") == "Failed":
        return f"{status.get('reason', 'Failed')}: {status.get('message', '')}".rstrip(": ")
    return ""
