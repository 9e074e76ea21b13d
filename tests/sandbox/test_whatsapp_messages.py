"""Messages through the real page API: sending, receiving, receipts, files, changes, and what can go wrong."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.whatsapp import Phone, Sandbox, Settings, WhatsAppServer
from sandbox.whatsapp.seed import ABSENT, AUTO, ECHO, READER, SILENT
from tests.support.whatsapp_browser import PageError, Tab, Tabs, eventually
from tests.support.whatsapp_samples import chat, png

ME = "12025550140"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[WhatsAppServer]:
    settings = Settings(time_scale=0.1, first_ref_delay=0, reconnect=1.0)
    async with WhatsAppServer(settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
async def tabs(server: WhatsAppServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tabs]:
    tabs = Tabs(tmp_path_factory.mktemp("profiles"), server)
    yield tabs
    await tabs.close()


@pytest.fixture(scope="module")
async def account(tabs: Tabs) -> tuple[Tab, Phone]:
    return await tabs.paired(ME)


@pytest.fixture
def tab(account: tuple[Tab, Phone]) -> Tab:
    return account[0]


@pytest.fixture
def phone(account: tuple[Tab, Phone]) -> Phone:
    return account[1]


@pytest.fixture(scope="module")
async def sandbox(server: WhatsAppServer) -> AsyncIterator[Sandbox]:
    async with Sandbox(server.url) as sandbox:
        yield sandbox


async def send(tab: Tab, to: str, text: str, options: str = "{}") -> dict[str, Any]:
    result: dict[str, Any] = await tab.evaluate(f"return WPP.chat.sendTextMessage('{chat(to)}', {text!r}, {options})")
    return result


async def acks(tab: Tab, message: str, last: int, *, since: int) -> list[int]:
    """The acks of a message, up to `last`."""
    await tab.until(
        lambda event: event[0] == "chat.msg_ack_change" and message in event[1]["ids"] and event[1]["ack"] == last,
        since=since,
    )
    return [
        event[1]["ack"]
        for event in tab.events[since:]
        if event[0] == "chat.msg_ack_change" and message in event[1]["ids"]
    ]


async def delivered(tab: Tab, to: str, text: str) -> str:
    """Send a text and wait until the other phone has it; returns the message's key."""
    since = len(tab.events)
    result = await send(tab, to, text)
    await acks(tab, result["id"], 2, since=since)
    return str(result["id"])


async def test_a_text_is_sent_delivered_and_read(tab: Tab, phone: Phone) -> None:
    since = len(tab.events)
    result = await send(tab, READER, "first")
    assert result["sendMsgResult"]["messageSendResult"] == "OK"
    assert result["ack"] == 1
    assert await acks(tab, result["id"], 3, since=since) == [1, 2, 3]
    [record] = await phone.messages(chat=READER, from_me=True)
    assert (record["text"], record["via"], record["sends"], record["ack"]) == ("first", "page", 1, 3)
    assert record["id"] in result["id"]
    assert sorted(record["ack_times"]) == ["1", "2", "3"]


@pytest.mark.parametrize(("number", "last"), [(SILENT, 2), (ABSENT, 1)], ids=["silent", "phone off"])
async def test_receipts_stop_where_the_contact_stops(tab: Tab, phone: Phone, number: str, last: int) -> None:
    since = len(tab.events)
    result = await send(tab, number, "are you there?", "{waitForAck: false}")
    assert (await acks(tab, result["id"], last, since=since))[-1] == last
    # Somebody who reads answers later than the other would have got its receipt.
    other = await send(tab, READER, "clock")
    await acks(tab, other["id"], 3, since=since)
    [record] = await phone.messages(chat=number, from_me=True)
    assert record["ack"] == last


async def test_own_messages_raise_new_message_too_and_the_echo_comes_back(tab: Tab) -> None:
    since = len(tab.events)
    await send(tab, ECHO, "say it again")
    own, echo = await tab.messages(2, since=since, test=lambda message: message["body"] == "say it again")
    assert (own["fromMe"], echo["fromMe"]) == (True, False)
    assert echo["from"] == chat(ECHO)


