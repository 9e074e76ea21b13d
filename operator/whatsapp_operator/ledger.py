"""What each worker was told to run, and what it has confirmed to have given up.

Owns the numbering of publications. A publication is confirmed when a heartbeat carries its revision; a session that a
confirmed publication leaves out, and that the heartbeat does not list, cannot have a browser there any more
(docs/concepts.md). The rule is in two pure functions, `cleared` and `turn`; `Ledger` keeps their pages in step
with Redis. Must not decide who runs what.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from session_worker.contract import Assignment, Heartbeat, SessionKey, WorkerKey
from session_worker.registry import Publication, Registry

Desired = Mapping[SessionKey, Assignment]


@dataclass(frozen=True, slots=True)
class Page:
    """One worker's page."""

    revision: int = 0
    """0: nothing was ever published, or Redis has lost it."""
    term: int = 0
    """Of the leader that published it."""
    assignments: Desired = field(default_factory=dict)
    left_out: Mapping[SessionKey, int] = field(default_factory=dict)
    """Sessions on record for the worker that it must give up -> the first revision without them."""


def cleared(page: Page, heartbeat: Heartbeat | None) -> frozenset[SessionKey]:
    """Sessions on record for a worker that it has confirmed not to run."""
    if heartbeat is None or page.revision == 0:
        return frozenset()
    return frozenset(
        session
        for session, revision in page.left_out.items()
        if heartbeat.revision >= revision and str(session) not in heartbeat.running
    )


def turn(
    page: Page,
    desired: Desired,
    on_record: Iterable[SessionKey],
    heartbeat: Heartbeat | None,
    *,
    clock: int,
    term: int = 0,
) -> Page:
    """The page after publishing `desired`; its revision is the old one when there is nothing to publish.

    Args:
        page: The page as published.
        desired: What the worker is to run.
        on_record: All sessions on record for it; those not in `desired` are the ones it has to give up.
        heartbeat: The worker's last one. A new revision has to exceed the one in it, which would count as confirmed
            already otherwise; and a page that the worker has declared void is published again.
        clock: Milliseconds since 1970: revisions grow even when Redis has lost the last one.
        term: The leader's. A page of another term is published again though nothing changed, so that nothing that its
            author is still about to write to it is accepted any more.
    """
    heard, void = (heartbeat.revision, heartbeat.void_revision) if heartbeat else (0, 0)
    changed = page.revision == 0 or page.revision <= void or page.term != term or page.assignments != desired
    revision = max(page.revision + 1, heard + 1, void + 1, clock) if changed else page.revision
    left_out = set(on_record) - desired.keys()
    return Page(
        revision=revision,
        term=term if changed else page.term,
        assignments=dict(desired) if changed else page.assignments,
        left_out={session: page.left_out.get(session, revision) for session in left_out},
    )


class Ledger:
    """The desired sets as published. Everything in it can be read back from Redis, so losing it loses nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pages: dict[WorkerKey, Page] = {}

    async def refresh(self, workers: Iterable[WorkerKey]) -> None:
        """Learn the pages that are not known, or not any more as they are known (Redis was emptied).

        Raises:
            RegistryUnavailableError: Redis cannot be read.
        """
        stored = await self._registry.revisions(workers)
        for worker, revision in stored.items():
            page = self._pages.get(worker)
            if page is not None and page.revision == revision:
                continue
            found = await self._registry.assigned(worker)
            self._pages[worker] = Page(found.revision, found.term, found.assignments) if found else Page()
        for worker in self._pages.keys() - stored.keys():
            await self._registry.forget_worker(worker)
            del self._pages[worker]

    def cleared(self, worker: WorkerKey, heartbeat: Heartbeat | None) -> frozenset[SessionKey]:
        """Sessions on record for `worker` that it has confirmed not to run."""
        return cleared(self._pages.get(worker, Page()), heartbeat)

    async def publish(
        self,
        worker: WorkerKey,
        desired: Desired,
        on_record: Iterable[SessionKey],
        heartbeat: Heartbeat | None,
        *,
        term: int,
    ) -> None:
        """Make `desired` the worker's set, if it is not already; see `turn`. `term` is the leader's.

        Raises:
            RegistryUnavailableError: Redis cannot be written.
            SupersededError: A leader of a later term has published for this worker.
        """
        before = self._pages.get(worker, Page())
        after = turn(before, desired, on_record, heartbeat, clock=int(time.time() * 1000), term=term)
        if after.revision != before.revision:
            later = await self._registry.publish(worker, Publication(after.revision, after.assignments, term))
            if later:
                # Another leader was faster; the next refresh reads what it wrote.
                self._pages.pop(worker, None)
                return
        self._pages[worker] = after
