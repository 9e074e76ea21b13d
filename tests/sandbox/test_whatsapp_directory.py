"""Groups, people, labels, stories, channels and calls through the real page API."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from sandbox.whatsapp import Phone, Sandbox, Settings, WhatsAppServer
from sandbox.whatsapp.seed import ABSENT, AUTO, ECHO, READER, SILENT
from tests.support.whatsapp_browser import PageError, Tab, Tabs
from tests.support.whatsapp_samples import chat, lid, png

ME = "12025550150"


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
async def sandbox(server: WhatsAppServer) -> AsyncIterator[Sandbox]:
    async with Sandbox(server.url) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
async def account(tabs: Tabs, sandbox: Sandbox) -> tuple[Tab, Phone]:
    await sandbox.create(ME, name="Shop", business=True)
    return await tabs.paired(ME)


@pytest.fixture
def tab(account: tuple[Tab, Phone]) -> Tab:
    return account[0]


@pytest.fixture
def phone(account: tuple[Tab, Phone]) -> Phone:
    return account[1]


async def make_group(tab: Tab, subject: str, *numbers: str) -> str:
    users = ", ".join(f"'{chat(number)}'" for number in numbers)
    group: str = await tab.evaluate(f"return String((await WPP.group.create('{subject}', [{users}])).gid)")
    return group


async def test_a_group_is_made_and_its_messages_are_answered_by_lid(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    group = await make_group(tab, "Lunch", SILENT, READER)
    assert group.endswith("@g.us")
    result = await tab.evaluate(f"return WPP.chat.sendTextMessage('{group}', 'who is in?')")
    assert result["id"].endswith(f"_{lid(ME)}")
    read = await tab.until(
        lambda event: event[0] == "chat.msg_ack_change" and event[1]["ack"] == 3 and event[1]["chat"] == group,
        since=since,
    )
    assert read[1]["sender"] == lid(READER)
    async with sandbox.phone(SILENT) as silent:
        [message_id] = await silent.send(group, "me")
    [message] = await tab.messages(1, since=since, test=lambda message: message_id in message["id"])
    assert message["id"] == f"false_{group}_{message_id}_{lid(SILENT)}"
    assert (message["from"], message["author"]) == (group, lid(SILENT))
    info = await tab.evaluate(
        f"return (await WPP.chat.getMessageACK('{result['id']}')).participants.map((p) => [p.id, Boolean(p.readAt)])"
    )
    assert sorted(info) == sorted([[chat(READER), True], [chat(SILENT), False]])
    # Not everybody has read it, so the message itself is only delivered.
    assert await tab.evaluate(f"return (await WPP.chat.getMessageById('{result['id']}')).ack") == 2


async def test_participants_come_go_and_rise(tab: Tab, sandbox: Sandbox) -> None:
    group = await make_group(tab, "Crew", SILENT)
    added = await tab.evaluate(f"return WPP.group.addParticipants('{group}', ['{chat(READER)}'])")
    assert added[chat(READER)]["code"] == 200
    await tab.evaluate(f"await WPP.group.promoteParticipants('{group}', ['{chat(READER)}'])")
    members = await tab.evaluate(
        f"return (await WPP.group.getParticipants('{group}')).map((one) => [String(one.id), one.isAdmin])"
    )
    assert sorted(members) == sorted([[lid(ME), True], [lid(SILENT), False], [lid(READER), True]])
    await tab.evaluate(f"await WPP.group.demoteParticipants('{group}', ['{chat(READER)}'])")
    await tab.evaluate(f"await WPP.group.removeParticipants('{group}', ['{chat(READER)}'])")
    assert await tab.evaluate(f"return (await WPP.group.getParticipants('{group}')).length") == 2
    since = len(tab.events)
    async with sandbox.phone(SILENT) as silent:
        await silent.group("leave", group=group)
    event = await tab.event("group.participant_changed", since=since)
    assert (event[1]["action"], event[1]["groupId"], event[1]["participants"]) == ("leave", group, [lid(SILENT)])


async def test_a_groups_subject_description_and_settings_change(tab: Tab, sandbox: Sandbox) -> None:
    group = await make_group(tab, "Old", SILENT)
    await tab.evaluate(
        f"await WPP.group.setSubject('{group}', 'New');"
        f"await WPP.group.setDescription('{group}', 'All about it');"
        f"await WPP.group.setProperty('{group}', 'announcement', true)"
    )
    async with sandbox.phone(SILENT) as silent:
        with pytest.raises(Exception, match="only admins may write"):
            await silent.send(group, "may I?")
    state = await tab.evaluate(
        f"const {{groupMetadata: group}} = WPP.chat.get('{group}');return [group.subject, group.desc, group.announce]"
    )
    assert state == ["New", "All about it", True]


async def test_invites_let_others_in(tab: Tab, sandbox: Sandbox) -> None:
    group = await make_group(tab, "Open", SILENT)
    code = await tab.evaluate(f"return WPP.group.getInviteCode('{group}')")
    info = await tab.evaluate(f"return (await WPP.group.getGroupInfoFromInviteCode('{code}')).subject")
    assert info == "Open"
    since = len(tab.events)
    async with sandbox.phone(READER) as reader:
        await reader.group("join", invite=code)
        event = await tab.event("group.participant_changed", since=since)
        assert (event[1]["action"], event[1]["participants"]) == ("join", [lid(READER)])
        theirs = (await reader.group("create", subject="Theirs", numbers=[SILENT]))["group"]
    renewed = await tab.evaluate(f"return WPP.group.revokeInviteCode('{group}')")
    assert renewed != code
    joined = await tab.evaluate(f"return (await WPP.group.join('https://chat.whatsapp.com/{theirs['invite']}')).id")
    assert joined == theirs["id"]
    await tab.evaluate(f"await WPP.group.leave('{joined}')")
    assert await tab.evaluate(f"return WPP.group.iAmMember('{joined}')") is False
    groups = await tab.evaluate("return (await WPP.group.getAllGroups()).map((one) => String(one.id))")
    assert group in groups
    assert joined not in groups


async def test_only_admins_change_participants(tab: Tab, sandbox: Sandbox) -> None:
    async with sandbox.phone(READER) as reader:
        since = len(tab.events)
        group = (await reader.group("create", subject="Not mine", numbers=[ME]))["group"]["id"]
        await tab.until(lambda event: event[0] == "chat.new_chat" and event[1]["id"] == group, since=since)
    with pytest.raises(PageError) as caught:
        await tab.evaluate(f"await WPP.group.addParticipants('{group}', ['{chat(SILENT)}'])")
    assert caught.value.details["code"] == "group_you_are_not_admin"


async def test_contacts_are_listed_looked_up_blocked_and_saved(tab: Tab, phone: Phone, sandbox: Sandbox) -> None:
    mine = await tab.evaluate(
        "return (await WPP.contact.list({onlyMyContacts: true})).map((one) => [String(one.id), one.name])"
    )
    assert [chat(ECHO), "Ada Echo"] in mine
    assert await tab.evaluate(f"return WPP.contact.getStatus('{chat(ECHO)}')") == ("Hey there! I am using WhatsApp.")
    entry = await tab.evaluate(f"return WPP.contact.getPnLidEntry('{chat(ECHO)}')")
    assert (entry["lid"]["_serialized"], entry["phoneNumber"]["_serialized"]) == (lid(ECHO), chat(ECHO))
    assert (await tab.evaluate(f"return WPP.blocklist.blockContact('{chat(ABSENT)}')"))["isBlocked"] is True
    before = len(await phone.messages(chat=ABSENT))
    await sandbox.contact_sends(ABSENT, ME, "can you hear me?")
    assert len(await phone.messages(chat=ABSENT)) == before
    assert (await tab.evaluate(f"return WPP.blocklist.unblockContact('{chat(ABSENT)}')"))["isBlocked"] is False
    await sandbox.create("12025550151", name="Newcomer")
    name = await tab.evaluate(
        "await WPP.contact.queryWidExists('12025550151@c.us');"
        "await WPP.contact.save('12025550151@c.us', 'New', {lastName: 'Comer'});"
        "return await new Promise((yes) => {"
        "  const look = () => WPP.contact.get('12025550151@c.us').then((one) => one?.name ? yes(one.name) :"
        "    setTimeout(look, 20)); look(); })"
    )
    assert name == "New Comer"


async def test_the_own_profile_can_be_changed(tab: Tab, phone: Phone) -> None:
    picture = "data:image/png;base64," + base64.b64encode(png(64, 64)).decode()
    result = await tab.evaluate(
        "await WPP.profile.setMyProfileName('The Shop');"
        "await WPP.profile.setMyStatus('open');"
        f"await WPP.profile.setMyProfilePicture('{picture}');"
        f"const url = await WPP.contact.getProfilePictureUrl('{chat(ME)}');"
        "return [WPP.profile.getMyProfileName(), await WPP.profile.getMyStatus(), (await fetch(url)).status]"
    )
    assert result == ["The Shop", "open", 200]
    assert (await phone.account())["name"] == "The Shop"
    await tab.evaluate("await WPP.profile.removeMyProfilePicture()")
    assert await tab.evaluate(f"return (await WPP.contact.getProfilePictureUrl('{chat(ME)}')) ?? null") is None


async def test_presence_shows_who_is_there(tab: Tab, sandbox: Sandbox) -> None:
    ids = await tab.evaluate(f"return (await WPP.contact.subscribePresence('{chat(READER)}')).map(String)")
    assert ids == [chat(READER)]
    since = len(tab.events)
    async with sandbox.phone(READER) as reader:
        await reader.online(online=False)
        await tab.until(
            lambda event: (
                event[0] == "chat.presence_change"
                and (event[1]["id"], event[1]["state"]) == (chat(READER), "unavailable")
            ),
            since=since,
        )
    await tab.evaluate("await WPP.conn.markAvailable()")


async def test_a_business_account_has_labels(tab: Tab, phone: Phone) -> None:
    since = len(tab.events)
    label = await tab.evaluate(
        "const label = await WPP.labels.addNewLabel('urgent');"
        f"await WPP.labels.addOrRemoveLabels(['{chat(ECHO)}'], [{{labelId: label.id, type: 'add'}}]);"
        "return label"
    )
    assert label["name"] == "urgent"
    event = await tab.event("chat.update_label", since=since)
    assert (event[1]["type"], event[1]["ids"]) == ("add", [label["id"]])
    labelled = await tab.evaluate(
        "return (await WPP.chat.list({withLabels: ['urgent']})).map((chat) => String(chat.id))"
    )
    assert labelled == [chat(ECHO)]
    left = await tab.evaluate(
        f"await WPP.labels.deleteLabel('{label['id']}'); return (await WPP.labels.getAllLabels()).length"
    )
    assert left == 0


async def test_stories_go_out_and_come_in(tab: Tab, sandbox: Sandbox, phone: Phone) -> None:
    result = await tab.evaluate("return WPP.status.sendTextStatus('on sale today', {backgroundColor: '#0275d8'})")
    assert result["sendMsgResult"]["messageSendResult"] == "OK"
    picture = "data:image/png;base64," + base64.b64encode(png(32, 32)).decode()
    await tab.evaluate(f"await WPP.status.sendImageStatus('{picture}', {{caption: 'look'}})")
    mine = await tab.evaluate("return (await WPP.status.getMyStatus()).msgs.map((one) => one.body || one.caption)")
    assert "on sale today" in mine
    stories = await phone.messages(chat="status@broadcast")
    assert [story["type"] for story in stories] == ["chat", "image"]
    since = len(tab.events)
    async with sandbox.phone(ECHO) as echo:
        await echo.send("status@broadcast", "echo, echo")
    [story] = await tab.messages(1, since=since)
    assert (story["from"], story["author"]) == ("status@broadcast", chat(ECHO))


async def test_channels_are_made_found_and_followed(tab: Tab, tabs: Tabs) -> None:
    made = await tab.evaluate("return WPP.newsletter.create('Shop news', {description: 'what is new'})")
    channel = made["idJid"]
    assert channel.endswith("@newsletter")
    result = await tab.evaluate(f"return WPP.chat.sendTextMessage('{channel}', 'first issue')")
    assert result["ack"] == 1
    follower, _phone = await tabs.paired("12025550152")
    found = await follower.evaluate("return (await WPP.newsletter.search('news')).newsletters[0]")
    assert (found["idJid"], found["name"]) == (channel, "Shop news")
    await follower.evaluate(f"await WPP.newsletter.follow('{channel}')")
    since = len(follower.events)
    await tab.evaluate(f"await WPP.chat.sendTextMessage('{channel}', 'second issue')")
    [message] = await follower.messages(1, since=since)
    assert (message["from"], message["body"]) == (channel, "second issue")
    await follower.reload()
    await follower.event("loader.full_ready", since=since)
    kept = await follower.evaluate(f"return (await WPP.chat.getMessages('{channel}')).map((one) => one.body)")
    assert kept == ["second issue"]
    subscribers = await tab.evaluate(
        f"return (await WPP.newsletter.getSubscribers('{channel}')).map((s) => String(s.id))"
    )
    assert subscribers == ["12025550152@c.us"]
    await follower.evaluate(f"await WPP.newsletter.unfollow('{channel}')")
    channels = "return (await WPP.chat.list({onlyNewsletter: true})).map((chat) => String(chat.id))"
    assert await follower.evaluate(channels) == []
    assert await tab.evaluate(channels) == [channel]
    assert await tab.evaluate(f"return WPP.newsletter.destroy('{channel}')") is True


async def test_an_incoming_call_is_announced(tab: Tab, sandbox: Sandbox) -> None:
    since = len(tab.events)
    async with sandbox.phone(AUTO) as baker:
        call = await baker.call(ME, video=True)
    event = await tab.event("call.incoming_call", since=since)
    assert (event[1]["id"], event[1]["isVideo"], event[1]["sender"]) == (call, True, chat(AUTO))


async def test_two_accounts_write_to_each_other(tab: Tab, tabs: Tabs) -> None:
    other, _phone = await tabs.paired("12025550153")
    since, mine = len(other.events), len(tab.events)
    await tab.evaluate("await WPP.chat.sendTextMessage('12025550153@c.us', 'hello, neighbour')")
    [message] = await other.messages(1, since=since)
    assert message["from"] == chat(ME)
    await other.evaluate(f"await WPP.chat.markIsRead('{chat(ME)}')")
    await tab.until(lambda event: event[0] == "chat.msg_ack_change" and event[1]["ack"] == 3, since=mine)


async def test_a_migrated_account_has_chats_by_lid(tabs: Tabs, sandbox: Sandbox) -> None:
    number = "12025550154"
    await sandbox.create(number, lid_migrated=True)
    tab, phone = await tabs.paired(number)
    since = len(tab.events)
    result = await tab.evaluate(f"return WPP.chat.sendTextMessage('{chat(ECHO)}', 'by lid')")
    assert result["id"].startswith(f"true_{lid(ECHO)}_")
    assert (result["from"], result["to"]) == (lid(number), lid(ECHO))
    _own, echo = await tab.messages(2, since=since)
    assert echo["from"] == lid(ECHO)
    assert (await phone.messages(chat=ECHO, from_me=True))[0]["text"] == "by lid"
    with pytest.raises(PageError) as caught:
        await tab.evaluate("await WPP.chat.sendTextMessage('12025559999@c.us', 'nobody there')")
    assert "No LID for user" in caught.value.details["text"]


async def test_a_slow_line_is_slow_and_nothing_is_lost(tabs: Tabs, sandbox: Sandbox) -> None:
    number = "12025550155"
    tab, phone = await tabs.paired(number)
    await phone.faults(latency=0.2)
    since = len(tab.events)
    started = await tab.evaluate("return performance.now()")
    await tab.evaluate(f"await WPP.chat.sendTextMessage('{chat(SILENT)}', 'slowly')")
    assert await tab.evaluate("return performance.now()") - started >= 400
    ids = await sandbox.contact_sends(READER, number, "slow", count=3)
    messages = await tab.messages(3, since=since, test=lambda message: not message["fromMe"])
    assert [message["id"].split("_")[2] for message in messages] == ids


async def test_ballast_makes_the_page_grow(tabs: Tabs) -> None:
    tab, phone = await tabs.paired("12025550156")
    await phone.trouble("bloat", megabytes=30)
    await tab.holds("performance.memory.usedJSHeapSize > 0")
    await phone.trouble("exceptions", count=3)
    since = len(tab.events)
    await phone.trouble("reload")
    await tab.event("loader.full_ready", since=since)
    assert sum("trouble" in text for text in tab.exceptions) == 3
