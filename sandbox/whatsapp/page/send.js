/*
 * What the account does to messages: send, edit, delete, react, star, pin, forward.
 *
 * A message is stored before it is sent. One that gets no answer, because the line or the page broke, is sent again
 * under the same id after the next login, as WhatsApp does; the server knows it by its id.
 */
"use strict";

__d("SandboxOutbox", (require, exports) => {
  const database = require("SandboxDatabase");
  const { ACK } = require("WAWebAck");
  const people = require("SandboxPeople");
  const messages = require("SandboxMessages");

  /** Message key to the functions of its promise. */
  const waiting = new Map();
  const under = new Set();

  /** Send `msg`; resolves with WhatsApp's result object when the server has answered, however late. */
  exports.send = async (msg) => {
    const wid = msg.id.remote;
    const op = wid.isNewsletter() ? "channel_send" : "send";
    const args = { chat: people.serverId(wid), id: msg.id.id, content: messages.content(msg.attributes) };
    const settled = new Promise((resolve) => waiting.set(String(msg.id), resolve));
    await database.put("pending", { id: String(msg.id), op, args });
    transmit(String(msg.id), op, args);
    return settled;
  };

  /** Send again what was never answered. */
  exports.resend = async () => {
    for (const { id, op, args } of await database.all("pending")) {
      transmit(id, op, args);
    }
  };

  async function transmit(id, op, args) {
    if (under.has(id)) {
      return;
    }
    under.add(id);
    const comms = require("SandboxComms");
    let answer;
    try {
      answer = await comms.request(op, args);
    } catch (error) {
      if (comms.isOffline(error)) {
        return;
      }
      answer = { result: error.status === 403 ? "ERROR_UNKNOWN" : "ERROR_NETWORK" };
    } finally {
      under.delete(id);
    }
    await finish(id, answer);
  }

  async function finish(id, { result, t, ack, serverId }) {
    const msg = await messages.find(id);
    if (msg) {
      if (result === "OK") {
        msg.set({ t, ...(serverId ? { serverId } : {}) });
        msg.updateAck(ack);
      } else {
        msg.updateAck(result === "ERROR_EXPIRED" ? ACK.EXPIRED : ACK.FAILED);
      }
      await messages.save(msg);
    }
    await database.remove("pending", id);
    waiting.get(id)?.({ messageSendResult: result, t, count: null });
    waiting.delete(id);
    require("SandboxScreen").draw();
  }
});

__d("WAWebSendMsgChatAction", (require, exports) => {
  const chats = require("SandboxChats");
  const messages = require("SandboxMessages");
  const database = require("SandboxDatabase");

  /** Add an own message to its chat and store it. */
  exports.addMsgToChat = async (chat, raw) => {
    if (!require("WAWebUserPrefsMultiDevice").isRegistered()) {
      throw new Error("invariant 56139: not registered");
    }
    const known = await messages.find(raw.id);
    if (known) {
      return known;
    }
    const author = chat.id.isGroup() || chat.id.isStatus() ? raw.from : raw.author;
    if (chat.id.isStatus()) {
      const msg = require("WAWebMsgCollection").MsgCollection.add({ ...raw, author, arrival: messages.arrival() });
      await messages.save(msg);
      require("WAWebStatusCollection").StatusCollection.addStatusMessages(author, [msg]);
      return msg;
    }
    const msg = messages.add(chat, { ...raw, author });
    chat.set({ t: raw.t, lastReceivedKey: msg.id });
    require("WAWebChatCollection").ChatCollection.sort({ silent: true });
    require("SandboxScreen").draw();
    await database.commit([messages.write(msg), chats.write(chat)]);
    return msg;
  };

  exports.addAndSendMsgToChat = (chat, raw) => {
    const added = exports.addMsgToChat(chat, raw);
    return [added, added.then((msg) => require("SandboxOutbox").send(msg))];
  };

  exports.sendTextMsgToChat = async (chat, text) => {
    const { createOutgoing } = require("SandboxMessageActions");
    const [, sent] = exports.addAndSendMsgToChat(chat, await createOutgoing(chat, { type: "chat", body: text }));
    return sent;
  };
});

