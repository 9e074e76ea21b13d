"""What a DELETE does to an object: grace periods, finalizers and the moment when it goes.

Pure decisions, after k8s.io/apiserver `registry/rest/delete.go` and `registry/generic/registry/store.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

from sandbox.kube.formats import format_time, parse_time
from sandbox.kube.options import DeleteOptions

JsonObject = dict[str, Any]

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"


class Fate(Enum):
    """What becomes of the object."""

    REMOVE = auto()
    """It goes now."""
    UPDATE = auto()
    """It stays in a changed form until somebody finishes the work."""
    KEEP = auto()
    """It is being deleted already, and nothing changes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, and the object as it is from now on."""

    fate: Fate
    value: JsonObject


def _finalizers(meta: JsonObject, options: DeleteOptions, *, orphan_by_default: bool) -> list[str]:
    """The finalizers that the propagation policy asks for, which the garbage collector works off."""
    present: list[str] = meta.get("finalizers") or []
    policy = options.propagation
    if policy:
        orphan, foreground = policy == "Orphan", policy == "Foreground"
    else:
        orphan = ORPHAN in present or (orphan_by_default and FOREGROUND not in present)
        foreground = FOREGROUND in present
    kept = [name for name in present if name not in {ORPHAN, FOREGROUND}]
    return kept + [ORPHAN] * orphan + [FOREGROUND] * foreground


def _pod_grace(pod: JsonObject, options: DeleteOptions) -> int:
    """The seconds that a pod gets to end. One that nobody runs gets none."""
    phase = (pod.get("status") or {}).get("phase")
    spec = pod.get("spec") or {}
    if not spec.get("nodeName") or phase in {"Succeeded", "Failed"}:
        return 0
    grace = options.grace_seconds
    if grace is None:
        grace = spec.get("terminationGracePeriodSeconds", 30)
    return max(int(grace), 1) if grace < 0 else int(grace)


def _marked(value: JsonObject, now: datetime, grace: int, finalizers: list[str]) -> JsonObject:
    meta = dict(value["metadata"])
    meta["deletionTimestamp"] = format_time(now + timedelta(seconds=grace))
    meta["deletionGracePeriodSeconds"] = grace
    if meta.get("generation"):
        meta["generation"] += 1
    return {**value, "metadata": _with_finalizers(meta, finalizers)}


def _with_finalizers(meta: JsonObject, finalizers: list[str]) -> JsonObject:
    result = {name: item for name, item in meta.items() if name != "finalizers"}
    if finalizers:
        result["finalizers"] = finalizers
    return result


def decide(
    value: JsonObject, options: DeleteOptions, *, now: datetime, graceful: bool, orphan_by_default: bool
) -> Verdict:
    """What a DELETE does to `value`; `graceful` for pods, which their kubelet deletes in the end."""
    meta = value["metadata"]
    finalizers = _finalizers(meta, options, orphan_by_default=orphan_by_default)
    if not meta.get("deletionTimestamp"):
        grace = _pod_grace(value, options) if graceful else 0
        marked = _marked(value, now, grace, finalizers)
        return Verdict(Fate.UPDATE if grace > 0 or finalizers else Fate.REMOVE, marked)
    current = meta.get("deletionGracePeriodSeconds") or 0
    wanted = options.grace_seconds
    if graceful and current > 0 and wanted is not None and wanted < current:
        # The period may only be shortened; its end moves with it, but not into the past.
        end = parse_time(meta["deletionTimestamp"]) - timedelta(seconds=current - max(wanted, 0))
        changed = _with_finalizers(dict(meta), finalizers)
        changed["deletionTimestamp"] = format_time(max(end, now) if wanted > 0 else end)
        changed["deletionGracePeriodSeconds"] = wanted
        done = wanted <= 0 and not finalizers
        return Verdict(Fate.REMOVE if done else Fate.UPDATE, {**value, "metadata": changed})
    if finalizers != (meta.get("finalizers") or []):
        changed = _with_finalizers(dict(meta), finalizers)
        done = current == 0 and not finalizers
        return Verdict(Fate.REMOVE if done else Fate.UPDATE, {**value, "metadata": changed})
    return Verdict(Fate.KEEP, value)


def is_finished(value: JsonObject) -> bool:
    """Whether an update has removed the last reason to keep an object that is being deleted."""
    meta = value["metadata"]
    return bool(
        meta.get("deletionTimestamp") and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")
    )
