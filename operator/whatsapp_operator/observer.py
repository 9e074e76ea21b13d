"""Gathers what is known into the fleet that the planner sees.

Owns the memory between two observations: parsed objects, runtime states, how long a worker has been silent. All of it
can be built anew, so a restarted operator concludes the same. Must not change anything.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kubeclient import Object
from session_worker.contract import LEASE_DURATION, Beat, RuntimeState, SessionKey, WorkerKey
from session_worker.logs import fields
from session_worker.registry import Registry, RegistryUnavailableError
from whatsapp_operator import observation
from whatsapp_operator.cluster import Cluster, Kind
from whatsapp_operator.fleet import Fleet, Pool, PoolKey, Session, Worker
from whatsapp_operator.ledger import Ledger
from whatsapp_operator.observation import Sight, UnreadableError
from whatsapp_operator.pods import Manifest, WorkerDefaults, pod_template, template_hash
from whatsapp_operator.resources import SessionSpec, SessionStatus

log = logging.getLogger(__name__)

STATES_EVERY = 15.0
"""Seconds after which all runtime states are read anew, not only those that the stream has named."""
RELOAD_EVERY = 600.0
"""Seconds after which the cache is held against a fresh list."""

_UNREADABLE = "An object cannot be read; is its CRD another release's?"


@dataclass(slots=True)
class KnownSession:
    """A session as read from its object, kept until the object changes."""

    item: Object
    session: Session
    status: SessionStatus
    spec: SessionSpec


@dataclass(slots=True)
class KnownPool:
    """A pool as read from its object, kept until the object changes."""

    item: Object
    pool: Pool
    template: Manifest


@dataclass(frozen=True, slots=True)
class View:
    """Everything that one cycle works on."""

    fleet: Fleet
    sessions: dict[SessionKey, KnownSession]
    pools: dict[PoolKey, KnownPool]
    now: datetime
    """Whole seconds, as Kubernetes keeps times."""


class Observer:
    """The operator's eyes."""

    def __init__(self, cluster: Cluster, registry: Registry, ledger: Ledger, defaults: WorkerDefaults) -> None:
        self._cluster = cluster
        self._registry = registry
        self._ledger = ledger
        self._defaults = defaults
        self._sessions: dict[SessionKey, KnownSession] = {}
        self._pools: dict[PoolKey, KnownPool] = {}
        self._states: dict[SessionKey, RuntimeState] = {}
        self._changed: set[SessionKey] = set()
        self._states_read_at: float | None = None
        self._loaded_at: float | None = None
        self._silent_since: dict[WorkerKey, float] = {}

    def changed(self, sessions: set[SessionKey]) -> None:
        """Read the runtime states of these the next time."""
        self._changed |= sessions

    def missed(self) -> None:
        """Read all runtime states the next time: some changes were not told."""
        self._states_read_at = None

    def deafened(self) -> None:
        """Forget how long workers were silent: while Redis is away nobody can be heard."""
        self._silent_since.clear()

    async def observe(self) -> View:
        """Look at everything.

        Raises:
            KubernetesError: The API cannot be read.
            RegistryUnavailableError: Redis cannot be read.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        if self._loaded_at is None or time.monotonic() - self._loaded_at > RELOAD_EVERY:
            await self._cluster.load()
            self._loaded_at = time.monotonic()
        sessions, pools = self.sessions(), self._read_pools()
        workers = await self._read_workers(now)
        await self._read_states()
        fleet = Fleet(
            pools={key: known.pool for key, known in pools.items()},
            workers=workers,
            sessions={key: self._with_state(known.session) for key, known in sessions.items()},
        )
        return View(fleet, sessions, pools, now)

    def sessions(self) -> dict[SessionKey, KnownSession]:
        """The sessions as on record now, our own last writes included."""
        items = self._cluster.cache.objects[Kind.SESSION]
        for pair, item in items.items():
            key = SessionKey(*pair)
            known = self._sessions.get(key)
            if known is not None and known.item is item:
                continue
            try:
                self._sessions[key] = KnownSession(item, *observation.session_of(item))
            except UnreadableError as error:
                log.warning(
                    "A session cannot be read; is the CRD another release's?", extra=fields(session=key, error=error)
                )
        for key in self._sessions.keys() - items.keys():
            del self._sessions[key]
            self._states.pop(key, None)
        return self._sessions

    def _read_pools(self) -> dict[PoolKey, KnownPool]:
        pools: dict[PoolKey, KnownPool] = {}
        for pair, item in self._cluster.cache.objects[Kind.POOL].items():
            key = PoolKey(*pair)
            known = self._pools.get(key)
            if known is not None and known.item is item:
                pools[key] = known
                continue
            try:
                spec = observation.pool_spec(item)
            except UnreadableError as error:
                log.warning("A pool cannot be read; is the CRD another release's?", extra=fields(pool=key, error=error))
                continue
            template = pod_template(spec, self._defaults)
            pools[key] = KnownPool(item, observation.pool_of(item, spec, template_hash(template)), template)
        self._pools = pools
        return pools

    async def _read_workers(self, now: datetime) -> dict[WorkerKey, Worker]:
        pods = {WorkerKey(*pair): pod for pair, pod in self._cluster.cache.objects[Kind.POD].items()}
        owners = {owner for known in self._sessions.values() if (owner := known.session.worker_key)}
        beats = await self._registry.beats(pods.keys() | owners)
        # Asked after the heartbeats were read, so that heartbeats lost in between are known to be lost.
        memory_age = await self._registry.memory_age()
        await self._ledger.refresh(pods.keys() | beats.keys())
        workers = {key: observation.worker_of(pod, self._sight(key, beats.get(key))) for key, pod in pods.items()}
        stones = self._cluster.cache.tombstones
        for owner in owners - pods.keys():
            beat = beats.get(owner)
            cleared = self._ledger.cleared(owner, beat.heartbeat if beat else None)
            left = observation.remains_of(owner, stones.get(owner), beat, cleared, memory_age=memory_age, now=now)
            if left is not None:
                workers[owner] = left
        for key in self._silent_since.keys() - pods.keys():
            del self._silent_since[key]
        return workers

    def _sight(self, worker: WorkerKey, beat: Beat | None) -> Sight:
        clock = time.monotonic()
        if beat is not None and beat.age <= LEASE_DURATION.total_seconds():
            self._silent_since.pop(worker, None)
            silent_for = 0.0
        else:
            silent_for = clock - self._silent_since.setdefault(worker, clock)
        return Sight(beat, silent_for, self._ledger.cleared(worker, beat.heartbeat if beat else None))

    async def _read_states(self) -> None:
        clock = time.monotonic()
        everything = self._states_read_at is None or clock - self._states_read_at > STATES_EVERY
        # Taken over before reading: what changes during the read is named again.
        wanted = set(self._sessions) if everything else self._changed & self._sessions.keys()
        self._changed = set()
        try:
            found = await self._registry.states(wanted)
        except RegistryUnavailableError:
            self._changed |= wanted
            raise
        self._states.update(found)
        for key in wanted - found.keys():
            self._states.pop(key, None)
        if everything:
            self._states_read_at = clock

    def _with_state(self, session: Session) -> Session:
        state, known_epoch = observation.state_for(session, self._states.get(session.key))
        return replace(session, state=state, known_epoch=known_epoch)
