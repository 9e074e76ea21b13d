/*
 * Messages: the model, the collections, and how they are kept in and found again in IndexedDB.
 *
 * Must not send anything; what happens to messages is in `send.js` and `receive.js`.
 */
"use strict";

__d("SandboxPacking", (require, exports) => {
  const Wid = require("WAWebWid").default;
  const MsgKey = require("WAWebMsgKey").default;
  const Model = require("WAWebBaseModel").default;
  const { createWid } = require("WAWebWidFactory");
  const { encodeB64, decodeB64 } = require("WABase64");

  /** A JSON value for any attribute; models and functions are left out. */
  exports.pack = (value) => {
    if (value === null || ["string", "number", "boolean"].includes(typeof value)) {
      return value;
    }
    if (value instanceof Wid) {
      return { $wid: String(value) };
    }
    if (value instanceof MsgKey) {
      return { $key: String(value) };
    }
    if (value instanceof Uint8Array || value instanceof ArrayBuffer) {
      return { $bytes: encodeB64(value) };
    }
    if (Array.isArray(value)) {
      return value.map(exports.pack).filter((one) => one !== undefined);
    }
    if (typeof value !== "object" || value instanceof Model || value instanceof Blob) {
      return undefined;
    }
    const entries = Object.entries(value).map(([name, one]) => [name, exports.pack(one)]);
    return Object.fromEntries(entries.filter(([, one]) => one !== undefined));
  };

  exports.unpack = (value) => {
    if (value === null || typeof value !== "object") {
      return value;
    }
    if (Array.isArray(value)) {
      return value.map(exports.unpack);
    }
    if (typeof value.$wid === "string") {
      return createWid(value.$wid);
    }
    if (typeof value.$key === "string") {
      return MsgKey.fromString(value.$key);
    }
    if (typeof value.$bytes === "string") {
      return new Uint8Array(decodeB64(value.$bytes));
    }
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, exports.unpack(one)]));
  };
});

__d("WAWebMsgModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const MsgKey = require("WAWebMsgKey").default;

  class MsgModel extends Model {
    static defaults = {
      id: undefined,
      type: undefined,
      subtype: undefined,
      body: undefined,
      caption: undefined,
      t: undefined,
      from: undefined,
      to: undefined,
      author: undefined,
      self: undefined,
      ack: 0,
      isNewMsg: false,
      star: false,
      notifyName: undefined,
      isForwarded: false,
      isViewOnce: false,
      isGif: false,
      latestEditMsgKey: undefined,
      latestEditSenderTimestampMs: undefined,
      quotedStanzaID: undefined,
      quotedParticipant: undefined,
      quotedRemoteJid: undefined,
      quotedMsg: undefined,
      mediaData: undefined,
    };
    static children = ["mediaData"];

    get idClass() {
      return MsgKey;
    }

    initialize() {
      require("SandboxMedia").attach(this);
    }

    get sender() {
      return this.author ?? (this.id?.fromMe ? require("WAWebUserPrefsMeUser").getMaybeMePnUser() : this.from);
    }

    get senderObj() {
      const { ContactCollection } = require("WAWebContactCollection");
      return this.sender && (ContactCollection.get(this.sender) ?? ContactCollection.gadd(this.sender));
    }

    get isNotification() {
      return require("WAWebMsgType").SYSTEM_MESSAGE_TYPES.includes(this.type);
    }

    updateAck(ack) {
      // Receipts arrive in any order and never take an ack back.
      if (ack > (this.ack ?? 0) || ack < 0) {
        this.ack = ack;
      }
    }

    isExpired() {
      return false;
    }

    canReply() {
      return require("WAWebMsgReply").canReplyMsg(this);
    }

    /** What an answer to this message carries of it. */
    msgContextInfo(chatId) {
      const { type, body, caption, mimetype, filename, lat, lng } = this.attributes;
      const context = { quotedStanzaID: this.id.id, quotedParticipant: this.sender };
      if (chatId && !this.id.remote.equals(chatId)) {
        context.quotedRemoteJid = this.id.remote;
      }
      return { ...context, quotedMsg: { type, body, caption, mimetype, filename, lat, lng } };
    }

    downloadMedia(options) {
      return require("SandboxMedia").download(this, options);
    }

    waitForPrep() {
      return Promise.resolve(this.mediaData);
    }
  }
  MsgModel.prototype.proxyName = "msg";
  exports.default = MsgModel;
});

