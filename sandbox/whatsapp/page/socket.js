/*
 * The connection to the server: login, pairing, reconnection, questions and answers, and the order of what comes in.
 *
 * Owns the one WebSocket and every transition of Stream, Socket and Conn. Must not know what messages mean: stanzas go
 * to "SandboxReceive", one batch at a time, and are acknowledged only when they are stored.
 */
"use strict";

__d("SandboxComms", (require, exports) => {
  const { Stream } = require("WAWebStreamModel");
  const { Socket } = require("WAWebSocketModel");
  const { Conn } = require("WAWebConnModel");
  const { Cmd } = require("WAWebCmd");
  const { BackendEventBus } = require("WAWebBackendEventBus");
  const credentials = require("SandboxCredentials");
  const settings = document.documentElement.dataset;

  /** Stanzas that are stored together, in one transaction. */
  const BATCH = 64;
  const FIRST_WAIT = Number(settings.reconnect) * 1000;
  const LONGEST_WAIT = 20 * FIRST_WAIT;

  class NotConnectedError extends Error {
    constructor() {
      super("invariant 56148: the socket is not connected");
      this.name = "NotConnectedError";
    }
  }

  let socket = null;
  let wait = FIRST_WAIT;
  let reconnectTimer = null;
  let refTimer = null;
  let stopped = false;
  let everConnected = false;
  let registeredNow = false;
  let nextId = 1;
  const questions = new Map();
  let stanzas = [];
  let working = false;

  // --- Coming and going ---------------------------------------------------------------------------------------------

  function setState(state) {
    if (Socket.state !== state) {
      Socket.state = state;
      BackendEventBus.trigger("set_socket_state", state);
    }
  }

  exports.start = () => {
    if (require("WAWebUserPrefsMultiDevice").isRegistered()) {
      Stream.set({ mode: "SYNCING", info: "OPENING" });
    } else {
      Stream.set({ mode: "QR", info: "OPENING" });
    }
    connect();
  };

  function connect() {
    reconnectTimer = null;
    const opened = new WebSocket(`ws://${location.host}/ws/chat`);
    socket = opened;
    opened.onopen = () => {
      send({ t: "hello", tab: tab(), device: credentials.device(), revision: Number(settings.revision) });
    };
    opened.onmessage = (event) => {
      if (socket === opened) {
        take(JSON.parse(event.data));
      }
    };
    opened.onclose = () => {
      if (socket === opened) {
        lost();
      }
    };
  }

  /** A name of this tab: a reload keeps it, and a copy of the profile does not have it. */
  function tab() {
    let name = sessionStorage.getItem("tab");
    if (!name) {
      name = crypto.randomUUID();
      sessionStorage.setItem("tab", name);
    }
    return name;
  }

  function lost() {
    socket = null;
    stanzas = [];
    clearTimeout(refTimer);
    failQuestions();
    if (Socket.stream !== "DISCONNECTED") {
      Socket.stream = "DISCONNECTED";
      BackendEventBus.trigger("socket_stream_disconnected");
    }
    if (stopped) {
      return;
    }
    if (!credentials.device()) {
      Conn.ref = undefined;
      setState("OPENING");
    } else if (!everConnected) {
      Stream.info = "OFFLINE";
    }
    // Half of the wait is by chance, so that many pages do not come back at one moment.
    reconnectTimer = setTimeout(connect, wait / 2 + (Math.random() * wait) / 2);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }

  exports.reconnectNow = () => {
    if (reconnectTimer !== null) {
      clearTimeout(reconnectTimer);
      connect();
    }
  };

  /** End all communication for the life of this page. */
  exports.stop = () => {
    stopped = true;
    clearTimeout(reconnectTimer);
    clearTimeout(refTimer);
    if (socket) {
      const old = socket;
      lost();
      old.close();
    }
  };

  function restart() {
    const old = socket;
    socket = null;
    clearTimeout(refTimer);
    old.close();
    connect();
  }

  function send(frame) {
    socket.send(JSON.stringify(frame));
  }

  // --- Questions ----------------------------------------------------------------------------------------------------

  /** Ask the server; rejects when there is no connection, and never settles when the server is silent. */
  exports.request = (op, args = {}) => ask({ t: "iq", op, args });

  function ask(frame) {
    if (!socket || socket.readyState !== WebSocket.OPEN || (frame.t === "iq" && Socket.stream === "DISCONNECTED")) {
      return Promise.reject(new NotConnectedError());
    }
    const id = nextId++;
    return new Promise((resolve, reject) => {
      questions.set(id, { resolve, reject });
      send({ ...frame, id });
    });
  }

  function failQuestions() {
    const open = [...questions.values()];
    questions.clear();
    for (const { reject } of open) {
      reject(new NotConnectedError());
    }
  }

  /** For questions that are worth nothing later: being offline is no failure. */
  exports.ignoreOffline = (error) => {
    if (!(error instanceof NotConnectedError)) {
      throw error;
    }
  };
  exports.isOffline = (error) => error instanceof NotConnectedError;

  exports.linkCode = (phone, push) => ask({ t: "code", phone, push });

  // --- Frames -------------------------------------------------------------------------------------------------------

  function take(frame) {
    switch (frame.t) {
      case "unpaired":
        return pair();
      case "refs":
        return showRefs(frame.refs);
      case "paired":
        return paired(frame);
      case "challenge":
        return prove(frame.nonce);
      case "success":
        return loggedIn(frame);
      case "failure":
        return Socket.leave("unknown_companion");
      case "stanza":
        return queue(frame);
      case "offline":
        return queue({ kind: "offline_end", body: frame });
      case "result":
        return answer(frame);
      case "presence":
        return require("SandboxReceive").presence(frame);
      case "ping":
        return send({ t: "pong" });
      case "stream_error":
        return streamError(frame.reason);
      case "update":
        return update(frame);
      case "trouble":
        return require("SandboxTrouble").make(frame);
      default:
        throw new Error(`the server sent a frame of the unknown type ${frame.t}`);
    }
  }

  function answer({ id, value, error }) {
    const question = questions.get(id);
    questions.delete(id);
    if (question && error) {
      question.reject(Object.assign(new Error(error.message), { name: "ServerStatusCodeError", status: error.code }));
    } else {
      question?.resolve(value);
    }
  }

  // --- Pairing ------------------------------------------------------------------------------------------------------

  async function pair() {
    wait = FIRST_WAIT;
    Stream.set({ mode: "QR", info: "NORMAL" });
    setState("UNPAIRED");
    send({
      t: "pair",
      static: credentials.noise().pub,
      identity: credentials.signal().pub,
      adv: credentials.advSecret(),
      noise: credentials.noise().token,
      login: await credentials.publicKey(),
      platform: require("WAWebBrowserInfo").default.info().os ?? "Unknown",
    });
  }

  function showRefs(refs) {
    clearTimeout(refTimer);
    setState("UNPAIRED");
    const show = ([first, ...rest]) => {
      if (!first) {
        setState("UNPAIRED_IDLE");
        Conn.ref = undefined;
        return;
      }
      Conn.ref = first.ref;
      refTimer = setTimeout(() => show(rest), first.seconds * 1000);
    };
    show(refs);
  }

  BackendEventBus.on("refresh_qr", () => {
    if (socket?.readyState === WebSocket.OPEN && !credentials.device()) {
      setState("UNPAIRED");
      send({ t: "refresh" });
    }
  });

  function paired({ device, lid }) {
    clearTimeout(refTimer);
    registeredNow = true;
    require("WAWebLinkDeviceEvents").WAWebLinkDeviceEvents.triggerPrimaryHelloReceived();
    setState("PAIRING");
    credentials.register(device, lid);
    Conn.set({ ref: undefined });
    Stream.mode = "SYNCING";
    // As WhatsApp does: the stream starts anew, now as a registered device.
    restart();
  }

  // --- Login --------------------------------------------------------------------------------------------------------

  async function prove(nonce) {
    const text = `${credentials.device()}.${nonce}.${credentials.noise().token}`;
    send({ t: "proof", signature: await credentials.sign(text) });
  }

  function loggedIn({ me, offline }) {
    wait = FIRST_WAIT;
    Stream.resumeCount = offline;
    require("SandboxAccount").remember(me);
    credentials.setPushname(me.name);
    require("SandboxReceive").me(me);
    Conn.set({ connected: true, platform: "android", pushname: me.name, wid: require("WAWebUserPrefsMeUser").getMe() });
    BackendEventBus.trigger("open_socket_stream");
    Socket.stream = everConnected ? "RESUMING" : "SYNCING";
    setState("CONNECTED");
  }

  async function offlineEnd() {
    Socket.set({ stream: "CONNECTED", hasSynced: true });
    BackendEventBus.isOfflineDeliveryEnd = true;
    BackendEventBus.trigger("offline_delivery_end");
    if (!everConnected) {
      everConnected = true;
      Stream.info = "NORMAL";
      if (registeredNow) {
        BackendEventBus.trigger("on_critical_sync_done");
        BackendEventBus.trigger("on_initial_chat_synced");
      }
      Cmd.mainLoaded();
      BackendEventBus.isMainStreamReadyMd = true;
      Stream.mode = "MAIN";
      BackendEventBus.trigger("main_stream_mode_ready");
    }
    await require("SandboxOutbox").resend();
  }

  // --- Stanzas ------------------------------------------------------------------------------------------------------

  function queue(stanza) {
    stanzas.push(stanza);
    if (!working) {
      working = true;
      work().finally(() => {
        working = false;
      });
    }
  }

  async function work() {
    while (stanzas.length) {
      const from = socket;
      const end = stanzas.findIndex((one) => one.kind === "offline_end");
      if (end === 0) {
        stanzas.shift();
        await offlineEnd();
        continue;
      }
      const batch = stanzas.splice(0, end < 0 ? BATCH : Math.min(end, BATCH));
      await require("SandboxReceive").batch(batch);
      if (socket === from && socket?.readyState === WebSocket.OPEN) {
        send({ t: "stored", seq: batch.at(-1).seq });
      }
    }
  }

  // --- Bad news -----------------------------------------------------------------------------------------------------

  function streamError(reason) {
    if (reason === "replaced") {
      // Another browser has these credentials. WhatsApp only falls silent: no CONFLICT state, and the mode stays MAIN.
      exports.stop();
    } else {
      Socket.leave("unknown_companion");
    }
  }

  function update({ hard }) {
    Stream.needsUpdate = true;
    if (hard) {
      setTimeout(() => location.reload(), Number(settings.updateReload) * 1000);
    }
  }
});

__d("SandboxTrouble", (require, exports) => {
  const ballast = [];

  /** Hurt this page on purpose, so that those who watch it can be tested. */
  exports.make = ({ what, megabytes, seconds, count }) => {
    switch (what) {
      case "bloat":
        for (let made = 0; made < megabytes; made++) {
          // Random contents: pages of zeros would not count as memory.
          const block = new Uint8Array(1 << 20);
          for (let start = 0; start < block.length; start += 65536) {
            crypto.getRandomValues(block.subarray(start, start + 65536));
          }
          ballast.push(block);
        }
        break;
      case "hang": {
        const end = Date.now() + seconds * 1000;
        while (Date.now() < end);
        break;
      }
      case "exceptions":
        for (let thrown = 0; thrown < count; thrown++) {
          setTimeout(() => {
            throw new Error(`trouble ${thrown}`);
          });
        }
        break;
      case "reload":
        location.reload();
        break;
      default:
        throw new Error(`there is no trouble called ${what}`);
    }
  };
});
