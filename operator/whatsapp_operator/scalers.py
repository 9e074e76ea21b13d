"""The objects that scale pools, kept in the cluster as `autoscaling` wants them.

Owns when they are read, applied and removed, and what is in the way of that. Must not decide what is in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from kubeclient import KubernetesError, NotFoundError, Object, RejectedError, UnavailableError
from session_worker.logs import fields
from whatsapp_operator import autoscaling
from whatsapp_operator.autoscaling import Verdict
from whatsapp_operator.cluster import MANAGER, Cluster
from whatsapp_operator.fleet import PoolKey
from whatsapp_operator.pods import Manifest
from whatsapp_operator.resources import MetricSource, PoolSpec

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks at the scalers: the HPA controller itself looks every 15."""

_KINDS = {
    "HorizontalPodAutoscaler": (autoscaling.HPA, autoscaling.HPA_PLURAL),
    "ScaledObject": (autoscaling.KEDA, autoscaling.KEDA_PLURAL),
}


class Source(Protocol):
    """A metric source that can be stopped, and says why it does not serve; None while it does, or may."""

    problem: str | None

    async def stop(self) -> None:
        """End it."""


class Scalers:
    """The HPA or ScaledObject of each pool."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        demand_url: str | None = None,
        source: Source | None = None,
        look_every: float = LOOK_EVERY,
    ) -> None:
        """Prepare them.

        Args:
            cluster: The hands.
            demand_url: Where KEDA finds this operator's metrics port; None: nowhere.
            source: The builtin metric source; None: it is off.
            look_every: Seconds between two looks at what is there.
        """
        self._cluster = cluster
        self._demand_url = demand_url
        self._source = source
        self._look_every = look_every
        self._looked_at: float | None = None
        self._busy = True
        """Whether there is anything to look at."""
        self._live: dict[tuple[str, PoolKey], Object] = {}
        self._problems: dict[PoolKey, Verdict] = {}
        self._seen: dict[PoolKey, tuple[str, int]] = {}
        self._applied: dict[PoolKey, Manifest] = {}
        self._keda = True
        """Whether KEDA's kinds may exist; looked up again for every pool that wants them."""

    async def tend(self, pools: Mapping[PoolKey, tuple[Object, PoolSpec]]) -> None:
        """Look at what is there, now and then and whenever a pool has changed, and correct it.

        Raises:
            UnavailableError: The API failed.
        """
        seen = {
            key: (item["metadata"]["uid"], item["metadata"]["generation"])
            for key, (item, _) in pools.items()
            if not item["metadata"].get("deletionTimestamp")
        }
        clock = time.monotonic()
        if (
            self._looked_at is not None
            and seen == self._seen
            and (not self._busy or clock - self._looked_at < self._look_every)
        ):
            return
        self._problems = {}
        specs = {key: spec for key, (_, spec) in pools.items() if key in seen}
        self._busy = await self._look(specs)
        for key, spec in specs.items():
            await self._settle(key, seen[key][0], spec)
        for key in self._applied.keys() - specs.keys():
            del self._applied[key]
        self._looked_at, self._seen = clock, seen

    def verdict(self, key: PoolKey, spec: PoolSpec, *, replicas: int, ready: int, pending: int) -> Verdict | None:
        """What a pool's condition has to say of its autoscaling; None where it is off. Numbers as for `conclude`."""
        if not spec.autoscaling.enabled:
            return None
        if (problem := self._problems.get(key)) is not None:
            return problem
        live = self._live.get((_kind_for(spec), key))
        if live is None:
            return Verdict("Unknown", "NotSeen", "the autoscaler is being made")
        found = autoscaling.conclude(live, spec, replicas=replicas, ready=ready, pending=pending)
        if spec.autoscaling.source is MetricSource.BUILTIN:
            why = self._source.problem if self._source else "it is off: set EXTERNAL_METRICS for the operator"
            if why is not None:
                return Verdict("False", "BuiltinSourceUnavailable", f"the builtin source does not serve: {why}")
        return found

    async def _look(self, specs: Mapping[PoolKey, PoolSpec]) -> bool:
        """Read all scalers that bear our label; whether there is anything to do with them."""
        wanted = {_kind_for(spec) for spec in specs.values() if spec.autoscaling.enabled}
        self._keda = self._keda or "ScaledObject" in wanted
        live: dict[tuple[str, PoolKey], Object] = {}
        for kind, (version, plural) in _KINDS.items():
            if kind == "ScaledObject" and not self._keda:
                continue
            try:
                items = await self._cluster.list_managed(version, plural)
            except NotFoundError:
                self._keda = False
                self._refuse(specs, kind, Verdict("False", "KedaNotInstalled", "there is no KEDA in this cluster"))
            except RejectedError as error:
                # Where nothing is to be scaled, rights for it may well be missing.
                self._keda = self._keda and kind != "ScaledObject"
                self._refuse(specs, kind, Verdict("False", "Forbidden", error.message))
            else:
                # In lists the API server leaves out what the items are.
                what = {"apiVersion": version, "kind": kind}
                live |= {(kind, key): {**item, **what} for item in items if (key := _pool_of(item)) is not None}
        self._live = live
        return bool(live or wanted)

    def _refuse(self, specs: Mapping[PoolKey, PoolSpec], kind: str, verdict: Verdict) -> None:
        for key, spec in specs.items():
            if spec.autoscaling.enabled and _kind_for(spec) == kind:
                self._problems[key] = verdict

    async def _settle(self, key: PoolKey, uid: str, spec: PoolSpec) -> None:
        wanted = autoscaling.wanted_scaler(
            pool=key.name, pool_uid=uid, namespace=key.namespace, spec=spec, demand_url=self._demand_url
        )
        if wanted is None and spec.autoscaling.enabled:
            text = "the operator does not know its own address for KEDA: set DEMAND_URL"
            self._problems[key] = Verdict("False", "NotConfigured", text)
        try:
            # What goes goes first: two of them on one pool would pull in two directions.
            for kind in _KINDS:
                live = self._live.get((kind, key))
                if live is not None and (wanted is None or wanted["kind"] != kind):
                    await self._remove(kind, key, live)
            if wanted is not None and key not in self._problems:
                await self._apply(key, wanted)
        except UnavailableError:
            raise
        except KubernetesError as error:
            self._problems[key] = Verdict("False", "Refused", error.message)
            log.warning("A pool's autoscaler was refused", extra=fields(pool=key, error=error.message))

    async def _remove(self, kind: str, key: PoolKey, live: Object) -> None:
        await self._cluster.delete_managed(*_KINDS[kind], live)
        self._live.pop((kind, key), None)
        self._applied.pop(key, None)
        log.info("Removed an autoscaler", extra=fields(pool=key, kind=kind))

    async def _apply(self, key: PoolKey, wanted: Manifest) -> None:
        """Apply what is not so yet: always once, since an earlier release may have applied fields that must go."""
        kind = wanted["kind"]
        live = self._live.get((kind, key))
        ours = autoscaling.yielding(wanted, live, MANAGER)
        if live is not None and self._applied.get(key) == ours and autoscaling.holds(live, ours):
            return
        self._live[kind, key] = await self._cluster.apply(_KINDS[kind][1], ours)
        self._applied[key] = ours
        log.info("Applied an autoscaler", extra=fields(pool=key, kind=kind))


def _kind_for(spec: PoolSpec) -> str:
    return "ScaledObject" if spec.autoscaling.source is MetricSource.KEDA else "HorizontalPodAutoscaler"


def _pool_of(item: Object) -> PoolKey | None:
    """The pool that an object belongs to; None for one that is only labelled as if it did."""
    metadata = item["metadata"]
    owner = next((ref for ref in metadata.get("ownerReferences", []) if ref.get("controller")), None)
    return PoolKey(metadata["namespace"], owner["name"]) if owner else None
