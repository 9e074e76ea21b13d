/*
 * What comes from the server: messages, receipts, changes, history.
 *
 * A batch of stanzas is applied in order, stored in one transaction together with its last number, and only then
 * acknowledged; a stanza that comes again after a lost acknowledgement is known by its number. Functions that the page
 * API replaces are called through their module.
 */
"use strict";

__d("SandboxReceive", (require, exports) => {
  const MsgKey = require("WAWebMsgKey").default;
  const { createWid } = require("WAWebWidFactory");
  const { MsgCollection } = require("WAWebMsgCollection");
  const { unpack } = require("SandboxPacking");
  const { ACK_STRING } = require("WAWebAck");
  const database = require("SandboxDatabase");
  const people = require("SandboxPeople");
  const chats = require("SandboxChats");
  const messages = require("SandboxMessages");
  const me = require("WAWebUserPrefsMeUser");

  let lastSeq = 0;
  /** What the batch at hand has to store. */
  let writes = [];

  // --- From storage -------------------------------------------------------------------------------------------------

  const RECENT_MESSAGES = 20;

  exports.restore = async () => {
    lastSeq = (await database.get("meta", "seq"))?.value ?? 0;
    for (const { view } of await database.all("contact")) {
      people.put(view);
    }
    for (const { view } of await database.all("group-metadata")) {
      require("SandboxGroups").put(view);
    }
    for (const record of await database.all("chat")) {
      await messages.loadRecent(chats.restore(record), RECENT_MESSAGES);
    }
    for (const record of await database.all("meta")) {
      await restoreMeta(record);
    }
    await restoreStories();
    require("WAWebChatCollection").ChatCollection.sort({ silent: true });
  };

  /** Stories live for a day, in seconds. */
  const STORY_LIFE = 24 * 60 * 60;

  async function restoreStories() {
    const since = Date.now() / 1000 - STORY_LIFE;
    for (const msg of await messages.search(createWid("status@broadcast"), (data) => data.t > since)) {
      require("WAWebStatusCollection").StatusCollection.addStatusMessages(msg.author, [msg]);
    }
  }

  async function restoreMeta(record) {
    if (record.id === "blocked") {
      require("WAWebBlocklistCollection").BlocklistCollection.replace(record.numbers);
    } else if (record.id.startsWith("channel:")) {
      require("SandboxChannels").put(record.view);
      await messages.loadRecent(chats.ensure(createWid(record.view.id)), RECENT_MESSAGES);
    } else if (record.id.startsWith("label:")) {
      require("SandboxLabels").put(record.label);
    } else if (record.id.startsWith("reactions:")) {
      require("SandboxReactions").restore(record);
    } else if (record.id.startsWith("votes:")) {
      require("SandboxVotes").restore(record);
    }
  }

  exports.me = (own) => {
    people.learn(own.number, own.lid);
  };

  // --- Batches ------------------------------------------------------------------------------------------------------

  exports.batch = async (stanzas) => {
    writes = [];
    for (const stanza of stanzas) {
      if (stanza.seq > lastSeq) {
        lastSeq = stanza.seq;
        try {
          await handlers[stanza.kind](stanza.body, stanza);
        } catch (error) {
          // One stanza that cannot be applied must not hold up all others; it shows as an uncaught exception.
          setTimeout(() => {
            throw error;
          });
        }
      }
    }
    require("WAWebChatCollection").ChatCollection.sort({ silent: true });
    await database.commit([...writes, ["meta", { id: "seq", value: lastSeq }]]);
    require("SandboxScreen").draw();
  };

  const handlers = { history, message, receipt, edit, revoke, reaction, vote, chat, contact, blocked, group, call };
  handlers.channel = (view) => writes.push(require("SandboxChannels").put(view));
  handlers.channel_gone = ({ id }) => writes.push(require("SandboxChannels").drop(id));
  handlers.label = (label) => writes.push(require("SandboxLabels").put(label));

  async function history(body) {
    const { contacts = [], groups = [], channels = [], labels = [], blocked: numbers, chats: views = [] } = body;
    writes.push(...contacts.map(people.put));
    writes.push(...groups.map(require("SandboxGroups").put));
    writes.push(...channels.map(require("SandboxChannels").put));
    writes.push(...labels.map(require("SandboxLabels").put));
    for (const group of groups) {
      chats.ensure(createWid(group.id)).t ||= group.created;
    }
    writes.push(...views.filter(({ id }) => !id.endsWith("@broadcast")).map(chats.put));
    if (numbers) {
      blocked({ numbers });
    }
    for (const one of body.messages ?? []) {
      await message(one);
    }
  }

  // --- Messages -----------------------------------------------------------------------------------------------------

  /** Who sent it, as the page addresses people in this chat. */
  function authorOf(wid, { sender, senderLid }) {
    return wid.isGroup() ? people.lidWid(senderLid) : people.chatWid(`${sender}@c.us`);
  }

  function keyOf(wid, { id, fromMe, ...view }) {
    const many = wid.isGroup() || wid.isStatus();
    return new MsgKey({ id, fromMe, remote: wid, participant: many ? authorOf(wid, view) : undefined });
  }

  async function message(view) {
    people.learn(view.sender, view.senderLid);
    const wid = people.chatWid(view.chat);
    const author = authorOf(wid, view);
    const own = wid.isGroup() || wid.isLid() ? me.getMaybeMeLidUser() : me.getMaybeMePnUser();
    const many = wid.isGroup() || wid.isStatus();
    const raw = {
      ...unpack(view.content),
      id: keyOf(wid, view),
      from: view.fromMe ? own : wid,
      to: view.fromMe ? wid : own,
      author: many || wid.isNewsletter() ? author : undefined,
      self: view.fromMe ? "out" : "in",
      ack: view.ack,
      t: view.t,
      star: view.starred,
      notifyName: view.pushname ?? undefined,
      isNewMsg: view.new,
      seen: view.seen,
    };
    await MsgCollection.processMultipleMessages(wid, [raw]);
  }

  /** Put one message, given as raw attributes, where it belongs. Used by the message collection. */
  exports.message = (chatId, { seen, ...raw }) => {
    if (raw.type === "protocol") {
      return revokeLocally(raw);
    }
    if (chatId.isStatus()) {
      return storyOf(raw);
    }
    const chat = chats.ensure(chatId);
    const known = MsgCollection.get(raw.id);
    if (known && known.type === "ciphertext" && raw.type !== "ciphertext") {
      // The keys have come: the same message once more, now readable.
      known.set({ ...raw, isNewMsg: known.isNewMsg });
      require("SandboxMedia").attach(known);
      writes.push(messages.write(known));
      return known;
    }
    if (known) {
      return known;
    }
    const msg = messages.add(chat, raw);
    const unread = raw.isNewMsg && !raw.id.fromMe && !seen && !msg.isNotification;
    chat.set({
      t: Math.max(chat.t ?? 0, raw.t),
      lastReceivedKey: chat.msgs.last().id,
      unreadCount: unread ? Math.max(chat.unreadCount, 0) + 1 : chat.unreadCount,
    });
    if (raw.isNewMsg && chat.archive && unread) {
      chat.archive = false;
    }
    writes.push(messages.write(msg));
    if (!chatId.isNewsletter()) {
      writes.push(chats.write(chat));
    }
    return msg;
  };

  function storyOf(raw) {
    const model = new MsgCollection.modelClass({ arrival: messages.arrival(), ...raw });
    const msg = MsgCollection.add(model);
    require("WAWebStatusCollection").StatusCollection.addStatusMessages(raw.author, [msg]);
    writes.push(messages.write(msg));
    return msg;
  }

  function revokeLocally({ protocolMessageKey, subtype, author }) {
    const msg = MsgCollection.get(protocolMessageKey);
    if (!msg) {
      return undefined;
    }
    msg.set({
      type: "revoked",
      subtype: subtype === "admin_revoke" ? "admin" : "sender",
      body: "",
      caption: undefined,
    });
    msg.set({ mediaData: undefined, revokeSender: author });
    writes.push(messages.write(msg));
    return msg;
  }

  async function receipt({ chat, ids, ack, total, participant, t }, { offline }) {
    const wid = people.chatWid(chat);
    const receipts = require("WAWebHandleReceipt");
    const name = wid.isGroup() ? "Group" : wid.isStatus() ? "Status" : "Chat";
    const phone = participant && people.phoneWid(participant);
    const reader = phone && (require("WAWebApiContact").getCurrentLid(phone) ?? phone);
    for (const write of await receipts[`handle${name}SimpleReceipt`]({
      type: ack >= 3 ? "read" : "delivery",
      stanzaId: ids[0],
      externalIds: ids,
      from: wid,
      participant: reader ?? null,
      recipient: null,
      ts: t,
      ack,
      ackString: ack === 4 ? ACK_STRING.PLAYED : ack === 3 ? ACK_STRING.READ : ACK_STRING.DELIVERY,
      offline: offline ? "1" : null,
      total,
    })) {
      writes.push(write);
    }
  }

  async function edit(view) {
    const wid = people.chatWid(view.chat);
    const msg = await messages.find(await ownKey(wid, view));
    if (msg) {
      require("SandboxMessageActions").applyEdit(msg, view.text, view.editId, view.t);
      writes.push(messages.write(msg));
    }
  }

  async function ownKey(wid, { id, fromMe, sender }) {
    const many = wid.isGroup() || wid.isStatus();
    const phone = people.phoneWid(sender);
    const participant = wid.isGroup() ? require("WAWebApiContact").getCurrentLid(phone) : people.chatWid(phone);
    return new MsgKey({ id, fromMe, remote: wid, participant: many ? participant : undefined });
  }

  async function revoke(view) {
    const wid = people.chatWid(view.chat);
    const target = await ownKey(wid, view);
    await messages.find(target);
    const by = people.isMe(view.by);
    const author = people.phoneWid(view.by);
    await MsgCollection.processMultipleMessages(wid, [
      {
        type: "protocol",
        subtype: view.by === view.sender ? "sender_revoke" : "admin_revoke",
        id: new MsgKey({ id: view.revokeId, fromMe: by, remote: wid, participant: target.participant }),
        protocolMessageKey: target,
        from: by ? me.getMaybeMePnUser() : wid,
        to: by ? wid : me.getMaybeMePnUser(),
        author,
        isNewMsg: true,
        t: view.t,
      },
    ]);
  }

  async function reaction(view) {
    const wid = people.chatWid(view.chat);
    const parent = await ownKey(wid, view);
    const sender = wid.isGroup()
      ? require("WAWebApiContact").getCurrentLid(people.phoneWid(view.by))
      : people.chatWid(`${view.by}@c.us`);
    const fromMe = people.isMe(view.by);
    const key = new MsgKey({
      id: view.reactionId,
      fromMe,
      remote: wid,
      participant: wid.isGroup() ? sender : undefined,
    });
    writes.push(
      await require("WAWebReactionsMsgAction").addOrUpdateReactionsModelCollection(
        {
          msgKey: String(key),
          parentMsgKey: String(parent),
          reactionText: view.emoji,
          senderUserJid: String(sender),
          t: view.t,
          timestamp: view.t,
          read: fromMe,
          orphan: 0,
        },
        true,
      ),
    );
  }

  async function vote(view) {
    const wid = people.chatWid(view.chat);
    const parentMsgKey = await ownKey(wid, view);
    const sender = people.phoneWid(view.by);
    const one = {
      msgKey: new MsgKey({ id: view.voteId, fromMe: people.isMe(view.by), remote: wid }),
      parentMsgKey,
      selectedOptionLocalIds: view.options,
      sender,
      senderTimestampMs: view.t,
      ack: 1,
    };
    writes.push(...(await require("WAWebPollsVotesAction").upsertVotes([one])));
  }

  // --- Chats, people and groups ----------------------------------------------------------------------------------------

  async function chat(view) {
    const wid = people.chatWid(view.id);
    const model = chats.ensure(wid);
    switch (view.action) {
      case "delete":
        return chats.drop(model);
      case "clear":
        return chats.empty(model);
      case "delete_messages":
        return messages.forget(
          model,
          model.msgs.filter((msg) => view.ids.includes(msg.id.id)),
        );
      case "star":
        for (const msg of model.msgs.filter((one) => view.ids.includes(one.id.id))) {
          msg.star = Boolean(view.value);
          writes.push(messages.write(msg));
        }
        return undefined;
      default:
        return writes.push(chats.put(view));
    }
  }

  async function contact(view) {
    writes.push(people.put(view));
    const model = require("WAWebChatCollection").ChatCollection.get(people.chatWid(`${view.number}@c.us`));
    if (model) {
      chats.entitle(model);
    }
  }

  async function blocked({ numbers }) {
    require("WAWebBlocklistCollection").BlocklistCollection.replace(numbers);
    writes.push(["meta", { id: "blocked", numbers }]);
  }

  async function group({ group: view, by, action, people: changed, noticeId, reason, fields }) {
    for (const { number, lid } of [...changed, by]) {
      people.learn(number, lid);
    }
    const wid = createWid(view.id);
    const model = chats.ensure(wid);
    const author = people.lidWid(by.lid);
    const participants = changed.map(({ lid }) => ({ id: people.lidWid(lid), isAdmin: false, isSuperAdmin: false }));
    const t = Math.floor(Date.now() / 1000);
    await require("WAWebDBGroupsGroupMetadata").updateDBForGroupAction(
      { author, chatId: wid, pushname: by.pushname, ts: t, externalId: noticeId, offline: null, actions: [] },
      { actionType: action, action, participants, reason, view },
    );
    chats.entitle(model);
    const subtype = action === "set" ? Object.keys(fields)[0] : reason === "invite" ? "invite" : action;
    const fromMe = people.isMe(by.number);
    await MsgCollection.processMultipleMessages(wid, [
      {
        id: new MsgKey({ id: noticeId, fromMe, remote: wid, participant: author }),
        type: "gp2",
        subtype,
        body: action === "set" ? String(Object.values(fields)[0]) : view.subject,
        recipients: participants.map((one) => one.id),
        author,
        from: fromMe ? me.getMaybeMeLidUser() : wid,
        to: fromMe ? wid : me.getMaybeMeLidUser(),
        self: fromMe ? "out" : "in",
        ack: 1,
        t,
        isNewMsg: true,
      },
    ]);
  }

  async function call(view) {
    people.learn(view.from, view.fromLid);
    require("WAWebCallCollection").default.processIncomingCall({
      id: view.id,
      peerJid: people.chatWid(`${view.from}@c.us`),
      isVideo: view.video,
      isGroup: false,
      offerTime: view.t,
      outgoing: false,
    });
  }

  /** A frame that is worth nothing later. */
  exports.presence = ({ chat, participant, state, lastSeen }) => {
    const wid = people.chatWid(chat);
    const presence = require("WAWebPresenceCollection").PresenceCollection.get(wid);
    presence?.show(people.chatWid(`${participant}@c.us`), state, lastSeen);
  };
});

