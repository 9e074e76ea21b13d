"""kopf's side of the operator: what it starts, watches and stops.

Run it with `python -m whatsapp_operator`, or `kopf run -m whatsapp_operator.handlers`.

Owns kopf's settings and the wiring of the parts. Handlers only pass events on: `on.event` writes nothing to the
objects, keeps no annotations and blocks no deletion; retries are the reconciler's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import kopf

from kubeclient import KubeClient, Object
from session_worker.contract import GROUP, POOL_PLURAL, SESSION_PLURAL, VERSION
from session_worker.registry import Registry
from whatsapp_operator.cluster import POD_SELECTOR, Cluster, Kind
from whatsapp_operator.config import OperatorConfig
from whatsapp_operator.demand import Demand
from whatsapp_operator.leader import Alone, Authority, Elector
from whatsapp_operator.metrics import OperatorMetrics
from whatsapp_operator.pods import WorkerDefaults
from whatsapp_operator.probes import ProbeServer
from whatsapp_operator.reconciler import Reconciler
from whatsapp_operator.scalers import Scalers, Source


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
    """Set kopf up for thousands of objects, and start the reconciler."""
    config = OperatorConfig.from_env(os.environ)
    configure(settings)
    metrics = OperatorMetrics()
    memo.registry = Registry.connect(config.redis_url, config.redis_password)
    client = await KubeClient.connect()
    memo.cluster = Cluster(client, config.namespaces)
    defaults = WorkerDefaults(
        image=config.worker_image,
        redis_url=config.worker_redis_url,
        secret_name=config.worker_secret,
        service_account=config.worker_service_account,
        browser_url=config.browser_url,
    )
    memo.elector = None
    authority: Authority = Alone(int(time.time()))
    if config.lease is not None:
        namespace, name = config.lease
        memo.elector = authority = Elector(client, namespace=namespace, name=name, identity=config.identity)
    demand = Demand(memo.cluster)
    memo.source = await _metric_source(config, client, demand)
    memo.reconciler = Reconciler(
        memo.cluster,
        memo.registry,
        defaults,
        metrics=metrics,
        authority=authority,
        scalers=Scalers(memo.cluster, demand_url=config.demand_url, source=memo.source),
    )
    memo.probes = ProbeServer(memo.reconciler.pulse, memo.elector, metrics, config, demand)
    await memo.probes.start()
    memo.superseded = False
    memo.governor = asyncio.create_task(_govern(memo, metrics), name="governor")


async def _metric_source(config: OperatorConfig, client: KubeClient, demand: Demand) -> Source | None:
    """Start the builtin metric source where it is wanted."""
    where = config.external_metrics
    if where is None:
        return None
    from whatsapp_operator.external_metrics import ExternalMetrics, Place  # noqa: PLC0415  # few want its cryptography

    place = Place(
        namespace=where.namespace,
        service=where.service,
        service_port=where.service_port,
        secret=f"{where.service}-tls",
        owner=where.owner,
        host=config.host,
        port=where.port,
    )
    source = ExternalMetrics(client, demand, place)
    await source.start()
    return source


async def _govern(memo: Any, metrics: OperatorMetrics) -> None:
    """Let the reconciler run while this process leads; a leader that is none any more ends."""
    elector: Elector | None = memo.elector
    if elector is not None:
        elector.start()
        await elector.elected.wait()
    metrics.leader.set(1)
    memo.reconciler.start()
    if elector is not None:
        await elector.lost.wait()
        metrics.leader.set(0)
        await memo.reconciler.stop()
        memo.superseded = True
        os.kill(os.getpid(), signal.SIGTERM)  # kopf ends in order; a new process stands for election again


def configure(settings: kopf.OperatorSettings) -> None:
    """Kopf's settings; the reasons are measured ones (see docs/development.md)."""
    settings.scanning.disabled = True  # our kinds are fixed: no need to watch CRDs and namespaces
    settings.peering.standalone = True
    settings.posting.enabled = False  # events are the reconciler's
    settings.watching.server_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["pods"] = POD_SELECTOR
    settings.queueing.idle_timeout = 1  # a worker per object lives this long after its last event
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.execution.max_workers = 1  # for synchronous handlers, of which there are none
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: our handlers take every event, so kopf need not copy each object to tell what has changed."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """The part of an object to compare: none."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """The part as it was: not known."""

    def store(self, **_: Any) -> None:
        """Nothing to keep."""


@kopf.on.cleanup()
async def stop(memo: Any, **_: Any) -> None:
    """Stop what `start` has started, in reverse."""
    memo.governor.cancel()
    await asyncio.gather(memo.governor, return_exceptions=True)
    await memo.reconciler.stop()
    if memo.elector is not None:
        await memo.elector.stop()
    await memo.probes.stop()
    if memo.source is not None:
        await memo.source.stop()
    await memo.cluster.aclose()
    await memo.registry.aclose()


@kopf.on.event(GROUP, VERSION, SESSION_PLURAL)
async def session_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A session was listed, added, changed or deleted."""
    _pass_on(memo.reconciler, Kind.SESSION, event)


@kopf.on.event(GROUP, VERSION, POOL_PLURAL)
async def pool_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A pool was listed, added, changed or deleted."""
    _pass_on(memo.reconciler, Kind.POOL, event)


@kopf.on.event("", "v1", "pods", labels={"app.kubernetes.io/name": "whatsapp-worker"})
async def pod_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A worker pod was listed, added, changed or deleted."""
    _pass_on(memo.reconciler, Kind.POD, event)


def _pass_on(reconciler: Reconciler, kind: Kind, event: kopf.RawEvent) -> None:
    item: Object = dict(event["object"])
    reconciler.see(kind, item, deleted=event["type"] == "DELETED")
