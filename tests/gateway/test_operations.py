"""WAHA's operations on the real page API: a gateway, a worker, Chromium and the WhatsApp stand-in, one of each.

Every answer is held against the model that its operation declares, and at the end every operation was answered.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from pydantic import TypeAdapter

from gateway.api import ALL
from gateway.operations import Operation
from sandbox.whatsapp import Phone, Sandbox, Settings, WhatsAppServer
from sandbox.whatsapp.seed import ABSENT, ECHO, READER, SILENT
from session_worker.contract import SessionKey
from tests.support.gateway_world import API_KEY, PATIENCE, Gateway
from tests.support.kube_product import ProductApi
from tests.support.people import Answer, eventually
from tests.support.redis_server import RedisServer
from tests.support.whatsapp_samples import chat, lid, png
from tests.support.worker_world import Worker, WorkerWorld

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

ME = "12025550150"
S = "shop"
"""The session."""
NOT_FOUND = {"message": "Message not found", "error": "Not Found", "statusCode": 404}
PICTURE = base64.b64encode(png(64, 48)).decode()
VOICE = base64.b64encode(b"OggS" + bytes(200)).decode()


@dataclass(slots=True)
class Client:
    """Somebody who calls the gateway, and holds it to its word."""

    gateway: Gateway
    phone: Phone
    sandbox: Sandbox
    answered: set[str] = field(default_factory=set)

    async def __call__(
        self, method: str, path: str, body: Any = None, *, status: int | None = None, **options: Any
    ) -> Any:
        """The body of an answer; it has the operation's status unless another one is named."""
        answer = await self.answer(method, path, body, **options)
        operation = operation_of(method, path)
        assert answer.status == (status or operation.status), f"{method} {path}: {answer}"
        if status is None:
            self.answered.add(operation.operation_id)
            if operation.result is None:
                assert answer.body == b""
            else:
                TypeAdapter(operation.result).validate_python(answer.body)
        return answer.body

    async def answer(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """An answer as it is."""
        headers = {"X-Api-Key": API_KEY, **options.pop("headers", {})}
        return await self.gateway(method, path, body, headers=headers, **options)

    async def send(self, text: str, to: str = chat(READER), **more: Any) -> dict[str, Any]:
        """Send a text."""
        message: dict[str, Any] = await self(
            "POST", "/api/sendText", {"session": S, "chatId": to, "text": text, **more}
        )
        return message

    async def seen(self, other: str, chat_: str, text: str) -> dict[str, Any]:
        """What another person's phone has got from us, by its text."""

        async def look() -> Any:
            async with self.sandbox.phone(other) as phone:
                found = await phone.messages(chat=chat_)
            return next((one for one in found if text in str(one)), None)

        message: dict[str, Any] = await eventually(f"{text} on the phone of {other}", look, within=PATIENCE)
        return message

    async def copies(self, text: str) -> int:
        """How often the reader has got a text, once a later one has arrived."""
        marker = (await self.send(f"after {text}"))["id"].split("_")[2]
        await self.seen(READER, chat(ME), marker)
        async with self.sandbox.phone(READER) as phone:
            found = await phone.messages(chat=chat(ME))
        return sum(message["content"].get("body") == text for message in found)


def operation_of(method: str, path: str) -> Operation:
    """The operation that serves a path."""
    plain = path.partition("?")[0]
    fitting = [
        operation
        for operation in ALL
        if operation.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation.path), plain)
    ]
    return min(fitting, key=lambda operation: operation.path.count("{"))


@pytest.fixture(scope="module")
async def client(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, kube: ProductApi
) -> AsyncIterator[Client]:
    """A gateway whose session is connected."""
    directory, namespace = tmp_path_factory.mktemp("operations"), await kube.namespace()
    settings = Settings(time_scale=0.1, reconnect=1, keepalive=0.5)
    async with (
        WhatsAppServer(settings=settings) as whatsapp,
        Sandbox(whatsapp.url) as sandbox,
        WorkerWorld(directory, redis_server, whatsapp) as world,
        Worker(world.environment("w-operations")) as worker,
        Gateway(kube, redis_server.url, namespace, MEDIA_PRIVATE_TARGETS="true") as gateway,
    ):
        await sandbox.create(ME, name="Shop", business=True)
        await kube.create(namespace, S)
        await kube.give(namespace, S, "w-operations")
        phone = await world.pair(worker.config, SessionKey(namespace, S), ME)
        await gateway.knows(S, "WORKING", "status")
        yield Client(gateway, phone, sandbox)


