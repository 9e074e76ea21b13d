"""The rules of the simulated network, without sockets and with time at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.whatsapp.model import Behaviour, lid_of
from sandbox.whatsapp.network import RefusedError
from sandbox.whatsapp.pairing import PageKeys, PairingDesk
from sandbox.whatsapp.settings import Settings
from tests.support.whatsapp_world import World, stanzas

ANN, BOB, CYD = "12025550161", "12025550162", "12025550163"
TEXT = {"type": "chat", "body": "hi"}


@pytest.fixture
def world() -> World:
    world = World()
    for number in (ANN, BOB, CYD):
        world.network.create(number)
    return world


@pytest.mark.parametrize(
    ("behaviour", "acks"),
    [
        (Behaviour(delivers=False), []),
        (Behaviour(), [2]),
        (Behaviour(reads=True), [2, 3]),
    ],
    ids=["phone off", "delivered", "read"],
)
def test_receipts_follow_the_behaviour(world: World, behaviour: Behaviour, acks: list[int]) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    device = world.link(ann)
    bob.behaviour = behaviour
    entry = world.network.send(ann, f"{BOB}@c.us", TEXT, via="page", device=device.id)
    world.pass_time()
    assert [body["ack"] for body in stanzas(device, "receipt")] == acks
    assert entry.ack == max([1, *acks])


def test_a_page_that_repeats_an_id_is_answered_again_but_delivers_once(world: World) -> None:
    ann = world.network.person(ANN)
    entries = [world.network.send(ann, f"{BOB}@c.us", TEXT, via="page", message_id="ONE") for _ in range(3)]
    world.pass_time()
    assert [entry.sends for entry in entries] == [3, 3, 3]
    assert len(world.network.person(BOB).mailbox[f"{ANN}@c.us"]) == 1


def test_the_other_devices_hear_of_a_message_and_the_sending_one_does_not(world: World) -> None:
    ann = world.network.person(ANN)
    sender, other = world.link(ann), world.link(ann)
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="page", device=sender.id)
    assert stanzas(sender, "message") == []
    assert [body["fromMe"] for body in stanzas(other, "message")] == [True]


def test_a_stanza_stays_until_it_is_stored(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    device = world.link(bob)
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone", message_id="ONE")
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone", message_id="TWO")
    assert [body["id"] for body in stanzas(device, "message")] == ["ONE", "TWO"]
    first = device.queue[0]
    world.network.wrote(bob, device, first)
    world.network.stored(bob, device, first.seq)
    assert [body["id"] for body in stanzas(device, "message")] == ["TWO"]
    entry = bob.entry(f"{ANN}@c.us", "ONE")
    assert entry is not None
    assert entry.deliveries[device.id].writes == 1
    assert entry.deliveries[device.id].stored_at == world.time


def test_an_undecryptable_message_comes_as_a_placeholder_first(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    ann.behaviour = Behaviour(ciphertext_first=True)
    device = world.link(bob)
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone", message_id="ONE")
    first, second = stanzas(device, "message")
    assert (first["id"], first["content"]["type"]) == ("ONE", "ciphertext")
    assert (second["id"], second["content"]) == ("ONE", TEXT)


def test_an_echo_comes_back_after_the_reading(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    device = world.link(ann)
    bob.behaviour = Behaviour(reads=True, replies="echo")
    world.network.send(ann, f"{BOB}@c.us", {**TEXT, "quotedStanzaID": "X"}, via="page", device=device.id)
    world.pass_time()
    assert [body["content"] for body in stanzas(device, "message")] == [TEXT]
    assert [frame["state"] for _device, frame in world.whispers] == ["composing", "paused"]


def test_an_edit_on_the_way_is_what_arrives(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="page", message_id="ONE")
    world.network.edit(ann, f"{BOB}@c.us", "ONE", "hello", edit_id="E", device=None)
    world.pass_time()
    entry = bob.entry(f"{ANN}@c.us", "ONE")
    assert entry is not None
    assert (entry.text, entry.edited) == ("hello", True)


def test_only_the_author_or_an_admin_deletes_for_everybody(world: World) -> None:
    ann, bob, cyd = (world.network.person(number) for number in (ANN, BOB, CYD))
    group, _results = world.groups.create(ann, "Three", [BOB, CYD], now=world.time)
    world.network.send(bob, group.id, TEXT, via="phone", message_id="ONE")
    world.pass_time()
    with pytest.raises(RefusedError) as caught:
        world.network.revoke(cyd, group.id, "ONE", revoke_id="R", device=None)
    assert caught.value.code == 403
    world.network.revoke(ann, group.id, "ONE", revoke_id="R", device=None)
    entry = cyd.entry(group.id, "ONE")
    assert entry is not None
    assert entry.revoked


def test_a_group_message_is_read_when_the_last_one_has_read_it(world: World) -> None:
    ann, bob, cyd = (world.network.person(number) for number in (ANN, BOB, CYD))
    device = world.link(ann)
    bob.behaviour = Behaviour(reads=True)
    group, _results = world.groups.create(ann, "Three", [BOB, CYD], now=world.time)
    entry = world.network.send(ann, group.id, TEXT, via="page", device=device.id)
    world.pass_time()
    assert entry.ack == 2
    assert entry.receipts == {BOB: 3, CYD: 2}
    world.network.seen(cyd, group.id, device=None)
    assert entry.ack == 3
    assert {body["participant"] for body in stanzas(device, "receipt")} == {BOB, CYD}


def test_nobody_hears_from_those_they_block(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    bob.blocked = [ANN]
    entry = world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone")
    world.pass_time()
    assert entry.ack == 1
    assert bob.mailbox == {}


def test_those_who_hide_read_receipts_send_none(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    bob.behaviour, bob.read_receipts = Behaviour(reads=True), False
    entry = world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone")
    world.pass_time()
    assert entry.ack == 2


def test_people_are_found_by_number_chat_id_and_lid(world: World) -> None:
    ann = world.network.person(ANN)
    for name in (ANN, f"{ANN}@c.us", f"{ANN}:3@c.us", f"{lid_of(ANN)}@lid"):
        assert world.network.find(name) is ann
    assert world.network.find("12025559999@c.us") is None
    assert world.network.chat_id(f"{lid_of(ANN)}@lid") == f"{ANN}@c.us"


@pytest.mark.parametrize("number", ["abc", "123", "+12025550161", "1" * 16])
def test_a_number_that_is_none_is_refused_with_a_reason(world: World, number: str) -> None:
    with pytest.raises(RefusedError, match="digits") as caught:
        world.network.create(number)
    assert caught.value.code == 400


def test_a_new_device_gets_the_history_without_announcing_it(world: World) -> None:
    ann = world.network.person(ANN)
    world.network.send(ann, f"{BOB}@c.us", TEXT, via="phone", message_id="OLD")
    device = world.network.link(ann, public_key={}, noise_token="", platform="test")
    people, messages = stanzas(device, "history")
    assert {contact["number"] for contact in people["contacts"]} == {ANN, BOB}
    assert [(message["id"], message["new"]) for message in messages["messages"]] == [("OLD", False)]


def test_the_last_superadmin_hands_the_group_on(world: World) -> None:
    ann = world.network.person(ANN)
    group, _results = world.groups.create(ann, "Three", [BOB, CYD], now=world.time)
    world.groups.leave(ann, group.id)
    assert group.participants == {BOB: "superadmin", CYD: "member"}


def test_members_of_an_announcement_group_may_not_write(world: World) -> None:
    ann, bob = world.network.person(ANN), world.network.person(BOB)
    group, _results = world.groups.create(ann, "News", [BOB], now=world.time)
    world.groups.set(ann, group.id, announce=True)
    with pytest.raises(RefusedError) as caught:
        world.network.send(bob, group.id, TEXT, via="phone")
    assert caught.value.code == 403
    with pytest.raises(RefusedError):
        world.groups.set(bob, group.id, announce=False)


KEYS = PageKeys(static="s", identity="i", adv="a", login={}, noise_token="n", platform="test")


def desk(settings: Settings | None = None) -> PairingDesk:
    desk = PairingDesk(settings or Settings())
    desk.enter("page", KEYS)
    return desk


def test_references_follow_whatsapps_own_times() -> None:
    refs = desk().new_refs("page", 0.0)
    assert [ref["seconds"] for ref in refs] == [60, 20, 20, 20, 20, 20]
    assert len({ref["ref"] for ref in refs}) == 6


def test_a_reference_is_worth_something_until_it_has_left_the_screen() -> None:
    pairing = desk(Settings(ref_grace=5))
    first = pairing.new_refs("page", 0.0)[0]["ref"]
    assert pairing.scan(f"{first},s,i,a", 64.0) == "page"
    assert pairing.scan(f"{first},s,i,a,1", 64.0) == "page"
    with pytest.raises(RefusedError) as caught:
        pairing.scan(f"{first},s,i,a", 66.0)
    assert caught.value.code == 410


def test_new_references_end_the_old_ones() -> None:
    pairing = desk()
    first = pairing.new_refs("page", 0.0)[0]["ref"]
    pairing.new_refs("page", 1.0)
    with pytest.raises(RefusedError) as caught:
        pairing.scan(f"{first},s,i,a", 2.0)
    assert caught.value.code == 410


def test_phones_that_want_the_fifth_field_refuse_four() -> None:
    pairing = desk(Settings(require_platform=True))
    first = pairing.new_refs("page", 0.0)[0]["ref"]
    with pytest.raises(RefusedError, match="fields"):
        pairing.scan(f"{first},s,i,a", 1.0)
    assert pairing.scan(f"{first},s,i,a,1", 1.0) == "page"


def test_a_pairing_code_expires() -> None:
    pairing = desk()
    code = pairing.new_code("page", ANN, 0.0)
    assert pairing.enter_code(ANN, code, 195.0) == "page"
    with pytest.raises(RefusedError) as caught:
        pairing.enter_code(ANN, code, 196.0)
    assert caught.value.code == 410


@pytest.mark.parametrize(
    ("field", "value"),
    [("time_scale", 0), ("refs", 0), ("first_ref_delay", -1), ("keepalive", -5)],
)
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(Settings(), **{field: value})  # type: ignore[arg-type]  # the types fit, but not to see for mypy