__d("WAWebHandleReceipt", (require, exports) => {
  const MsgKey = require("WAWebMsgKey").default;
  const me = require("WAWebUserPrefsMeUser");
  const messages = require("SandboxMessages");

  async function apply({ externalIds, from, total }) {
    const own = from.isGroup() ? me.getMaybeMeLidUser() : me.getMaybeMePnUser();
    const participant = from.isGroup() || from.isStatus() ? own : undefined;
    const writes = [];
    for (const id of externalIds) {
      const msg = await messages.find(new MsgKey({ id, fromMe: true, remote: from, participant }));
      if (msg) {
        msg.updateAck(total);
        writes.push(messages.write(msg));
      }
    }
    return writes;
  }
  // The page API wraps each of them by its own name.
  exports.handleChatSimpleReceipt = (receipt) => apply(receipt);
  exports.handleGroupSimpleReceipt = (receipt) => apply(receipt);
  exports.handleStatusSimpleReceipt = (receipt) => apply(receipt);
});

__d("WAWebReactionsCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class ReactionsModel extends Model {}
  ReactionsModel.prototype.proxyName = "reactions";

  class ReactionsCollection extends BaseCollection {
    static model = ReactionsModel;
  }
  exports.ReactionsCollection = new ReactionsCollection();
});