# --- Sending


async def test_a_text_is_sent_and_described(client: Client) -> None:
    message = await client.send("hello there")
    assert message["id"].startswith(f"true_{chat(READER)}_")
    assert (message["body"], message["fromMe"], message["source"]) == ("hello there", True, "api")
    assert (message["from"], message["to"], message["ackName"] in {"PENDING", "SERVER"}) == (
        chat(ME),
        chat(READER),
        True,
    )
    assert message["_data"]["id"]["_serialized"] == message["id"]
    await client.seen(READER, chat(ME), "hello there")
    old = await client("GET", f"/api/sendText?session={S}&phone={READER}&text=by%20get")
    assert old["body"] == "by get"


async def test_a_message_is_answered(client: Client) -> None:
    first = await client.send("question")
    for path in ("/api/sendText", "/api/reply"):
        body = {"session": S, "chatId": READER, "text": "answer", "reply_to": first["id"]}
        message = await client("POST", path, body)
        assert message["replyTo"]["id"] == first["id"].split("_")[2]
        assert message["replyTo"]["body"] == "question"
    missing = {"session": S, "chatId": READER, "text": "x", "reply_to": f"true_{chat(READER)}_NOTTHERE"}
    assert await client("POST", "/api/sendText", missing, status=404) == NOT_FOUND


async def test_a_client_may_choose_the_id_and_repeat_it(client: Client) -> None:
    made = await client("GET", f"/api/{S}/new-message-id")
    first = await client.send("only once", id=made["id"])
    assert first["id"] == f"true_{chat(READER)}_{made['id']}"
    assert (await client.send("only once", id=made["id"]))["id"] == first["id"]
    assert await client.copies("only once") == 1
    await client("POST", "/api/sendText", {"session": S, "chatId": READER, "text": "x", "id": "a b"}, status=400)


