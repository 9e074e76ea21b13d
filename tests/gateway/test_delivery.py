"""What a webhook request looks like, and when it is tried again."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery import MAX_DELAY, Receiver, envelope, receivers_of, request_for, sign, with_media
from session_worker.contract import Account, InboundEvent

ANA = Account(id="5511@c.us", push_name="Ana")


def receiver(**webhook: Any) -> Receiver:
    (found,) = receivers_of({"webhooks": [{"url": "http://example.test/hook", "events": ["*"], **webhook}]})
    return found


def event(kind: str = "message", /, account: Account | None = ANA, **payload: Any) -> InboundEvent:
    return InboundEvent.new(kind, payload, now=1767225600.5, account=account)


def test_an_envelope_has_wahas_fields() -> None:
    told = event(body="olá")
    body = envelope(told, "Sales_Team", {"team": "a"})
    assert body.pop("environment")["engine"] == "WPP"
    assert body == {
        "id": told.id,
        "timestamp": 1767225600500,
        "event": "message",
        "session": "Sales_Team",
        "metadata": {"team": "a"},
        "me": {"id": "5511@c.us", "pushName": "Ana"},
        "payload": {"body": "olá"},
        "engine": "WPP",
    }
    assert told.id.startswith("evt_")


def test_a_session_without_an_account_is_nobody() -> None:
    assert envelope(event(account=None), "a", {})["me"] is None
    with_lid = Account(id="5511@c.us", push_name="Ana", lid="7@lid")
    assert envelope(event(account=with_lid), "a", {})["me"] == {"id": "5511@c.us", "pushName": "Ana", "lid": "7@lid"}


def test_a_status_event_names_the_session_as_its_client_does() -> None:
    body = envelope(event("session.status", name="sales-team-x12345678", status="WORKING"), "Sales_Team", {})
    assert body["payload"] == {"name": "Sales_Team", "status": "WORKING"}


def test_the_signature_is_the_hmac_of_the_very_bytes_that_are_sent() -> None:
    request = request_for(
        envelope(event(body="ol\u00e1 \U0001f44b"), "a", {}), receiver(), key="s3cret", now=1767225600.5
    )
    assert request.headers["X-Webhook-Hmac"] == hmac.new(b"s3cret", request.body, hashlib.sha512).hexdigest()
    assert request.headers["X-Webhook-Hmac-Algorithm"] == "sha512"
    assert json.loads(request.body)["payload"] == {"body": "ol\u00e1 \U0001f44b"}


def test_the_signature_is_that_of_wahas_documentation() -> None:
    signature = sign(b'{"event":"message","session":"default","engine":"WEBJS"}', "my-secret-key")
    assert (signature[:8], signature[-4:], len(signature)) == ("208f8a55", "fa89", 128)


def test_a_message_names_its_file_where_clients_reach_it() -> None:
    message: dict[str, Any] = {"id": "false_1@c.us_A", "hasMedia": True, "media": {"mimetype": "image/png"}}
    payload = envelope(event("message", **message), "a b", {}, "https://wa.example.org")["payload"]
    assert payload["media"]["url"] == "https://wa.example.org/api/files/a%20b/false_1@c.us_A.png"
    assert payload["mediaUrl"] == payload["media"]["url"]
    assert with_media([{**message, "media": {"mimetype": "x/y"}}], "", "a")[0]["mediaUrl"].endswith("_A.bin")
    assert with_media({"id": "1", "hasMedia": False}, "", "a") == {"id": "1", "hasMedia": False}


def test_a_receiver_without_a_key_gets_no_signature() -> None:
    headers = request_for({}, receiver(), key=None, now=1.5).headers
    assert not [name for name in headers if "Hmac" in name]
    assert headers["X-Webhook-Timestamp"] == "1500"
    assert len(headers["X-Webhook-Request-Id"]) == 26
    assert headers["Content-Type"] == "application/json"


def test_each_request_has_an_id_of_its_own() -> None:
    ids = {request_for({}, receiver(), key=None, now=1.5).headers["X-Webhook-Request-Id"] for _ in range(20)}
    assert len(ids) == 20


def test_custom_headers_are_added_and_replace_none_of_ours() -> None:
    own = [{"name": "X-Team", "value": "a"}, {"name": "X-Webhook-Hmac", "value": "forged"}]
    headers = request_for({}, receiver(customHeaders=own), key="k", now=1.5).headers
    assert headers["X-Team"] == "a"
    assert headers["X-Webhook-Hmac"] != "forged"


@pytest.mark.parametrize("name", ["x-webhook-hmac", "content-type", "X-WEBHOOK-TIMESTAMP"])
def test_a_custom_header_in_other_letters_does_not_double_one_of_ours(name: str) -> None:
    headers = request_for({}, receiver(customHeaders=[{"name": name, "value": "forged"}]), key="k", now=1.5).headers
    assert [value for key, value in headers.items() if key.lower() == name.lower()] != ["forged"]
    assert len({key.lower() for key in headers}) == len(headers)


@pytest.mark.parametrize(
    ("events", "name", "wanted"),
    [
        (["*"], "message", True),
        (["*"], "anything.new", True),
        (["message"], "message", True),
        (["message"], "message.any", False),
        (["session.status", "message.ack"], "message.ack", True),
        (["message.ack", "*"], "message", True),
        ([], "message", True),  # an object from before the CRD's default
    ],
)
def test_a_receiver_gets_what_it_subscribed_to(events: list[str], name: str, *, wanted: bool) -> None:
    assert receiver(events=events).wants(name) is wanted


def test_what_a_receiver_has_taken_is_remembered_by_its_address() -> None:
    assert receiver().name == receiver(events=["message"], retries={"attempts": 1}).name
    assert receiver().name != receiver(url="http://example.test/other").name


@pytest.mark.parametrize(
    ("policy", "delays"),
    [("constant", [3, 3, 3, 3]), ("linear", [3, 6, 9, 12]), ("exponential", [3, 6, 12, 24])],
)
def test_the_delay_grows_as_the_policy_says(policy: str, delays: list[float]) -> None:
    found = receiver(retries={"policy": policy, "delaySeconds": 3, "attempts": 5})
    assert [found.next_delay(failed, 0) for failed in range(1, 5)] == delays
    assert found.next_delay(5, 0) is None


def test_without_a_policy_it_is_wahas() -> None:
    assert [receiver().next_delay(failed, 0) for failed in (1, 14, 15)] == [2, 2, None]


@given(
    st.sampled_from(["constant", "linear", "exponential"]),
    st.integers(1, 3600),
    st.integers(1, 100),
    st.floats(-1, 1),
)
def test_every_event_is_tried_as_often_as_said_and_never_waits_longer_than_an_hour(
    policy: str, seconds: int, attempts: int, luck: float
) -> None:
    found = receiver(retries={"policy": policy, "delaySeconds": seconds, "attempts": attempts})
    delays = [found.next_delay(failed, luck) for failed in range(1, attempts + 1)]
    assert delays[-1] is None
    assert all(delay is not None and 0 < delay <= MAX_DELAY for delay in delays[:-1])


def test_luck_spreads_exponential_delays_only() -> None:
    spread = receiver(retries={"policy": "exponential", "delaySeconds": 10})
    assert [spread.next_delay(1, luck) for luck in (-1, 0, 1)] == [8, 10, 12]
    steady = receiver(retries={"policy": "linear", "delaySeconds": 10})
    assert {steady.next_delay(1, luck) for luck in (-1, 0, 1)} == {10}
