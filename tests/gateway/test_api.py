"""The public API on a real Redis and an API server with the CRDs: keys, sessions, and errors as WAHA has them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from typing import Any

import pytest

from gateway.translation import MASK, object_name
from kubeclient import NotFoundError, Object
from session_worker.contract import PairingMethod, PairingOffer, Phase
from tests.support.gateway_world import API_KEY, Gateway, OtherWorker
from tests.support.kube_product import ProductApi
from tests.support.people import Answer, eventually, is_png
from tests.support.redis_server import RedisServer

NOT_FOUND = {"message": "Session not found", "error": "Not Found", "statusCode": 404}
UNAUTHORIZED = {"message": "Unauthorized", "statusCode": 401}
MISMATCH = "Session status is not as expected. Try again later or restart the session"


async def make(gateway: Gateway, name: str, **body: Any) -> dict[str, Any]:
    """A session made through the API."""
    answer = await gateway("POST", "/api/sessions", {"name": name, **body})
    assert answer.status == 201, str(answer)
    result: dict[str, Any] = answer.body
    return result


async def secret_values(kube: ProductApi, gateway: Gateway) -> dict[str, str]:
    """What the gateway keeps in its Secret."""
    path = f"/api/v1/namespaces/{gateway.config.namespace}/secrets/{gateway.config.hmac_secret}"
    try:
        secret = await kube.client.get(path)
    except NotFoundError:
        return {}
    return {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}


async def only(kube: ProductApi, gateway: Gateway) -> Object:
    """The one session object of the namespace."""
    items, _ = await kube.client.list(kube.path(gateway.config.namespace))
    (item,) = items
    return item


# --- Keys


@pytest.mark.parametrize("path", ["/api/sessions", "/api/sessions/a", "/api/a/auth/qr", "/health", "/no/such/path"])
async def test_without_the_key_nothing_is_told(gateway: Gateway, path: str) -> None:
    for headers in ({}, {"X-Api-Key": ""}, {"X-Api-Key": "wrong"}, {"Authorization": f"Bearer {API_KEY}"}):
        answer = await gateway("GET", path, headers=headers)
        assert (answer.status, answer.body) == (401, UNAUTHORIZED)


async def test_the_key_is_taken_from_the_header_in_any_letters_and_from_the_query(gateway: Gateway) -> None:
    assert (await gateway("GET", "/api/sessions", headers={"x-api-key": API_KEY})).status == 200
    assert (await gateway("GET", f"/api/sessions?x-api-key={API_KEY}", headers={})).status == 200
    assert (await gateway("GET", "/api/sessions?x-api-key=wrong", headers={})).status == 401


async def test_a_key_of_odd_bytes_is_wrong_and_nothing_worse(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/sessions HTTP/1.1\r\nHost: x\r\nX-Api-Key: caf\xe9\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] == b"401"


async def test_a_key_given_as_a_hash_is_presented_plain(
    kube: ProductApi, redis_server: RedisServer, namespace: str
) -> None:
    digest = f"sha512:{hashlib.sha512(API_KEY.encode()).hexdigest()}"
    async with Gateway(kube, redis_server.url, namespace, WAHA_API_KEY=digest) as hashed:
        assert (await hashed("GET", "/api/sessions")).status == 200
        assert (await hashed("GET", "/api/sessions", headers={"X-Api-Key": digest})).status == 401


async def test_an_open_gateway_asks_for_no_key(kube: ProductApi, redis_server: RedisServer, namespace: str) -> None:
    async with Gateway(kube, redis_server.url, namespace, WAHA_NO_API_KEY="true") as opened:
        assert (await opened("GET", "/api/sessions", headers={})).status == 200


# --- Observability


async def test_probes_and_ping_need_no_key(gateway: Gateway) -> None:
    assert (await gateway("GET", "/ping", headers={})).body == {"message": "pong"}
    assert (await gateway("GET", "/livez", headers={})).status == 200
    ready = await gateway("GET", "/readyz", headers={})
    assert (ready.status, ready.body["status"]) == (200, "ok")


async def test_health_names_what_is_down(kube: ProductApi, namespace: str, tmp_path: Any) -> None:
    async with RedisServer(tmp_path) as own, Gateway(kube, own.url, namespace) as gateway:
        up = await gateway("GET", "/health")
        assert (up.status, up.body) == (
            200,
            {
                "status": "ok",
                "info": {"redis": {"status": "up"}, "kubernetes": {"status": "up"}},
                "error": {},
                "details": {"redis": {"status": "up"}, "kubernetes": {"status": "up"}},
            },
        )
        await make(gateway, "ana")
        await own.stop()
        down = await gateway("GET", "/health")
        assert (down.status, down.body["status"]) == (503, "error")
        assert down.body["error"]["redis"]["status"] == "down"
        assert list(down.body["info"]) == ["kubernetes"]
        listed = await gateway("GET", "/api/sessions")
        assert (listed.status, listed.body["error"]) == (503, "Service Unavailable")
        assert int(listed.headers["Retry-After"]) >= 1
        assert (await gateway("GET", "/ping")).status == 200
        await own.start()
        assert (await gateway("GET", "/health")).status == 200


async def test_every_answer_has_a_request_id_and_is_counted(gateway: Gateway) -> None:
    given = await gateway("GET", "/ping", headers={"X-Request-Id": "mine"})
    assert {name.lower(): value for name, value in given.headers.items()}["x-request-id"] == "mine"
    assert "x-request-id" in {name.lower() for name in (await gateway("GET", "/api/sessions/nobody")).headers}
    metrics = (await gateway("GET", f"{gateway.metrics_url}/metrics")).body.decode()
    assert 'whatsapp_http_requests_total{operation="PingController_ping",status="200"} 1.0' in metrics
    assert 'whatsapp_http_requests_total{operation="SessionsController_get",status="404"} 1.0' in metrics


# --- Sessions


async def test_a_session_is_made_read_changed_stopped_and_removed(kube: ProductApi, gateway: Gateway) -> None:
    made = await make(gateway, "ana", config={"metadata": {"team": "a"}})
    assert made == {"name": "ana", "status": "STARTING", "config": {"metadata": {"team": "a"}}}
    item = await only(kube, gateway)
    assert item["spec"]["state"] == "Running"
    assert item["spec"]["poolRef"] == {"name": "default"}
    assert item["spec"]["metadata"] == {"team": "a"}
    found = await gateway("GET", "/api/sessions/ana")
    assert found.status == 200
    assert found.body["engine"] == {"engine": "WPP", "state": "Pending"}
    assert found.body["timestamps"] == {}
    listed = (await gateway("GET", "/api/sessions")).body
    assert [(entry["name"], entry["status"]) for entry in listed] == [("ana", "STARTING")]

    changed = await gateway("PUT", "/api/sessions/ana", {"config": {"ignore": {"groups": True}}})
    assert (changed.status, changed.body["config"]["ignore"]["groups"]) == (200, True)
    assert "metadata" not in changed.body["config"]  # replaced as a whole
    stopped = await gateway("POST", "/api/sessions/ana/stop")
    assert (stopped.status, stopped.body["status"]) == (201, "STOPPED")
    assert (await gateway("POST", "/api/sessions/ana/stop")).status == 201
    assert (await gateway("GET", "/api/sessions")).body == []
    assert [entry["status"] for entry in (await gateway("GET", "/api/sessions?all=true")).body] == ["STOPPED"]
    started = await gateway("POST", "/api/sessions/ana/start")
    assert (started.status, started.body["status"]) == (201, "STARTING")

    assert (await gateway("DELETE", "/api/sessions/ana")).status == 200
    assert (await gateway("GET", "/api/sessions/ana")).status == 404
    assert (await gateway("DELETE", "/api/sessions/ana")).status == 200


async def test_a_session_without_a_name_or_a_body_gets_one(gateway: Gateway) -> None:
    for body in (None, {}, {"config": None, "name": None}):
        answer = await gateway("POST", "/api/sessions", body)
        assert answer.status == 201
        assert answer.body["name"].startswith("session_")
        assert len(answer.body["name"]) == len("session_") + 32


async def test_a_session_may_be_made_without_being_started(kube: ProductApi, gateway: Gateway) -> None:
    assert (await make(gateway, "later", start=False))["status"] == "STOPPED"
    assert (await only(kube, gateway))["spec"]["state"] == "Stopped"


async def test_what_exists_is_not_made_again_and_not_changed_by_the_attempt(kube: ProductApi, gateway: Gateway) -> None:
    hook = {"url": "http://example.test/", "events": ["message"], "hmac": {"key": "first"}}
    await make(gateway, "Twice", config={"webhooks": [hook]})
    again = {"name": "Twice", "config": {"webhooks": [{**hook, "hmac": {"key": "second"}}]}}
    answer = await gateway("POST", "/api/sessions", again)
    assert (answer.status, answer.body) == (
        422,
        {
            "message": "Session 'Twice' already exists. Use PUT to update it.",
            "error": "Unprocessable Entity",
            "statusCode": 422,
        },
    )
    assert list((await secret_values(kube, gateway)).values()) == ["first"]


async def test_a_session_applied_by_kubectl_is_a_session_of_the_api(kube: ProductApi, gateway: Gateway) -> None:
    await kube.create(gateway.config.namespace, "from-git", metadata={"a": "b"})
    assert (await gateway.knows("from-git"))["config"] == {"metadata": {"a": "b"}}
    await kube.client.delete(kube.path(gateway.config.namespace, "from-git"))

    async def gone() -> bool:
        return (await gateway("GET", "/api/sessions/from-git")).status == 404

    await eventually("it is gone", gone)


@pytest.mark.parametrize("name", ["Sales_Team", "a_b", "UPPER", "x" * 54, "-x-", "abc-x12345678", "_"])
async def test_a_name_that_is_no_object_name_is_kept_in_an_annotation(
    kube: ProductApi, gateway: Gateway, name: str
) -> None:
    await make(gateway, name)
    item = await only(kube, gateway)
    assert item["metadata"]["name"] == object_name(name)
    annotation = (item["metadata"].get("annotations") or {}).get("whatsapp.28web.io/session-name")
    assert annotation == (None if object_name(name) == name else name)
    assert (await gateway("GET", f"/api/sessions/{name}")).body["name"] == name
    if object_name(name) != name:
        assert (await gateway("GET", f"/api/sessions/{object_name(name)}")).status == 404


def test_different_names_are_different_objects() -> None:
    names = ["Sales", "sales", "SALES", "sales_", "sales-", "Sales_Team", "sales-team", object_name("Sales")]
    assert len({object_name(name) for name in names}) == len(names)


async def test_a_renamed_session_answers_to_its_new_name_only(kube: ProductApi, gateway: Gateway) -> None:
    await make(gateway, "Old_Name")
    item = await only(kube, gateway)
    annotation = {"metadata": {"annotations": {"whatsapp.28web.io/session-name": "New_Name"}}}
    await kube.patch(gateway.config.namespace, item["metadata"]["name"], annotation)
    await gateway.knows("New_Name")
    assert (await gateway("GET", "/api/sessions/Old_Name")).status == 404
    assert (await gateway("DELETE", "/api/sessions/New_Name")).status == 200
    assert (await gateway("GET", "/api/sessions?all=true")).body == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"name": "with space"}, "name: String should match pattern"),
        ({"name": "x" * 55}, "name: String should have at most 54 characters"),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"start": "perhaps"}, "start: "),
        ({"config": {"webhooks": [{"url": "http://x"}]}}, "config.webhooks.0.events: Field required"),
        ({"config": {"webhooks": [{"url": "http://x", "events": ["dance"]}]}}, "spec.webhooks[0].events[0]"),
        ({"config": {"webhooks": [{"url": "ftp://x", "events": ["*"]}]}}, "spec.webhooks[0].url"),
        ({"config": {"proxy": {"server": "user@host"}}}, "config.proxy.server must be host:port"),
        ("[1]", "the body must be a JSON object"),
        ("{", "the body is not JSON"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_field(gateway: Gateway, body: Any, problem: str) -> None:
    answer = await gateway("POST", "/api/sessions", body)
    assert answer.status == 400, str(answer)
    assert (answer.body["error"], answer.body["statusCode"]) == ("Bad Request", 400)
    assert any(problem in message for message in answer.body["message"]), answer.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/nobody"),
        ("PUT", "/api/sessions/nobody"),
        ("POST", "/api/sessions/nobody/start"),
        ("POST", "/api/sessions/nobody/stop"),
        ("POST", "/api/sessions/nobody/restart"),
        ("POST", "/api/sessions/nobody/logout"),
        ("GET", "/api/sessions/nobody/me"),
        ("GET", "/api/nobody/auth/qr"),
    ],
)
async def test_a_session_that_is_not_there_is_a_404(gateway: Gateway, method: str, path: str) -> None:
    answer = await gateway(method, path, {} if method != "GET" else None)
    assert (answer.status, answer.body) == (404, NOT_FOUND)


async def test_a_path_that_is_not_there_is_a_404_too(gateway: Gateway) -> None:
    answer = await gateway("PATCH", "/api/sessions")
    assert (answer.status, answer.body) == (
        404,
        {"message": "Cannot PATCH /api/sessions", "error": "Not Found", "statusCode": 404},
    )


async def test_a_configuration_comes_back_as_it_was_given_with_its_secrets_masked(
    kube: ProductApi, gateway: Gateway
) -> None:
    retries: dict[str, Any] = {"delaySeconds": 5, "attempts": 3, "policy": "linear"}
    webhook: dict[str, Any] = {
        "url": "https://example.test/hook",
        "events": ["message", "session.status"],
        "hmac": {"key": "s3cret"},
        "retries": retries,
        "customHeaders": [{"name": "X-Team", "value": "a"}],
    }
    config: dict[str, Any] = {
        "metadata": {"team": "a"},
        "webhooks": [webhook],
        "proxy": {"server": "proxy:3128", "username": "u", "password": "p:w"},
        "noweb": {"store": {"enabled": True}},
        "debug": False,
    }
    await make(gateway, "full", config=config)
    shown = (await gateway("GET", "/api/sessions/full")).body["config"]
    assert shown == {
        **config,
        "webhooks": [{**webhook, "hmac": {"key": MASK}, "retries": {**retries, "delaySeconds": 5.0}}],
        "proxy": {"server": MASK, "password": MASK},
    }
    item = await only(kube, gateway)
    assert "s3cret" not in str(item)
    assert "p:w" not in str(item)
    assert "p%3Aw" not in str(item)
    assert await secret_values(kube, gateway) == {"full.hmac.0": "s3cret", "full.proxy": "http://u:p%3Aw@proxy:3128"}

    # Sent back as shown, the secrets stay; deleted with the session, they go.
    assert (await gateway("PUT", "/api/sessions/full", {"config": shown})).status == 200
    assert await secret_values(kube, gateway) == {"full.hmac.0": "s3cret", "full.proxy": "http://u:p%3Aw@proxy:3128"}
    await gateway("DELETE", "/api/sessions/full")
    assert await secret_values(kube, gateway) == {}


async def test_a_deleted_session_is_gone_at_once_though_its_object_is_not(kube: ProductApi, gateway: Gateway) -> None:
    namespace = gateway.config.namespace
    await make(gateway, "held")
    await kube.patch(namespace, "held", {"metadata": {"finalizers": ["example.test/hold"]}})
    assert (await gateway("DELETE", "/api/sessions/held")).status == 200
    assert (await gateway("GET", "/api/sessions/held")).body == NOT_FOUND
    assert (await gateway("GET", "/api/sessions?all=true")).body == []
    assert (await gateway("POST", "/api/sessions/held/start")).status == 404
    item = await kube.get(namespace, "held")
    assert item["spec"]["deletionPolicy"] == "Logout"
    assert "deletionTimestamp" in item["metadata"]

    # One of the same name waits for the end of the old one.
    again = asyncio.create_task(gateway("POST", "/api/sessions", {"name": "held"}))
    done, _ = await asyncio.wait({again}, timeout=0.5)
    assert not done
    await kube.patch(namespace, "held", {"metadata": {"finalizers": None}})
    answer = await again
    assert answer.status == 201, str(answer)
    new = await kube.get(namespace, "held")
    assert new["metadata"]["uid"] != item["metadata"]["uid"]
    assert (await gateway("GET", "/api/sessions/held")).status == 200


async def test_a_session_made_again_right_after_its_deletion_stays_visible(gateway: Gateway) -> None:
    """News of the old object's end comes later than the new object, and is not about it."""
    for _ in range(10):
        await make(gateway, "again")
        assert (await gateway("DELETE", "/api/sessions/again")).status == 200
    await make(gateway, "again")
    await make(gateway, "marker")
    ends = time.monotonic() + 0.5
    while time.monotonic() < ends:
        assert (await gateway("GET", "/api/sessions/again")).status == 200