async def test_a_business_answers_with_its_own_text(tab: Tab) -> None:
    since = len(tab.events)
    await send(tab, AUTO, "open today?")
    [answer] = await tab.messages(1, since=since, test=lambda message: not message["fromMe"])
    assert "9 to 5" in answer["body"]


async def test_an_incoming_message_arrives_once_and_counts_as_unread(tab: Tab, sandbox: Sandbox, phone: Phone) -> None:
    since = len(tab.events)
    [message_id] = await sandbox.contact_sends(SILENT, ME, "knock knock")
    [message] = await tab.messages(1, since=since)
    assert message["id"] == f"false_{chat(SILENT)}_{message_id}"
    unread = await tab.event("chat.unread_count_changed", since=since)
    assert unread[1]["unreadCount"] == 1
    [record] = [one for one in await phone.messages(chat=SILENT) if one["id"] == message_id]
    assert [delivery["writes"] for delivery in record["deliveries"].values()] == [1]


async def test_reading_a_chat_tells_the_sender(tab: Tab, sandbox: Sandbox) -> None:
    [message_id] = await sandbox.contact_sends(SILENT, ME, "read me")
    await tab.messages(1, test=lambda message: message_id in message["id"])
    async with sandbox.phone(SILENT) as silent:
        record = (await silent.messages(chat=ME, from_me=True))[-1]
        assert record["ack"] == 2
        result = await tab.evaluate(f"return WPP.chat.markIsRead('{chat(SILENT)}')")
        assert result["unreadCount"] >= 1
        record = (await silent.messages(chat=ME, from_me=True))[-1]
        assert (record["id"], record["ack"]) == (message_id, 3)
    assert await tab.evaluate(f"return WPP.chat.get('{chat(SILENT)}').unreadCount") == 0
    await tab.evaluate(f"await WPP.chat.markIsUnread('{chat(SILENT)}')")
    assert await tab.evaluate(f"return WPP.chat.get('{chat(SILENT)}').unreadCount") == -1
    await tab.evaluate(f"await WPP.chat.markIsRead('{chat(SILENT)}')")


async def test_an_undecryptable_message_is_announced_twice_under_one_id(tab: Tab, sandbox: Sandbox) -> None:
    async with sandbox.phone("12025550141") as stranger:
        await stranger.change(behaviour={"ciphertext_first": True})
        since = len(tab.events)
        [message_id] = await stranger.send(ME, "now you can read it")
    # The page API hands over the same object twice: by the time it is looked at, both may be readable.
    first, second = await tab.messages(2, since=since, test=lambda message: message_id in message["id"])
    assert first["id"] == second["id"]
    assert second["body"] == "now you can read it"


async def test_a_burst_of_two_hundred_messages_arrives_in_order_and_once(
    tab: Tab, sandbox: Sandbox, phone: Phone
) -> None:
    since = len(tab.events)
    ids = await sandbox.contact_sends(READER, ME, "burst", count=200)
    messages = await tab.messages(200, since=since, test=lambda message: message["body"].startswith("burst"))
    assert [message["id"].split("_")[2] for message in messages] == ids
    await tab.holds(f"WPP.chat.get('{chat(READER)}').unreadCount >= 200")
    read = await tab.evaluate(
        f"return (await WPP.chat.getMessages('{chat(READER)}', {{count: 200}})).map((one) => one.id.id)"
    )
    assert read == ids

    async def stored() -> bool:
        return not (await phone.account())["devices"][0]["queued"]

    await eventually(stored)


async def test_the_phones_own_messages_appear_as_mine(tab: Tab, phone: Phone) -> None:
    since = len(tab.events)
    [message_id] = await phone.send(SILENT, "from the phone")
    [message] = await tab.messages(1, since=since)
    assert message["fromMe"] is True
    assert message["id"] == f"true_{chat(SILENT)}_{message_id}"


