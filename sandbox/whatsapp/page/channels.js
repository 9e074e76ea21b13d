/*
 * The smaller subjects: channels (newsletters), stories (status), labels of business accounts, incoming calls.
 */
"use strict";

__d("WAWebNewsletterCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class NewsletterCollection extends BaseCollection {
    static model = require("WAWebChatModel").default;
  }
  exports.default = new NewsletterCollection();
});

__d("SandboxChannels", (require, exports) => {
  const { createWid } = require("WAWebWidFactory");
  const collection = require("WAWebNewsletterCollection").default;

  /** Take over a channel as the server describes it; returns what has to be stored. */
  exports.put = (view) => {
    const chat = collection.gadd(createWid(view.id));
    const role = view.mine ? "owner" : "subscriber";
    chat.set({
      name: view.name,
      formattedTitle: view.name,
      newsletterMetadata: {
        id: chat.id,
        name: view.name,
        description: view.description,
        inviteLink: `https://whatsapp.com/channel/${view.invite}`,
        membershipType: role,
        size: view.subscribers,
        iAmAdminOrOwner: () => view.mine,
      },
    });
    chat.mute.expiration = view.muted ? -1 : 0;
    return ["meta", { id: `channel:${view.id}`, view }];
  };

  exports.drop = (id) => {
    collection.remove(id);
    return ["meta", `channel:${id}`, null];
  };

  exports.ask = async (op, args) => {
    const view = await require("SandboxComms").request(op, args);
    await require("SandboxDatabase").commit([exports.put(view)]);
    return exports.describe(view);
  };

  /** A channel in the shape of WhatsApp's own answers. */
  exports.describe = (view) => ({
    idJid: view.id,
    newsletterInviteLinkMetadataMixin: { inviteCode: view.invite },
    newsletterNameMetadataMixin: { nameElementValue: view.name },
    newsletterStateMetadataMixin: { stateType: "ACTIVE" },
    newsletterSubscribersMetadataMixin: { subscribersCount: view.subscribers },
    newsletterCreationTimeMetadataMixin: { creationTimeValue: view.created },
    newsletterDescriptionMetadataMixin: {
      descriptionQueryDescriptionResponseMixin: { elementValue: view.description },
    },
  });
});

__d("WAWebNewsletterJobs", (require, exports) => {
  const channels = require("SandboxChannels");
  const comms = require("SandboxComms");
  const database = require("SandboxDatabase");

  exports.createNewsletterQuery = ({ name, description }) =>
    channels.ask("channel_create", { name, description: description ?? "" });
  exports.queryNewsletterMetadataByJid = (id) => channels.ask("channel", { channel: String(id) });
  exports.editNewsletterMetadataAction = async (chat, _what, { name, description }) =>
    channels.ask("channel_edit", { channel: String(chat.id), name: name ?? null, description: description ?? null });
  exports.deleteNewsletter = async (id) => {
    await comms.request("channel_delete", { channel: String(id) });
    await database.commit([channels.drop(String(id))]);
    return true;
  };
  exports.mexJoinNewsletter = (id) => channels.ask("channel_follow", { channel: String(id), value: true });
  exports.mexLeaveNewsletter = async (id) => {
    await comms.request("channel_follow", { channel: String(id), value: false });
    await database.commit([channels.drop(String(id))]);
  };
  exports.toggleNewsletterAdminActivityMuteStateAction = async (id, expiration) => {
    await comms.request("channel_mute", { channel: String(id), value: expiration !== 0 });
    require("WAWebNewsletterCollection").default.get(id).mute.expiration = expiration;
  };
  exports.getNewsletterSubscribers = async (id) => {
    const followers = await comms.request("channel_followers", { channel: String(id) });
    const people = require("SandboxPeople");
    return { followers: followers.map(({ number, pushname }) => ({ id: people.phoneWid(number), name: pushname })) };
  };
  exports.mexFetchNewsletterDirectorySearchResults = async ({ searchText, limit }) => {
    const found = await comms.request("channel_search", { query: searchText });
    const result = found.slice(0, limit).map((view) => ({
      id: view.id,
      thread_metadata: {
        name: { text: view.name },
        description: { text: view.description },
        subscribers_count: String(view.subscribers),
        creation_time: String(view.created),
        invite: view.invite,
      },
    }));
    return { xwa2_newsletters_directory_search: { result, page_info: { has_next_page: false } } };
  };
});