# --- What the owner says


async def give(kube: ProductApi, gateway: Gateway, name: str, phase: Phase, **state: Any) -> None:
    """A session on worker w1, whose owner says to be in a phase."""
    await kube.create(gateway.config.namespace, name)
    await kube.give(gateway.config.namespace, name, "w1")
    await gateway.knows(name, "w1", "assignedWorker")
    await gateway.say(name, phase, **state)


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.STARTING, "STARTING"),
        (Phase.PAIRING, "SCAN_QR_CODE"),
        (Phase.CONNECTED, "WORKING"),
        (Phase.RECONNECTING, "STARTING"),
        (Phase.HIBERNATED, "WORKING"),
        (Phase.FAILED, "FAILED"),
    ],
)
async def test_a_sessions_status_is_what_its_owner_says(
    kube: ProductApi, gateway: Gateway, phase: Phase, status: str
) -> None:
    account = {"id": "5511@c.us", "pushName": "Ana"}
    await give(kube, gateway, "ana", phase, account=account, last_activity=12.5)
    found = (await gateway("GET", "/api/sessions/ana")).body
    assert (found["status"], found["engine"]["state"]) == (status, phase)
    assert (found["me"], found["assignedWorker"]) == (account, "w1")
    assert found["timestamps"] == {"activity": 12500}
    assert (await gateway("GET", "/api/sessions/ana/me")).body == account
    # Somebody who is not the owner on record is not believed.
    await gateway.say("ana", Phase.CONNECTED, worker="w2", epoch=2)
    assert (await gateway("GET", "/api/sessions/ana")).body["status"] == "STARTING"


