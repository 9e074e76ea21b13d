/*
 * People: contacts, the map between phone numbers and lids, existence, pictures, about texts, blocking, own profile.
 */
"use strict";

__d("WAWebLidPnCache", (require, exports) => {
  const byLid = new Map();
  const byNumber = new Map();
  exports.lidPnCache = {
    add(lid, phoneNumber) {
      byLid.set(String(lid), phoneNumber);
      byNumber.set(String(phoneNumber), lid);
    },
    getPhoneNumber: (lid) => byLid.get(String(lid)),
    getCurrentLid: (number) => byNumber.get(String(number)),
    getLidEntry: (lid) =>
      byLid.has(String(lid)) ? { lid, phoneNumber: byLid.get(String(lid)), phoneNumberCreatedAt: 0 } : undefined,
    getAllLids: () => [...byNumber.values()],
    remove(lid) {
      byNumber.delete(String(byLid.get(String(lid))));
      byLid.delete(String(lid));
    },
    clear() {
      byLid.clear();
      byNumber.clear();
    },
  };
});

__d("WAWebApiContact", (require, exports) => {
  const { lidPnCache } = require("WAWebLidPnCache");
  exports.getCurrentLid = (wid) => (wid.isLid() ? wid : lidPnCache.getCurrentLid(wid));
  exports.getPhoneNumber = (wid) => (wid.isLid() ? lidPnCache.getPhoneNumber(wid) : wid);
  exports.getAlternateUserWid = (wid) => (wid.isLid() ? lidPnCache.getPhoneNumber(wid) : lidPnCache.getCurrentLid(wid));
  exports.getEnforceCurrentLid = (wid) => {
    const lid = exports.getCurrentLid(wid);
    if (!lid) {
      throw new Error("No LID for user");
    }
    return lid;
  };
});

__d("WAWebContactModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class ContactModel extends Model {
    static defaults = {
      id: undefined,
      name: undefined,
      shortName: undefined,
      pushname: undefined,
      type: "out",
      verifiedName: undefined,
      isBusiness: false,
      isEnterprise: false,
      isContactBlocked: false,
      labels: undefined,
    };

    get displayName() {
      return this.id && require("WAWebFrontendContactGetters").getDisplayName(this);
    }

    isBlocked() {
      return this.isContactBlocked;
    }
  }
  ContactModel.prototype.proxyName = "contact";
  exports.default = ContactModel;
});

__d("WAWebContactCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class ContactCollectionImpl extends BaseCollection {
    static model = require("WAWebContactModel").default;
  }
  exports.ContactCollectionImpl = ContactCollectionImpl;
  exports.ContactCollection = new ContactCollectionImpl();
});

__d("WAWebContactGetters", (require, exports) => {
  const me = () => require("WAWebUserPrefsMeUser");
  exports.getNotifyName = (contact) => contact.pushname;
  exports.getUserid = (contact) => contact.id?.user;
  exports.getIsMe = (contact) => me().isMeAccount(contact.id);
  exports.getIsUser = (contact) => contact.id.isUser();
  exports.getIsGroup = (contact) => contact.id.isGroup();
  exports.getIsBroadcast = (contact) => contact.id.isBroadcast();
  exports.getIsNewsletter = (contact) => contact.id.isNewsletter();
  exports.getIsPSA = (contact) => contact.id.isPSA();
  exports.getIsIAS = () => false;
  exports.getIsSupportAccount = () => false;
  exports.getIsWAContact = (contact) => contact.id?.isUser() ?? false;
  exports.getPremiumMessageName = () => undefined;
  exports.getCanRequestPhoneNumber = () => false;
  exports.getShowBusinessCheckmarkAsPrimary = () => false;
  exports.getShowBusinessCheckmarkAsSecondary = () => false;
  exports.getShowBusinessCheckmarkInChatlist = () => false;
  exports.getIsDisplayNameApproved = () => true;
  exports.getShouldForceBusinessUpdate = () => false;
  exports.getUserhash = (contact) => contact.id?.user;
});