__d("WAWebNewsletterSendMessageJob", (require, exports) => {
  const messages = require("SandboxMessages");
  // A channel's message is stored once it has its number, see below.
  exports.addNewsletterMsgsRecords = async (records) => records.length;
  exports.updateNewsletterMsgRecord = (msg) => {
    msg.set({ arrival: messages.arrival() });
    require("WAWebMsgCollection").MsgCollection.add(msg);
    return messages.save(msg);
  };
  exports.sendNewsletterMessageJob = async ({ msgData, newsletterJid }) => {
    const args = { chat: newsletterJid, id: msgData.id.id, content: messages.content(msgData) };
    const { result, t, serverId } = await require("SandboxComms").request("channel_send", args);
    return { success: result === "OK", ack: { t }, serverId };
  };
});

__d("WAWebNewsletterGatingUtils", (require, exports) => {
  exports.getMaxSubscriberNumber = () => 100;
  exports.NewsletterABPropConfig = {};
});

__d("WAWebStatusModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  /** The stories of one person. */
  class StatusModel extends Model {
    static defaults = { id: undefined, t: undefined, unreadCount: 0, totalCount: 0, lastReceivedKey: undefined };

    initialize() {
      this.msgs = new (require("WAWebChatMsgsCollection").ChatMsgsCollection)();
    }

    async sendReadStatus(msg) {
      if (msg) {
        this.unreadCount = Math.max(0, this.unreadCount - 1);
        await require("SandboxComms").request("seen", { chat: "status@broadcast" });
      }
    }
  }
  exports.default = StatusModel;
});

__d("WAWebStatusCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");
  const me = require("WAWebUserPrefsMeUser");

  class StatusCollectionImpl extends BaseCollection {
    static model = require("WAWebStatusModel").default;

    addStatusMessages(author, list) {
      const own = me.isMeAccount(author);
      const status = this.gadd(own ? me.getMaybeMePnUser() : author);
      for (const msg of list) {
        if (!status.msgs.get(msg.id)) {
          status.msgs.add(msg);
          const unreadCount = status.unreadCount + (own ? 0 : 1);
          status.set({ t: msg.t, totalCount: status.totalCount + 1, unreadCount, lastReceivedKey: msg.id });
        }
      }
    }

    handleUpdate() {
      this.trigger("sync");
    }

    getMyStatus() {
      return this.gadd(me.getMePnUserOrThrow());
    }

    getUnexpired() {
      return this.filter((status) => status.msgs.length > 0);
    }
  }
  exports.StatusCollectionImpl = StatusCollectionImpl;
  exports.StatusCollection = new StatusCollectionImpl();
});

__d("WAWebRevokeStatusAction", (require, exports) => {
  exports.sendStatusRevokeMsgAction = async (status, msg) => {
    const revokeId = await require("WAWebMsgKey").default.newId();
    await require("SandboxComms").request("revoke", { chat: "status@broadcast", id: msg.id.id, revokeId });
    status.msgs.remove(msg);
    await require("SandboxDatabase").commit([["message", String(msg.id), null]]);
  };
});

__d("WAWebStatusPrivacySetting", (require, exports) => {
  let setting = "contact";
  exports.default = {
    getStatusList: () => [],
    getStatusPrivacySetting: async () => setting,
    setStatusPrivacyConfig: async (config) => (setting = config.setting),
  };
});

__d("WAWebLabelModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const Collection = require("WAWebCollection").default;

  class LabelItemModel extends Model {}
  LabelItemModel.prototype.proxyName = "label-item";
  class LabelItems extends Collection {
    static model = LabelItemModel;
  }

  class LabelModel extends Model {
    static defaults = { id: undefined, name: undefined, colorIndex: 0 };

    initialize() {
      this.labelItemCollection = new LabelItems();
    }

    get hexColor() {
      return require("WAWebLabelColors").colorIndexToHex(this.colorIndex);
    }
  }
  LabelModel.prototype.proxyName = "label";
  exports.default = LabelModel;
});

__d("WAWebLabelColors", (require, exports) => {
  const COLORS = [
    "#FF9485",
    "#64C4FF",
    "#FFD429",
    "#DFAEF0",
    "#99B6C1",
    "#55CCB3",
    "#FF9DFF",
    "#D3A91D",
    "#6D7CCE",
    "#D7E752",
  ];
  exports.colorIndexToHex = (index) => COLORS[index % COLORS.length];
  exports.getAllLabelColors = () => COLORS;
});