async def test_a_session_without_an_account_is_null(gateway: Gateway) -> None:
    await make(gateway, "nobody-yet")
    answer = await gateway("GET", "/api/sessions/nobody-yet/me")
    assert (answer.status, answer.body) == (200, None)


async def test_a_code_is_given_as_a_picture_as_base64_and_as_text(kube: ProductApi, gateway: Gateway) -> None:
    await give(kube, gateway, "ana", Phase.PAIRING)
    offer = PairingOffer(method=PairingMethod.QR_CODE, code="2@abc,def,ghi", expires=time.time() + 60)
    await gateway.registry.write_offer(gateway.key("ana"), epoch=1, worker="w1", offer=offer, life=60)
    raw = await gateway("GET", "/api/ana/auth/qr?format=raw")
    assert raw.body == {"value": "2@abc,def,ghi"}
    picture = await gateway("GET", "/api/ana/auth/qr")
    assert (picture.headers["Content-Type"], is_png(picture.body)) == ("image/png", True)
    assert picture.headers["Cache-Control"] == "no-store"
    text = await gateway("GET", "/api/ana/auth/qr", headers={"X-Api-Key": API_KEY, "Accept": "application/json"})
    assert text.body["mimetype"] == "image/png"
    assert is_png(text.body["data"])
    wrong = await gateway("GET", "/api/ana/auth/qr?format=svg")
    assert wrong.status == 400


