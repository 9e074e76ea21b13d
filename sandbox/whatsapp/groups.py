"""The rules of groups, channels and labels.

Owns who may change what in them and what others hear of it. Must not do I/O.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

from sandbox.whatsapp.model import Channel, Group, Label, Person, lid_of
from sandbox.whatsapp.network import Network, RefusedError, new_message_id
from sandbox.whatsapp.views import channel_view, chat_view, group_view

GroupAction = Literal["add", "remove", "promote", "demote"]


class Groups:
    """Groups and channels of one network. Methods raise `RefusedError` as `Network` does."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._serial = 0

    def create(
        self, owner: Person, subject: str, numbers: list[str], *, now: float, device: str | None = None
    ) -> tuple[Group, list[dict[str, Any]]]:
        """Make a group; returns it and, by participant, a code: 200 added, 403 refused because they block us."""
        if not subject.strip():
            raise RefusedError(400, "subject: a group needs a name")
        group = Group(
            id=f"{self._new_id()}@g.us",
            subject=subject,
            owner=owner.number,
            created=int(now),
            participants={owner.number: "superadmin"},
            invite=secrets.token_urlsafe(16),
        )
        self._network.state.groups[group.id] = group
        results = [self._join(group, owner, number) for number in numbers if number != owner.number]
        self._announce(group, owner, {"action": "create", "numbers": list(group.participants)}, device=device)
        return group, results

    def change(
        self,
        actor: Person,
        group_id: str,
        action: GroupAction,
        numbers: list[str],
        *,
        device: str | None = None,
    ) -> list[dict[str, Any]]:
        """Add, remove, promote or demote participants; returns a code for each.

        Raises:
            RefusedError: 403, the actor is no admin; 404, there is no such group.
        """
        group = self._admin(actor, group_id)
        results = []
        for number in numbers:
            if action == "add":
                results.append(self._join(group, actor, number))
                continue
            if number not in group.participants or group.participants[number] == "superadmin":
                results.append({"number": number, "code": 404 if number not in group.participants else 405})
                continue
            if action == "remove":
                del group.participants[number]
            else:
                group.participants[number] = "admin" if action == "promote" else "member"
            results.append({"number": number, "code": 200})
        changed = [result["number"] for result in results if result["code"] == 200]
        if changed:
            self._announce(group, actor, {"action": action, "numbers": changed}, device=device, also=changed)
        return results

    def join(self, person: Person, invite: str) -> Group:
        """Join by invite code.

        Raises:
            RefusedError: 404, no group has this code.
        """
        group = self.by_invite(invite)
        if person.number not in group.participants:
            group.participants[person.number] = "member"
            self._announce(group, person, {"action": "add", "numbers": [person.number], "reason": "invite"})
        return group

    def leave(self, person: Person, group_id: str, *, device: str | None = None) -> None:
        """Leave a group; its last superadmin hands it to the eldest participant.

        Raises:
            RefusedError: 403, not a participant; 404, there is no such group.
        """
        group = self._network.group(group_id)
        if group.participants.pop(person.number, None) is None:
            raise RefusedError(403, f"{person.number} is not in {group_id}")
        if group.participants and "superadmin" not in group.participants.values():
            group.participants[next(iter(group.participants))] = "superadmin"
        change = {"action": "remove", "numbers": [person.number]}
        self._announce(group, person, change, device=device, also=[person.number])

    def set(self, actor: Person, group_id: str, *, device: str | None = None, **fields: Any) -> Group:
        """Change subject, description, description_id, announce, restrict, ephemeral or picture.

        Raises:
            RefusedError: 403, not allowed; 404, there is no such group.
        """
        group = self._network.group(group_id)
        role = group.participants.get(actor.number)
        if role is None:
            raise RefusedError(403, f"{actor.number} is not in {group_id}")
        settings = {"announce", "restrict", "ephemeral"} & set(fields)
        if role == "member" and (group.restrict or settings):
            raise RefusedError(403, f"only admins may change {', '.join(sorted(fields))} of {group_id}")
        for name, value in fields.items():
            setattr(group, name, value)
        self._announce(group, actor, {"action": "set", "fields": fields, "numbers": []}, device=device)
        return group

    def invite(self, actor: Person, group_id: str, *, renew: bool) -> str:
        """The invite code, made anew on request.

        Raises:
            RefusedError: 403, the actor is no admin; 404, there is no such group.
        """
        group = self._admin(actor, group_id)
        if renew:
            group.invite = secrets.token_urlsafe(16)
        return group.invite

    def by_invite(self, invite: str) -> Group:
        """The group with this invite code.

        Raises:
            RefusedError: 404, no group has it.
        """
        for group in self._network.state.groups.values():
            if group.invite == invite:
                return group
        raise RefusedError(404, f"no group has the invite code {invite!r}")

    def _admin(self, actor: Person, group_id: str) -> Group:
        group = self._network.group(group_id)
        if group.participants.get(actor.number, "member") == "member":
            raise RefusedError(403, f"{actor.number} is not an admin of {group_id}")
        return group

    def _join(self, group: Group, actor: Person, number: str) -> dict[str, Any]:
        person = self._network.state.people.get(number)
        if person is None:
            return {"number": number, "code": 404}
        if number in group.participants:
            return {"number": number, "code": 409}
        if actor.number in person.blocked:
            return {"number": number, "code": 403}
        group.participants[number] = "member"
        return {"number": number, "code": 200}

    def _announce(
        self,
        group: Group,
        actor: Person,
        change: dict[str, Any],
        *,
        device: str | None = None,
        also: list[str] | None = None,
    ) -> None:
        """Tell all participants, and `also` those who have just left."""
        body = {
            "group": group_view(group),
            "by": {"number": actor.number, "lid": actor.lid, "pushname": actor.name},
            "people": [{"number": number, "lid": lid_of(number)} for number in change["numbers"]],
            "noticeId": new_message_id(),
            **change,
        }
        for number in dict.fromkeys([*group.participants, *(also or [])]):
            person = self._network.state.people.get(number)
            if person is not None:
                self._network.tell(person, "group", body, but=device)

    def _new_id(self) -> str:
        self._serial += 1
        return f"12036304{secrets.randbelow(10**8):08d}{self._serial % 100:02d}"

    # --- Channels -------------------------------------------------------------------------------------------------

    def create_channel(
        self, owner: Person, name: str, description: str, *, now: float, device: str | None = None
    ) -> Channel:
        """Make a channel of `owner`."""
        if not name.strip():
            raise RefusedError(400, "name: a channel needs a name")
        channel = Channel(
            id=f"{self._new_id()}@newsletter",
            name=name,
            owner=owner.number,
            created=int(now),
            description=description,
            invite=secrets.token_urlsafe(16),
        )
        self._network.state.channels[channel.id] = channel
        self._tell_channel(channel, [owner.number], device=device)
        return channel

    def edit_channel(self, actor: Person, channel_id: str, *, device: str | None = None, **fields: Any) -> Channel:
        """Change name, description or picture.

        Raises:
            RefusedError: 403, somebody else owns it; 404, there is no such channel.
        """
        channel = self._own_channel(actor, channel_id)
        for name, value in fields.items():
            setattr(channel, name, value)
        self._tell_channel(channel, [channel.owner, *channel.subscribers], device=device)
        return channel

    def delete_channel(self, actor: Person, channel_id: str, *, device: str | None = None) -> None:
        """Delete an own channel.

        Raises:
            RefusedError: 403, somebody else owns it; 404, there is no such channel.
        """
        channel = self._own_channel(actor, channel_id)
        del self._network.state.channels[channel_id]
        for number in (channel.owner, *channel.subscribers):
            person = self._network.state.people.get(number)
            if person is not None:
                self._network.tell(person, "channel_gone", {"id": channel_id}, but=device)

    def follow(self, person: Person, channel_id: str, *, follow: bool) -> Channel:
        """Start or stop following.

        Raises:
            RefusedError: 404, there is no such channel; 400, it is not followed.
        """
        channel = self._network.channel(channel_id)
        if follow:
            if person.number not in channel.subscribers:
                channel.subscribers = [*channel.subscribers, person.number]
            self._tell_channel(channel, [person.number])
        elif person.number in channel.subscribers:
            channel.subscribers = [number for number in channel.subscribers if number != person.number]
            self._network.tell(person, "channel_gone", {"id": channel_id})
        else:
            raise RefusedError(400, f"{person.number} does not follow {channel_id}")
        return channel

    def mute_channel(self, person: Person, channel_id: str, *, muted: bool) -> None:
        """Mute or unmute a channel for one follower.

        Raises:
            RefusedError: 404, there is no such channel.
        """
        channel = self._network.channel(channel_id)
        others = [number for number in channel.muted if number != person.number]
        channel.muted = [*others, person.number] if muted else others
        self._tell_channel(channel, [person.number])

    def _own_channel(self, actor: Person, channel_id: str) -> Channel:
        channel = self._network.channel(channel_id)
        if channel.owner != actor.number:
            raise RefusedError(403, f"{actor.number} does not own {channel_id}")
        return channel

    def _tell_channel(self, channel: Channel, numbers: list[str], *, device: str | None = None) -> None:
        for number in dict.fromkeys(numbers):
            person = self._network.state.people.get(number)
            if person is not None:
                self._network.tell(person, "channel", channel_view(channel, person), but=device)

    # --- Labels ---------------------------------------------------------------------------------------------------

    def put_label(self, person: Person, label_id: str, name: str, color: int, *, device: str | None = None) -> None:
        """Make or change a label of a business account.

        Raises:
            RefusedError: 403, it is no business account.
        """
        if not person.business:
            raise RefusedError(403, f"{person.number} is not a business account, so it has no labels")
        person.labels[label_id] = Label(name=name, color=color)
        self._network.tell(person, "label", {"id": label_id, "name": name, "color": color}, but=device)

    def delete_label(self, person: Person, label_id: str, *, device: str | None = None) -> None:
        """Delete a label and take it from all chats.

        Raises:
            RefusedError: 404, there is no such label.
        """
        if person.labels.pop(label_id, None) is None:
            raise RefusedError(404, f"{person.number} has no label {label_id}")
        for state in person.chats.values():
            state.labels = [key for key in state.labels if key != label_id]
        self._network.tell(person, "label", {"id": label_id, "deleted": True}, but=device)

    def label_chat(
        self, person: Person, chat: str, label_id: str, *, add: bool, device: str | None = None
    ) -> list[str]:
        """Put a label on a chat or take it off; returns the chat's labels.

        Raises:
            RefusedError: 404, there is no such label.
        """
        if label_id not in person.labels:
            raise RefusedError(404, f"{person.number} has no label {label_id}")
        state = person.chat_state(chat)
        others = [key for key in state.labels if key != label_id]
        state.labels = [*others, label_id] if add else others
        self._network.tell(person, "chat", chat_view(person, chat), but=device)
        return state.labels
