"""The control API: everybody's phone, and the switches for things that go wrong. JSON over HTTP under `/sandbox`.

| request | does |
|---|---|
| `GET /sandbox` | revision, pages, accounts in short |
| `GET /sandbox/accounts` | per account: devices, `live`, `max_live`, and all `overlaps` (two browsers, one account) |
| `POST /sandbox/accounts` `{number, name?, business?, behaviour?, lid_migrated?}` | make a person |
| `GET` · `PATCH /sandbox/accounts/{n}` `{name?, about?, behaviour?, business?, lid_migrated?, read_receipts?}` | |
| `GET /sandbox/accounts/{n}/messages?chat=&from_me=&history=` | what the phone has, with ids, acks and times |
| `POST …/scan` `{qr}` | the phone scans; answers `{device}` |
| `POST …/code` `{code}` | the phone types a pairing code; answers `{device}` |
| `POST …/unlink` `{device?}` | the phone unlinks one device or all; the pages are logged out |
| `POST …/send` `{to, text or content or file, count?, interval?, id?}` | the phone sends, once or `count` times |
| `POST …/edit` `{chat, id, text}` · `…/revoke` `{chat, id}` · `…/react` `{chat, id, emoji}` | from the phone |
| `POST …/vote` `{chat, id, options}` · `…/read` `{chat}` | from the phone |
| `POST …/typing` `{chat, state: composing, recording or paused}` · `…/presence` `{online}` | from the phone |
| `POST …/call` `{to, video?}` | the phone rings |
| `POST …/group` `{action: create, add, remove, promote, demote, join, leave or set, group?, subject?, numbers?, …}` | |
| `PATCH …/faults` | `{offline?, freeze?, latency?, bandwidth?, send?, send_count?}`, see `model.Faults` |
| `POST …/drop` | cut the account's sockets; the pages connect again by themselves |
| `POST …/freeze` `{frozen}` | the sockets that are open now fall silent: working, but dead |
| `POST …/conflict` | tell the account's pages that another browser has taken over |
| `POST …/trouble` `{what: bloat, hang, exceptions or reload, megabytes?, seconds?, count?}` | hurt the page itself |
| `POST /sandbox/network` `{online}` | switch the whole network off or on |
| `POST /sandbox/update` `{revision?, hard?}` | a new version is out; with `hard` (default) pages reload by themselves |
| `POST /sandbox/cold-load` `{loads, seconds?}` | the next loads get their scripts in two bursts, `seconds` apart |
| `POST /sandbox/refs` `{hold}` | keep QR codes back, or let them go |

In `…/send` `content` is a raw message such as `{"type": "location", "lat": 1, "lng": 2}`, and `file` is
`{data (base64), mimetype, filename?, caption?, voice?}`; sent `count` times a text ends in ` #1`, ` #2`, …

Errors are `{"error": sentence}` with the status of `network.RefusedError`. Numbers that nobody has are made on the spot
(`Settings.auto_create`).

Must not decide anything: it reads the request and calls the network, the groups or the hub.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import ValidationError

from sandbox.whatsapp import seed
from sandbox.whatsapp.bodies import (
    AccountChange,
    Body,
    Call,
    Code,
    ColdLoad,
    FaultChange,
    Freeze,
    GroupChange,
    Hold,
    NewAccount,
    OnChat,
    Online,
    OnMessage,
    Scan,
    Send,
    Trouble,
    Unlink,
    Update,
)
from sandbox.whatsapp.model import Person
from sandbox.whatsapp.network import RefusedError, new_message_id
from sandbox.whatsapp.views import entry_view

if TYPE_CHECKING:
    from sandbox.whatsapp.server import WhatsAppServer

JSON = dict[str, Any]


class Control:
    """The handlers. Each takes the person of the path, or nobody, and its parsed body."""

    def __init__(self, server: WhatsAppServer) -> None:
        self._server = server
        self._hub = server.hub
        self._network = server.hub.network

    def account_view(self, person: Person) -> JSON:
        """An account with its live browsers."""
        number = person.number
        connections = self._hub.connections(number)
        return {
            "number": number,
            "name": person.name,
            "lid": f"{person.lid}@lid",
            "business": person.business,
            "behaviour": person.behaviour.model_dump(),
            "faults": person.faults.model_dump(),
            "devices": [
                {
                    "id": device.id,
                    "platform": device.platform,
                    "linked_at": device.linked_at,
                    "last_login": device.last_login,
                    "queued": len(device.queue),
                }
                for device in person.devices.values()
            ],
            "live": len({one.tab for one in connections}),
            "frozen": any(one.frozen for one in connections),
            "max_live": self._server.state.max_live.get(number, 0),
            "overlaps": [overlap for overlap in self._server.state.overlaps if overlap["number"] == number],
        }

    def summary(self) -> JSON:
        """The whole stand-in in short."""
        return {
            "revision": self._server.state.revision,
            "online": self._hub.online,
            "pages": [
                {
                    "page": one.page,
                    "since": one.since,
                    "number": one.person.number if one.person else None,
                    "live": one.live,
                    "frozen": one.frozen,
                    "waiting": one.waiting,
                }
                for one in self._hub.connections()
            ],
            "accounts": len(self._server.state.people),
        }

    def accounts(self) -> JSON:
        """Everybody, and every overlap."""
        people = self._server.state.people.values()
        return {"accounts": [self.account_view(person) for person in people], "overlaps": self._server.state.overlaps}

    def create(self, body: NewAccount) -> JSON:
        """Make a person with a little history."""
        person = self._network.create(**body.model_dump(exclude={"behaviour"}), behaviour=body.behaviour)
        return self.account_view(person)

    def change(self, person: Person, body: AccountChange) -> JSON:
        """Change a person."""
        for name in body.model_fields_set:
            setattr(person, name, getattr(body, name))
        return self.account_view(person)

    def faults(self, person: Person, body: FaultChange) -> JSON:
        """Switch faults; going offline cuts the sockets."""
        for name in body.model_fields_set:
            setattr(person.faults, name, getattr(body, name))
        if person.faults.offline:
            self.drop(person)
        if body.freeze is not None:
            self.freeze(person, Freeze(frozen=body.freeze))
        return self.account_view(person)

    def scan(self, person: Person, body: Scan) -> JSON:
        """The phone scans."""
        return {"device": self._pair(person, self._hub.pairing.scan(body.qr, self._hub.now()))}

    def code(self, person: Person, body: Code) -> JSON:
        """The phone types a code."""
        return {"device": self._pair(person, self._hub.pairing.enter_code(person.number, body.code, self._hub.now()))}

    def _pair(self, person: Person, page: str) -> str:
        if not person.devices and not person.mailbox and self._server.settings.seed_contacts:
            seed.history(person, self._hub.now())
        return self._hub.pair(page, person).id

    def unlink(self, person: Person, body: Unlink) -> JSON:
        """The phone unlinks."""
        return {"unlinked": self._hub.unlink(person, body.device)}

    async def send(self, person: Person, body: Send) -> JSON:
        """The phone sends one or many."""
        content = await self._content(body)
        chat = self._network.chat_id(body.to)
        if chat.endswith("@c.us"):
            self._network.account(chat.partition("@")[0])
        ids = []
        for number in range(body.count):
            one = dict(content)
            if body.count > 1 and "body" in one:
                one["body"] = f"{one['body']} #{number + 1}"
            message_id = body.id if body.id and body.count == 1 else new_message_id()
            entry = self._network.send(person, chat, one, via="phone", message_id=message_id)
            ids.append(entry.id)
            if body.interval:
                await asyncio.sleep(body.interval)
        return {"chat": chat, "ids": ids}

    async def _content(self, body: Send) -> JSON:
        given = [value for value in (body.text, body.content, body.file) if value is not None]
        if len(given) != 1:
            raise RefusedError(400, "give exactly one of text, content and file")
        if body.text is not None:
            return {"type": "chat", "body": body.text}
        if body.content is not None:
            if "type" not in body.content:
                raise RefusedError(400, "content: a raw message needs a type, such as chat or location")
            return body.content
        file = body.file
        assert file is not None
        try:
            data = base64.b64decode(file.data, validate=True)
        except binascii.Error as error:
            raise RefusedError(400, f"file.data: this is no base64 ({error})") from error
        main = file.mimetype.partition("/")[0]
        kind = main if main in ("image", "video", "audio") else "document"
        return {
            "type": "ptt" if file.voice else kind,
            "mimetype": file.mimetype,
            "filename": file.filename,
            "caption": file.caption,
            "size": len(data),
            "directPath": await self._server.media.put(data, file.mimetype),
        }

    def edit(self, person: Person, body: OnMessage) -> JSON:
        """The phone edits."""
        chat = self._network.chat_id(body.chat)
        self._network.edit(person, chat, body.id, body.text, edit_id=new_message_id(), device=None)
        return {}

    def revoke(self, person: Person, body: OnMessage) -> JSON:
        """The phone deletes for everybody."""
        chat = self._network.chat_id(body.chat)
        self._network.revoke(person, chat, body.id, revoke_id=new_message_id(), device=None)
        return {}

    def react(self, person: Person, body: OnMessage) -> JSON:
        """The phone reacts."""
        self._network.react(person, self._network.chat_id(body.chat), body.id, body.emoji, device=None)
        return {}

    def vote(self, person: Person, body: OnMessage) -> JSON:
        """The phone votes."""
        self._network.vote(person, self._network.chat_id(body.chat), body.id, body.options, device=None)
        return {}

    def read(self, person: Person, body: OnChat) -> JSON:
        """The phone opens a chat."""
        return {"read": self._network.seen(person, self._network.chat_id(body.chat), device=None)}

    def typing(self, person: Person, body: OnChat) -> JSON:
        """The phone shows that somebody types."""
        self._network.typing(person, self._network.chat_id(body.chat), body.state)
        return {}

    def presence(self, person: Person, body: Online) -> JSON:
        """The phone is picked up or put away."""
        self._network.presence(person, online=body.online)
        return {}

    def call(self, person: Person, body: Call) -> JSON:
        """The phone rings another."""
        other = self._network.account(self._network.chat_id(body.to).partition("@")[0])
        frame = {"id": new_message_id(), "from": person.number, "fromLid": person.lid, "video": body.video}
        self._network.tell(other, "call", {**frame, "t": int(self._hub.now())})
        return {"id": frame["id"]}

    def group(self, person: Person, body: GroupChange) -> JSON:
        """The phone's groups."""
        groups, now = self._hub.groups, self._hub.now()
        match body.action:
            case "create":
                for number in body.numbers:
                    self._network.account(number)
                group, results = groups.create(person, body.subject, body.numbers, now=now)
                return {"group": group.model_dump(), "results": results}
            case "join":
                return {"group": groups.join(person, body.invite).model_dump()}
            case "leave":
                groups.leave(person, body.group)
                return {}
            case "set":
                return {"group": groups.set(person, body.group, **body.fields).model_dump()}
            case action:
                results = groups.change(person, body.group, action, body.numbers)
                return {"group": self._network.group(body.group).model_dump(), "results": results}

    def drop(self, person: Person) -> JSON:
        """Cut the account's sockets."""
        connections = self._hub.connections(person.number)
        for connection in connections:
            connection.drop()
        return {"dropped": len(connections)}

    def freeze(self, person: Person, body: Freeze) -> JSON:
        """Let the open sockets fall silent, or go on."""
        connections = self._hub.connections(person.number)
        for connection in connections:
            connection.freeze(frozen=body.frozen)
        return {"sockets": len(connections)}

    def conflict(self, person: Person) -> JSON:
        """Another browser has taken over."""
        connections = self._hub.connections(person.number)
        for connection in connections:
            connection.end({"t": "stream_error", "reason": "replaced"})
        return {"replaced": len(connections)}

    def trouble(self, person: Person, body: Trouble) -> JSON:
        """Hurt the pages of the account."""
        connections = self._hub.connections(person.number)
        for connection in connections:
            connection.send({"t": "trouble", **body.model_dump()})
        return {"pages": len(connections)}

    def network(self, body: Online) -> JSON:
        """Switch the network."""
        self._hub.set_online(online=body.online)
        return self.summary()

    def update(self, body: Update) -> JSON:
        """Publish a new version."""
        state = self._server.state
        state.revision = body.revision or state.revision + 1
        for connection in self._hub.connections():
            connection.send({"t": "update", "revision": state.revision, "hard": body.hard})
        return self.summary()

    def cold_load(self, body: ColdLoad) -> JSON:
        """Make the next loads slow."""
        self._server.cold_loads, self._server.cold_seconds = body.loads, body.seconds
        return {}

    def refs(self, body: Hold) -> JSON:
        """Keep QR codes back."""
        if body.hold:
            self._hub.refs_released.clear()
        else:
            self._hub.refs_released.set()
        return {}

    def messages(self, person: Person, query: dict[str, str]) -> JSON:
        """What the phone has, oldest first."""
        wanted = query.get("chat")
        chat = self._network.chat_id(wanted) if wanted else None
        from_me = {"true": True, "false": False}.get(query.get("from_me", ""))
        history = query.get("history", "false") == "true"
        entries = [
            entry
            for box in person.mailbox.values()
            for entry in box
            if (chat is None or entry.chat == chat)
            and (from_me is None or entry.from_me is from_me)
            and (history or entry.via != "history")
        ]
        return {"messages": [entry_view(entry) for entry in sorted(entries, key=lambda entry: entry.at)]}


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _body(request: web.Request, kind: type[Body]) -> Body:
    text = await request.text()
    return kind.model_validate_json(text or "{}")