async def test_a_call_that_the_status_forbids_is_a_422_with_wahas_body(kube: ProductApi, gateway: Gateway) -> None:
    await give(kube, gateway, "ana", Phase.CONNECTED)
    qr = await gateway("GET", "/api/ana/auth/qr")
    assert (qr.status, qr.body) == (
        422,
        {"error": MISMATCH, "session": "ana", "status": "WORKING", "expected": ["SCAN_QR_CODE"]},
    )


async def test_a_call_on_a_session_that_does_not_run_is_a_404_that_says_what_to_do(gateway: Gateway) -> None:
    await make(gateway, "off", start=False)
    for name in ("off", "nobody"):
        send = await gateway("POST", "/api/sendText", {"session": name, "chatId": "5511", "text": "x"})
        assert (send.status, send.body) == (
            404,
            {
                "message": f"We didn't find a session with name '{name}'.\n"
                f"Please start it first by using POST /api/sessions/{name}/start request",
                "error": "Not Found",
                "statusCode": 404,
            },
        )


async def send(gateway: Gateway, **body: Any) -> Answer:
    """Send a text as session ana."""
    return await gateway("POST", "/api/sendText", {"session": "ana", "chatId": "5511", "text": "hi", **body})


async def test_a_call_goes_to_the_owner_under_its_epoch(kube: ProductApi, gateway: Gateway) -> None:
    async with OtherWorker(body={"result": {"id": "true_1"}}) as worker:
        await give(kube, gateway, "ana", Phase.CONNECTED, address=worker.address)
        answer = await send(gateway, chatId="+55 11-98765", reply_to="false_2", mentions=["1@c.us"], linkPreview=False)
        assert (answer.status, answer.body) == (201, {"id": "true_1"})
        (asked,) = worker.requests
        assert asked.path == f"/v1/sessions/{gateway.config.namespace}/ana/call/sendText"
        assert asked.authorization == "Bearer worker-token"
        assert asked.body == {
            "epoch": 1,
            "params": {
                "chatId": "551198765@c.us",
                "text": "hi",
                "reply_to": "false_2",
                "mentions": ["1@c.us"],
                "linkPreview": False,
                "linkPreviewHighQuality": False,
            },
        }
        exists = await gateway("GET", "/api/contacts/check-exists?session=ana&phone=5511")
        assert exists.status == 200
        assert worker.requests[-1].body["params"] == {"phone": "5511@c.us"}


