"""The bodies of Events, for every part that tells what it did.

Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sandbox.kube.formats import format_time

JsonObject = dict[str, Any]


def reference_to(obj: Mapping[str, Any], field_path: str = "") -> JsonObject:
    """An `ObjectReference` to an object, or to a part of it (`spec.containers{main}`)."""
    meta = obj["metadata"]
    reference = {
        "kind": obj["kind"],
        "apiVersion": obj["apiVersion"],
        "name": meta["name"],
        "namespace": meta.get("namespace", ""),
        "uid": meta.get("uid", ""),
        "resourceVersion": meta.get("resourceVersion", ""),
        "fieldPath": field_path,
    }
    return {name: value for name, value in reference.items() if value}


def event_body(
    about: JsonObject, *, kind: str, reason: str, message: str, component: str, host: str = "", now: datetime
) -> JsonObject:
    """A new `v1` Event about `about`, an `ObjectReference`. `kind` is `Normal` or `Warning`."""
    moment = format_time(now)
    source = {"component": component, **({"host": host} if host else {})}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            # Events of one object are told apart by the time, as the official recorder does.
            "name": f"{about['name']}.{int(now.timestamp() * 1e6):x}",
            "namespace": about.get("namespace") or "default",
        },
        "involvedObject": about,
        "type": kind,
        "reason": reason,
        "message": message,
        "source": source,
        "reportingComponent": component,
        "reportingInstance": host,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }


def similarity(about: JsonObject, reason: str, message: str) -> tuple[str, ...]:
    """Events of one similarity are one Event with a count."""
    return about.get("namespace", ""), about["kind"], about["name"], about.get("uid", ""), reason, message
