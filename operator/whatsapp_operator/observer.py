"""Gathers what is known into the fleet that the planner sees.

Owns the memory between two observations: parsed objects, runtime states, how long a worker has been silent. All of it
can be built anew, so a restarted operator concludes the same. Must not change anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from kubeclient import Object
from session_worker.contract import Assignment, Beat, RuntimeState, SessionKey, WorkerKey
from session_worker.logs import fields
from session_worker.registry import Registry, RegistryUnavailableError
from whatsapp_operator import observation
from whatsapp_operator.cluster import Cluster, Kind
from whatsapp_operator.fleet import Fleet, Measured, Pool, PoolKey, Session, Worker
from whatsapp_operator.ledger import Ledger
from whatsapp_operator.observation import Sight, UnreadableError
from whatsapp_operator.pods import Manifest, WorkerDefaults, pod_template, template_hash
from whatsapp_operator.resources import PoolSpec, SessionStatus

log = logging.getLogger(__name__)

STATES_EVERY = 15.0
"""Seconds after which all runtime states are read anew, not only those that the stream has named."""
STATES_AT_ONCE = 500
"""Runtime states read in one go: the answer for a large fleet would be the largest thing in memory."""
RELOAD_EVERY = 600.0
"""Seconds after which the cache is held against a fresh list."""

_UNREADABLE = "An object cannot be read; is its CRD another release's?"


@dataclass(slots=True)
class KnownSession:
    """A session as read from its object, kept until the object changes."""

    item: Object
    session: Session
    assignment: Assignment | None
    """What its owner has to know; None while nobody owns it."""
    state: RuntimeState | None = None
    joined: Session | None = None
    """`session` with what `state` says, made when it is first asked for."""

    @property
    def status(self) -> SessionStatus:
        """Its status as last written. Read from the object each time: few are needed, and each is 6 KiB."""
        return SessionStatus.model_validate(self.item.get("status") or {})


@dataclass(slots=True)
class KnownPool:
    """A pool as read from its object, kept until the object changes."""

    item: Object
    pool: Pool
    spec: PoolSpec
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
        self._states_read: set[SessionKey] = set()
        self._changed: set[SessionKey] = set()
        self._states_read_at: float | None = None
        self._loaded_at: float | None = None
        self._heard: dict[WorkerKey, float] = {}
        self._listened: float | None = None
        self._measured: dict[PoolKey, Measured] = {}

    def measured(self, pools: dict[PoolKey, Measured]) -> None:
        """Remember what the last plan has made of the workers' memory."""
        self._measured = pools

    def changed(self, sessions: set[SessionKey]) -> None:
        """Read the runtime states of these the next time."""
        self._changed |= sessions

    def missed(self) -> None:
        """Read all runtime states the next time: some changes were not told."""
        self._states_read_at = None

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
            pools={key: replace(known.pool, measured=self._measured.get(key)) for key, known in pools.items()},
            workers=workers,
            sessions={key: self._with_state(known) for key, known in sessions.items()},
        )
        return View(fleet, sessions, pools, now)

    def sessions(self) -> dict[SessionKey, KnownSession]:
        """The sessions as on record now, our own last writes included."""
        items = self._cluster.cache.objects[Kind.SESSION]
        for pair, item in items.items():
            self._read_session(SessionKey(*pair), item)
        for key in self._sessions.keys() - items.keys():
            del self._sessions[key]
            self._states.pop(key, None)
            self._states_read.discard(key)
        return self._sessions

    def session(self, key: SessionKey) -> KnownSession:
        """One session as on record now.

        Raises:
            KeyError: It is gone.
        """
        self._read_session(key, self._cluster.cache.objects[Kind.SESSION][key])
        return self._sessions[key]

    def _read_session(self, key: SessionKey, item: Object) -> None:
        known = self._sessions.get(key)
        if known is not None and known.item is item:
            return
        try:
            session, _, spec = observation.session_of(item)
        except UnreadableError as error:
            log.warning(
                "A session cannot be read; is the CRD another release's?", extra=fields(session=key, error=error)
            )
            return
        assignment = observation.assignment_of(session, spec) if session.worker else None
        if known is not None and known.assignment == assignment:
            # Here as with states below: one object for equal ones takes half the memory, and is compared at no cost.
            assignment = known.assignment
        self._sessions[key] = KnownSession(item, session, assignment)

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
            pools[key] = KnownPool(item, observation.pool_of(item, spec, template_hash(template)), spec, template)
        self._pools = pools
        return pools

    async def _read_workers(self, now: datetime) -> dict[WorkerKey, Worker]:
        pods = {WorkerKey(*pair): pod for pair, pod in self._cluster.cache.objects[Kind.POD].items()}
        owners = {owner for known in self._sessions.values() if (owner := known.session.worker_key)}
        beats = await self._registry.beats(pods.keys() | owners)
        self._listen(pods.keys() | owners, beats)
        await self._ledger.refresh(pods.keys() | owners)
        workers = {
            key: observation.worker_of(pod, self._sight(key, pod, beats.get(key), owns=key in owners))
            for key, pod in pods.items()
        }
        stones = self._cluster.cache.tombstones
        for owner in owners - pods.keys():
            beat = beats.get(owner)
            cleared = self._ledger.cleared(owner, beat.heartbeat if beat else None)
            silence = self._unheard_for(owner)
            left = observation.remains_of(owner, stones.get(owner), beat, cleared, unheard_for=silence, now=now)
            if left is not None:
                workers[owner] = left
        return workers

    def _listen(self, workers: Iterable[WorkerKey], beats: Mapping[WorkerKey, Beat]) -> None:
        """Note who was heard when."""
        clock = time.monotonic()
        ages = {worker: beats[worker].age if worker in beats else None for worker in workers}
        gap = None if self._listened is None else clock - self._listened
        self._heard = observation.heard_at(self._heard, ages, clock=clock, since_last_look=gap)
        self._listened = clock

    def _unheard_for(self, worker: WorkerKey) -> float:
        clock = time.monotonic()
        return clock - self._heard.get(worker, clock)

    def _sight(self, worker: WorkerKey, pod: Object, beat: Beat | None, *, owns: bool) -> Sight:
        # A pod made anew under the same name is another worker; what its predecessor says is not about it.
        mine = beat.heartbeat if beat and beat.heartbeat.uid == pod["metadata"]["uid"] else None
        return Sight(beat, self._unheard_for(worker), owns, self._ledger.cleared(worker, mine))

    async def _read_states(self) -> None:
        clock = time.monotonic()
        everything = self._states_read_at is None or clock - self._states_read_at > STATES_EVERY
        # Taken over before reading: what changes during the read is named again.
        new = self._sessions.keys() - self._states_read  # another object of the same name may have been there
        wanted = set(self._sessions) if everything else (self._changed & self._sessions.keys()) | new
        self._changed = set()
        try:
            for part in _parts(wanted, STATES_AT_ONCE):
                found = await self._registry.states(part)
                for key in part:
                    if (state := found.get(key)) is None:
                        self._states.pop(key, None)
                    elif state != self._states.get(key):
                        self._states[key] = state
        except RegistryUnavailableError:
            self._changed |= wanted
            raise
        self._states_read = (self._states_read | wanted) & self._sessions.keys()
        if everything:
            self._states_read_at = clock

    def _with_state(self, known: KnownSession) -> Session:
        state = self._states.get(known.session.key)
        if known.joined is None or known.state is not state:
            mine, known_epoch = observation.state_for(known.session, state)
            known.state, known.joined = state, replace(known.session, state=mine, known_epoch=known_epoch)
        return known.joined


def _parts(keys: Iterable[SessionKey], size: int) -> Iterator[list[SessionKey]]:
    rest = iter(keys)
    while part := list(islice(rest, size)):
        yield part