@pytest.mark.parametrize(
    ("refusal", "worker_status", "status", "body"),
    [
        ("BadRequest", 400, 400, {"message": ["so"], "error": "Bad Request", "statusCode": 400}),
        ("Page", 502, 422, {"message": "so", "error": "Unprocessable Entity", "statusCode": 422}),
        ("TooFast", 429, 429, {"message": "so", "error": "Too Many Requests", "statusCode": 429}),
        (
            "Unknown", 504, 504,
            {"message": "so", "error": "Gateway Timeout", "statusCode": 504, "outcome": "unknown"},
        ),
        (
            "WrongPhase", 422, 422,
            {"error": MISMATCH, "session": "ana", "status": "SCAN_QR_CODE", "expected": ["WORKING"]},
        ),
    ],
)  # fmt: skip
async def test_a_workers_refusal_becomes_wahas_error(  # noqa: PLR0917  # a table of cases
    kube: ProductApi, gateway: Gateway, refusal: str, worker_status: int, status: int, body: dict[str, Any]
) -> None:
    refused = {"refusal": refusal, "message": "so", "phase": "Pairing", "retryAfter": 40.0}
    async with OtherWorker(status=worker_status, body=refused) as worker:
        await give(kube, gateway, "ana", Phase.CONNECTED, address=worker.address)
        answer = await send(gateway)
        assert (answer.status, answer.body) == (status, body)
        assert len(worker.requests) == 1
        assert answer.headers.get("Retry-After") == ("40" if status == 429 else None)