__d("WAWebSendMessageEditAction", (require, exports) => {
  exports.addAndSendMessageEdit = async (msg, raw) => {
    const text = msg.type === "chat" ? raw.body : raw.caption;
    const args = { chat: require("SandboxPeople").serverId(msg.id.remote), id: msg.id.id, text, editId: raw.id.id };
    await require("SandboxComms").request("edit", args);
    require("SandboxMessageActions").applyEdit(msg, text, raw.id.id, raw.t);
    await require("SandboxMessages").save(msg);
    return { messageSendResult: "OK" };
  };
});

__d("WAWebSendReactionMsgAction", (require, exports) => {
  exports.sendReactionToMsg = async (msg, emoji) => {
    const MsgKey = require("WAWebMsgKey").default;
    const me = require("WAWebUserPrefsMeUser");
    const chat = require("SandboxPeople").serverId(msg.id.remote);
    await require("SandboxComms").request("react", { chat, id: msg.id.id, emoji });
    const remote = msg.id.remote;
    const sender = remote.isGroup() || remote.isLid() ? me.getMeLidUserOrThrow() : me.getMePnUserOrThrow();
    const participant = remote.isGroup() ? sender : undefined;
    const key = new MsgKey({ id: await MsgKey.newId(), fromMe: true, remote, participant });
    const write = await require("WAWebReactionsMsgAction").addOrUpdateReactionsModelCollection(
      {
        msgKey: String(key),
        parentMsgKey: String(msg.id),
        reactionText: emoji,
        senderUserJid: String(sender),
        t: Date.now(),
        timestamp: Date.now(),
        read: true,
        orphan: 0,
      },
      true,
    );
    await require("SandboxDatabase").commit([write]);
    return "OK";
  };
});

__d("SandboxMessageActions", (require, exports) => {
  const MsgKey = require("WAWebMsgKey").default;
  const messages = require("SandboxMessages");
  const people = require("SandboxPeople");
  const database = require("SandboxDatabase");

  /** Raw attributes of a new own message. */
  exports.createOutgoing = async (chat, content) => {
    const me = require("WAWebUserPrefsMeUser");
    const byLid = chat.id.isGroup() || chat.id.isLid();
    const from = byLid ? me.getMeLidUserOrThrow() : me.getMePnUserOrThrow();
    const participant = chat.id.isGroup() ? from : undefined;
    const id = new MsgKey({ id: await MsgKey.newId(), fromMe: true, remote: chat.id, participant });
    const place = { id, from, to: chat.id, self: "out", ack: 0, isNewMsg: true, local: true };
    return { t: require("WATimeUtils").unixTime(), ...place, ...content };
  };

  exports.applyEdit = (msg, text, editId, t) => {
    const field = msg.type === "chat" ? "body" : "caption";
    const { fromMe, remote, participant } = msg.id;
    const latestEditMsgKey = new MsgKey({ id: editId, fromMe, remote, participant });
    msg.set({ [field]: text, latestEditMsgKey, latestEditSenderTimestampMs: t * 1000 });
  };

  exports.revoke = async (chat, list, { clearMedia }) => {
    for (const msg of list) {
      const revokeId = await MsgKey.newId();
      await require("SandboxComms").request("revoke", { chat: people.serverId(chat.id), id: msg.id.id, revokeId });
      msg.set({ type: "revoked", subtype: msg.id.fromMe ? "sender" : "admin", body: "", caption: undefined });
      if (clearMedia) {
        await require("SandboxMedia").clear(msg);
      }
      msg.mediaData = undefined;
      await messages.save(msg);
    }
    require("SandboxScreen").draw();
  };

  exports.remove = async (chat, list) => {
    const ids = list.map((msg) => msg.id.id);
    await require("SandboxChats").act(chat.id, "delete_messages", { ids });
    await messages.forget(chat, list);
    require("SandboxScreen").draw();
  };

  exports.star = async (chat, list, star) => {
    await require("SandboxChats").act(chat.id, "star", { ids: list.map((msg) => msg.id.id), value: star });
    for (const msg of list) {
      msg.star = star;
    }
    await database.commit(list.map(messages.write));
  };
});