__d("WAWebFrontendContactGetters", (require, exports) => {
  const { getIsMe } = require("WAWebContactGetters");

  const phone = (contact) => {
    const id = contact.id;
    const number = id?.isLid() ? require("WAWebLidPnCache").lidPnCache.getPhoneNumber(id) : id;
    return number ? `+${number.user}` : id?.user;
  };
  exports.getPnForLid = (contact) => require("WAWebLidPnCache").lidPnCache.getPhoneNumber(contact.id);
  exports.getPhoneNumber = exports.getPnForLid;
  exports.getTextStatusString = () => undefined;
  exports.getIsMyContact = (contact) => contact.name != null;
  exports.getFormattedPhone = phone;
  exports.getFormattedUser = phone;
  exports.getFormattedUsernameOrPhone = phone;
  exports.getDisplayName = (contact) => contact.name ?? contact.pushname ?? phone(contact);
  exports.getUserDisplayNameForLid = exports.getDisplayName;
  exports.getFormattedName = (contact) => (getIsMe(contact) ? "You" : exports.getDisplayName(contact));
  exports.getFormattedShortName = (contact) => contact.shortName ?? exports.getFormattedName(contact)?.split(" ")[0];
  exports.getFormattedShortNameWithNonBreakingSpaces = exports.getFormattedShortName;
  exports.getMentionName = exports.getFormattedShortName;
  exports.getSearchName = (contact) => exports.getDisplayName(contact)?.toLowerCase();
  exports.getSearchVerifiedName = () => "";
  exports.getHeader = (contact) => exports.getDisplayName(contact)?.[0]?.toUpperCase();
});

__d("SandboxPeople", (require, exports) => {
  const { createWid } = require("WAWebWidFactory");
  const { lidPnCache } = require("WAWebLidPnCache");
  const { ContactCollection } = require("WAWebContactCollection");
  const account = require("SandboxAccount");
  const me = require("WAWebUserPrefsMeUser");

  exports.phoneWid = (number) => createWid(`${number}@c.us`);
  exports.lidWid = (lid) => createWid(`${lid}@lid`);

  /** Learn who a number is. */
  exports.learn = (number, lid) => {
    if (lid) {
      lidPnCache.add(exports.lidWid(lid), exports.phoneWid(number));
    }
  };

  /** The server names one-to-one chats by number; a migrated account names them by lid. */
  exports.chatWid = (chat) => {
    const wid = createWid(chat);
    return wid.server === "c.us" && account.isLidMigrated() ? (lidPnCache.getCurrentLid(wid) ?? wid) : wid;
  };

  /** A chat or person for the server, which knows numbers, groups and channels. */
  exports.serverId = (wid) => String(createWid(wid).isLid() ? (lidPnCache.getPhoneNumber(wid) ?? wid) : wid);

  exports.isMe = (number) => me.getMaybeMePnUser()?.user === number;

  /** Take over a person as the server describes them; returns what has to be stored. */
  exports.put = (view) => {
    exports.learn(view.number, view.lid);
    const id = exports.chatWid(`${view.number}@c.us`);
    ContactCollection.add(
      {
        id,
        name: view.name ?? undefined,
        shortName: view.name?.split(" ")[0],
        pushname: view.pushname ?? undefined,
        isBusiness: view.business,
        verifiedName: view.business ? (view.pushname ?? undefined) : undefined,
        type: "in",
      },
      { merge: true },
    );
    require("WAWebProfilePicThumbCollection").ProfilePicThumbCollection.imageChanged(id, view.picture);
    return ["contact", { id: view.number, view }];
  };
});

__d("WAWebQueryExistsJob", (require, exports) => {
  const people = () => require("SandboxPeople");
  exports.queryWidExists = async (wid) => {
    const found = await require("SandboxComms").request("exists", { user: people().serverId(wid) });
    if (!found) {
      return null;
    }
    people().learn(found.number, found.lid);
    return {
      wid: wid.isLid() ? wid : people().phoneWid(found.number),
      biz: found.business,
      bizInfo: found.business ? { verifiedName: { name: found.pushname, level: "low", isApi: false } } : undefined,
      lid: people().lidWid(found.lid),
    };
  };
  exports.queryPhoneExists = (phone) =>
    exports.queryWidExists(require("WAWebWidFactory").createWid(`${String(phone).replace(/\D/g, "")}@c.us`));
});

__d("WAWebProfilePicThumbModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  class ProfilePicThumbModel extends Model {
    static defaults = {
      id: undefined,
      img: undefined,
      imgFull: undefined,
      eurl: undefined,
      tag: undefined,
      stale: true,
    };
  }
  ProfilePicThumbModel.prototype.proxyName = "profile-pic-thumb";
  exports.default = ProfilePicThumbModel;
});

__d("WAWebProfilePicThumbCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class ProfilePicThumbCollection extends BaseCollection {
    static model = require("WAWebProfilePicThumbModel").default;

    async findImpl(id) {
      const user = require("SandboxPeople").serverId(id);
      return this._from(id, await require("SandboxComms").request("picture", { user }));
    }

    imageChanged(id, path) {
      this.add(this._from(id, path), { merge: true });
    }

    _from(id, path) {
      const url = path ? new URL(path, location.href).href : undefined;
      return { id, img: url, imgFull: url, eurl: url, tag: path ?? undefined, stale: false };
    }
  }
  exports.ProfilePicThumbCollection = new ProfilePicThumbCollection();
});

