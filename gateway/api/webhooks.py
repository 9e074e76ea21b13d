"""Webhooks that were given up: to look at, and to deliver again. WAHA has none of this."""

from __future__ import annotations

from gateway.delivery import Receiver, envelope, receivers_of
from gateway.errors import BusyError
from gateway.models import DeadLetter, DeadLettersQuery, ReplayedLetter, ReplayRequest
from gateway.operations import Call, Operations
from gateway.records import Letter
from gateway.services import Services
from kubeclient import KubernetesError, Object
from session_worker.contract import SessionKey

OPERATIONS = Operations("📮 Webhooks")

_PATH = "/api/{session}/webhooks/dead-letters"
_GONE = "the session has no such webhook any more"


@OPERATIONS.route("GET", _PATH, "WebhooksController_deadLetters", query=DeadLettersQuery, result=list[DeadLetter])
async def list_letters(services: Services, call: Call) -> list[DeadLetter]:
    """Get the events that a webhook did not take after the last attempt."""
    item = await services.store.get(call.session)
    receivers = _receivers(item)
    letters = await services.records.letters(services.store.key(item), call.query.limit)
    metadata = item["spec"].get("metadata") or {}
    return [
        DeadLetter(
            id=letter.id,
            url=receivers[letter.receiver].url if letter.receiver in receivers else None,
            reason=letter.reason,
            timestamp=letter.timestamp,
            event=envelope(letter.event, call.session, metadata, services.config.base_url),
        )
        for letter in letters
    ]


@OPERATIONS.route("POST", _PATH, "WebhooksController_replay", body=ReplayRequest, result=list[ReplayedLetter])
async def replay(services: Services, call: Call) -> list[ReplayedLetter]:
    """Deliver events again that were given up; those that are taken now are removed."""
    item = await services.store.get(call.session)
    key, receivers = services.store.key(item), _receivers(item)
    asked: ReplayRequest = call.body
    result = []
    for name, letter in await _letters(services, key, asked):
        reason = "there is no such dead letter"
        if letter is not None:
            receiver = receivers.get(letter.receiver)
            reason = await _deliver(services, item, receiver, letter) if receiver else _GONE
            if not reason:
                await services.records.remove_letter(key, letter.id)
        result.append(ReplayedLetter(id=name, delivered=not reason, reason=reason or None))
    return result


async def _letters(services: Services, key: SessionKey, asked: ReplayRequest) -> list[tuple[str, Letter | None]]:
    if asked.ids is None:
        return [(letter.id, letter) for letter in await services.records.letters(key, asked.limit)]
    known = {letter.id: letter for letter in await services.records.letters(key, _EVERY)}
    return [(name, known.get(name)) for name in dict.fromkeys(asked.ids[: asked.limit])]


_EVERY = 2_000
"""More than are kept."""


async def _deliver(services: Services, item: Object, receiver: Receiver, letter: Letter) -> str:
    try:
        return await services.postman.deliver(item, receiver, letter.event)
    except KubernetesError as error:
        raise BusyError(f"Kubernetes does not answer: {error.message}") from error


def _receivers(item: Object) -> dict[str, Receiver]:
    return {receiver.name: receiver for receiver in receivers_of(item["spec"])}