__d("WAWebMsgCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class MsgCollectionImpl extends BaseCollection {
    static model = require("WAWebMsgModel").default;

    /** Take in messages of one chat as raw attributes; returns the models. */
    async processMultipleMessages(chatId, messages) {
      return messages.map((raw) => require("SandboxReceive").message(chatId, raw)).filter(Boolean);
    }
  }
  exports.MsgCollectionImpl = MsgCollectionImpl;
  exports.MsgCollection = new MsgCollectionImpl();
});

__d("WAWebChatMsgsCollection", (require, exports) => {
  const Collection = require("WAWebCollection").default;

  /** The part of a chat that is in memory. */
  class ChatMsgsCollection extends Collection {
    static model = require("WAWebMsgModel").default;
    static comparator = (one, other) => one.t - other.t || one.arrival - other.arrival;
    loadAroundPromise = Promise.resolve();
  }
  exports.ChatMsgsCollection = ChatMsgsCollection;
});

__d("SandboxMessages", (require, exports) => {
  const database = require("SandboxDatabase");
  const { pack, unpack } = require("SandboxPacking");
  const { MsgCollection } = require("WAWebMsgCollection");
  const people = require("SandboxPeople");

  /** Messages of one chat in memory; older ones are found again in IndexedDB. */
  const MOST_IN_MEMORY = 400;
  const KEPT_IN_MEMORY = 300;
  /** Attributes that say where a message is, not what it is. */
  const PLACE = new Set(["id", "from", "to", "author", "self", "ack", "isNewMsg", "local", "t", "star", "arrival"]);
  const TRANSIENT = new Set(["isNewMsg", "local", "mediaData", "notifyNow"]);

  let arrivals = 0;

  /** Messages stand in a chat by their time, and within one second by this: it grows, over reloads too. */
  exports.arrival = () => Date.now() * 1000 + (arrivals++ % 1000);

  /** The attributes that the other side gets. */
  exports.content = (attributes) =>
    pack(Object.fromEntries(Object.entries(attributes).filter(([name]) => !PLACE.has(name) && !TRANSIENT.has(name))));

  /** What has to be stored of a message. */
  exports.write = (msg) => {
    const kept = Object.entries(msg.attributes).filter(([name]) => !TRANSIENT.has(name));
    const data = pack(Object.fromEntries(kept));
    return [
      "message",
      { id: String(msg.id), chat: people.serverId(msg.id.remote), t: msg.t, arrival: msg.arrival, data },
    ];
  };

  exports.save = (msg) => database.commit([exports.write(msg)]);

  const revive = (record) => {
    const known = MsgCollection.get(record.id);
    return known ?? MsgCollection.add({ ...unpack(record.data), isNewMsg: false });
  };

  /** Put a new message where it belongs in memory. */
  exports.add = (chat, attributes) => {
    const model = new (require("WAWebMsgModel").default)({ arrival: exports.arrival(), ...attributes });
    const msg = MsgCollection.add(model);
    chat.msgs.add(msg);
    if (chat.msgs.length > MOST_IN_MEMORY) {
      const old = chat.msgs.slice(0, chat.msgs.length - KEPT_IN_MEMORY);
      chat.msgs.remove(old, { silent: true });
      MsgCollection.remove(old, { silent: true });
    }
    return msg;
  };

  /** The last messages of a chat into memory. */
  exports.loadRecent = async (chat, count) => {
    const records = await database.messages(people.serverId(chat.id), { count });
    chat.msgs.add(records.reverse().map(revive));
    chat.lastReceivedKey = chat.msgs.last()?.id;
  };

  /** A message by its key, from memory or from IndexedDB, or undefined. */
  exports.find = async (key) => {
    const known = MsgCollection.get(key);
    if (known) {
      return known;
    }
    const record = await database.get("message", String(key));
    return record && revive(record);
  };

  /** Messages next to `anchor`, oldest first. */
  exports.near = async (anchor, { direction = "before", count, accept }) => {
    const start = await exports.find(anchor);
    const chat = people.serverId(anchor.remote);
    const test = accept && ((record) => accept(record.data));
    const place = start && [start.t, start.arrival];
    const records = await database.messages(chat, { place, direction, count, accept: test });
    const found = records.map(revive);
    return direction === "before" ? found.reverse() : found;
  };

  /** Messages of a chat that pass a test, oldest first. */
  exports.search = async (chatId, accept, count = Infinity) => {
    const records = await database.messages(people.serverId(chatId), {
      count,
      accept: (record) => accept(record.data),
    });
    return records.map(revive).reverse();
  };

  exports.forget = (chat, messages) => {
    chat.msgs.remove(messages);
    MsgCollection.remove(messages);
    chat.lastReceivedKey = chat.msgs.last()?.id;
    return database.commit(messages.map((msg) => ["message", String(msg.id), null]));
  };
});