async def test_a_repeated_message_id_is_delivered_once(tab: Tab, phone: Phone, sandbox: Sandbox) -> None:
    since = len(tab.events)
    message = await tab.evaluate(
        f"const chat = await WPP.chat.find('{chat(SILENT)}');"
        "const messageId = String(await WPP.chat.generateMessageID(chat));"
        "await WPP.chat.sendTextMessage(chat.id, 'exactly once', {messageId});"
        "await WPP.chat.sendTextMessage(chat.id, 'exactly once', {messageId});"
        "return messageId"
    )
    await acks(tab, message, 2, since=since)
    [record] = [one for one in await phone.messages(chat=SILENT) if one["id"] in message]
    assert record["sends"] == 2
    async with sandbox.phone(SILENT) as silent:
        received = [one for one in await silent.messages(chat=ME) if one["id"] in message]
    assert len(received) == 1


@pytest.mark.parametrize("result", ["ERROR_NETWORK", "ERROR_EXPIRED"])
async def test_a_failed_send_is_resolved_not_rejected(tab: Tab, phone: Phone, sandbox: Sandbox, result: str) -> None:
    await phone.faults(send=result, send_count=1)
    answer = await send(tab, SILENT, f"fails with {result}")
    assert answer["sendMsgResult"]["messageSendResult"] == result
    assert answer["ack"] < 0
    assert (await send(tab, SILENT, "the next one is well"))["ack"] == 1
    async with sandbox.phone(SILENT) as silent:
        assert result not in str(await silent.messages(chat=ME))


async def test_a_send_without_answer_never_settles_and_is_sent_again_after_a_new_login(
    tab: Tab, phone: Phone, sandbox: Sandbox
) -> None:
    await phone.faults(send="hang", send_count=1)
    answer = await tab.evaluate(
        f"return Promise.race([WPP.chat.sendTextMessage('{chat(SILENT)}', 'lost at first'),"
        "new Promise((yes) => setTimeout(() => yes('silence'), 500))])"
    )
    assert answer == "silence"
    async with sandbox.phone(SILENT) as silent:
        assert "lost at first" not in str(await silent.messages(chat=ME))
        since = len(tab.events)
        await phone.drop()
        await tab.event("conn.backend_event", "offline_delivery_end", since=since)
        await tab.until(lambda event: event[0] == "chat.msg_ack_change" and event[1]["ack"] == 2, since=since)
        assert len([one for one in await silent.messages(chat=ME) if one["text"] == "lost at first"]) == 1


async def test_a_lost_answer_hides_that_the_message_was_delivered(tab: Tab, phone: Phone, sandbox: Sandbox) -> None:
    await phone.faults(send="lost_answer", send_count=1)
    answer = await tab.evaluate(
        f"return Promise.race([WPP.chat.sendTextMessage('{chat(SILENT)}', 'delivered all the same'),"
        "new Promise((yes) => setTimeout(() => yes('silence'), 500))])"
    )
    assert answer == "silence"
    async with sandbox.phone(SILENT) as silent:
        assert len([one for one in await silent.messages(chat=ME) if one["text"] == "delivered all the same"]) == 1


async def test_a_malformed_id_is_rejected_by_the_page_itself_without_a_code(tab: Tab) -> None:
    with pytest.raises(PageError) as caught:
        await tab.evaluate("return WPP.chat.sendTextMessage('nobody', 'hi')")
    assert caught.value.details["name"] == "InvalidWidError"
    assert caught.value.details["message"] == "wid error: invalid wid"
    assert caught.value.details.get("code") is None


async def test_a_bad_file_is_rejected_with_a_plain_string(tab: Tab) -> None:
    with pytest.raises(PageError) as caught:
        await tab.evaluate(f"return WPP.chat.sendFileMessage('{chat(ECHO)}', '***', {{type: 'image'}})")
    assert caught.value.details["kind"] == "string"
    assert caught.value.details["text"] == "invalid_data_url"


