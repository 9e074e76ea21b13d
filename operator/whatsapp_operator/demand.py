"""How many places each pool needs, for whoever scales it.

Owns the answer for all operators, whether they lead or not, since the Service in front of them chooses any: all have
the custom resources in their caches, and these say everything. Must not change anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from kubeclient import Object
from whatsapp_operator.cluster import Cluster, Kind
from whatsapp_operator.fleet import PoolKey, scaled_demand
from whatsapp_operator.observation import UnreadableError, pool_spec
from whatsapp_operator.resources import PoolStatus

LOAD_EVERY = 600.0
"""Seconds after which an operator that does not lead holds its cache against a fresh list."""


class Demand:
    """What every pool needs, from the cache of custom resources."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._loaded_at: float | None = None
        self._loading = asyncio.Lock()

    async def of(self, namespace: str) -> dict[PoolKey, int]:
        """Demand of all pools of a namespace.

        Raises:
            KubernetesError: The custom resources could not be read completely yet.
        """
        async with self._loading:
            if self._loaded_at is None or time.monotonic() - self._loaded_at > LOAD_EVERY:
                await self._cluster.load()
                self._loaded_at = time.monotonic()
        return demands(
            (item for key, item in self._cluster.cache.objects[Kind.POOL].items() if key[0] == namespace),
            (item for key, item in self._cluster.cache.objects[Kind.SESSION].items() if key[0] == namespace),
        )


def demands(pools: Iterable[Object], sessions: Iterable[Object]) -> dict[PoolKey, int]:
    """What pools need, from their objects and those of the sessions: the number that the planner reports too."""
    wanted: dict[PoolKey, int] = {}
    for item in sessions:
        # Read by hand: the whole model for each of thousands of sessions, at every request, would take seconds.
        spec, metadata = item.get("spec") or {}, item["metadata"]
        pool = PoolKey(metadata["namespace"], (spec.get("poolRef") or {}).get("name", "default"))
        if spec.get("state", "Running") == "Running" and "deletionTimestamp" not in metadata:
            wanted[pool] = wanted.get(pool, 0) + 1
    result = {}
    for item in pools:
        key = PoolKey(item["metadata"]["namespace"], item["metadata"]["name"])
        try:
            spec = pool_spec(item)
        except UnreadableError:
            continue  # The observer has logged it, and nothing can run in it.
        status = PoolStatus.model_validate(item.get("status") or {})
        result[key] = scaled_demand(
            wanted.get(key, 0) + spec.spare_sessions,
            sessions_per_worker=spec.sessions_per_worker,
            ready=status.ready_replicas,
            effective_capacity=status.effective_capacity,
        )
    return result
