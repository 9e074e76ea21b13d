/*
 * Chats: the model and the collection, presence, mute, and what the account does with a chat as a whole.
 */
"use strict";

__d("WAWebChatstate", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const Collection = require("WAWebCollection").default;

  class Chatstate extends Model {
    static defaults = { id: undefined, type: undefined, t: undefined, deny: false };
  }
  class ChatstateCollection extends Collection {
    static model = Chatstate;
  }
  exports.Chatstate = Chatstate;
  exports.ChatstateCollection = ChatstateCollection;
});

__d("WAWebPresenceCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");
  const { Chatstate, ChatstateCollection } = require("WAWebChatstate");

  class Presence extends Model {
    static defaults = { id: undefined, chatstate: undefined, isOnline: undefined, isSubscribed: false, hasData: false };
    static children = ["chatstate"];

    initialize() {
      this.chatstates = new ChatstateCollection();
      this.chatstate = new Chatstate({ id: this.id });
    }

    get isUser() {
      return this.id?.isUser();
    }

    get isGroup() {
      return this.id?.isGroup();
    }

    async subscribe() {
      if (this.isSubscribed || !this.isUser) {
        return;
      }
      this.isSubscribed = true;
      const comms = require("SandboxComms");
      try {
        const { online, lastSeen } = await comms.request("subscribe", {
          user: require("SandboxPeople").serverId(this.id),
        });
        this.hasData = true;
        this.isOnline = online;
        this.chatstate.set({ t: lastSeen, type: online ? "available" : "unavailable" });
      } catch (error) {
        // Unknown numbers and a missing connection leave the presence without data, as on the phone.
        this.isSubscribed = false;
        if (!comms.isOffline(error) && error.status !== 404) {
          throw error;
        }
      }
    }

    /** Somebody in the chat types, records, comes or goes. */
    show(participant, state, lastSeen) {
      const type = state === "recording" ? "recording_audio" : state === "composing" ? "typing" : state;
      this.hasData = true;
      if (this.isGroup) {
        this.chatstates.add({ id: participant, type, t: Math.floor(Date.now() / 1000) }, { merge: true });
      } else {
        this.isOnline = type !== "unavailable";
      }
      const shown = type === "paused" ? "available" : type;
      this.chatstate.set({ type: shown, t: lastSeen ?? Math.floor(Date.now() / 1000) });
    }

    delete() {
      exports.PresenceCollection.remove(this);
    }
  }

  class PresenceCollection extends BaseCollection {
    static model = Presence;

    async findImpl(id) {
      return { id };
    }
  }
  exports.PresenceCollection = new PresenceCollection();
});

__d("WAWebContactPresenceBridge", (require, exports) => {
  const { PresenceCollection } = require("WAWebPresenceCollection");
  exports.subscribeUserPresence = (wid) => PresenceCollection.gadd(wid).subscribe();
  exports.subscribeGroupPresence = (wid) => PresenceCollection.gadd(wid).subscribe();
});

__d("WAWebChatStateBridge", (require, exports) => {
  const tell = async (chat, state) => {
    const comms = require("SandboxComms");
    const args = { chat: require("SandboxPeople").serverId(chat.id), state };
    await comms.request("chatstate", args).catch(comms.ignoreOffline);
  };
  exports.markComposing = (chat) => tell(chat, "composing");
  exports.markRecording = (chat) => tell(chat, "recording");
  exports.markPaused = (chat) => tell(chat, "paused");
});

__d("WAWebMuteCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class MuteModel extends Model {
    static defaults = { id: undefined, expiration: 0 };

    get isMuted() {
      return this.expiration !== 0;
    }

    async mute({ expiration }) {
      await require("SandboxChats").act(this.id, "mute", { value: Math.floor(expiration) });
      this.expiration = expiration;
    }

    async unmute() {
      await require("SandboxChats").act(this.id, "mute", { value: 0 });
      this.expiration = 0;
    }

    canMute() {
      return true;
    }
  }
  MuteModel.prototype.proxyName = "mute";

  class MuteCollection extends BaseCollection {
    static model = MuteModel;
  }
  exports.MuteModel = MuteModel;
  exports.MuteCollection = new MuteCollection();
});