async def test_existence_comes_from_the_directory_and_null_means_anything(
    tab: Tab, sandbox: Sandbox, phone: Phone
) -> None:
    await sandbox.create("12025550142", name="Fresh")
    found = await tab.evaluate(
        "const one = await WPP.contact.queryWidExists('12025550142@c.us');"
        "return {wid: String(one.wid), lid: String(one.lid), biz: one.biz}"
    )
    assert found["wid"] == "12025550142@c.us"
    assert found["lid"].endswith("@lid")
    assert await tab.evaluate("return WPP.contact.queryWidExists('12025559999@c.us')") is None


async def test_a_picture_goes_up_and_comes_down_again(tab: Tab, phone: Phone) -> None:
    picture = png(300, 200)
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    since = len(tab.events)
    result = await tab.evaluate(
        f"return WPP.chat.sendFileMessage('{chat(ECHO)}', '{url}', {{caption: 'grey', filename: 'grey.png'}})"
    )
    assert result["sendMsgResult"]["messageSendResult"] == "OK"
    own, echo = await tab.messages(2, since=since, test=lambda message: message["type"] == "image")
    assert (own["caption"], echo["caption"]) == ("grey", "grey")
    size = (
        "const blob = await WPP.chat.downloadMedia('{}');"
        "const bytes = new Uint8Array(await blob.arrayBuffer());"
        "return [blob.type, bytes.length, bytes.slice(0, 4).join()]"
    )
    for message in (own, echo):
        got = await tab.evaluate(size.format(message["id"]))
        assert got == ["image/png", len(picture), "137,80,78,71"]
    [record] = [one for one in await phone.messages(chat=ECHO, from_me=True) if one["type"] == "image"]
    assert (record["content"]["width"], record["content"]["height"]) == (300, 200)


@pytest.mark.parametrize(
    ("options", "mimetype", "kind"),
    [
        ("{type: 'document', filename: 'a.pdf', mimetype: 'application/pdf'}", "application/pdf", "document"),
        ("{type: 'audio', isPtt: true, mimetype: 'audio/ogg'}", "audio/ogg", "ptt"),
        ("{type: 'audio', mimetype: 'audio/mpeg'}", "audio/mpeg", "audio"),
        ("{type: 'video', mimetype: 'video/mp4'}", "video/mp4", "video"),
        ("{type: 'sticker', mimetype: 'image/webp'}", "image/webp", "sticker"),
    ],
    ids=["document", "voice", "audio", "video", "sticker"],
)
async def test_files_keep_their_kind(tab: Tab, phone: Phone, options: str, mimetype: str, kind: str) -> None:
    result = await tab.evaluate(
        f"const file = new File([new Uint8Array(1000)], 'f', {{type: '{mimetype}'}});"
        f"return WPP.chat.sendFileMessage('{chat(SILENT)}', file, {options})"
    )
    assert result["sendMsgResult"]["messageSendResult"] == "OK"
    record = (await phone.messages(chat=SILENT, from_me=True))[-1]
    assert (record["type"], record["content"]["mimetype"], record["content"]["size"]) == (kind, mimetype, 1000)


