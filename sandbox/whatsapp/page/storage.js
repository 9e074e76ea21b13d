/*
 * What survives a reload: credentials, messages, chats and media.
 *
 * As in WhatsApp Web the credentials lie in two places, and both are needed: the noise secret and the own id in
 * localStorage, and a key that cannot be exported in IndexedDB. Copying both moves the account to another browser;
 * losing either loses it. Must not talk to the server.
 */
"use strict";

__d("SandboxDatabase", (require, exports) => {
  const LAYOUT = {
    wawc_db_enc: { keys: null },
    "signal-storage": { "signal-meta-store": null },
    "model-storage": {
      message: ["chat", "t", "arrival"],
      chat: null,
      contact: null,
      "group-metadata": null,
      meta: null,
    },
    "lru-media-storage-idb": { "lru-media-array-buffer-cache": null },
    jobs: { pending: null },
  };
  const STORES = new Map(
    Object.entries(LAYOUT).flatMap(([database, stores]) => Object.keys(stores).map((store) => [store, database])),
  );
  const open = new Map();

  const settled = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });

  function database(name) {
    if (!open.has(name)) {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => {
        for (const [store, index] of Object.entries(LAYOUT[name])) {
          const made = request.result.createObjectStore(store, { keyPath: "id" });
          if (index) {
            made.createIndex("order", index);
          }
        }
      };
      open.set(name, settled(request));
    }
    return open.get(name);
  }

  async function store(name, mode) {
    return (await database(STORES.get(name))).transaction(name, mode).objectStore(name);
  }

  exports.get = async (name, id) => settled((await store(name, "readonly")).get(id));
  exports.all = async (name) => settled((await store(name, "readonly")).getAll());
  exports.count = async (name) => settled((await store(name, "readonly")).count());
  exports.clear = async (name) => settled((await store(name, "readwrite")).clear());
  exports.put = async (name, value) => settled((await store(name, "readwrite")).put(value));
  exports.remove = async (name, id) => settled((await store(name, "readwrite")).delete(id));

  /** Write into several stores of "model-storage" at once: `[store, value]`, and `[store, id, null]` removes. */
  exports.commit = async (writes) => {
    if (!writes.length) {
      return;
    }
    const names = [...new Set(writes.map(([name]) => name))];
    const transaction = (await database("model-storage")).transaction(names, "readwrite");
    for (const [name, value, nothing] of writes) {
      const target = transaction.objectStore(name);
      if (nothing === null) {
        target.delete(value);
      } else {
        target.put(value);
      }
    }
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
  };

  /** Messages of a chat next to `place` ([t, arrival]), exclusive, nearest first; without it from the end. */
  exports.messages = async (chat, { place, direction = "before", count = Infinity, accept = () => true } = {}) => {
    const index = (await store("message", "readonly")).index("order");
    const before = direction === "before";
    const lower = before || !place ? [chat] : [chat, ...place];
    const upper = before && place ? [chat, ...place] : [chat, []];
    const range = IDBKeyRange.bound(lower, upper, true, true);
    const found = [];
    return new Promise((resolve, reject) => {
      const request = index.openCursor(range, before ? "prev" : "next");
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || found.length >= count) {
          resolve(found);
          return;
        }
        if (accept(cursor.value)) {
          found.push(cursor.value);
        }
        cursor.continue();
      };
    });
  };

  /** Delete everything that belongs to the account. */
  exports.wipe = async () => {
    for (const [name, opened] of open) {
      (await opened).close();
      open.delete(name);
    }
    for (const name of Object.keys(LAYOUT)) {
      await settled(indexedDB.deleteDatabase(name));
    }
  };
});