TO = {"session": S, "chatId": READER}
FILE = {"file": {"mimetype": "text/plain", "filename": "a.txt", "data": "aGVsbG8="}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/sendFile", {**TO, **FILE}),
        ("/api/sendLocation", {**TO, "latitude": 1, "longitude": 2}),
        ("/api/sendContactVcard", {**TO, "contacts": [{"fullName": "A", "phoneNumber": "+1"}]}),
        ("/api/sendPoll", {**TO, "poll": {"name": "q", "options": ["a", "b"]}}),
        (f"/api/{S}/events", {"chatId": READER, "event": {"name": "E", "startTime": 1_900_000_000}}),
        (f"/api/{S}/status/text", {"text": "named"}),
    ],
)
async def test_whatever_is_sent_under_a_clients_id_is_sent_once(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    bare = f"3EB0{abs(hash(path)) % 16**12:012X}"
    first = await client("POST", path, {**body, "id": bare})
    assert first["id"].split("_")[2] == bare
    again = await client("POST", path, {**body, "id": bare})
    assert (again["id"], again["timestamp"]) == (first["id"], first["timestamp"])
    # A name for the request becomes such an id.
    named = await client.answer("POST", path, body, headers={"Idempotency-Key": path})
    assert (named.status, named.body["id"].split("_")[2][:4]) == (201, "3EB0")
    assert len(named.body["id"].split("_")[2]) == 22


async def test_a_link_has_the_preview_that_the_client_gives_it(client: Client) -> None:
    preview = {"url": "https://example.org/", "title": "Ex", "description": "Ample", "image": {"data": PICTURE}}
    body = {"session": S, "chatId": READER, "text": "see https://example.org/", "preview": preview}
    assert (await client("POST", "/api/send/link-custom-preview", body))["body"] == "see https://example.org/"
    old = {"session": S, "chatId": READER, "url": "https://example.org/", "title": "Look"}
    assert (await client("POST", "/api/sendLinkPreview", old))["body"] == "Look\nhttps://example.org/"


@pytest.mark.parametrize(
    ("path", "file", "more", "kind"),
    [
        ("/api/sendImage", {"mimetype": "image/png", "filename": "a.png", "data": PICTURE}, {"caption": "c"}, "image"),
        ("/api/sendFile", {"mimetype": "text/plain", "filename": "a.txt", "data": "aGVsbG8="}, {}, "document"),
        ("/api/sendSticker", {"mimetype": "image/png", "data": PICTURE}, {}, "sticker"),
        ("/api/sendVoice", {"data": VOICE}, {"convert": True}, "ptt"),
        ("/api/sendVideo", {"data": VOICE}, {"convert": False, "asNote": False, "caption": "v"}, "video"),
    ],
)
async def test_files_are_sent_and_can_be_fetched_again(
    client: Client, path: str, file: dict[str, str], more: dict[str, Any], kind: str
) -> None:
    message = await client("POST", path, {"session": S, "chatId": READER, "file": file, **more})
    assert (message["hasMedia"], message["_data"]["type"]) == (True, kind)
    assert message["body"] == more.get("caption", "")
    assert message["media"]["url"] == message["mediaUrl"]
    fetched = await client.answer("GET", message["media"]["url"])
    assert fetched.status == 200
    assert fetched.body == base64.b64decode(file["data"])
    assert fetched.headers["Content-Disposition"] == "attachment"
    url = message["media"]["url"].removeprefix(client.gateway.url)
    encoded = await client("GET", url, headers={"Accept": "application/json"})
    assert encoded["data"] == file["data"]


async def test_a_large_file_reaches_the_other_side_as_it_was(client: Client) -> None:
    content = bytes(range(256)) * (9 * 4096)  # 9 MiB: many pieces
    file = {"mimetype": "application/octet-stream", "filename": "big.bin", "data": base64.b64encode(content).decode()}
    body = io.BytesIO(json.dumps({"session": S, "chatId": READER, "file": file}).encode())
    headers = {"X-Api-Key": API_KEY}
    async with aiohttp.ClientSession(client.gateway.url, headers=headers) as http:
        async with http.post("/api/sendFile", data=body) as response:
            assert response.status == 201, await response.text()
            message = await response.json()
        async with http.get(message["media"]["url"]) as response:
            assert await response.read() == content


async def test_a_file_is_fetched_from_its_address(client: Client) -> None:
    async def give(_: web.Request) -> web.Response:
        return web.Response(body=base64.b64decode(PICTURE), content_type="image/png")

    app = web.Application()
    app.router.add_get("/p.png", give)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        message = await client(
            "POST", "/api/sendImage", {"session": S, "chatId": READER, "file": {"url": f"{url}/p.png"}}
        )
        assert message["media"]["mimetype"] == "image/png"
        missing = {"session": S, "chatId": READER, "file": {"url": f"{url}/none"}}
        refused = await client("POST", "/api/sendImage", missing, status=422)
        assert refused["message"] == "file.url: the server answered with status 404"
    finally:
        await runner.cleanup()


async def test_a_file_that_is_none_is_refused(client: Client) -> None:
    body = {"session": S, "chatId": READER, "file": {"data": "no base64!"}}
    assert (await client("POST", "/api/sendFile", body, status=400))["message"] == ["file.data: must be base64"]
    wrong = {"session": S, "chatId": READER, "convert": True, "file": {"mimetype": "audio/mpeg", "data": VOICE}}
    assert "convert" in (await client("POST", "/api/sendVoice", wrong, status=422))["message"]
    text = await client.send("no file")
    gone = await client("GET", f"/api/files/{S}/{text['id']}.jpeg", status=404)
    assert gone["error"]["key"] == "FILE_NOT_FOUND"


async def test_places_contacts_polls_lists_and_events_are_sent(client: Client) -> None:
    to = {"session": S, "chatId": READER}
    place = await client("POST", "/api/sendLocation", {**to, "latitude": 1.5, "longitude": -2.25, "title": "Here"})
    assert (place["location"]["latitude"], place["location"]["longitude"]) == ("1.5", "-2.25")
    ana = {"fullName": "Ana; Silva", "phoneNumber": "+55 11 9999", "organization": "Acme", "whatsappId": "55119999"}
    one = await client("POST", "/api/sendContactVcard", {**to, "contacts": [ana]})
    assert "FN:Ana\\; Silva" in one["vCards"][0]
    assert "waid=55119999" in one["vCards"][0]
    two = await client(
        "POST", "/api/sendContactVcard", {**to, "contacts": [ana, {"vcard": "BEGIN:VCARD\nFN:Bo\nEND:VCARD"}]}
    )
    assert len(two["vCards"]) == 2
    poll = {"name": "Tea?", "options": ["yes", "no"], "multipleAnswers": False}
    assert (await client("POST", "/api/sendPoll", {**to, "poll": poll}))["_data"]["type"] == "poll_creation"
    rows = [{"title": "T", "rows": [{"rowId": "1", "title": "One", "description": "d"}]}]
    await client("POST", "/api/sendList", {**to, "message": {"title": "L", "button": "B", "sections": rows}})
    event = {"name": "Party", "startTime": 1_900_000_000, "location": {"name": "Home"}}
    sent = await client("POST", f"/api/{S}/events", {"chatId": READER, "event": event})
    assert sent["_data"]["type"] == "event_creation"


async def test_a_message_is_forwarded(client: Client) -> None:
    first = await client.send("to be passed on")
    body = {"session": S, "chatId": SILENT, "messageId": first["id"]}
    message = await client("POST", "/api/forwardMessage", body)
    assert (message["body"], message["to"]) == ("to be passed on", chat(SILENT))
    assert message["id"] != first["id"]
    assert await client("POST", "/api/forwardMessage", {**body, "messageId": "nonsense"}, status=404) == NOT_FOUND


async def test_messages_get_reactions_stars_and_are_read(client: Client) -> None:
    message = await client.send("react to me")
    for reaction in ("👍", ""):
        body = {"session": S, "messageId": message["id"], "reaction": reaction}
        assert await client("PUT", "/api/reaction", body) == {"success": True}
    for star in (True, False):
        await client("PUT", "/api/star", {"session": S, "messageId": message["id"], "chatId": READER, "star": star})
    await client("POST", "/api/sendSeen", {"session": S, "chatId": READER})
    for path in ("/api/startTyping", "/api/stopTyping"):
        assert (await client("POST", path, {"session": S, "chatId": READER}))["result"] is True


# --- Chats


async def incoming(client: Client, *texts: str, of: str = SILENT) -> list[str]:
    """Messages from somebody, once the page has them; their ids, the oldest first."""
    async with client.sandbox.phone(of) as phone:
        for text in texts:
            await phone.send(chat(ME), text)

    async def look() -> list[str] | None:
        found = await client("GET", f"/api/{S}/chats/{of}/messages?limit=200&filter.fromMe=false")
        ids = {message["body"]: message["id"] for message in found}
        return [ids[text] for text in texts] if set(texts) <= set(ids) else None

    ids: list[str] = await eventually(f"{texts} arrived", look, within=PATIENCE)
    return ids


async def test_chats_are_listed_and_shown_in_short(client: Client) -> None:
    await client.send("newest")
    chats = await client("GET", f"/api/{S}/chats")
    assert chats[0]["id"] == chat(READER)
    assert chats[0]["lastMessage"]["body"] == "newest"
    assert [entry["timestamp"] for entry in chats] == sorted((entry["timestamp"] for entry in chats), reverse=True)
    by_id = await client("GET", f"/api/{S}/chats?sortBy=id&sortOrder=asc&limit=2&offset=1")
    assert [entry["id"] for entry in by_id] == sorted(entry["id"] for entry in chats)[1:3]
    short = await client("GET", f"/api/{S}/chats/overview?limit=1")
    assert (short[0]["id"], short[0]["name"]) == (chat(READER), "Emma Reader")
    assert short[0]["_chat"]["isGroup"] is False
    some = await client("POST", f"/api/{S}/chats/overview", {"filter": {"ids": [chat(SILENT)]}})
    assert [entry["id"] for entry in some] == [chat(SILENT)]
    assert await client("GET", f"/api/{S}/chats/{READER}/picture") == {"url": None}


async def test_messages_are_listed_with_filters(client: Client) -> None:
    ids = await incoming(client, *(f"page {number}" for number in range(60)))
    newest = await client("GET", f"/api/{S}/chats/{SILENT}/messages?limit=5")
    assert [message["body"] for message in newest] == [f"page {number}" for number in (59, 58, 57, 56, 55)]
    older = await client("GET", f"/api/{S}/chats/{SILENT}/messages?limit=3&offset=55&filter.fromMe=false&sortOrder=asc")
    assert [message["body"] for message in older] == ["page 2", "page 3", "page 4"]
    mine = await client("GET", f"/api/{S}/chats/{SILENT}/messages?limit=50&filter.fromMe=true")
    assert all(message["fromMe"] for message in mine)
    none = await client("GET", f"/api/{S}/chats/{SILENT}/messages?limit=50&filter.timestamp.gte=4000000000")
    assert none == []
    assert await client("GET", f"/api/{S}/chats/{SILENT}/messages?limit=50&filter.timestamp.lte=1000") == []
    assert await client("GET", f"/api/{S}/chats/{SILENT}/messages?filter.ack=PLAYED") == []
    old = await client("GET", f"/api/messages?session={S}&chatId={SILENT}&limit=1")
    assert old[0]["id"] == ids[-1]
    one = await client("GET", f"/api/{S}/chats/{quote(chat(SILENT), safe='')}/messages/{quote(ids[0], safe='')}")
    assert one["body"] == "page 0"
    for wrong in (f"false_{chat(SILENT)}_NOTTHERE", "nonsense"):
        assert await client("GET", f"/api/{S}/chats/{SILENT}/messages/{wrong}", status=404) == NOT_FOUND


async def test_media_are_left_out_where_nobody_wants_them(client: Client) -> None:
    file = {"mimetype": "image/png", "data": PICTURE}
    await client("POST", "/api/sendImage", {"session": S, "chatId": READER, "file": file})
    with_media, without = [
        (await client("GET", f"/api/{S}/chats/{READER}/messages?limit=1&downloadMedia={wanted}"))[0]
        for wanted in ("true", "false")
    ]
    assert with_media["media"]["url"]
    assert (without["hasMedia"], without["media"]) == (True, None)


async def test_unread_messages_are_read(client: Client) -> None:
    await client("POST", f"/api/{S}/chats/{SILENT}/messages/read")
    ids = await incoming(client, "unread 1", "unread 2")
    read = await client("POST", f"/api/{S}/chats/{SILENT}/messages/read?days=1")
    assert sorted(read["ids"]) == sorted(ids)
    assert await client("POST", f"/api/{S}/chats/{SILENT}/messages/read") == {"ids": []}


async def test_messages_are_edited_pinned_and_taken_back(client: Client) -> None:
    message = await client.send("before")
    path = f"/api/{S}/chats/{READER}/messages/{message['id']}"
    assert (await client("PUT", path, {"text": "after"}))["body"] == "after"
    await client.seen(READER, chat(ME), "after")
    await client("POST", f"{path}/pin", {"duration": 86_400})
    await client("POST", f"{path}/unpin")
    await client("DELETE", path)
    [theirs] = await incoming(client, "of another")
    await client("DELETE", f"/api/{S}/chats/{SILENT}/messages/{theirs}")
    assert await client("GET", f"/api/{S}/chats/{SILENT}/messages/{theirs}", status=404) == NOT_FOUND


async def test_chats_are_archived_marked_cleared_and_deleted(client: Client) -> None:
    await client.send("x", to=chat(ABSENT))

    async def state() -> dict[str, Any]:
        chats = await client("GET", f"/api/{S}/chats")
        return next(entry for entry in chats if entry["id"] == chat(ABSENT))

    await client("POST", f"/api/{S}/chats/{ABSENT}/archive")
    assert (await state())["archived"] is True
    await client("POST", f"/api/{S}/chats/{ABSENT}/unarchive")
    assert (await state())["archived"] is False
    await client("POST", f"/api/{S}/chats/{ABSENT}/unread")
    await client("DELETE", f"/api/{S}/chats/{ABSENT}/messages")
    assert await client("GET", f"/api/{S}/chats/{ABSENT}/messages") == []
    await client("DELETE", f"/api/{S}/chats/{ABSENT}")
    assert chat(ABSENT) not in [entry["id"] for entry in await client("GET", f"/api/{S}/chats")]
    gone = await client("DELETE", f"/api/{S}/chats/{ABSENT}", status=404)
    assert gone == {"message": "Chat not found", "error": "Not Found", "statusCode": 404}


async def test_a_call_is_rejected(client: Client) -> None:
    async with client.sandbox.phone(READER) as phone:
        call = await phone.call(ME)

    async def reject() -> bool:
        answer = await client.answer("POST", f"/api/{S}/calls/reject", {"from": chat(READER), "id": call})
        assert answer.status == 201, str(answer)
        client.answered.add("CallsController_rejectCall")
        return True

    await eventually("the call is rejected", reject, within=PATIENCE)
    await client("POST", f"/api/{S}/calls/reject", {"from": chat(READER), "id": "none"}, status=422)


# --- People


async def test_contacts_are_listed_looked_up_and_saved(client: Client) -> None:
    everybody = await client("GET", f"/api/contacts/all?session={S}&sortBy=name&sortOrder=asc")
    assert chat(ECHO) in [contact["id"] for contact in everybody]
    assert len(await client("GET", f"/api/contacts/all?session={S}&limit=2")) == 2
    emma = await client("GET", f"/api/contacts?session={S}&contactId={READER}")
    assert (emma["id"], emma["number"], emma["name"], emma["isMyContact"]) == (
        chat(READER),
        READER,
        "Emma Reader",
        True,
    )
    assert await client("GET", f"/api/{S}/contacts/{READER}") == emma
    nobody = await client("GET", f"/api/contacts?session={S}&contactId=12025559999", status=404)
    assert nobody["message"] == "Contact not found"
    assert (await client("GET", f"/api/contacts/about?session={S}&contactId={READER}"))["about"]
    picture = await client("GET", f"/api/contacts/profile-picture?session={S}&contactId={READER}")
    assert picture == {"profilePictureURL": None}
    there = {"numberExists": True, "chatId": chat(READER)}
    assert await client("GET", f"/api/contacts/check-exists?session={S}&phone={READER}") == there
    assert await client("GET", f"/api/checkNumberStatus?session={S}&phone=12025559999") == {"numberExists": False}
    for verb, blocked in (("block", True), ("unblock", False)):
        await client("POST", f"/api/contacts/{verb}", {"session": S, "contactId": READER})
        shown = await client("GET", f"/api/contacts?session={S}&contactId={READER}")
        assert shown["isBlocked"] is blocked
    await client("PUT", f"/api/{S}/contacts/{READER}", {"firstName": "Emma", "lastName": "Reader"})


async def test_lids_and_numbers_are_found_by_each_other(client: Client) -> None:
    pair = {"lid": lid(READER), "pn": chat(READER)}
    assert await client("GET", f"/api/{S}/lids/pn/{READER}") == pair
    assert await client("GET", f"/api/{S}/lids/{quote(lid(READER), safe='')}") == pair
    assert pair in await client("GET", f"/api/{S}/lids")
    assert (await client("GET", f"/api/{S}/lids/count"))["count"] == len(await client("GET", f"/api/{S}/lids"))
    assert (await client("GET", f"/api/{S}/lids/999"))["pn"] is None


async def test_the_profile_is_shown_and_changed(client: Client) -> None:
    assert (await client("GET", f"/api/{S}/profile"))["id"] == chat(ME)
    await client("PUT", f"/api/{S}/profile/name", {"name": "New name"})
    await client("PUT", f"/api/{S}/profile/status", {"status": "Busy"})
    await client("PUT", f"/api/{S}/profile/picture", {"file": {"mimetype": "image/png", "data": PICTURE}})
    profile = await client("GET", f"/api/{S}/profile")
    assert profile["name"] == "New name"
    assert profile["picture"]
    assert await client("GET", f"/api/contacts/about?session={S}&contactId={ME}") == {"about": "Busy"}
    await client("DELETE", f"/api/{S}/profile/picture")
    assert (await client("GET", f"/api/{S}/profile"))["picture"] is None


async def test_presence_is_shown_and_seen(client: Client) -> None:
    for presence in ("online", "offline"):
        await client("POST", f"/api/{S}/presence", {"presence": presence})
    for presence in ("typing", "recording", "paused"):
        await client("POST", f"/api/{S}/presence", {"presence": presence, "chatId": READER})
    refused = await client("POST", f"/api/{S}/presence", {"presence": "typing"}, status=400)
    assert refused["message"] == ["chatId: say in which chat you are typing"]
    await client("POST", f"/api/{S}/presence/{READER}/subscribe")
    emma = await client("GET", f"/api/{S}/presence/{READER}")
    assert emma["id"] == chat(READER)
    assert emma["presences"][0]["lastKnownPresence"] == "online"
    assert await client("GET", f"/api/{S}/presence")


# --- Groups


async def test_a_groups_whole_life(client: Client) -> None:
    made = await client("POST", f"/api/{S}/groups", {"name": "Crew", "participants": [{"id": chat(SILENT)}]})
    group = f"/api/{S}/groups/{quote(made['id'], safe='')}"
    assert (made["subject"], made["results"]) == ("Crew", [{"id": chat(SILENT), "code": 200}])
    roles = {person["pn"]: person["role"] for person in await client("GET", f"{group}/participants/v2")}
    assert roles == {chat(ME): "superadmin", chat(SILENT): "participant"}
    reader = {"participants": [{"id": chat(READER)}]}
    added = await client("POST", f"{group}/participants/add", reader)
    assert added["participants"] == [{"id": chat(READER), "code": 200}]
    await client("POST", f"{group}/admin/promote", reader)
    members = {person["pn"]: person["isAdmin"] for person in await client("GET", f"{group}/participants")}
    assert members[chat(READER)] is True
    await client("POST", f"{group}/admin/demote", reader)
    await client("POST", f"{group}/participants/remove", reader)
    await client("PUT", f"{group}/subject", {"subject": "Crew 2"})
    await client("PUT", f"{group}/description", {"description": "All about it"})
    for name in ("info-admin-only", "messages-admin-only"):
        for value in (True, False):
            await client("PUT", f"{group}/settings/security/{name}", {"adminsOnly": value})
            assert await client("GET", f"{group}/settings/security/{name}") == {"adminsOnly": value}
    shown = await client("GET", group)
    assert (shown["subject"], shown["description"], shown["size"]) == ("Crew 2", "All about it", 2)
    await client("PUT", f"{group}/picture", {"file": {"mimetype": "image/png", "data": PICTURE}})
    assert (await client("GET", f"{group}/picture"))["url"]
    await client("DELETE", f"{group}/picture")
    assert await client("GET", f"{group}/picture") == {"url": None}
    code = await client("GET", f"{group}/invite-code")
    assert (await client("GET", f"/api/{S}/groups/join-info?code={code}"))["subject"] == "Crew 2"
    assert await client("POST", f"{group}/invite-code/revoke") != code
    listed = await client("GET", f"/api/{S}/groups?sortBy=subject&sortOrder=desc&exclude=participants")
    assert made["id"] in [entry["id"] for entry in listed]
    assert "participants" not in listed[0]
    assert (await client("GET", f"/api/{S}/groups/count"))["count"] == len(listed)
    await client("POST", f"/api/{S}/groups/refresh")
    message = await client.send("to all of you", to=made["id"], mentions=["all"])
    assert message["to"] == made["id"]
    await client("POST", f"{group}/leave")
    await client("DELETE", group)
    gone = await client("GET", f"/api/{S}/groups/000@g.us", status=404)
    assert gone["message"] == "Group not found"


async def test_a_group_is_joined_by_its_code(client: Client) -> None:
    async with client.sandbox.phone(READER) as phone:
        theirs = (await phone.group("create", subject="Theirs", numbers=[SILENT]))["group"]
    joined = await client("POST", f"/api/{S}/groups/join", {"code": f"https://chat.whatsapp.com/{theirs['invite']}"})
    assert joined == {"id": theirs["id"]}
    not_ours = {"participants": [{"id": chat(ECHO)}]}
    refused = await client("POST", f"/api/{S}/groups/{theirs['id']}/participants/add", not_ours, status=422)
    assert "admin" in refused["message"]


# --- Stories, labels, channels


async def test_stories_are_told_and_taken_back(client: Client) -> None:
    text = await client("POST", f"/api/{S}/status/text", {"text": "a story", "backgroundColor": "#38b42f", "font": 1})
    assert text["to"] == "status@broadcast"
    picture = {"file": {"mimetype": "image/png", "data": PICTURE}, "caption": "look"}
    await client("POST", f"/api/{S}/status/image", picture)
    refused = await client("POST", f"/api/{S}/status/image", {**picture, "id": "3EB0AA"}, status=422)
    assert refused["message"].startswith("id: WhatsApp chooses")
    once = [
        await client.answer("POST", f"/api/{S}/status/image", picture, headers={"Idempotency-Key": "story"})
        for _ in range(2)
    ]
    assert once[0].body["id"] == once[1].body["id"]
    await client("POST", f"/api/{S}/status/voice", {"file": {"data": VOICE}, "convert": False})
    await client("POST", f"/api/{S}/status/video", {"file": {"data": VOICE}, "convert": False})
    assert (await client("GET", f"/api/{S}/status/new-message-id"))["id"]
    await client("POST", f"/api/{S}/status/delete", {"id": text["id"]})
    await client("POST", f"/api/{S}/status/delete", {"id": text["id"]}, status=404)
    await client("POST", f"/api/{S}/status/text", {"text": "for some", "contacts": [chat(READER)]}, status=422)


async def test_labels_are_made_put_on_chats_and_removed(client: Client) -> None:
    await client.send("label me")
    label = await client("POST", f"/api/{S}/labels", {"name": "Urgent", "color": 2})
    assert (label["name"], label["color"]) == ("Urgent", 2)
    assert label["colorHex"].startswith("#")
    changed = await client("PUT", f"/api/{S}/labels/{label['id']}", {"name": "Later"})
    assert (changed["name"], changed["color"]) == ("Later", 2)
    assert [entry["id"] for entry in await client("GET", f"/api/{S}/labels")] == [label["id"]]
    await client("PUT", f"/api/{S}/labels/chats/{READER}", {"labels": [{"id": label["id"]}]})
    assert [entry["name"] for entry in await client("GET", f"/api/{S}/labels/chats/{READER}")] == ["Later"]
    labelled = await client("GET", f"/api/{S}/labels/{label['id']}/chats")
    assert [entry["id"] for entry in labelled] == [chat(READER)]
    await client("PUT", f"/api/{S}/labels/chats/{READER}", {"labels": []})
    assert await client("GET", f"/api/{S}/labels/chats/{READER}") == []
    await client("DELETE", f"/api/{S}/labels/{label['id']}")
    gone = await client("DELETE", f"/api/{S}/labels/{label['id']}", status=404)
    assert gone["message"] == "Label not found"


async def test_channels_are_made_followed_and_found(client: Client) -> None:
    channel = await client("POST", f"/api/{S}/channels", {"name": "News", "description": "All of it"})
    path = f"/api/{S}/channels/{channel['id']}"
    assert (channel["role"], channel["invite"].startswith("https://whatsapp.com/channel/")) == ("OWNER", True)
    assert (await client("GET", path))["description"] == "All of it"
    assert [entry["id"] for entry in await client("GET", f"/api/{S}/channels?role=OWNER")] == [channel["id"]]
    assert await client("GET", f"/api/{S}/channels?role=SUBSCRIBER") == []
    for verb in ("mute", "unmute"):
        await client("POST", f"{path}/{verb}")
    found = await client("POST", f"/api/{S}/channels/search/by-text", {"text": "new", "limit": 5})
    assert [entry["name"] for entry in found["channels"]] == ["News"]
    sent = await client.send("breaking", to=channel["id"])
    assert sent["to"] == channel["id"]
    await client("POST", f"{path}/follow")
    await client("POST", f"{path}/unfollow")
    await client("POST", f"{path}/follow")
    await client("DELETE", path)
    await client("GET", path, status=404)


# --- Requests with a name


async def test_a_named_request_is_done_once(client: Client) -> None:
    body = {"session": S, "chatId": READER, "text": "with a name"}
    key = {"Idempotency-Key": "order-1"}
    first = await client.answer("POST", "/api/sendText", body, headers=key)
    again = await client.answer("POST", "/api/sendText", dict(reversed(body.items())), headers=key)
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert (again.headers["Idempotency-Replayed"], "Idempotency-Replayed" in first.headers) == ("true", False)
    other = await client.answer("POST", "/api/sendText", {**body, "text": "another"}, headers=key)
    assert (other.status, other.body["error"]) == (422, "Unprocessable Entity")
    assert "Idempotency-Key" in other.body["message"]
    assert await client.copies("with a name") == 1


async def test_a_refused_named_request_can_be_made_again(client: Client) -> None:
    key = {"Idempotency-Key": "order-2"}
    body = {"session": S, "chatId": READER, "text": "x", "reply_to": f"true_{chat(READER)}_NOTTHERE"}
    for _ in range(2):
        answer = await client.answer("POST", "/api/sendText", body, headers=key)
        assert (answer.status, "Idempotency-Replayed" in answer.headers) == (404, False)
    long = await client.answer("POST", "/api/sendText", body, headers={"Idempotency-Key": "x" * 201})
    assert long.status == 400


# --- All of it


LEFT_OUT = {
    "GroupsController_getGroupJoinRequests",
    "GroupsController_approveGroupJoinRequests",
    "GroupsController_rejectGroupJoinRequests",
}
"""The stand-in has no groups that ask who may come in."""


async def test_every_operation_on_a_page_was_answered(client: Client) -> None:
    """Runs last: the tests above are the others."""
    pages = {operation.operation_id for operation in ALL if operation.calls is not None}
    assert pages - client.answered - LEFT_OUT == set()