async def test_a_received_file_is_downloaded_only_when_it_is_asked_for(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    async with sandbox.phone(SILENT) as silent:
        await silent.send_file(ME, b"%PDF-1.4 sandbox", "application/pdf", filename="bill.pdf", caption="your bill")
    [message] = await tab.messages(1, since=since)
    assert (message["type"], message["caption"]) == ("document", "your bill")
    text = await tab.evaluate(f"return (await WPP.chat.downloadMedia('{message['id']}')).text()")
    assert text == "%PDF-1.4 sandbox"


async def test_a_file_that_is_gone_is_reported_as_not_found(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    async with sandbox.phone(SILENT) as silent:
        await silent.send_content(ME, {"type": "image", "mimetype": "image/png", "directPath": "/mms/d/gone"})
    [message] = await tab.messages(1, since=since)
    with pytest.raises(PageError) as caught:
        await tab.evaluate(f"return WPP.chat.downloadMedia('{message['id']}')")
    assert caught.value.details["code"] == "media_not_found"


async def test_a_quoted_answer_knows_what_it_answers(tab: Tab, phone: Phone, sandbox: Sandbox) -> None:
    since = len(tab.events)
    [question] = await sandbox.contact_sends(SILENT, ME, "when?")
    [message] = await tab.messages(1, since=since)
    await send(tab, SILENT, "at noon", f"{{quotedMsg: '{message['id']}'}}")
    record = (await phone.messages(chat=SILENT, from_me=True))[-1]
    assert record["content"]["quotedStanzaID"] == question
    assert record["content"]["quotedParticipant"] == {"$wid": chat(SILENT)}
    async with sandbox.phone(SILENT) as silent:
        answer = await silent.reply(ME, record["id"], "fine", author=ME)
    [message] = await tab.messages(1, since=since, test=lambda message: answer in message["id"])
    quoted = await tab.evaluate(f"return (await WPP.chat.getQuotedMsg('{message['id']}')).body")
    assert quoted == "at noon"


async def test_locations_contacts_and_polls_are_sent_as_such(tab: Tab, phone: Phone) -> None:
    to = chat(SILENT)
    await tab.evaluate(
        f"await WPP.chat.sendLocationMessage('{to}', {{lat: 52.5, lng: '13.4', name: 'Berlin', address: 'Mitte'}});"
        f"await WPP.chat.sendVCardContactMessage('{to}', {{id: '{chat(ECHO)}', name: 'Ada'}});"
        f"await WPP.chat.sendCreatePollMessage('{to}', 'Lunch?', ['yes', 'no'], {{selectableCount: 1}});"
    )
    location, vcard, poll = (await phone.messages(chat=SILENT, from_me=True))[-3:]
    assert (location["type"], location["content"]["lat"], location["content"]["lng"]) == ("location", 52.5, 13.4)
    assert location["content"]["loc"] == "Berlin\nMitte"
    assert vcard["type"] == "vcard"
    assert f"waid={ECHO}" in vcard["text"]
    assert poll["type"] == "poll_creation"
    assert [option["name"] for option in poll["content"]["pollOptions"]] == ["yes", "no"]


async def test_votes_in_a_poll_are_announced_and_kept(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    result = await tab.evaluate(f"return WPP.chat.sendCreatePollMessage('{chat(SILENT)}', 'Tea?', ['yes', 'no'])")
    short = result["id"].split("_")[2]
    await acks(tab, result["id"], 2, since=since)
    async with sandbox.phone(SILENT) as silent:
        await silent.vote(ME, short, ["no"])
    event = await tab.event("chat.poll_response", since=since)
    assert event[1]["msgId"] == result["id"]
    assert event[1]["sender"] == chat(SILENT)
    votes = await tab.evaluate(
        f"return (await WPP.chat.getVotes('{result['id']}')).votes.map((one) => one.selectedOptions[1].name)"
    )
    assert votes == ["no"]


async def test_reactions_go_both_ways(tab: Tab, phone: Phone, sandbox: Sandbox) -> None:
    since = len(tab.events)
    [message_id] = await sandbox.contact_sends(SILENT, ME, "react to this")
    [message] = await tab.messages(1, since=since)
    await tab.evaluate(f"await WPP.chat.sendReactionToMessage('{message['id']}', '👍')")
    record = (await phone.messages(chat=SILENT))[-1]
    assert record["reactions"] == {ME: "👍"}
    async with sandbox.phone(SILENT) as silent:
        await silent.react(ME, message_id, "🎉")
        theirs = await tab.until(
            lambda event: event[0] == "chat.new_reaction" and event[1]["reactionText"] == "🎉", since=since
        )
        assert theirs[1]["msgId"] == message["id"]
        assert theirs[1]["sender"] == chat(SILENT)
    reactions = await tab.evaluate(
        f"const all = await WPP.chat.getReactions('{message['id']}');"
        "return [all.reactionByMe.reactionText, all.reactions.map((one) => one.aggregateEmoji).sort()]"
    )
    assert reactions == ["👍", sorted(["👍", "🎉"])]
    await tab.evaluate(f"await WPP.chat.sendReactionToMessage('{message['id']}', false)")
    assert (await phone.messages(chat=SILENT))[-1]["reactions"] == {SILENT: "🎉"}


async def test_an_edit_changes_the_text_everywhere(tab: Tab, sandbox: Sandbox) -> None:
    sent = await delivered(tab, SILENT, "see you at nine")
    since = len(tab.events)
    await tab.evaluate(f"await WPP.chat.editMessage('{sent}', 'see you at ten')")
    async with sandbox.phone(SILENT) as silent:
        assert (await silent.messages(chat=ME))[-1]["text"] == "see you at ten"
        [message_id] = await silent.send(ME, "colour")
        [message] = await tab.messages(1, since=since, test=lambda message: message_id in message["id"])
        await silent.edit(ME, message_id, "color")
    event = await tab.until(
        lambda event: event[0] == "chat.msg_edited" and event[1]["id"] == message["id"], since=since
    )
    assert event[1]["msg"]["body"] == "color"
    with pytest.raises(PageError) as caught:
        await tab.evaluate(f"await WPP.chat.editMessage('{message['id']}', 'not mine')")
    assert caught.value.details["code"] == "edit_message_error"


async def test_a_revoked_message_is_gone_for_both(tab: Tab, sandbox: Sandbox) -> None:
    sent = await delivered(tab, SILENT, "delete this")
    answer = await tab.evaluate(f"return WPP.chat.deleteMessage('{chat(SILENT)}', '{sent}', false, true)")
    assert (answer["isRevoked"], answer["sendMsgResult"]) == (True, "OK")
    since = len(tab.events)
    async with sandbox.phone(SILENT) as silent:
        assert (await silent.messages(chat=ME))[-1]["revoked"] is True
        [message_id] = await silent.send(ME, "oops")
        [message] = await tab.messages(1, since=since)
        await silent.revoke(ME, message_id)
    event = await tab.event("chat.msg_revoke", since=since)
    assert event[1]["refId"] == message["id"]
    assert event[1]["type"] == "sender_revoke"
    await tab.holds(f"WPP.whatsapp.MsgStore.get('{message['id']}').type === 'revoked'")


async def test_a_message_deleted_for_me_stays_with_the_other(tab: Tab, sandbox: Sandbox) -> None:
    sent = await delivered(tab, SILENT, "only here")
    answer = await tab.evaluate(f"return WPP.chat.deleteMessage('{chat(SILENT)}', '{sent}')")
    assert answer["isDeleted"] is True
    with pytest.raises(PageError) as caught:
        await tab.evaluate(f"return WPP.chat.getMessageById('{sent}')")
    assert caught.value.details["code"] == "msg_not_found"
    async with sandbox.phone(SILENT) as silent:
        assert (await silent.messages(chat=ME))[-1]["text"] == "only here"


async def test_a_forwarded_message_carries_its_mark(tab: Tab, sandbox: Sandbox) -> None:
    result = await send(tab, SILENT, "pass it on")
    failed = await tab.evaluate(f"return WPP.chat.forwardMessages('{chat(ABSENT)}', ['{result['id']}'])")
    assert failed == []
    async with sandbox.phone(ME) as me:
        record = (await me.messages(chat=ABSENT, from_me=True))[-1]
    assert (record["text"], record["content"]["isForwarded"]) == ("pass it on", True)


async def test_typing_is_seen_while_it_lasts(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    async with sandbox.phone(ECHO) as echo:
        await echo.typing(ME)
        event = await tab.until(
            lambda event: event[0] == "chat.presence_change" and event[1]["state"] == "typing", since=since
        )
        assert event[1]["id"] == chat(ECHO)
        await echo.typing(ME, "recording")
        await tab.until(
            lambda event: event[0] == "chat.presence_change" and event[1]["state"] == "recording_audio", since=since
        )
    await tab.evaluate(
        f"await WPP.chat.markIsComposing('{chat(ECHO)}'); await WPP.chat.markIsRecording('{chat(ECHO)}');"
        f"await WPP.chat.markIsPaused('{chat(ECHO)}')"
    )


async def test_chats_can_be_archived_pinned_starred_cleared_and_deleted(tab: Tab, sandbox: Sandbox) -> None:
    number = "12025550143"
    await sandbox.create(number, name="Short Friend")
    result = await send(tab, number, "hello and goodbye")
    done = await tab.evaluate(
        f"""const id = '{chat(number)}';
        const chat = WPP.chat.get(id);
        await WPP.chat.archive(id);
        await new Promise((yes) => chat.archive ? yes() : chat.once('change:archive', yes));
        await WPP.chat.unarchive(id);
        await new Promise((yes) => chat.archive ? chat.once('change:archive', yes) : yes());
        await WPP.chat.pin(id);
        const pinned = chat.pin > 0;
        await WPP.chat.unpin(id);
        await WPP.chat.starMessage('{result["id"]}', true);
        const star = (await WPP.chat.getMessageById('{result["id"]}')).star;
        await WPP.chat.mute(id, {{duration: 3600}});
        const muted = chat.mute.isMuted;
        await WPP.chat.unmute(id);
        await WPP.chat.clear(id, true);
        const kept = chat.msgs.length;
        await WPP.chat.clear(id, false);
        const left = chat.msgs.length;
        const deleted = (await WPP.chat.delete(id)).status;
        return {{pinned, star, muted, kept, left, deleted, there: Boolean(WPP.chat.get(id))}}"""
    )
    assert done == {
        "pinned": True,
        "star": True,
        "muted": True,
        "kept": 1,
        "left": 0,
        "deleted": 200,
        "there": False,
    }


async def test_the_chat_list_is_in_the_order_of_the_last_messages(tab: Tab) -> None:
    await send(tab, SILENT, "one")
    times = await tab.evaluate("return (await WPP.chat.list({ignoreGroupMetadata: true})).map((chat) => chat.t)")
    assert times == sorted(times, reverse=True)
    assert len(await tab.evaluate("return (await WPP.chat.list({count: 2})).map((chat) => String(chat.id))")) == 2
    assert await tab.evaluate("return (await WPP.chat.list({onlyUsers: true})).length") >= 3


async def test_history_and_missed_messages_are_there_after_a_restart(tabs: Tabs, sandbox: Sandbox) -> None:
    number = "12025550144"
    tab, phone = await tabs.paired(number, "history")
    sent = await send(tab, READER, "before the restart")
    await tab.close()
    [missed] = await sandbox.contact_sends(READER, number, "while you were away")
    tab = await tabs.open("history")
    await tab.ready()
    messages = await tab.evaluate(
        f"return (await WPP.chat.getMessages('{chat(READER)}', {{count: -1}})).map((one) => [String(one.id), one.body])"
    )
    assert messages == [
        [sent["id"], "before the restart"],
        [f"false_{chat(READER)}_{missed}", "while you were away"],
    ]
    assert await tab.evaluate(f"return WPP.chat.get('{chat(READER)}').unreadCount") == 1
    assert await tab.evaluate("return WPP.whatsapp.Stream.resumeCount") == 1
    welcome = await tab.evaluate(f"return (await WPP.chat.getMessages('{chat(ECHO)}', {{count: -1}})).length")
    assert welcome == 1
    [record] = await phone.messages(chat=READER, from_me=False)
    assert sum(delivery["writes"] for delivery in record["deliveries"].values()) == 1