__d("WAWebDBMessageFindLocal", (require, exports) => {
  const messages = require("SandboxMessages");
  const media = { allMedia: ["image", "video"], allDocs: ["document"] };
  const wanted = (kind) => (data) =>
    kind === "allLinks" ? /https?:\/\//.test(data.body ?? "") : media[kind]?.includes(data.type);

  exports.msgFindByDirection = async ({ anchor, count, direction }) => ({
    messages: count > 0 ? await messages.near(anchor, { count, direction }) : [],
  });
  exports.msgFindBefore = (options) => exports.msgFindByDirection({ ...options, direction: "before" });
  exports.msgFindAfter = (options) => exports.msgFindByDirection({ ...options, direction: "after" });
  exports.msgFindMedia = async ({ anchor, count, direction, mediaType }) => ({
    messages: anchor ? await messages.near(anchor, { count, direction, accept: wanted(mediaType) }) : [],
  });
  exports.msgFindCallLog = async ({ anchor, count }) =>
    anchor ? messages.near(anchor, { count, accept: (data) => data.type === "call_log" }) : [];
  exports.msgFindEvents = async ({ anchor, count }) =>
    anchor ? messages.near(anchor, { count, accept: (data) => data.type === "event_creation" }) : [];
  exports.msgFindStarred = async ({ chat, count }) => ({
    messages: chat ? await messages.search(chat, (data) => data.star, count) : [],
  });
  exports.msgFindSearch = async ({ searchTerm, remote, count }) => ({
    messages: remote ? await messages.search(remote, (data) => data.body?.includes(searchTerm), count) : [],
  });
});

__d("WAWebChatMessageSearch", (require, exports) => {
  exports.getSearchContext = (options) => {
    const MsgKey = require("WAWebMsgKey").default;
    const key = MsgKey.from(String(options.msgKey?.id instanceof MsgKey ? options.msgKey.id : options.msgKey));
    const collection = new (require("WAWebChatMsgsCollection").ChatMsgsCollection)();
    collection.loadAroundPromise = require("SandboxMessages")
      .find(key)
      .then((msg) => msg && collection.add(msg));
    return { collection, key, highlightMsg: true };
  };
});

__d("WAWebMsgReply", (require, exports) => {
  exports.canReplyMsg = (msg) => !msg.isNotification && !["ciphertext", "revoked", "protocol"].includes(msg.type);
});

__d("WAWebMsgActionCapability", (require, exports) => {
  /** WhatsApp allows edits for a quarter of an hour, in seconds. */
  const EDIT_WINDOW = 15 * 60;
  const young = (msg) => msg.id.fromMe && require("WATimeUtils").unixTime() - msg.t < EDIT_WINDOW;
  exports.canEditText = (msg) => msg.type === "chat" && young(msg);
  exports.canEditCaption = (msg) => ["image", "video", "document"].includes(msg.type) && young(msg);
});

__d("WAWebQuotedMsgModelUtils", (require, exports) => {
  const MsgKey = require("WAWebMsgKey").default;
  const MsgModel = require("WAWebMsgModel").default;

  /** The message that `msg` answers: the real one if it is here, else one made of what the answer carries. */
  exports.getQuotedMsgObj = (msg) => {
    if (!msg.quotedStanzaID) {
      return null;
    }
    const remote = msg.quotedRemoteJid ?? msg.id.remote;
    const fromMe = require("WAWebUserPrefsMeUser").isMeAccount(msg.quotedParticipant);
    const participant = remote.isGroup() || remote.isStatus() ? msg.quotedParticipant : undefined;
    const id = new MsgKey({ id: msg.quotedStanzaID, fromMe, remote, participant });
    const known = require("WAWebMsgCollection").MsgCollection.get(id);
    return known ?? new MsgModel({ ...msg.quotedMsg, id, from: msg.quotedParticipant, to: msg.to });
  };
});

__d("WAWebMsgDataFromModel", (require, exports) => {
  exports.msgDataFromMsgModel = async (msg) => ({ ...msg.attributes });
});

__d("WAWebMsgUnreadTypes", (require, exports) => {
  const { SYSTEM_MESSAGE_TYPES } = require("WAWebMsgType");
  exports.getIsUnreadType = (msg) => ![...SYSTEM_MESSAGE_TYPES, "protocol", "ciphertext"].includes(msg.type);
});