__d("WAWebLabelCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class LabelCollection extends BaseCollection {
    static model = require("WAWebLabelModel").default;

    async getNextAvailableColor() {
      const used = new Set(this.map((label) => label.colorIndex));
      const colors = require("WAWebLabelColors").getAllLabelColors();
      // Zero means "no colour" to the page API.
      return colors.findIndex((_color, index) => index > 0 && !used.has(index)) || 1;
    }

    async addOrRemoveLabels(labels, chats) {
      for (const chat of chats) {
        for (const { id, type } of labels) {
          const add = type === "add";
          const args = { chat: require("SandboxPeople").serverId(chat.id), label: String(id), add };
          chat.labels = await require("SandboxComms").request("label_chat", args);
          const actions = require("WAWebLabelActions");
          await (add ? actions.addToLabelCollection : actions.removeLabelFromCollection)(chat.id, [id]);
          await require("SandboxChats").save(chat);
        }
      }
    }
  }
  exports.LabelCollection = new LabelCollection();
});

__d("WAWebLabelActions", (require, exports) => {
  const labels = () => require("WAWebLabelCollection").LabelCollection;
  const item = (label, chat) => ({
    id: `${label}_${chat}`,
    parentType: "Chat",
    parentId: String(chat),
    labelId: label,
  });

  exports.addToLabelCollection = async (chat, ids) => {
    for (const id of ids) {
      labels().get(id)?.labelItemCollection.add(item(id, chat));
    }
  };
  exports.removeLabelFromCollection = async (chat, ids) => {
    for (const id of ids) {
      labels().get(id)?.labelItemCollection.remove(item(id, chat));
    }
  };
  exports.createLabelItemId = (label, chat) => `${label}_${chat}`;
});

__d("SandboxLabels", (require, exports) => {
  exports.put = (label) => {
    const { LabelCollection } = require("WAWebLabelCollection");
    if (label.deleted) {
      LabelCollection.remove(label.id);
      for (const chat of require("WAWebChatCollection").ChatCollection.filter((one) =>
        one.labels?.includes(label.id),
      )) {
        chat.labels = chat.labels.filter((id) => id !== label.id);
      }
      return ["meta", `label:${label.id}`, null];
    }
    LabelCollection.add({ id: label.id, name: label.name, colorIndex: label.color }, { merge: true });
    return ["meta", { id: `label:${label.id}`, label }];
  };
  exports.save = async (label) => {
    await require("SandboxComms").request("label", label);
    await require("SandboxDatabase").commit([exports.put(label)]);
  };
});

__d("WAWebLabelSyncAction", (require, exports) => {
  const labels = require("SandboxLabels");
  const next = () =>
    Math.max(0, ...require("WAWebLabelCollection").LabelCollection.map((label) => Number(label.id))) + 1;
  exports.getNextLabelId = async () => next();
  exports.labelAddAction = (name, color) => labels.save({ id: String(next()), name, color });
  exports.labelEditAction = (id, name, _count, color) => labels.save({ id: String(id), name, color });
  exports.labelDeleteAction = ({ labelId }) => labels.save({ id: String(labelId), deleted: true });
});

__d("WAWebCallCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class CallModel extends Model {
    getState() {
      return exports.CallState.ReceivedCall;
    }
  }
  class CallCollectionImpl extends BaseCollection {
    static model = CallModel;

    processIncomingCall(call) {
      return this.add(call);
    }

    setActiveCall(call) {
      this.activeCall = call;
    }
  }
  exports.CallState = { None: 0, Calling: 1, ReceivedCall: 3, CallActive: 6 };
  exports.CallCollectionImpl = CallCollectionImpl;
  exports.default = new CallCollectionImpl();
});

__d("WAWebSmaxCallStanzas", (require, exports) => {
  // Calls are ended with stanzas in WhatsApp's own form; of these the stand-in knows the one that rejects a call.
  exports.ensureE2ESessions = async () => {};
  exports.generateId = () => require("WARandomId").randomHex(8);
  exports.smax = (tag, attrs, content) => ({ tag, attrs, content });
  exports.sendSmaxStanza = async ({ tag, attrs, content }) => {
    const reject = tag === "call" && content?.find((one) => one.tag === "reject");
    if (!reject) {
      throw new Error(`the stand-in has no answer to a ${tag} stanza`);
    }
    const id = reject.attrs["call-id"];
    await require("SandboxComms").request("call_reject", { user: require("SandboxPeople").serverId(attrs.to), id });
    require("WAWebCallCollection").default.remove(id);
  };
});