__d("WAWebContactProfilePicThumbBridge", (require, exports) => {
  const change = async (wid, picture) => {
    const user = require("SandboxPeople").serverId(wid);
    const path = await require("SandboxComms").request("set_picture", { user, picture });
    require("WAWebProfilePicThumbCollection").ProfilePicThumbCollection.imageChanged(wid, path);
    return { status: 200, eurl: path ?? undefined, tag: path ?? undefined, token: "", _duplicate: false };
  };
  exports.sendSetPicture = (wid, _thumb, picture) => change(wid, picture);
  exports.requestDeletePicture = (wid) => change(wid, null);
});

__d("WAWebTextStatusCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class TextStatusModel extends Model {
    static defaults = { id: undefined, status: undefined, stale: true };
  }

  class TextStatusCollection extends BaseCollection {
    static model = TextStatusModel;

    async findImpl(id) {
      const user = require("SandboxPeople").serverId(id);
      return { id, status: await require("SandboxComms").request("about", { user }), stale: false };
    }
  }
  exports.TextStatusCollection = new TextStatusCollection();
});

__d("WAWebContactStatusBridge", (require, exports) => {
  exports.getStatus = (wid) => require("WAWebTextStatusCollection").TextStatusCollection.find(wid);
  exports.setMyStatus = (about) => require("SandboxComms").request("set_about", { about });
  exports.queryStatusAll = () => Promise.resolve([]);
});

__d("WAWebSetPushnameConnAction", (require, exports) => {
  exports.setPushname = async (name) => {
    await require("SandboxComms").request("set_name", { name });
    require("SandboxCredentials").setPushname(name);
    require("WAWebConnModel").Conn.pushname = name;
  };
});

__d("WAWebBlocklistCollection", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { BaseCollection } = require("WAWebBaseCollection");

  class BlocklistModel extends Model {}
  BlocklistModel.prototype.proxyName = "blocklist";

  class BlocklistCollection extends BaseCollection {
    static model = BlocklistModel;

    /** Take over the whole list. */
    replace(numbers) {
      this._models = [];
      this._index.clear();
      this.add(numbers.map((number) => ({ id: require("SandboxPeople").chatWid(`${number}@c.us`) })));
      for (const contact of require("WAWebContactCollection").ContactCollection.getModelsArray()) {
        contact.isContactBlocked = Boolean(this.get(contact.id));
      }
      this.sort();
    }
  }
  exports.BlocklistCollection = new BlocklistCollection();
});

__d("WAWebBlockContactAction", (require, exports) => {
  const change = async (contact, value) => {
    const user = require("SandboxPeople").serverId(contact.id);
    const numbers = await require("SandboxComms").request("block", { user, value });
    require("WAWebBlocklistCollection").BlocklistCollection.replace(numbers);
    await require("SandboxDatabase").commit([["meta", { id: "blocked", numbers }]]);
  };
  exports.blockContact = ({ contact }) => change(contact, true);
  exports.unblockContact = (contact) => change(contact, false);
});

__d("WAWebSaveContactAction", (require, exports) => {
  const save = (number, name) =>
    require("SandboxComms").request("save_contact", { number: number.replace(/\D/g, ""), name });
  exports.saveContactAction = ({ phoneNumber, firstName, lastName, surname }) =>
    save(String(phoneNumber), [firstName, lastName ?? surname].filter(Boolean).join(" "));
  exports.canSaveAsMyContact = () => true;
});

__d("WAWebDeleteContactAction", (require, exports) => {
  exports.deleteContactAction = ({ phoneNumber, lid }) => {
    const number = require("SandboxPeople")
      .serverId(phoneNumber ?? lid)
      .split("@")[0];
    return require("SandboxComms").request("save_contact", { number, name: null });
  };
});

__d("WAWebFindCommonGroupsContactAction", (require, exports) => {
  exports.findCommonGroups = async (contact) => {
    const { lidPnCache } = require("WAWebLidPnCache");
    const lid = contact.id.isLid() ? contact.id : lidPnCache.getCurrentLid(contact.id);
    const groups = require("WAWebGroupMetadataCollection")
      .default.getModelsArray()
      .filter((group) => lid && group.participants.get(lid));
    return { getModelsArray: () => groups };
  };
});

__d("WAWebVcardParsingUtils", (require, exports) => {
  exports.vcardFromContactModel = (contact) => {
    const name = contact.displayName ?? contact.formattedName;
    const number = String(require("SandboxPeople").serverId(contact.id)).split("@")[0];
    const lines = ["BEGIN:VCARD", "VERSION:3.0", `N:;${name};;;`, `FN:${name}`];
    lines.push(`TEL;type=CELL;type=VOICE;waid=${number}:+${number}`, "END:VCARD");
    return { displayName: name, vcard: lines.join("\n"), isMultiVcard: false };
  };
  exports.mergeVcards = (vcards) => ({ displayName: `${vcards.length} contacts`, vcards, isMultiVcard: true });
});