__d("WAWebChatModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class ChatModel extends Model {
    static defaults = {
      id: undefined,
      name: undefined,
      formattedTitle: undefined,
      t: 0,
      unreadCount: 0,
      archive: false,
      pin: 0,
      active: false,
      isReadOnly: false,
      labels: undefined,
      lastReceivedKey: undefined,
      ephemeralDuration: undefined,
      groupMetadata: undefined,
      newsletterMetadata: undefined,
      presence: undefined,
      mute: undefined,
      contact: undefined,
    };
    static children = ["groupMetadata", "presence", "mute"];

    get idClass() {
      return require("WAWebWid").default;
    }

    initialize() {
      this.promises = {};
      this.msgs = new (require("WAWebChatMsgsCollection").ChatMsgsCollection)();
      if (this.id) {
        this.presence = require("WAWebPresenceCollection").PresenceCollection.gadd(this.id);
        this.mute = require("WAWebMuteCollection").MuteCollection.gadd(this.id);
      }
    }

    title() {
      return this.formattedTitle;
    }

    getAllMsgs() {
      return this.msgs.toArray();
    }

    canSend() {
      return !this.isReadOnly;
    }
  }
  ChatModel.prototype.proxyName = "chat";
  exports.default = ChatModel;
});

__d("WAWebChatCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class ChatCollectionImpl extends BaseCollection {
    static model = require("WAWebChatModel").default;
    static comparator = (one, other) => (other.pin || 0) - (one.pin || 0) || (other.t ?? 0) - (one.t ?? 0);

    /** Channels are in a collection of their own, but are found here too. */
    get(id) {
      const channel = String(id?.id ?? id).endsWith("@newsletter");
      return channel ? require("WAWebNewsletterCollection").default.get(id) : super.get(id);
    }

    getActive() {
      return this.findFirst((chat) => chat.active);
    }
  }
  exports.ChatCollectionImpl = ChatCollectionImpl;
  exports.ChatCollection = new ChatCollectionImpl();
});

__d("WAWebChatGetters", (require, exports) => {
  exports.getShouldAppearInList = (chat) => !chat.id.isStatus();
  exports.getPreviewMessage = (chat) => chat.msgs.last();
  exports.getShowChangeNumberNotification = () => false;
  exports.getShouldShowUnreadDivider = () => false;
  exports.getHasUnread = (chat) => chat.unreadCount !== 0;
});

__d("SandboxActiveChat", (require, exports) => {
  exports.activate = (chat) => {
    const { ChatCollection } = require("WAWebChatCollection");
    const before = ChatCollection.getActive();
    if (before && before !== chat) {
      before.active = false;
    }
    if (chat) {
      chat.active = true;
    }
  };
});

__d("SandboxChats", (require, exports) => {
  const { ChatCollection } = require("WAWebChatCollection");
  const people = require("SandboxPeople");
  const database = require("SandboxDatabase");

  /** The chat of a Wid in the collection it belongs to, made if it is not there. */
  exports.ensure = (wid) => {
    if (wid.isNewsletter()) {
      return require("WAWebNewsletterCollection").default.gadd(wid);
    }
    const known = ChatCollection.get(wid);
    if (known) {
      return known;
    }
    const chat = new ChatCollection.modelClass({ id: wid });
    exports.entitle(chat);
    ChatCollection.add(chat);
    return chat;
  };

  /** Give a chat its name, contact and group. */
  exports.entitle = (chat) => {
    if (chat.id.isGroup()) {
      const group = require("WAWebGroupMetadataCollection").default.gadd(chat.id);
      chat.set({ groupMetadata: group, name: group.subject, formattedTitle: group.subject });
      return;
    }
    const { ContactCollection } = require("WAWebContactCollection");
    const contact = ContactCollection.get(chat.id) ?? ContactCollection.gadd(chat.id);
    const title = require("WAWebFrontendContactGetters").getDisplayName(contact);
    chat.set({ contact, name: contact.name, formattedTitle: title });
  };

  /** Take over a chat's state as the server describes it. */
  exports.put = (view) => {
    const wid = people.chatWid(view.id);
    const chat = exports.ensure(wid);
    chat.set({
      unreadCount: view.marked_unread ? -1 : view.unread,
      archive: view.archived,
      pin: view.pinned,
      labels: view.labels,
      t: Math.max(view.t ?? 0, chat.t ?? 0),
    });
    chat.mute.expiration = view.mute_until;
    return exports.write(chat);
  };

  /** What has to be stored of a chat. */
  exports.write = (chat) => {
    const { t, unreadCount, archive, pin, labels } = chat;
    const id = people.serverId(chat.id);
    return ["chat", { id, t, unreadCount, archive, pin, labels, mute: chat.mute.expiration }];
  };

  exports.restore = ({ id, mute, ...state }) => {
    const chat = exports.ensure(people.chatWid(id));
    chat.set(state);
    chat.mute.expiration = mute ?? 0;
    return chat;
  };

  exports.save = (chat) => database.commit([exports.write(chat)]);

  /** Do something with a chat, on the server and on the other devices. */
  exports.act = (wid, action, args) =>
    require("SandboxComms").request("chat_action", { chat: people.serverId(wid), action, ...args });

  /** Forget a chat. */
  exports.drop = async (chat) => {
    await exports.empty(chat);
    ChatCollection.remove(chat);
    await database.commit([["chat", people.serverId(chat.id), null]]);
  };

  /** Forget the messages of a chat, except those that pass `keep`. */
  exports.empty = async (chat, keep = () => false) => {
    const all = await require("SandboxMessages").search(chat.id, () => true);
    await require("SandboxMessages").forget(
      chat,
      all.filter((msg) => !keep(msg)),
    );
  };
});