async def test_a_call_to_a_worker_that_lost_the_session_goes_to_the_next_owner(
    kube: ProductApi, gateway: Gateway
) -> None:
    not_here = {"refusal": "NotHere", "message": "gone"}
    async with OtherWorker(status=409, body=not_here) as old, OtherWorker(body={"result": {"id": "1"}}) as new:
        await give(kube, gateway, "ana", Phase.CONNECTED, address=old.address)
        sending = asyncio.create_task(send(gateway))

        async def asked() -> bool:
            return bool(old.requests)

        await eventually("the old owner was asked", asked)
        await kube.give(gateway.config.namespace, "ana", "w2", epoch=2)
        await gateway.say("ana", Phase.CONNECTED, worker="w2", epoch=2, address=new.address)
        answer = await sending
        assert answer.status == 201, str(answer)
        assert [asked.body["epoch"] for asked in new.requests] == [2]


async def test_a_worker_that_answers_nonsense_leaves_the_outcome_open(kube: ProductApi, gateway: Gateway) -> None:
    async with OtherWorker(status=500, body={"oops": True}) as worker:
        await give(kube, gateway, "ana", Phase.CONNECTED, address=worker.address)
        answer = await send(gateway)
        assert (answer.status, answer.body["outcome"]) == (504, "unknown")
        assert len(worker.requests) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"chatId": None}, "chatId: "),
        ({"chatId": "ana"}, "chatId: chatId must be a number or an id such as"),
        ({"text": None}, "text: "),
        ({"text": "x" * 65_537}, "text: String should have at most 65536 characters"),
    ],
)
async def test_a_message_that_cannot_be_sent_is_not_sent(gateway: Gateway, body: dict[str, Any], problem: str) -> None:
    answer = await send(gateway, **body)
    assert answer.status == 400
    assert problem in answer.body["message"][0]
