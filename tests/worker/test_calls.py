"""Calls to a page through the worker's control API: files, refusals, and what a message's own id is good for."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from sandbox.whatsapp import Settings, WhatsAppServer, seed
from session_worker.contract import SENDS, CallRequest, Method, SessionKey, call_path
from tests.support.redis_server import RedisServer
from tests.support.worker_world import TOKEN, Reply, Worker, WorkerWorld, eventually

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

READER = f"{seed.READER}@c.us"
ANA = SessionKey("team", "caller")


@pytest.fixture(scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    """A worker with one connected session."""
    directory = tmp_path_factory.mktemp("calls")
    settings = Settings(time_scale=0.1, reconnect=1, keepalive=0.5)
    async with (
        RedisServer(directory) as redis,
        WhatsAppServer(settings=settings) as whatsapp,
        WorkerWorld(directory, redis, whatsapp) as world,
        Worker(world.environment("w-calls")) as running,
    ):
        await world.pair(running.config, ANA, "5511900000077")
        yield running


async def call_large(worker: Worker, method: Method, **params: object) -> Reply:
    """A call with a large body."""
    body = io.BytesIO(CallRequest(epoch=1, params=params).to_json().encode())
    url = f"http://127.0.0.1:{worker.config.port}{call_path(ANA, method)}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as response:
        return Reply(response.status, await response.json())


@pytest.mark.parametrize("size", [1, 3 * 2**18, 3 * 2**18 + 1, 5_000_000])
async def test_a_file_of_any_size_arrives_as_it_was(worker: Worker, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    file = {"mimetype": "text/plain", "filename": "a.txt", "data": base64.b64encode(content).decode()}
    sent = await call_large(worker, Method.SEND_FILE, chatId=READER, kind="document", file=file)
    assert sent.status == 200, sent.body
    got = await worker.call(ANA, Method.DOWNLOAD, messageId=sent.body["result"]["id"])
    assert got.status == 200, got.body
    assert base64.b64decode(got.body["result"]["data"]) == content
    assert got.body["result"]["mimetype"] == "text/plain"


async def test_a_file_that_is_no_base64_is_refused_before_anything_is_sent(worker: Worker) -> None:
    reply = await worker.call(ANA, Method.SEND_FILE, chatId=READER, kind="document", file={"data": "%%%%"})
    assert (reply.status, reply.body["refusal"]) == (400, "BadRequest")


async def test_an_id_is_sent_once(worker: Worker) -> None:
    replies = [await worker.call(ANA, Method.SEND_TEXT, chatId=READER, text=str(n), id="3EB0AA") for n in range(2)]
    assert [reply.body["result"]["body"] for reply in replies] == ["0", "0"]
    assert replies[0].body["result"]["id"] == f"true_{READER}_3EB0AA"


@pytest.mark.parametrize(
    ("method", "params", "status", "refusal"),
    [
        (Method.SEND_TEXT, {"chatId": "nobody", "text": "x"}, 400, "BadRequest"),
        (Method.SEND_TEXT, {"chatId": READER, "text": "x", "id": "a b"}, 400, "BadRequest"),
        (Method.GET_MESSAGE, {"messageId": f"true_{READER}_NONE"}, 404, "NotFound"),
        (Method.GET_GROUP, {"groupId": "1@g.us"}, 404, "NotFound"),
        (Method.PUT_LABEL, {"name": "x"}, 502, "Page"),  # this account is no business
    ],
)
async def test_what_the_page_refuses_is_told_apart(
    worker: Worker, method: Method, params: dict[str, Any], status: int, refusal: str
) -> None:
    reply = await worker.call(ANA, method, **params)
    assert (reply.status, reply.body["refusal"]) == (status, refusal), reply.body


async def test_every_method_of_the_contract_is_one_of_the_page(worker: Worker) -> None:
    browser = worker.session(ANA)._browser
    assert browser is not None
    expression = "__bridge.methods"
    answer = await browser._send("Runtime.evaluate", {"expression": expression, "returnByValue": True})
    assert set(Method) <= set(answer["result"]["value"])
    assert set(Method) >= SENDS


async def test_a_page_that_is_loaded_anew_takes_files_again(worker: Worker) -> None:
    browser = worker.session(ANA)._browser
    assert browser is not None
    await browser.reload()

    async def sent() -> bool:
        file = {"mimetype": "text/plain", "filename": "a.txt", "data": "aGVsbG8="}
        reply = await worker.call(ANA, Method.SEND_FILE, chatId=READER, kind="document", file=file)
        return reply.status == 200

    await eventually("a file is sent", sent)