__d("WAWebFindChatAction", (require, exports) => {
  const chats = require("SandboxChats");

  exports.findOrCreateLatestChat = async (wid) => {
    const { ChatCollection } = require("WAWebChatCollection");
    if (wid.isNewsletter()) {
      return { chat: { id: wid }, created: false };
    }
    const id = require("SandboxPeople").chatWid(wid.isLid() ? require("SandboxPeople").serverId(wid) : wid);
    const created = !ChatCollection.get(id);
    if (created && id.isUser() && require("SandboxAccount").isLidMigrated() && !id.isLid()) {
      // A migrated account can only write to people whose lid it knows or can find out.
      const found = await require("WAWebQueryExistsJob").queryWidExists(id);
      if (!found) {
        throw new Error("No LID for user");
      }
      return { chat: { id: chats.ensure(found.lid).id }, created };
    }
    return { chat: { id: chats.ensure(id).id }, created };
  };
  exports.findExistingChat = async (wid) => require("WAWebChatCollection").ChatCollection.get(wid);
  exports.getExisting = exports.findExistingChat;
});

__d("WAWebSetArchiveChatAction", (require, exports) => {
  exports.setArchive = async (chat, archive) => {
    await require("SandboxChats").act(chat.id, "archive", { value: archive });
    chat.archive = archive;
    await require("SandboxChats").save(chat);
  };
});

__d("WAWebSetPinChatAction", (require, exports) => {
  exports.setPin = async (chat, pin) => {
    const view = await require("SandboxChats").act(chat.id, "pin", { value: pin });
    chat.pin = view.pinned;
    await require("SandboxChats").save(chat);
  };
});

__d("WAWebChatPinUtils", (require, exports) => {
  exports.getNumConversationsPinned = () =>
    require("WAWebChatCollection").ChatCollection.filter((chat) => chat.pin).length;
});

__d("WAWebUpdateUnreadChatAction", (require, exports) => {
  exports.sendSeen = async ({ chat }) => {
    chat.unreadCount = 0;
    await require("SandboxChats").save(chat);
    const comms = require("SandboxComms");
    await comms.request("seen", { chat: require("SandboxPeople").serverId(chat.id) }).catch(comms.ignoreOffline);
  };
  exports.markUnread = async (chat, unread) => {
    await require("SandboxChats").act(chat.id, "unread", { value: unread });
    chat.unreadCount = unread ? -1 : 0;
    await require("SandboxChats").save(chat);
  };
});

__d("WAWebChatMarkPlayed", (require, exports) => {
  exports.canMarkPlayed = (msg) => msg.type === "ptt" && !msg.id.fromMe;
  exports.markPlayed = async (msg) => {
    const args = { chat: require("SandboxPeople").serverId(msg.id.remote), id: msg.id.id };
    await require("SandboxComms").request("played", args);
    msg.updateAck(4);
  };
});

__d("WAWebSendClearChatAction", (require, exports) => {
  exports.sendClear = function sendClear(chat, keepStarred) {
    // The page API knows this function by the name of a module in its source: WAWebStateUtils.
    const chats = require("SandboxChats");
    chat.promises.sendClear = chats
      .act(chat.id, "clear", { keepStarred })
      .then(() => chats.empty(chat, (msg) => keepStarred && msg.star))
      .then(() => ({ status: 200 }));
  };
});

__d("WAWebDeleteChatAction", (require, exports) => {
  exports.sendDelete = (chat) => {
    const chats = require("SandboxChats");
    chat.promises.sendDelete = chats
      .act(chat.id, "delete", {})
      .then(() => chats.drop(chat))
      .then(() => ({ status: 200 }));
  };
});
