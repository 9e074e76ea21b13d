"""What a logged-in page can ask of the server, by the name of the operation.

Owns the reading of a page's arguments and the JSON of the answers. Must not know how the question came.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sandbox.whatsapp.groups import GroupAction, Groups
from sandbox.whatsapp.media import MediaStore
from sandbox.whatsapp.model import STATUS_CHAT, Device, Group, Person, SendFault
from sandbox.whatsapp.network import ACK_PLAYED, Network, RefusedError
from sandbox.whatsapp.views import channel_view, chat_view, contact_view, group_view

Arguments = dict[str, Any]


class NoAnswerError(Exception):
    """A fault is switched on that swallows the answer."""


def text_of(args: Arguments, name: str, *, default: str | None = None) -> str:
    """A text among the arguments.

    Raises:
        RefusedError: 400, it is missing or no text.
    """
    value = args.get(name, default)
    if not isinstance(value, str):
        raise RefusedError(400, f"{name}: expected a text, got {value!r}")
    return value


def texts_of(args: Arguments, name: str) -> list[str]:
    """A list of texts among the arguments.

    Raises:
        RefusedError: 400, it is missing or something else.
    """
    value = args.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RefusedError(400, f"{name}: expected a list of texts, got {value!r}")
    return value


class Asker(NamedTuple):
    """Who asks, and from which of their devices."""

    person: Person
    device: Device


class Operations:
    """The operations. Each `_op_*` method takes the asker and the arguments."""

    def __init__(self, network: Network, groups: Groups, media: MediaStore, now: Callable[[], float]) -> None:
        self._network = network
        self._groups = groups
        self._media = media
        self._now = now

    async def answer(self, by: Asker, op: str, args: Arguments) -> Any:
        """Run one operation and return its JSON value.

        Raises:
            RefusedError: the operation does not exist (404) or is refused.
            NoAnswerError: a fault swallows the answer.
        """
        method: Callable[[Asker, Arguments], Any] | None = getattr(self, f"_op_{op}", None)
        if method is None:
            raise RefusedError(404, f"there is no operation {op!r}")
        result = method(by, args)
        return await result if isinstance(result, Awaitable) else result

    def _chat(self, args: Arguments) -> str:
        return self._network.chat_id(text_of(args, "chat"))

    # --- Messages -----------------------------------------------------------------------------------------------

    def _op_send(self, by: Asker, args: Arguments) -> Arguments:
        fault = self._take_send_fault(by.person)
        if fault == "hang":
            raise NoAnswerError
        if fault not in ("ok", "lost_answer"):
            return {"result": fault}
        content = args.get("content")
        if not isinstance(content, dict) or "type" not in content:
            raise RefusedError(400, "content: expected an object with a type")
        entry = self._network.send(
            by.person, self._chat(args), content, via="page", message_id=text_of(args, "id"), device=by.device.id
        )
        if fault == "lost_answer":
            raise NoAnswerError
        return {"result": "OK", "t": entry.t, "ack": entry.ack}

    def _take_send_fault(self, person: Person) -> SendFault:
        faults = person.faults
        fault = faults.send
        if fault != "ok" and faults.send_count is not None:
            if faults.send_count == 1:
                faults.send, faults.send_count = "ok", None
            else:
                faults.send_count -= 1
        return fault

    def _op_edit(self, by: Asker, args: Arguments) -> None:
        chat, message, edit_id = self._chat(args), text_of(args, "id"), text_of(args, "editId")
        self._network.edit(by.person, chat, message, text_of(args, "text"), edit_id=edit_id, device=by.device.id)

    def _op_revoke(self, by: Asker, args: Arguments) -> None:
        chat, message, revoke_id = self._chat(args), text_of(args, "id"), text_of(args, "revokeId")
        self._network.revoke(by.person, chat, message, revoke_id=revoke_id, device=by.device.id)

    def _op_react(self, by: Asker, args: Arguments) -> None:
        self._network.react(
            by.person, self._chat(args), text_of(args, "id"), text_of(args, "emoji"), device=by.device.id
        )

    def _op_vote(self, by: Asker, args: Arguments) -> None:
        self._network.vote(
            by.person, self._chat(args), text_of(args, "id"), texts_of(args, "options"), device=by.device.id
        )

    def _op_seen(self, by: Asker, args: Arguments) -> int:
        return self._network.seen(by.person, self._chat(args), device=by.device.id)

    def _op_played(self, by: Asker, args: Arguments) -> None:
        self._network.played(by.person, self._chat(args), text_of(args, "id"))

    def _op_message_info(self, by: Asker, args: Arguments) -> Arguments:
        entry = by.person.entry(self._chat(args), text_of(args, "id"))
        if entry is None:
            raise RefusedError(404, "no such message")
        t = int(entry.ack_times.get(2, entry.at))
        people = [{"number": number, "ack": ack, "t": t} for number, ack in entry.receipts.items()]
        return {"receipts": people, "played": ACK_PLAYED}

    # --- Chats --------------------------------------------------------------------------------------------------

    def _op_chatstate(self, by: Asker, args: Arguments) -> None:
        chat = self._chat(args)
        if chat != STATUS_CHAT and not chat.endswith("@newsletter"):
            self._network.typing(by.person, chat, text_of(args, "state"))

    def _op_available(self, by: Asker, args: Arguments) -> None:
        self._network.presence(by.person, online=bool(args.get("available")))

    def _op_subscribe(self, _by: Asker, args: Arguments) -> Arguments:
        """Presence of one user: contacts who answer are online, the others were seen an hour ago."""
        other = self._network.find(text_of(args, "user"))
        if other is None:
            raise RefusedError(404, "nobody has this number")
        online = other.behaviour.delivers and other.behaviour.reads
        return {"online": online, "lastSeen": int(self._now()) - (0 if online else 3600)}

    def _op_chat_action(self, by: Asker, args: Arguments) -> Arguments:
        """Archive, pin, mute, mark unread, star, clear or delete; other devices follow."""
        chat, action = self._chat(args), text_of(args, "action")
        state = by.person.chat_state(chat)
        match action:
            case "archive":
                state.archived = bool(args.get("value"))
            case "pin":
                state.pinned = int(self._now()) if args.get("value") else 0
            case "mute":
                state.mute_until = int(args.get("value") or 0)
            case "unread":
                state.marked_unread = bool(args.get("value"))
            case "star":
                for entry in by.person.mailbox.get(chat, []):
                    if entry.id in texts_of(args, "ids"):
                        entry.starred = bool(args.get("value"))
            case "delete_messages":
                ids = texts_of(args, "ids")
                by.person.mailbox[chat] = [entry for entry in by.person.mailbox.get(chat, []) if entry.id not in ids]
            case "clear":
                keep = bool(args.get("keepStarred"))
                by.person.mailbox[chat] = [entry for entry in by.person.mailbox.get(chat, []) if keep and entry.starred]
            case "delete":
                by.person.mailbox.pop(chat, None)
                by.person.chats.pop(chat, None)
            case _:
                raise RefusedError(400, f"action: there is no action {action!r} on chats")
        body = {"action": action, "ids": args.get("ids", []), "value": args.get("value")}
        view = chat_view(by.person, chat)
        self._network.tell(by.person, "chat", {**view, **body}, but=by.device.id)
        return view

    # --- People -------------------------------------------------------------------------------------------------

    def _op_exists(self, by: Asker, args: Arguments) -> Arguments | None:
        other = self._network.find(text_of(args, "user"))
        if other is None:
            return None
        return {**contact_view(self._network.state, by.person, other.number), "about": other.about}

    def _op_about(self, _by: Asker, args: Arguments) -> str | None:
        other = self._network.find(text_of(args, "user"))
        return other.about if other else None

    def _op_picture(self, _by: Asker, args: Arguments) -> str | None:
        user = text_of(args, "user")
        if user.endswith("@g.us"):
            return self._network.group(user).picture
        if user.endswith("@newsletter"):
            return self._network.channel(user).picture
        other = self._network.find(user)
        return other.picture if other else None

    async def _op_set_picture(self, by: Asker, args: Arguments) -> str | None:
        user = text_of(args, "user")
        path = None
        if args.get("picture") is not None:
            data = text_of(args, "picture").partition("base64,")[2]
            try:
                path = await self._media.put(base64.b64decode(data, validate=True), "image/jpeg")
            except binascii.Error as error:
                raise RefusedError(400, f"picture: this is no base64 data URL ({error})") from error
        if user.endswith("@g.us"):
            self._groups.set(by.person, user, device=by.device.id, picture=path)
        else:
            by.person.picture = path
            self._tell_contact(by.person)
        return path

    def _op_set_about(self, by: Asker, args: Arguments) -> None:
        by.person.about = text_of(args, "about")

    def _op_set_name(self, by: Asker, args: Arguments) -> None:
        name = text_of(args, "name").strip()
        if not name:
            raise RefusedError(400, "name: must not be empty")
        by.person.name = name
        self._tell_contact(by.person)

    def _tell_contact(self, person: Person) -> None:
        for other in self._network.state.people.values():
            self._network.tell(other, "contact", contact_view(self._network.state, other, person.number))

    def _op_block(self, by: Asker, args: Arguments) -> list[str]:
        other = self._network.find(text_of(args, "user"))
        if other is None:
            raise RefusedError(404, "user: nobody has this number")
        others = [number for number in by.person.blocked if number != other.number]
        by.person.blocked = [*others, other.number] if args.get("value") else others
        self._network.tell(by.person, "blocked", {"numbers": by.person.blocked}, but=by.device.id)
        return by.person.blocked

    def _op_save_contact(self, by: Asker, args: Arguments) -> None:
        number = text_of(args, "number")
        if args.get("name") is None:
            by.person.contacts.pop(number, None)
        else:
            by.person.contacts[number] = text_of(args, "name")
        self._network.tell(by.person, "contact", contact_view(self._network.state, by.person, number))

    # --- Groups -------------------------------------------------------------------------------------------------

    def _op_call_reject(self, _by: Asker, args: Arguments) -> None:
        """The caller hears that nobody answers. Nothing of a call is kept, so there is nothing more to do."""
        if self._network.find(text_of(args, "user")) is None:
            raise RefusedError(404, "user: nobody has this number")
        text_of(args, "id")

    def _op_groups(self, by: Asker, _args: Arguments) -> list[Arguments]:
        return [group_view(group) for group in self._network.groups_of(by.person)]

    def _op_group(self, _by: Asker, args: Arguments) -> Arguments:
        return group_view(self._network.group(text_of(args, "group")))

    def _op_group_create(self, by: Asker, args: Arguments) -> Arguments:
        numbers = [self._number(user) for user in texts_of(args, "users")]
        group, results = self._groups.create(
            by.person, text_of(args, "subject"), numbers, now=self._now(), device=by.device.id
        )
        return {"group": group_view(group), "results": self._with_lids(results)}

    def _op_group_change(self, by: Asker, args: Arguments) -> Arguments:
        action = text_of(args, "action")
        actions: dict[str, GroupAction] = {
            "add": "add", "remove": "remove", "promote": "promote", "demote": "demote",
        }  # fmt: skip
        if action not in actions:
            raise RefusedError(400, f"action: expected one of {list(actions)}, got {action!r}")
        numbers = [self._number(user) for user in texts_of(args, "users")]
        group_id = text_of(args, "group")
        results = self._groups.change(by.person, group_id, actions[action], numbers, device=by.device.id)
        return {"group": group_view(self._network.group(group_id)), "results": self._with_lids(results)}

    def _op_group_set(self, by: Asker, args: Arguments) -> Arguments:
        known = {"subject", "description", "description_id", "announce", "restrict", "ephemeral"}
        fields = args.get("fields")
        if not isinstance(fields, dict) or not set(fields) <= known:
            raise RefusedError(400, f"fields: expected an object with some of {sorted(known)}")
        group = self._groups.set(by.person, text_of(args, "group"), device=by.device.id, **fields)
        return group_view(group)

    def _op_group_invite(self, by: Asker, args: Arguments) -> str:
        return self._groups.invite(by.person, text_of(args, "group"), renew=bool(args.get("renew")))

    def _op_group_by_invite(self, _by: Asker, args: Arguments) -> Arguments:
        return group_view(self._groups.by_invite(text_of(args, "invite")))

    def _op_group_join(self, by: Asker, args: Arguments) -> str:
        group: Group = self._groups.join(by.person, text_of(args, "invite"))
        return group.id

    def _op_group_leave(self, by: Asker, args: Arguments) -> None:
        self._groups.leave(by.person, text_of(args, "group"), device=by.device.id)

    def _number(self, user: str) -> str:
        person = self._network.find(user)
        return person.number if person else user.partition("@")[0]

    def _with_lids(self, results: list[Arguments]) -> list[Arguments]:
        people = self._network.state.people
        return [
            {**result, "lid": people[result["number"]].lid if result["number"] in people else None}
            for result in results
        ]

    # --- Channels and labels ------------------------------------------------------------------------------------

    def _op_channel_create(self, by: Asker, args: Arguments) -> Arguments:
        channel = self._groups.create_channel(
            by.person,
            text_of(args, "name"),
            text_of(args, "description", default=""),
            now=self._now(),
            device=by.device.id,
        )
        return channel_view(channel, by.person)

    def _op_channel_edit(self, by: Asker, args: Arguments) -> Arguments:
        fields = {name: text_of(args, name) for name in ("name", "description") if args.get(name) is not None}
        channel = self._groups.edit_channel(by.person, text_of(args, "channel"), device=by.device.id, **fields)
        return channel_view(channel, by.person)

    def _op_channel_delete(self, by: Asker, args: Arguments) -> None:
        self._groups.delete_channel(by.person, text_of(args, "channel"), device=by.device.id)

    def _op_channel_follow(self, by: Asker, args: Arguments) -> Arguments:
        channel = self._groups.follow(by.person, text_of(args, "channel"), follow=bool(args.get("value")))
        return channel_view(channel, by.person)

    def _op_channel_mute(self, by: Asker, args: Arguments) -> None:
        self._groups.mute_channel(by.person, text_of(args, "channel"), muted=bool(args.get("value")))

    def _op_channel_search(self, by: Asker, args: Arguments) -> list[Arguments]:
        words = text_of(args, "query").lower()
        channels = self._network.state.channels.values()
        return [channel_view(channel, by.person) for channel in channels if words in channel.name.lower()]

    def _op_channel(self, by: Asker, args: Arguments) -> Arguments:
        return channel_view(self._network.channel(text_of(args, "channel")), by.person)

    def _op_channel_followers(self, by: Asker, args: Arguments) -> list[Arguments]:
        channel = self._network.channel(text_of(args, "channel"))
        if channel.owner != by.person.number:
            raise RefusedError(403, "only the owner of a channel sees its followers")
        return [contact_view(self._network.state, by.person, number) for number in channel.subscribers]

    def _op_channel_send(self, by: Asker, args: Arguments) -> Arguments:
        channel = self._network.channel(self._chat(args))
        answer = self._op_send(by, args)
        channel.next_server_id += 1
        return {**answer, "serverId": channel.next_server_id}

    def _op_label(self, by: Asker, args: Arguments) -> None:
        label = text_of(args, "id")
        if args.get("deleted"):
            self._groups.delete_label(by.person, label, device=by.device.id)
        else:
            color = args.get("color")
            if not isinstance(color, int):
                raise RefusedError(400, f"color: expected the index of a colour, got {color!r}")
            self._groups.put_label(by.person, label, text_of(args, "name"), color, device=by.device.id)

    def _op_label_chat(self, by: Asker, args: Arguments) -> list[str]:
        chat = self._chat(args)
        add = bool(args.get("add"))
        return self._groups.label_chat(by.person, chat, text_of(args, "label"), add=add, device=by.device.id)