__d("WAWebPinInChatCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class PinInChatModel extends Model {}
  PinInChatModel.prototype.proxyName = "pin-in-chat";

  class PinInChatCollection extends BaseCollection {
    static model = PinInChatModel;

    getByParentMsgKey(key) {
      return this.findFirst((pin) => pin.parentMsgKey?.equals(key));
    }
  }
  exports.PinInChatCollection = new PinInChatCollection();
});

__d("WAWebSendPinMessageAction", (require, exports) => {
  exports.sendPinInChatMsg = async (msg, pinType) => {
    const { PinInChatCollection } = require("WAWebPinInChatCollection");
    const pin = { id: String(msg.id), parentMsgKey: msg.id, chatId: msg.id.remote, pinType };
    PinInChatCollection.add(pin, { merge: true });
    return { messageSendResult: "OK" };
  };
});

__d("WAWebChatForwardMessage", (require, exports) => {
  /** Returns the messages that could not be forwarded. */
  exports.forwardMessages = async ({ chat, msgs, includeCaption }) => {
    const failed = [];
    for (const msg of msgs) {
      const content = require("SandboxPacking").unpack(require("SandboxMessages").content(msg.attributes));
      for (const name of Object.keys(content).filter((one) => /^(quoted|latestEdit|reactions|rowId)/.test(one))) {
        delete content[name];
      }
      if (!includeCaption) {
        delete content.caption;
      }
      const { createOutgoing } = require("SandboxMessageActions");
      const raw = await createOutgoing(chat, { ...content, isForwarded: true });
      const [added, sent] = require("WAWebSendMsgChatAction").addAndSendMsgToChat(chat, raw);
      await added;
      if ((await sent).messageSendResult !== "OK") {
        failed.push(msg);
      }
    }
    return failed;
  };
});

__d("WAWebForwardMessagesToChat", (require, exports) => {
  exports.forwardMessagesToChats = async ({ msgs, chats }) =>
    Promise.all(
      chats.map((chat) => require("WAWebChatForwardMessage").forwardMessages({ chat, msgs, includeCaption: true })),
    );
});

__d("WAWebMsgInfoCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class MsgInfoModel extends Model {}
  MsgInfoModel.prototype.proxyName = "msg-info";

  class MsgInfoCollection extends BaseCollection {
    static model = MsgInfoModel;

    async find(key) {
      const people = require("SandboxPeople");
      const args = { chat: people.serverId(key.remote), id: key.id };
      const { receipts } = await require("SandboxComms").request("message_info", args);
      const reached = (ack) =>
        receipts.filter((one) => one.ack >= ack).map(({ number, t }) => ({ id: people.phoneWid(number), t }));
      return {
        id: key,
        delivery: reached(2),
        read: reached(3),
        played: reached(4),
        deliveryRemaining: 0,
        readRemaining: 0,
      };
    }
  }
  exports.MsgInfoCollection = new MsgInfoCollection();
});

__d("WAWebEphemeralUtils", (require, exports) => {
  exports.getEphemeralFields = (chat) => (chat.ephemeralDuration ? { ephemeralDuration: chat.ephemeralDuration } : {});
});

__d("WAWebRandomId", (require, exports) => {
  exports.default = { newId: () => require("WAWebMsgKey").default.newId() };
});

__d("WAWebLinkify", (require, exports) => {
  exports.findFirstWebLink = (text) => /https?:\/\/[^\s]+/.exec(text)?.[0];
});

__d("WAWebLinkPreviewChatAction", (require, exports) => {
  exports.getLinkPreview = (url) => require("WAWebMinimalLinkPreview").genMinimalLinkPreview({ url });
});

__d("WAWebMinimalLinkPreview", (require, exports) => {
  exports.genMinimalLinkPreview = async ({ url }) => ({
    url,
    data: {
      title: new URL(url).hostname,
      matchedText: url,
      canonicalUrl: url,
      richPreviewType: 0,
      doNotPlayInline: true,
    },
  });
});
