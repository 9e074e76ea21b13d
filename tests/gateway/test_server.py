"""What happens to every request: keys and what they allow, limits, headers, the description of the API; and `/ws`."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.api import ALL
from gateway.app import build
from gateway.metrics import GatewayMetrics
from gateway.operations import Operation
from gateway.router import Router
from gateway.services import Services
from session_worker.contract import Phase
from tests.gateway.test_api import UNAUTHORIZED, give, make
from tests.support.gateway_world import API_KEY, PATIENCE, Gateway, OtherWorker
from tests.support.kube_product import ProductApi
from tests.support.people import Answer, Receiver, eventually
from tests.support.redis_server import RedisServer

FORBIDDEN = {"message": "Forbidden", "statusCode": 403}
NOT_IMPLEMENTED = {
    "message": "The method is not implemented by the engine.",
    "error": "Unprocessable Entity",
    "statusCode": 422,
}


# --- Keys


async def call(gateway: Gateway, key: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """A request with a key."""
    return await gateway(method, path, body, headers={"X-Api-Key": key, **headers})


async def new_key(gateway: Gateway, **asked: Any) -> dict[str, Any]:
    """A key made through the API."""
    answer = await gateway("POST", "/api/keys", asked)
    assert answer.status == 201, str(answer)
    key: dict[str, Any] = answer.body
    return key


async def test_a_key_of_a_session_is_for_that_session_and_what_it_allows(gateway: Gateway) -> None:
    for name in ("mine", "theirs"):
        await make(gateway, name, start=False)
    made = await new_key(gateway, session="mine", actions={"control": False})
    key = made["key"]
    assert (made["isAdmin"], made["session"], made["actions"]["delete"]) == (False, "mine", False)
    listed = await call(gateway, key, "GET", "/api/sessions?all=true")
    assert [session["name"] for session in listed.body] == ["mine"]
    assert (await call(gateway, key, "GET", "/api/sessions/mine")).status == 200
    assert (await call(gateway, key, "PUT", "/api/sessions/mine", {"config": {}})).status == 200
    text = {"chatId": "5511", "text": "x"}
    refusals = [
        ("GET", "/api/sessions/theirs", None),
        ("POST", "/api/sessions/mine/start", None),  # control
        ("DELETE", "/api/sessions/mine", None),  # delete
        ("POST", "/api/sessions", {"name": "another"}),
        ("POST", "/api/sessions/logout", {"name": "mine"}),
        ("POST", "/api/sessions/start", {"name": "mine"}),
        ("POST", "/api/sendText", {"session": "theirs", **text}),
        ("GET", "/api/contacts?session=theirs&contactId=5511", None),
        ("GET", "/api/keys", None),
        ("GET", "/api/server/environment", None),
    ]
    for method, path, body in refusals:
        answer = await call(gateway, key, method, path, body)
        assert (answer.status, answer.body) == (403, FORBIDDEN), f"{method} {path}"
    # It may send; the session just does not run.
    assert (await call(gateway, key, "POST", "/api/sendText", {"session": "mine", **text})).status == 404


async def test_keys_are_listed_masked_changed_and_removed(gateway: Gateway) -> None:
    assert (await gateway("GET", "/api/keys")).body == []
    made = await new_key(gateway, isAdmin=True)
    assert (await call(gateway, made["key"], "GET", "/api/keys")).body == [{**made, "key": "********"}]
    path = f"/api/keys/{made['id']}"
    changed = await gateway("PUT", path, {"isAdmin": True, "isActive": False})
    assert (changed.status, changed.body["isActive"]) == (200, False)
    assert (await call(gateway, made["key"], "GET", "/api/keys")).body == UNAUTHORIZED
    assert (await gateway("DELETE", path)).status == 200
    gone = await gateway("DELETE", path)
    assert (gone.status, gone.body["message"]) == (404, "API key not found")
    assert (await gateway("POST", "/api/keys", {"isAdmin": False})).status == 400
    for kind, allowed in (("media", {"read"}), ("control", {"read", "control", "setting"})):
        answer = await gateway("POST", f"/api/keys/{kind}", {"session": "s"})
        assert {name for name, value in answer.body["actions"].items() if value} == allowed


async def test_keys_outlive_the_gateway(kube: ProductApi, redis_server: RedisServer, namespace: str) -> None:
    async with Gateway(kube, redis_server.url, namespace) as first:
        made = await new_key(first, isAdmin=True)
    async with Gateway(kube, redis_server.url, namespace) as second:
        assert (await call(second, made["key"], "GET", "/api/sessions")).status == 200


# --- Limits


async def test_a_client_that_comes_too_often_is_told_when_to_come_back(
    kube: ProductApi, redis_server: RedisServer, namespace: str
) -> None:
    limits = {"RATE_LIMIT_MAX_REQUESTS": "3", "RATE_LIMIT_WINDOW_MS": "60000", "TRUSTED_PROXY_CIDRS": "127.0.0.1/32"}
    async with (
        Gateway(kube, redis_server.url, namespace, **limits) as one,
        Gateway(kube, redis_server.url, namespace, **limits) as other,
    ):
        ana = {"X-Forwarded-For": "198.51.100.7"}
        for gateway in (one, other, one):  # they count together
            assert (await call(gateway, API_KEY, "GET", "/api/server/version", **ana)).status == 200
        refused = await call(other, API_KEY, "GET", "/api/server/version", **ana)
        assert (refused.status, refused.body["error"]) == (429, "Too Many Requests")
        assert 50 <= int(refused.headers["Retry-After"]) <= 60
        assert (await call(one, API_KEY, "GET", "/ping", **ana)).status == 200
        # Guessing keys is counted by itself, other addresses too.
        assert (await call(one, "wrong", "GET", "/api/server/version", **ana)).status == 401
        bob = {"X-Forwarded-For": "spoofed, 198.51.100.8"}
        assert (await call(one, API_KEY, "GET", "/api/server/version", **bob)).status == 200
        # Nobody on the machine itself is counted.
        for _ in range(5):
            assert (await call(one, API_KEY, "GET", "/api/server/version")).status == 200


async def test_a_body_that_is_too_large_is_refused(gateway: Gateway) -> None:
    body = io.BytesIO(json.dumps({"chatId": "1", "text": "x" * 2**20}).encode())
    headers = {"X-Api-Key": API_KEY}
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.post("/api/sendText", data=body, headers=headers) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]) == (413, "Payload Too Large")


# --- Headers


async def test_answers_say_that_they_are_no_pages(gateway: Gateway) -> None:
    answer = await gateway("GET", "/api/sessions")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    described = await gateway("GET", "/-json", headers={"Accept-Encoding": "gzip"})
    assert described.headers["Content-Encoding"] == "gzip"


async def test_a_request_id_that_cannot_be_said_again_is_replaced(gateway: Gateway) -> None:
    answer = await gateway("GET", "/ping", headers={"X-Request-Id": "caf\u00e9"})
    assert answer.headers["X-Request-ID"] != "caf\u00e9"


# --- What is not there


@pytest.mark.parametrize("operation", [one for one in ALL if one.why_absent], ids=lambda one: str(one.operation_id))
async def test_what_the_engine_cannot_do_says_so(gateway: Gateway, operation: Operation) -> None:
    path = re.sub(r"\{\w+\}", "x", operation.path)
    answer = await gateway(operation.method, path, {} if operation.method in {"POST", "PUT"} else None)
    assert (answer.status, answer.body) == (422, NOT_IMPLEMENTED)
    assert (await gateway(operation.method, path, headers={})).status == 401


# --- The server itself


async def test_the_server_says_what_it_is(gateway: Gateway) -> None:
    version = await gateway("GET", "/api/server/version")
    assert (version.body["engine"], version.body["worker"]["id"] != "") == ("WPP", True)
    assert (await gateway("GET", "/api/version")).body == version.body
    status = (await gateway("GET", "/api/server/status")).body
    assert status["uptime"] < 600_000 < status["startTimestamp"]
    settings = (await gateway("GET", "/api/server/environment")).body
    assert API_KEY not in str(settings)
    assert settings["NAMESPACE"] == gateway.config.namespace
    await make(gateway, "default", start=False)
    assert (await gateway("GET", "/api/apps?session=default")).body == []


async def test_older_clients_start_stop_and_log_out(gateway: Gateway) -> None:
    started = await gateway("POST", "/api/sessions/start", {"name": "old", "config": {"metadata": {"a": "b"}}})
    assert (started.status, started.body["status"]) == (201, "STARTING")
    again = await gateway("POST", "/api/sessions/start", {"name": "old"})
    assert (again.status, again.body["message"]) == (422, "Session 'old' is already started.")
    stopped = await gateway("POST", "/api/sessions/stop", {"name": "old", "logout": False})
    assert (stopped.status, stopped.body) == (201, b"")
    assert (await gateway("GET", "/api/sessions/old")).body["status"] == "STOPPED"
    assert (await gateway("POST", "/api/sessions/start", {"name": "old"})).status == 201
    for _ in range(2):
        assert (await gateway("POST", "/api/sessions/logout", {"name": "old"})).status == 201
    assert (await gateway("POST", "/api/sessions/stop", {"name": "old"})).status == 201
    assert (await gateway("GET", "/api/sessions/old")).status == 404


async def test_a_server_that_is_about_to_end_is_not_ready(gateway: Gateway) -> None:
    router = Router(gateway.registry, gateway.store, None)
    services = Services(
        config=gateway.config,
        registry=gateway.registry,
        store=gateway.store,
        router=router,
        metrics=GatewayMetrics(),
    )
    async with TestClient(TestServer(build(services))) as client:
        assert (await client.get("/readyz")).status == 200
        services.leaving = True
        ready = await client.get("/readyz")
        assert (ready.status, (await ready.json())["status"]) == (503, "shutting_down")
        assert (await client.get("/livez")).status == 200


# --- The description of the API


async def test_the_api_describes_itself(gateway: Gateway) -> None:
    answer = await gateway("GET", "/-json", headers={})
    api = answer.body
    assert (answer.status, api["openapi"]) == (200, "3.1.0")
    operations = {one["operationId"] for methods in api["paths"].values() for one in methods.values()}
    assert operations == {operation.operation_id for operation in ALL}
    assert len(operations) == len(ALL)
    send = api["paths"]["/api/sendText"]["post"]
    assert send["tags"] == ["📤 Chatting"]
    assert send["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/MessageTextRequest"
    }
    assert send["responses"]["201"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/WAMessage"
    }
    text = api["components"]["schemas"]["MessageTextRequest"]["properties"]["reply_to"]
    assert text["type"] == "string"  # not "or null"
    refs = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(api)))
    assert refs <= set(api["components"]["schemas"])
    tags = {tag["name"] for tag in api["tags"]}
    assert {one["tags"][0] for methods in api["paths"].values() for one in methods.values()} <= tags


async def test_a_page_shows_the_api_without_anything_from_elsewhere(gateway: Gateway) -> None:
    page = await gateway("GET", "/", headers={})
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.body.decode()):
        assert path.startswith("/")
        assert (await gateway("GET", path, headers={})).status == 200


async def test_the_description_can_be_switched_off(kube: ProductApi, redis_server: RedisServer, namespace: str) -> None:
    async with Gateway(kube, redis_server.url, namespace, WHATSAPP_SWAGGER_ENABLED="false") as closed:
        for path in ("/", "/-json"):
            assert (await closed("GET", path, headers={})).status == 404


# --- Requests with a name, whatever becomes of them


async def test_a_named_request_of_unknown_outcome_may_be_made_again_under_the_same_message_id(
    kube: ProductApi, gateway: Gateway
) -> None:
    unknown = {"refusal": "Unknown", "message": "the page did not answer"}
    async with OtherWorker(status=504, body=unknown) as worker:
        await give(kube, gateway, "ana", Phase.CONNECTED, address=worker.address)
        body = {"session": "ana", "chatId": "5511", "text": "hi"}
        for _ in range(2):
            answer = await call(gateway, API_KEY, "POST", "/api/sendText", body, **{"Idempotency-Key": "k"})
            assert (answer.status, answer.body["outcome"]) == (504, "unknown")
        ids = [asked.body["params"]["id"] for asked in worker.requests]
        assert len(ids) == 2
        assert len(set(ids)) == 1
        assert re.fullmatch(r"3EB0[0-9A-F]{18}", ids[0])
        # WhatsApp chooses the id of what is forwarded, so nobody may try that again.
        forward = {"session": "ana", "chatId": "5511", "messageId": "true_1@c.us_A"}
        for _ in range(2):
            answer = await call(gateway, API_KEY, "POST", "/api/forwardMessage", forward, **{"Idempotency-Key": "f"})
            assert answer.status == 504
        assert len(worker.requests) == 3


async def test_a_named_request_that_is_being_done_is_not_done_beside_it(kube: ProductApi, gateway: Gateway) -> None:
    body = {"session": "ana", "chatId": "5511", "text": "hi"}
    key = {"Idempotency-Key": "busy"}
    await kube.create(gateway.config.namespace, "ana")
    await kube.give(gateway.config.namespace, "ana", "w1")
    await gateway.knows("ana", "w1", "assignedWorker")  # its owner says nothing yet: the first request waits
    first = asyncio.create_task(call(gateway, API_KEY, "POST", "/api/sendText", body, **key))

    async def refused() -> bool:
        answer = await call(gateway, API_KEY, "POST", "/api/sendText", {**body}, **key)
        assert (answer.status, answer.body["error"], answer.headers["Retry-After"]) == (409, "Conflict", "2")
        return True

    await asyncio.sleep(0)
    await eventually("the second is refused", refused, within=5)
    async with OtherWorker(body={"result": {"id": "true_1"}}) as worker:
        await gateway.say("ana", Phase.CONNECTED, address=worker.address)
        assert (await first).status == 201
        again = await call(gateway, API_KEY, "POST", "/api/sendText", body, **key)
        assert (again.status, again.body, len(worker.requests)) == (201, {"id": "true_1"}, 1)


# --- Addresses that clients give


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/x", "is a private address"),
        ("http://localhost:1/x", "is a private address"),
        ("http://10.0.0.1/", "is a private address"),
        ("http://[::1]/", "is a private address"),
        ("http://[::ffff:10.0.0.1]/", "is a private address"),
        ("http://[64:ff9b::a00:1]/", "is a private address"),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://2130706433/", "is not an address"),
        ("http://0x7f.1/", "is a private address"),
        ("http://127.1/", "is not an address"),
        ("http://0.0.0.0/", "reserved"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://", "must begin with http"),
        ("http://[::1", "cannot be read"),
    ],
)
async def test_files_are_not_fetched_from_inside(gateway: Gateway, url: str, why: str) -> None:
    body = {"session": "ana", "chatId": "5511", "file": {"url": url}}
    answer = await gateway("POST", "/api/sendImage", body)
    assert answer.status == 400, str(answer)
    assert why in answer.body["message"][0]


async def test_a_redirect_to_the_inside_is_not_followed(
    kube: ProductApi, redis_server: RedisServer, namespace: str
) -> None:
    async def go(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    app = web.Application()
    app.router.add_get("/", go)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Gateway(kube, redis_server.url, namespace, MEDIA_PRIVATE_TARGETS="true") as gateway:
            file = {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/"}
            answer = await gateway("POST", "/api/sendImage", {"chatId": "5511", "file": file})
            assert answer.status == 400
            assert "link-local" in answer.body["message"][0]
    finally:
        await runner.cleanup()


async def test_a_file_larger_than_allowed_is_refused(
    kube: ProductApi, redis_server: RedisServer, namespace: str
) -> None:
    async with Gateway(kube, redis_server.url, namespace, MEDIA_MAX_BYTES="10") as gateway:
        for data, status in (("A" * 16, 400), ("A" * 12, 404)):  # 12 and 9 bytes; no such session
            answer = await gateway("POST", "/api/sendFile", {"chatId": "5511", "file": {"data": data}})
            assert answer.status == status, str(answer)


# --- Dead letters


async def test_dead_letters_are_listed_and_delivered_again(
    kube: ProductApi, gateway: Gateway, receiver: Receiver
) -> None:
    hook = {"url": f"{receiver.url}/a", "events": ["message"], "retries": {"attempts": 1, "delaySeconds": 1}}
    await kube.create(gateway.config.namespace, "ana", webhooks=[hook])
    await gateway.knows("ana")
    receiver.status = 500
    ids = [await gateway.happen("ana", "message", n=number) for number in range(2)]
    path = "/api/ana/webhooks/dead-letters"

    async def dead() -> Any:
        letters = (await gateway("GET", path)).body
        return letters if len(letters) == 2 else None

    letters = await eventually("both are given up", dead, within=PATIENCE)
    assert [letter["event"]["id"] for letter in letters] == ids
    assert {(letter["url"], letter["reason"]) for letter in letters} == {(hook["url"], "status 500")}
    failed = await gateway("POST", path, {"ids": [letters[0]["id"], "1-1"]})
    assert failed.body == [
        {"id": letters[0]["id"], "delivered": False, "reason": "status 500"},
        {"id": "1-1", "delivered": False, "reason": "there is no such dead letter"},
    ]
    receiver.status = 200
    replayed = await gateway("POST", path)
    assert (replayed.status, [letter["delivered"] for letter in replayed.body]) == (201, [True, True])
    assert [body["id"] for body in receiver.events("message", "ana")][-2:] == ids
    assert (await gateway("GET", path)).body == []
    assert (await gateway("GET", "/api/nobody/webhooks/dead-letters")).status == 404


# --- The websocket


async def frames(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[dict[str, Any]]:
    """The next frames."""
    async with asyncio.timeout(PATIENCE):
        return [await socket.receive_json() for _ in range(count)]


async def test_a_websocket_gets_what_it_asks_for(kube: ProductApi, gateway: Gateway) -> None:
    for name in ("ana", "bob"):
        await kube.create(gateway.config.namespace, name)
        await gateway.knows(name)
    await gateway.happen("ana", "message", n=0)  # before anybody listens
    async with (
        aiohttp.ClientSession(gateway.url.replace("http", "ws")) as http,
        http.ws_connect(f"/ws?x-api-key={API_KEY}&session=ana&events=message&events=session.status") as one,
        http.ws_connect(f"/ws?x-api-key={API_KEY}") as every,
    ):
        for number, (name, event) in enumerate([("ana", "message"), ("bob", "message"), ("ana", "engine.event")], 1):
            await gateway.happen(name, event, n=number)
        last = await gateway.happen("ana", "session.status", status="WORKING")
        assert [frame["event"] for frame in await frames(one, 2)] == ["message", "session.status"]
        shown = await frames(every, 3)
        assert sorted((frame["session"], frame["event"]) for frame in shown) == [
            ("ana", "message"), ("ana", "session.status"), ("bob", "message"),
        ]  # fmt: skip
        [status] = [frame for frame in shown if frame["event"] == "session.status"]
        assert (status["id"], status["payload"]["status"], status["engine"]) == (last, "WORKING", "WPP")
        # A session that comes later is among all of them.
        await kube.create(gateway.config.namespace, "new")
        await gateway.knows("new")
        await gateway.happen("new", "message", n=9)
        assert (await frames(every, 1))[0]["session"] == "new"


async def test_a_websocket_is_for_those_with_a_key(gateway: Gateway) -> None:
    made = await new_key(gateway, session="mine")
    async with aiohttp.ClientSession(gateway.url) as http:
        for query, status in (("", 401), (f"x-api-key={made['key']}&session=theirs", 403)):
            async with http.get(f"/ws?{query}") as response:
                assert response.status == status


async def test_websockets_end_with_the_server(kube: ProductApi, redis_server: RedisServer, namespace: str) -> None:
    async with Gateway(kube, redis_server.url, namespace) as gateway, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{gateway.url}/ws?x-api-key={API_KEY}") as socket:
            ending = asyncio.create_task(gateway.aclose())
            async with asyncio.timeout(PATIENCE):
                message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
        await ending


# --- The documentation


def test_the_documentation_lists_what_the_engine_cannot_do() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    listed = re.findall(r"^\| `((?:GET|POST|PUT|DELETE) /\S+)` \| (.+) \|$", text, flags=re.MULTILINE)
    absent = {f"{one.method} {one.path}": one.why_absent for one in ALL if one.why_absent}
    assert {name: why for name, why in listed if "dead-letters" not in name} == absent
    sections = dict(re.findall(r"^\| (\S+ [A-Z][^|]*) \| (\d+ \| \d+) \|$", text, flags=re.MULTILINE))
    tags = dict.fromkeys(one.tag for one in ALL)
    counts = {
        tag: f"{sum(one.tag == tag and not one.why_absent for one in ALL)} | "
        f"{sum(one.tag == tag and bool(one.why_absent) for one in ALL)}"
        for tag in tags
    }
    assert sections == counts