def _sentence(error: ValidationError) -> str:
    parts = [f"{'.'.join(str(place) for place in one['loc']) or 'body'}: {one['msg']}" for one in error.errors()]
    return "; ".join(parts)


def add_routes(app: web.Application, server: WhatsAppServer) -> None:
    """Put the control API into `app`."""
    control = Control(server)
    network = server.hub.network

    def handler(action: Callable[[web.Request], Any]) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                result = action(request)
                if isinstance(result, Awaitable):
                    result = await result
            except ValidationError as error:
                return web.json_response({"error": _sentence(error)}, status=400)
            except RefusedError as error:
                return web.json_response({"error": str(error)}, status=error.code)
            return web.json_response(result)

        return handle

    def person(request: web.Request) -> Person:
        return network.account(request.match_info["number"])

    def plain(method: Any, kind: type[Body] | None) -> Callable[[web.Request], Awaitable[Any]]:
        async def act(request: web.Request) -> Any:
            result = method(await _body(request, kind)) if kind else method()
            return await result if isinstance(result, Awaitable) else result

        return act

    def personal(method: Any, kind: type[Body] | None) -> Callable[[web.Request], Awaitable[Any]]:
        async def act(request: web.Request) -> Any:
            body = [await _body(request, kind)] if kind else []
            result = method(person(request), *body)
            return await result if isinstance(result, Awaitable) else result

        return act

    router = app.router
    router.add_get("/sandbox", handler(lambda _request: control.summary()))
    router.add_get("/sandbox/accounts", handler(lambda _request: control.accounts()))
    one = "/sandbox/accounts/{number}"
    router.add_get(one, handler(lambda request: control.account_view(person(request))))
    router.add_get(one + "/messages", handler(lambda request: control.messages(person(request), dict(request.query))))
    for path, method, kind in (
        ("/sandbox/accounts", control.create, NewAccount),
        ("/sandbox/network", control.network, Online),
        ("/sandbox/update", control.update, Update),
        ("/sandbox/cold-load", control.cold_load, ColdLoad),
        ("/sandbox/refs", control.refs, Hold),
    ):
        router.add_post(path, handler(plain(method, kind)))
    router.add_patch(one, handler(personal(control.change, AccountChange)))
    router.add_patch(one + "/faults", handler(personal(control.faults, FaultChange)))
    personal_routes: dict[str, tuple[Callable[..., Any], type[Body] | None]] = {
        "scan": (control.scan, Scan),
        "code": (control.code, Code),
        "unlink": (control.unlink, Unlink),
        "send": (control.send, Send),
        "edit": (control.edit, OnMessage),
        "revoke": (control.revoke, OnMessage),
        "react": (control.react, OnMessage),
        "vote": (control.vote, OnMessage),
        "read": (control.read, OnChat),
        "typing": (control.typing, OnChat),
        "presence": (control.presence, Online),
        "call": (control.call, Call),
        "group": (control.group, GroupChange),
        "drop": (control.drop, None),
        "freeze": (control.freeze, Freeze),
        "conflict": (control.conflict, None),
        "trouble": (control.trouble, Trouble),
    }
    for name, (method, body_kind) in personal_routes.items():
        router.add_post(f"{one}/{name}", handler(personal(method, body_kind)))
