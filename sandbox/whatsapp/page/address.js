/*
 * Addresses and keys: Wid (who or which chat), MsgKey (which message), random ids, time, base64.
 */
"use strict";

__d("WAWebWid", (require, exports) => {
  const USER_SERVERS = new Set(["c.us", "lid", "bot", "hosted", "hosted.lid"]);
  const FORMS = {
    "c.us": /^\d+(\.\d+)?(:\d+)?$/,
    lid: /^\d+(\.\d+)?(:\d+)?$/,
    "g.us": /^\d+(-\d+)?$/,
    newsletter: /^\d+$/,
    broadcast: /^(status|location|\d+)$/,
    call: /^[\w-]+$/,
    bot: /^\d+$/,
    "s.whatsapp.net": /^\d*$/,
  };

  class InvalidWidError extends Error {
    constructor() {
      super("wid error: invalid wid");
      this.name = "InvalidWidError";
    }
  }

  class Wid {
    constructor(id, { intentionallyUsePrivateConstructor = false } = {}) {
      if (!intentionallyUsePrivateConstructor) {
        throw new Error("proper wid creation is via WidFactory");
      }
      const text = String(id).replace(/@s\.whatsapp\.net$/, "@c.us");
      const [user, server, more] = text.split("@");
      if (more !== undefined || !server || !FORMS[server]?.test(user)) {
        throw new InvalidWidError();
      }
      const [name, device] = user.split(":");
      this.server = server;
      this.user = name;
      if (device !== undefined) {
        this.device = Number(device);
      }
      this._serialized = device ? `${name}:${device}@${server}` : `${name}@${server}`;
    }

    toString(options = {}) {
      return options.legacy ? this._serialized.replace(/@c\.us$/, "@s.whatsapp.net") : this._serialized;
    }

    toJid() {
      return this.toString({ legacy: true });
    }

    toJSON() {
      return this._serialized;
    }

    equals(other) {
      return other instanceof Wid && other._serialized === this._serialized;
    }

    isSameAccount(other) {
      return this.user === other?.user && this.server === other?.server;
    }

    isLessThan(other) {
      return this._serialized < String(other);
    }

    isGreaterThan(other) {
      return this._serialized > String(other);
    }

    getDeviceId() {
      return this.device ?? 0;
    }

    isUser() {
      return USER_SERVERS.has(this.server);
    }

    isLid() {
      return this.server === "lid" || this.server === "hosted.lid";
    }

    isRegularUser() {
      return this.isUser() && !this.isPSA();
    }

    isUserNotPSA() {
      return this.isUser() && !this.isPSA();
    }

    isRegularUserPn() {
      return this.server === "c.us" && !this.isPSA();
    }

    isBot() {
      return this.server === "bot";
    }

    isGroup() {
      return this.server === "g.us";
    }

    isGroupCall() {
      return this.server === "call";
    }

    isBroadcast() {
      return this.server === "broadcast" && this.user !== "status";
    }

    isStatus() {
      return this._serialized === "status@broadcast";
    }

    isStatusV3() {
      return this.isStatus();
    }

    isNewsletter() {
      return this.server === "newsletter";
    }

    isPSA() {
      return this._serialized === "0@c.us";
    }

    isServer() {
      return this._serialized === "s@c.us";
    }

    isCompanion() {
      return this.device !== undefined && this.device !== 0;
    }

    isOfficialBizAccount() {
      return false;
    }

    static isWid(value) {
      return value instanceof Wid;
    }

    static isXWid(server, value) {
      return Wid.isWid(value) ? value.server === server : String(value).endsWith(`@${server}`);
    }

    static canBeWid(value) {
      try {
        return Boolean(new Wid(value, { intentionallyUsePrivateConstructor: true }));
      } catch {
        return false;
      }
    }

    static equals(one, other) {
      return String(one) === String(other);
    }

    static user(value) {
      return String(value).split("@")[0];
    }
  }
  const tests = ["Broadcast", "Group", "GroupCall", "Lid", "Newsletter", "PSA", "Server", "Status", "StatusV3", "User"];
  for (const test of [...tests, "OfficialBizAccount"]) {
    Wid[`is${test}`] = (value) =>
      (Wid.isWid(value) ? value : new Wid(value, { intentionallyUsePrivateConstructor: true }))[`is${test}`]();
  }
  exports.default = Wid;
});

__d("WAWebWidFactory", (require, exports) => {
  const Wid = require("WAWebWid").default;
  const create = (id) => new Wid(id, { intentionallyUsePrivateConstructor: true });

  exports.createWid = (id) => (Wid.isWid(id) ? id : create(id));
  exports.createUserWid = (user, server = "c.us") => create(user.includes("@") ? user : `${user}@${server}`);
  exports.createUserWidOrThrow = exports.createUserWid;
  exports.createDeviceWid = create;
  exports.isWidlike = (value) => Wid.isWid(value) || (Boolean(value?.server) && typeof value._serialized === "string");
  exports.createWidFromWidLike = (value) => (Wid.isWid(value) ? value : create(value._serialized));
  exports.toUserWid = (wid) => create(`${wid.user}@${wid.server}`);
  exports.toUserWidOrThrow = exports.toUserWid;
  exports.toChatWid = exports.toUserWid;
  exports.toGroupWid = exports.createWid;
  exports.userJidToUserWid = exports.createWid;
});

__d("WARandomId", (require, exports) => {
  const hex = (bytes) =>
    [...crypto.getRandomValues(new Uint8Array(bytes))].map((one) => one.toString(16).padStart(2, "0")).join("");

  exports.randomHex = (bytes) => hex(bytes).toUpperCase();
});

__d("WAWebMsgKey", (require, exports) => {
  const { createWid } = require("WAWebWidFactory");
  const { randomHex } = require("WARandomId");

  class MsgKey {
    constructor(obj) {
      if (!obj) {
        throw new Error("MsgKey error: obj is null/undefined");
      }
      this.fromMe = obj.selfDir ? obj.selfDir === "out" : Boolean(obj.fromMe);
      this.remote = createWid(obj.selfDir ? (this.fromMe ? obj.to : obj.from) : obj.remote);
      this.id = obj.id;
      this.participant = obj.participant ? createWid(obj.participant) : undefined;
      // Recent builds keep the text form under a minified name; the page API gives it back its old one.
      this.$1 = [this.fromMe, this.remote, this.id, ...(this.participant ? [this.participant] : [])].join("_");
    }

    toString() {
      return this.$1;
    }

    equals(other) {
      return other instanceof MsgKey && other.toString() === this.toString();
    }

    clone() {
      return new MsgKey(this);
    }

    static fromString(text) {
      const [fromMe, remote, id, participant] = String(text).split("_");
      if (!["true", "false"].includes(fromMe) || !remote || !id) {
        throw new Error(`MsgKey error: cannot parse ${text}`);
      }
      return new MsgKey({ fromMe: fromMe === "true", remote, id, participant });
    }

    static from(value) {
      return value instanceof MsgKey ? value : MsgKey.fromString(value);
    }

    static async newId() {
      return `3EB0${randomHex(9)}`;
    }
  }
  exports.default = MsgKey;
});

__d("WATimeUtils", (require, exports) => {
  exports.unixTime = () => Math.floor(Date.now() / 1000);
  exports.unixTimeMs = () => Date.now();
});

__d("WABase64", (require, exports) => {
  exports.encodeB64 = (bytes) => {
    let text = "";
    for (const one of new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength)) {
      text += String.fromCharCode(one);
    }
    return btoa(text);
  };
  exports.decodeB64 = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer;
});