__d("SandboxCredentials", (require, exports) => {
  const database = require("SandboxDatabase");
  const { encodeB64 } = require("WABase64");

  const random = (bytes) => encodeB64(crypto.getRandomValues(new Uint8Array(bytes)));
  const read = (name) => JSON.parse(localStorage.getItem(name) ?? "null");
  const write = (name, value) => localStorage.setItem(name, JSON.stringify(value));

  let noise = null;
  let signal = null;
  let login = null;

  /** Read the keys of this profile, or make them. */
  exports.prepare = async () => {
    noise = read("WANoiseInfo");
    if (!noise) {
      noise = { pub: random(32), token: random(32) };
      write("WANoiseInfo", noise);
      write("WAAdvSecretKey", random(32));
    }
    signal = (await database.get("signal-meta-store", "registration"))?.value;
    if (!signal) {
      signal = { pub: random(32), registrationId: 1 };
      await database.put("signal-meta-store", { id: "registration", value: signal });
    }
    login = (await database.get("keys", "login"))?.pair;
    if (!login && exports.device()) {
      // The profile lost its IndexedDB: without the key this device cannot prove who it is.
      return false;
    }
    if (!login) {
      login = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);
      await database.put("keys", { id: "login", pair: login });
    }
    return true;
  };

  exports.noise = () => noise;
  exports.signal = () => signal;
  exports.advSecret = () => read("WAAdvSecretKey");
  exports.device = () => read("last-wid-md");
  exports.lid = () => read("WALid");
  exports.pushname = () => read("WAPushname");
  exports.setPushname = (name) => write("WAPushname", name);

  exports.publicKey = () => crypto.subtle.exportKey("jwk", login.publicKey);

  exports.sign = async (text) => {
    const signature = await crypto.subtle.sign(
      { name: "ECDSA", hash: "SHA-256" },
      login.privateKey,
      new TextEncoder().encode(text),
    );
    return encodeB64(new Uint8Array(signature)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  };

  /** The phone has accepted: from now on this profile is a device of the account. */
  exports.register = (device, lid) => {
    write("WALid", lid);
    write("last-wid-md", device);
  };

  /** Forget the account. IndexedDB goes at the next start, for which the dirty bit stays. */
  exports.forget = () => {
    localStorage.clear();
    localStorage.setItem("logout-dirty", "1");
  };

  /** Finish a logout that was begun before the reload. */
  exports.finishLogout = async () => {
    if (localStorage.getItem("logout-dirty")) {
      localStorage.clear();
      localStorage.setItem("logout-dirty", "1");
      await database.wipe();
      localStorage.removeItem("logout-dirty");
    }
  };
});

__d("WAWebUserPrefsInfoStore", (require, exports) => {
  const credentials = require("SandboxCredentials");
  const { decodeB64 } = require("WABase64");
  const pair = (text) => ({ pubKey: new Uint8Array(decodeB64(text)) });
  exports.waNoiseInfo = {
    async get() {
      return { staticKeyPair: pair(credentials.noise().pub) };
    },
  };
  exports.waSignalStore = {
    async getRegistrationInfo() {
      const { pub, registrationId } = credentials.signal();
      return { identityKeyPair: pair(pub), registrationId };
    },
  };
});

__d("WAWebUserPrefsMultiDevice", (require, exports) => {
  const credentials = require("SandboxCredentials");
  exports.isRegistered = () => Boolean(localStorage.getItem("WANoiseInfo") && credentials.device());
  exports.getADVSecretKey = () => credentials.advSecret();
  exports.setADVSignedIdentity = (value) => localStorage.setItem("WAADVSignedIdentity", JSON.stringify(value));
});

__d("WAWebUserPrefsMeUser", (require, exports) => {
  const credentials = require("SandboxCredentials");
  const { createWid } = require("WAWebWidFactory");
  const user = () => credentials.device()?.split(":")[0];
  exports.getMaybeMePnUser = () => (user() ? createWid(`${user()}@c.us`) : undefined);
  exports.getMaybeMeLidUser = () => (credentials.lid() ? createWid(`${credentials.lid()}@lid`) : undefined);
  exports.getMe = exports.getMaybeMePnUser;
  exports.getMePnUserOrThrow = () => {
    const wid = exports.getMaybeMePnUser();
    if (!wid) {
      throw new Error("invariant 56137: not registered");
    }
    return wid;
  };
  exports.getMeLidUserOrThrow = () => {
    const wid = exports.getMaybeMeLidUser();
    if (!wid) {
      throw new Error("invariant 56138: not registered");
    }
    return wid;
  };
  exports.isMeAccount = (wid) =>
    Boolean(wid && (wid.equals(exports.getMaybeMePnUser()) || wid.equals(exports.getMaybeMeLidUser())));
});

__d("SandboxAccount", (require, exports) => {
  const KEY = "SandboxAccount";
  const read = () => JSON.parse(localStorage.getItem(KEY) ?? "{}");
  /** What the server said about the own account at the last login. */
  exports.remember = (me) => localStorage.setItem(KEY, JSON.stringify(me));
  exports.get = read;
  exports.isLidMigrated = () => Boolean(read().lidMigrated);
});