__d("SandboxReactions", (require, exports) => {
  const { ReactionsCollection } = require("WAWebReactionsCollection");

  /** Reactions by sender to one message. */
  exports.of = (parent) => ReactionsCollection.get(parent)?.bySender ?? {};
  exports.put = (reaction) => {
    const id = reaction.parentMsgKey;
    const bySender = { ...exports.of(id), [reaction.senderUserJid]: reaction };
    if (!reaction.reactionText) {
      delete bySender[reaction.senderUserJid];
    }
    ReactionsCollection.gadd(id).set({ bySender });
    return ["meta", { id: `reactions:${id}`, bySender }];
  };
  exports.restore = ({ id, bySender }) => ReactionsCollection.gadd(id.slice("reactions:".length)).set({ bySender });
});

__d("WAWebReactionsMsgAction", (require, exports) => {
  exports.addOrUpdateReactionsModelCollection = async (reaction) => require("SandboxReactions").put(reaction);
});

__d("WAWebReactionsBEUtils", (require, exports) => {
  const MsgKey = require("WAWebMsgKey").default;
  const { isMeAccount } = require("WAWebUserPrefsMeUser");
  const { createWid } = require("WAWebWidFactory");

  exports.getReactions = async (id) => {
    const all = Object.values(require("SandboxReactions").of(id)).map((one) => ({
      ...one,
      msgKey: MsgKey.fromString(one.msgKey),
      parentMsgKey: MsgKey.fromString(one.parentMsgKey),
    }));
    const mine = (one) => isMeAccount(createWid(one.senderUserJid));
    const emojis = [...new Set(all.map((one) => one.reactionText))];
    return {
      reactionByMe: all.find(mine),
      reactions: emojis.map((emoji) => {
        const senders = all.filter((one) => one.reactionText === emoji);
        return { aggregateEmoji: emoji, hasReactionByMe: senders.some(mine), senders };
      }),
    };
  };
});

__d("SandboxVotes", (require, exports) => {
  const { pack, unpack } = require("SandboxPacking");
  const byPoll = new Map();
  exports.of = (poll) => [...(byPoll.get(String(poll))?.values() ?? [])];
  exports.put = (vote) => {
    const poll = String(vote.parentMsgKey);
    const votes = byPoll.get(poll) ?? new Map();
    votes.set(String(vote.sender), vote);
    byPoll.set(poll, votes);
    return ["meta", { id: `votes:${poll}`, votes: pack([...votes.values()]) }];
  };
  exports.restore = ({ votes }) => unpack(votes).forEach(exports.put);
});

__d("WAWebPollsVotesAction", (require, exports) => {
  exports.upsertVotes = async (votes) => votes.map(require("SandboxVotes").put);
});

__d("WAWebPollsVotesSchema", (require, exports) => {
  exports.getVotes = async (polls) => polls.flatMap((poll) => require("SandboxVotes").of(poll));
  exports.getVote = async (poll, sender) =>
    require("SandboxVotes")
      .of(poll)
      .find((vote) => String(vote.sender) === String(sender));
});
