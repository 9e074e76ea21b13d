/* Turns wa-js (global WPP) into JSON, in WAHA's terms. Runs right after wa-js in the same init script, so it is made
 * anew at every load of the page, listeners included.
 *
 * Owns: the page's account of itself (`snapshot`), calls (`window.__bridge.call`), events (binding `__bridgeEmit`).
 * Must not hold state that has to survive a reload, nor decide anything: the worker does.
 *
 * A call never rejects: it answers {ok: true, result} or {ok: false, error: {code, message}}. wa-js and WhatsApp
 * reject with WPPError (code), InvalidWidError (name only), plain strings and plain objects; all become `code`.
 */
(() => {
  "use strict";
  const WPP = window.WPP;
  if (!WPP) return;

  const emit = (type, data) => window.__bridgeEmit(JSON.stringify({ type, ...data }));
  const text = (value) => (value === null || value === undefined ? null : String(value));
  const attempt = (read, otherwise) => {
    try {
      return read() ?? otherwise;
    } catch {
      return otherwise;
    }
  };

  // --- The page's account of itself ---------------------------------------------------------------------------------

  const snapshot = () => {
    if (!WPP.isInjected) return { injected: false };
    const stream = attempt(() => WPP.conn.getStreamData(), {});
    const socket = attempt(() => WPP.whatsapp.Socket, {});
    const me = attempt(() => text(WPP.conn.getMyUserId()), null);
    return {
      injected: true,
      registered: attempt(() => WPP.conn.isRegistered(), false),
      mode: stream.mode ?? "",
      socket: socket.state ?? "",
      stream: socket.stream ?? "",
      id: me,
      lid: me && attempt(() => text(WPP.conn.getMyUserLid()), null),
      pushName: me ? attempt(() => WPP.whatsapp.Conn.pushname, "") : "",
    };
  };

  let reported = "";
  const report = () => {
    const page = snapshot();
    const now = JSON.stringify(page);
    if (now === reported) return;
    reported = now;
    emit("page", { page });
  };

  // --- Messages, as WAHA shows them -----------------------------------------------------------------------------------

  const ACK_NAMES = { "-1": "ERROR", 0: "PENDING", 1: "SERVER", 2: "DEVICE", 3: "READ", 4: "PLAYED" };
  const MEDIA_TYPES = new Set(["image", "video", "audio", "ptt", "document", "sticker", "ptv"]);
  const ackOf = (ack) => (ack < 0 ? -1 : (ack ?? 0));

  const describeMessage = (message) => {
    const fromMe = Boolean(message.id.fromMe);
    const chat = text(message.id.remote);
    const me = attempt(() => text(WPP.conn.getMyUserId()), null);
    const participant = text(message.id.participant ?? (message.author || null));
    const hasMedia = MEDIA_TYPES.has(message.type);
    const quoted = message.quotedStanzaID && {
      id: message.quotedStanzaID,
      participant: text(message.quotedParticipant) ?? "",
      body: attempt(() => message.quotedMsg.body ?? message.quotedMsg.caption, ""),
      hasMedia: attempt(() => MEDIA_TYPES.has(message.quotedMsg.type), false),
    };
    const location = message.type === "location" && {
      latitude: text(message.lat),
      longitude: text(message.lng),
      live: Boolean(message.isLive),
      description: message.loc ?? "",
    };
    return {
      id: text(message.id),
      timestamp: message.t,
      from: fromMe ? me : chat,
      fromMe,
      source: "app",
      to: fromMe ? chat : me,
      participant: participant ?? "",
      body: (hasMedia ? message.caption : message.body) ?? "",
      hasMedia,
      mediaUrl: "",
      ack: ackOf(message.ack),
      ackName: ACK_NAMES[ackOf(message.ack)] ?? "UNKNOWN",
      vCards: message.type === "vcard" ? [message.body] : [],
      ...(location && { location }),
      ...(quoted && { replyTo: quoted }),
      _data: {
        id: { fromMe, remote: chat, id: message.id.id, participant, _serialized: text(message.id) },
        type: message.type,
        t: message.t,
        notifyName: message.notifyName ?? "",
        from: text(message.from),
        to: text(message.to),
        ack: message.ack ?? 0,
        isNewMsg: Boolean(message.isNewMsg),
        mimetype: message.mimetype ?? null,
        filename: message.filename ?? null,
      },
    };
  };

  // --- Calls ----------------------------------------------------------------------------------------------------------

  const fail = (code, message) => {
    throw Object.assign(new Error(message), { code });
  };

  const methods = {
    snapshot: async () => snapshot(),

    pairingCode: async ({ phoneNumber }) => ({ code: await WPP.conn.startLinkDeviceCodeForPhoneNumber(phoneNumber) }),

    refreshCode: async () => {
      // refreshQR waits for the next code without a timeout; the code itself arrives as an event.
      WPP.conn.refreshQR().catch(() => emit("page", { page: snapshot() }));
      return {};
    },

    showCode: async () => {
      announceCode(await WPP.conn.getAuthCode());
      return {};
    },

    logout: async () => {
      await WPP.conn.logout();
      return {};
    },

    checkExists: async ({ phone }) => {
      // wa-js answers null for every error, being offline among them.
      if (WPP.whatsapp.Socket.stream !== "CONNECTED") fail("offline", "WhatsApp is not connected");
      const found = await WPP.contact.queryWidExists(phone);
      return found ? { numberExists: true, chatId: text(found.wid) } : { numberExists: false };
    },

    newMessageId: async ({ chatId }) => {
      const chat = await WPP.chat.find(chatId);
      return { id: text(await WPP.chat.generateMessageID(chat.id)) };
    },

    sendText: async ({ chatId, text: body, replyTo, mentions, linkPreview, id }) => {
      const options = { waitForAck: false, linkPreview: linkPreview !== false };
      if (replyTo) options.quotedMsg = replyTo;
      if (mentions?.length) options.mentionedList = mentions;
      const chat = await WPP.chat.find(chatId);
      options.messageId = id ?? text(await WPP.chat.generateMessageID(chat.id));
      // Said before, because the page tells of the new message before the call has its answer.
      emit("sending", { id: options.messageId });
      const sent = await WPP.chat.sendTextMessage(chatId, body, options);
      const message = await WPP.chat.getMessageById(sent.id);
      return { ...describeMessage(message), source: "api" };
    },
  };

  const describeError = (error) => {
    if (typeof error === "string") return { code: error, message: error };
    const code = error?.code ?? error?.name ?? "unknown";
    return { code: String(code), message: String(error?.message || error?.text || code) };
  };

  const call = async (name, params) => {
    try {
      return JSON.stringify({ ok: true, result: await methods[name](params) });
    } catch (error) {
      return JSON.stringify({ ok: false, error: describeError(error) });
    }
  };

  Object.defineProperty(window, "__bridge", { value: Object.freeze({ call }) });

  // --- Events ---------------------------------------------------------------------------------------------------------

  const announceCode = (auth) => {
    if (!auth?.fullCode) return;
    // WhatsApp's own code has a fifth field, the platform of this device; wa-js leaves it out.
    const platform = attempt(() => window.importNamespace("WAWebCompanionRegClientUtils").DEVICE_PLATFORM, null);
    emit("code", { code: platform ? `${auth.fullCode},${platform}` : auth.fullCode });
  };

  const listen = (event, handle) =>
    WPP.on(event, (...values) => {
      try {
        handle(...values);
      } catch (error) {
        emit("fault", { event, error: describeError(error) });
      }
    });

  for (const event of [
    "conn.authenticated",
    "conn.require_auth",
    "conn.stream_mode_changed",
    "conn.stream_info_changed",
    "conn.online",
    "conn.main_loaded",
    "conn.main_ready",
    "conn.needs_update",
    "conn.logout",
    "conn.backend_event",
  ]) {
    listen(event, report);
  }
  listen("conn.auth_code_change", announceCode);
  listen("conn.qrcode_idle", () => emit("codesUsedUp", {}));
  listen("conn.link_code_change", (code) => code && emit("pairingCode", { code }));
  listen("conn.link_code_expired", () => emit("codesUsedUp", {}));
  listen("conn.logout_reason", (reason) => emit("logout", { reason: text(reason) }));
  listen("chat.new_message", (message) => {
    // An undecrypted message is raised again under the same id once it can be read.
    if (message.type !== "ciphertext") emit("message", { message: describeMessage(message) });
  });
  listen("chat.msg_ack_change", ({ ack, chat, sender, ids }) => {
    for (const id of ids) {
      emit("ack", {
        id: text(id),
        chat: text(chat),
        participant: text(sender) ?? "",
        fromMe: Boolean(id.fromMe),
        ack: ackOf(ack),
        ackName: ACK_NAMES[ackOf(ack)] ?? "UNKNOWN",
      });
    }
  });

  WPP.loader.onInjected(() => {
    // A page that loses its network says so nowhere but in these two.
    const socket = WPP.whatsapp.Socket;
    socket?.on?.("change:stream change:state", report);
    report();
  });
  WPP.loader.onFullReady(report);
})();
