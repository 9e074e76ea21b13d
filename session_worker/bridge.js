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

  // --- The page's account of itself ----------------------------------------------------------------------------------

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

  // --- Messages, as WAHA shows them ----------------------------------------------------------------------------------

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
      // Where to fetch it from is the gateway's business.
      media: hasMedia
        ? { url: null, mimetype: message.mimetype ?? null, filename: message.filename ?? null, error: null }
        : null,
      mediaUrl: "",
      ack: ackOf(message.ack),
      ackName: ACK_NAMES[ackOf(message.ack)] ?? "UNKNOWN",
      vCards: message.type === "vcard" ? [message.body] : (message.vcardList ?? []).map((one) => one.vcard),
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

  // --- What was told, and what was missed ----------------------------------------------------------------------------

  /* Not messages: what WhatsApp writes into a chat about it, what cannot be read yet, and what was taken back. */
  const NO_MESSAGES = new Set(
    `ciphertext protocol revoked notification notification_template group_notification gp2 e2e_notification
    broadcast_notification newsletter_notification call_log debug`.split(/\s+/),
  );
  const TOLD_KEPT = 10_000;
  const PAGE_OF_MESSAGES = 50;
  const told = new Set();
  let caughtUp = false;

  const isTellable = (message) => Boolean(message.id && message.t) && !NO_MESSAGES.has(message.type);

  /* What cannot be read must not hold up all the rest. */
  const guarded = async (event, act) => {
    try {
      await act();
    } catch (error) {
      emit("fault", { event, error: describeError(error) });
    }
  };

  const tell = (message) => {
    told.add(text(message.id));
    if (told.size > TOLD_KEPT) told.delete(told.values().next().value);
    guarded("chat.new_message", () => emit("message", { message: describeMessage(message) }));
  };

  const tellOnce = (message) => isTellable(message) && !told.has(text(message.id)) && tell(message);

  /* Messages of one chat since a time, oldest first, from WhatsApp's database: a page has only the last ones in memory. */
  const storedSince = async (chat, since) => {
    const found = [];
    const known = new Set();
    let id;
    for (;;) {
      const page = await WPP.chat.getMessages(chat.id, { count: PAGE_OF_MESSAGES, ...(id && { id }) });
      const fresh = page.filter((message) => !known.has(text(message.id)));
      fresh.forEach((message) => known.add(text(message.id)));
      found.unshift(...fresh.filter((message) => message.t >= since));
      if (!fresh.length || fresh[0].t < since) return found;
      id = text(fresh[0].id);
    }
  };

  /* Tell every message that is younger than `since`, or that came with this document, and was not told by it; then go
   * on telling as they come. Messages that another document told come again: the worker knows them. */
  const catchUp = async ({ since: known }) => {
    const since = known ?? Infinity;
    const missed = new Map();
    const collect = (message) => {
      if (message.t < since && !message.isNewMsg) return;
      if (isTellable(message)) missed.set(text(message.id), message);
      // A page that was loaded anew does not raise what it can read only now.
      else if (message.type === "ciphertext" && !message.isNewMsg)
        message.once("change:type", () => queueMicrotask(() => tellOnce(message)));
    };
    const chats = await WPP.chat.list({ ignoreGroupMetadata: true });
    let latest = 0;
    for (const chat of chats) {
      latest = Math.max(latest, chat.t ?? 0);
      if (chat.t >= since) await guarded("catchUp", async () => (await storedSince(chat, since)).forEach(collect));
    }
    for (const message of WPP.whatsapp.MsgStore.getModelsArray()) {
      latest = Math.max(latest, message.t ?? 0);
      collect(message);
    }
    // From here to the end nothing else runs, so nothing is told twice or out of turn.
    [...missed.values()].sort((one, other) => one.t - other.t).forEach(tellOnce);
    caughtUp = true;
    return { latest };
  };

  // --- Calls ---------------------------------------------------------------------------------------------------------

  const fail = (code, message) => {
    throw Object.assign(new Error(message), { code });
  };

  // --- Files: in, piece by piece; out, in base64 ---------------------------------------------------------------------

  /** Bytes of a file that leaves the page in one answer; a much bigger one would break the browser's connection. */
  const MOST_BYTES = 64 * 1024 * 1024;
  /** Milliseconds after which a file that no call has taken is dropped. */
  const STALE_AFTER = 120_000;
  const staged = new Map();

  const take = ({ handle, mimetype, filename }) => {
    const found = staged.get(handle);
    staged.delete(handle);
    if (!found) fail("file_lost", "the page was loaded anew while the file was handed over; nothing was sent");
    return new File(found.parts, filename || "file", { type: mimetype || "application/octet-stream" });
  };

  // --- Sending -------------------------------------------------------------------------------------------------------

  /** Milliseconds that a file gets to be uploaded; what takes longer goes on by itself, and its acks tell of it. */
  const UPLOAD_WAIT = 45_000;

  const within = (promise, milliseconds) => {
    promise.catch(() => null); // a failure after the wait shows in the message's acks
    return Promise.race([promise, new Promise((resolve) => setTimeout(resolve, milliseconds))]);
  };

  const bareId = (id) => {
    const bare = /^(?:true|false)_[^_]+_([^_]+)/.exec(id)?.[1] ?? id;
    return /^[A-Za-z0-9-]{1,64}$/.test(bare) ? bare : fail("bad_request", "id must be letters and digits");
  };

  /** The key of a new message: WhatsApp's choice, or the client's own id in it. */
  const newKey = async (chat, id) => {
    const fresh = await WPP.chat.generateMessageID(chat.id);
    return id ? text(fresh).replace(`_${fresh.id}`, `_${bareId(id)}`) : text(fresh);
  };

  const find = async (id) => {
    try {
      return await WPP.chat.getMessageById(id);
    } catch (error) {
      if (error?.code === "msg_not_found") return undefined;
      throw error;
    }
  };

  const isKey = (id) => /^(true|false)_[^_]+@[^_]+_[^_]+/.test(id);

  const mustFind = async (id) => (isKey(id) && (await find(id))) || fail("not_found", "Message not found");

  const byApi = (message) => ({ ...describeMessage(message), source: "api" });

  /**
   * Send one message. One that is here already under the client's own id is not sent again: whoever does not know what
   * became of a request may repeat it.
   */
  const send = async ({ chatId, id, reply_to: replyTo, mentions }, how) => {
    const chat = await WPP.chat.find(chatId);
    const messageId = await newKey(chat, id);
    const known = id && (await find(messageId));
    if (known) return byApi(known);
    const options = { waitForAck: false, messageId };
    if (replyTo) options.quotedMsg = (await mustFind(replyTo)).id;
    if (mentions?.length) {
      const all = mentions.includes("all");
      options.mentionedList = all ? (await membersOf(chat.id)).map((one) => text(one.id)) : mentions;
    }
    // Said before, because the page tells of the new message before the call has its answer.
    emit("sending", { id: messageId });
    const sent = await how(chat, options);
    return byApi(await WPP.chat.getMessageById(text(sent?.id) ?? messageId));
  };

  const FILE_KINDS = {
    image: { type: "image" },
    video: { type: "video" },
    note: { type: "video", isPtv: true },
    voice: { type: "audio", isPtt: true },
    document: { type: "document" },
    sticker: { type: "sticker" },
  };

  const upload = async (to, file, kind, options) => {
    const blob = take(file);
    const named = { filename: blob.name, mimetype: blob.type };
    const sending = WPP.chat.sendFileMessage(to, blob, { ...options, ...FILE_KINDS[kind], ...named, waitForAck: true });
    const sent = await within(sending, UPLOAD_WAIT);
    const result = sent?.sendMsgResult?.messageSendResult ?? sent?.sendMsgResult ?? "OK";
    return result === "OK" ? sent : fail(String(result), `WhatsApp did not take the file: ${result}`);
  };

  const vcardOf = ({ vcard, fullName, organization, phoneNumber, whatsappId }) => {
    if (vcard) return { displayName: /^FN[^:]*:(.*)$/m.exec(vcard)?.[1]?.trim() ?? "", vcard };
    const clean = (value) => String(value ?? "").replace(/[\r\n]+/g, " ").replace(/([\\;,])/g, "\\$1");
    const number = String(whatsappId || phoneNumber).replace(/\D/g, "");
    const lines = ["BEGIN:VCARD", "VERSION:3.0", `N:;${clean(fullName)};;;`, `FN:${clean(fullName)}`];
    if (organization) lines.push(`ORG:${clean(organization)};`);
    lines.push(`TEL;type=CELL;type=VOICE;waid=${number}:${clean(phoneNumber)}`, "END:VCARD");
    return { displayName: fullName, vcard: lines.join("\n") };
  };

  const STORIES = "status@broadcast";

  const storyKey = async (id) => {
    const me = WPP.conn.getMyUserId();
    const bare = id ? bareId(id) : (await WPP.chat.generateMessageID(me)).id;
    const remote = WPP.util.createWid(STORIES);
    return new WPP.whatsapp.MsgKey({ fromMe: true, id: bare, participant: me, remote });
  };

  // --- Chats ---------------------------------------------------------------------------------------------------------

  const page = (items, { limit, offset = 0 }) => items.slice(offset, limit === undefined ? undefined : offset + limit);

  /** Sorted by what `keys` gives for `sortBy`; whatever has no such value comes last. */
  const sorted = (items, { sortBy, sortOrder }, keys) => {
    const key = keys[sortBy];
    if (!key) return items;
    const sign = sortOrder === "desc" ? -1 : 1;
    const rank = (item) => key(item) ?? (typeof key(items[0]) === "number" ? 0 : "");
    return [...items].sort((one, other) => sign * (rank(one) < rank(other) ? -1 : rank(one) > rank(other) ? 1 : 0));
  };

  const lastOf = (chat) => {
    const known = chat.lastReceivedKey && attempt(() => WPP.whatsapp.MsgStore.get(chat.lastReceivedKey), null);
    return known ?? attempt(() => chat.msgs.getModelsArray().at(-1), null);
  };

  const nameOf = (chat) =>
    attempt(() => chat.formattedTitle || chat.name || chat.contact?.name || chat.contact?.pushname, null) ||
    attempt(() => chat.groupMetadata.subject, null) ||
    text(chat.id).split("@")[0];

  const describeChat = (chat) => {
    const last = lastOf(chat);
    return {
      id: text(chat.id),
      name: nameOf(chat),
      isGroup: chat.id.isGroup(),
      isReadOnly: Boolean(chat.isReadOnly),
      timestamp: chat.t ?? null,
      unreadCount: chat.unreadCount ?? 0,
      archived: Boolean(chat.archive),
      pinned: Boolean(chat.pin),
      isMuted: Boolean(attempt(() => chat.mute.isMuted, false)),
      muteExpiration: attempt(() => chat.mute.expiration, 0),
      lastMessage: last ? describeMessage(last) : null,
    };
  };

  const allChats = async () =>
    (await WPP.chat.list({ ignoreGroupMetadata: true })).filter((chat) => !chat.id.isNewsletter());

  /** Milliseconds until WhatsApp must have done what wa-js only sets going. */
  const EFFECT_WAIT = 10_000;

  const until = async (shows, what) => {
    const ends = Date.now() + EFFECT_WAIT;
    while (!shows()) {
      if (Date.now() > ends) fail("no_effect", `WhatsApp has not ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  };

  const archive = async (chat, value) => {
    if (Boolean(chat.archive) === value) return;
    await WPP.chat.archive(chat.id, value);
    await until(() => Boolean(chat.archive) === value, value ? "archived the chat" : "unarchived the chat");
  };

  const pictureOf = async (id) => {
    try {
      return (await WPP.contact.getProfilePictureUrl(id)) ?? null;
    } catch {
      return null; // hidden from us, or there is none: WhatsApp does not tell these apart
    }
  };

  /** Messages of a chat, the newest first, until `enough` says so or there are no more. */
  const walk = async (chat, enough) => {
    const found = new Map();
    let anchor;
    for (;;) {
      const batch = await WPP.chat.getMessages(chat.id, { count: PAGE_OF_MESSAGES, ...(anchor && { id: anchor }) });
      const before = found.size;
      // Times are whole seconds, so the order within one is that of the batch: the oldest first.
      const newestFirst = batch.length && batch[0].t > batch.at(-1).t ? batch : [...batch].reverse();
      for (const raw of newestFirst) {
        const message = attempt(() => WPP.whatsapp.MsgStore.get(raw.id), null) ?? raw;
        found.set(text(message.id), message);
      }
      const all = [...found.values()];
      if (found.size === before || enough(all)) return all;
      anchor = text(newestFirst.at(-1).id);
    }
  };

  const matches = (filter) => (message) =>
    !["e2e_notification", "notification_template", "gp2", "protocol", "ciphertext"].includes(message.type) &&
    (filter["filter.timestamp.lte"] === undefined || message.t <= filter["filter.timestamp.lte"]) &&
    (filter["filter.timestamp.gte"] === undefined || message.t >= filter["filter.timestamp.gte"]) &&
    (filter["filter.fromMe"] === undefined || Boolean(message.id.fromMe) === filter["filter.fromMe"]) &&
    (filter["filter.ack"] === undefined || ACK_NAMES[ackOf(message.ack)] === filter["filter.ack"]);

  // --- People --------------------------------------------------------------------------------------------------------

  const numberOf = (wid) => (wid.isLid() ? attempt(() => WPP.whatsapp.lidPnCache.getPhoneNumber(wid), null) : wid);
  const lidOf = (wid) => (wid.isLid() ? wid : attempt(() => WPP.whatsapp.lidPnCache.getCurrentLid(wid), null));

  const describeContact = (contact) => {
    const { id } = contact;
    const saved = contact.name ?? null;
    return {
      id: text(id),
      number: numberOf(id)?.user ?? id.user,
      name: saved,
      pushname: contact.pushname ?? null,
      shortName: contact.shortName ?? null,
      isMe: [WPP.conn.getMyUserId(), attempt(() => WPP.conn.getMyUserLid(), null)].some((me) => text(me) === text(id)),
      isGroup: id.isGroup(),
      isWAContact: id.isUser(),
      isMyContact: saved !== null,
      isBlocked: Boolean(attempt(() => WPP.whatsapp.BlocklistStore.get(id), false)),
      isBusiness: Boolean(contact.isBusiness),
    };
  };

  const lidPair = (wid) => ({ lid: text(lidOf(wid)), pn: text(numberOf(wid)) });

  const allLids = () => {
    const pairs = WPP.whatsapp.ContactStore.getModelsArray()
      .filter((contact) => contact.id.isUser() || contact.id.isLid())
      .map((contact) => lidPair(contact.id));
    return [...new Map(pairs.filter(({ lid, pn }) => lid && pn).map((pair) => [pair.lid, pair])).values()];
  };

  const PRESENCES = {
    available: "online",
    unavailable: "offline",
    typing: "typing",
    composing: "typing",
    recording_audio: "recording",
    recording: "recording",
    paused: "paused",
  };

  const describePresence = (presence) => {
    const state = (participant, { type, t }) => ({
      participant,
      lastSeen: PRESENCES[type] === "offline" ? (t ?? null) : null,
      lastKnownPresence: PRESENCES[type] ?? "offline",
    });
    const known = presence.hasData || presence.isOnline !== undefined;
    const single = known && !presence.id.isGroup() ? [state(text(presence.id), presence.chatstate ?? {})] : [];
    const several = presence.id.isGroup()
      ? (presence.chatstates?.getModelsArray() ?? []).map((one) => state(text(one.id), one))
      : [];
    return { id: text(presence.id), presences: [...single, ...several] };
  };

  // --- Groups --------------------------------------------------------------------------------------------------------

  const groupOf = async (id) => {
    const metadata = await WPP.whatsapp.GroupMetadataStore.find(WPP.util.createWid(id)).catch(() => null);
    return metadata ?? fail("not_found", "Group not found");
  };

  const membersOf = async (id) => {
    await groupOf(id);
    return WPP.group.getParticipants(id);
  };

  const roleOf = (member) => (member.isSuperAdmin ? "superadmin" : member.isAdmin ? "admin" : "participant");

  const describeMember = (member) => ({
    id: text(member.id),
    pn: text(numberOf(member.id)),
    role: roleOf(member),
  });

  const describeGroup = (group, { exclude } = {}) => ({
    id: text(group.id),
    subject: group.subject ?? "",
    description: group.desc ?? "",
    invite: group.groupInviteLink ?? null,
    owner: text(group.owner),
    creation: group.creation ?? null,
    size: group.size ?? group.participants.length,
    membersCanAddNewMember: group.memberAddMode === "all_member_add",
    membersCanSendMessages: !group.announce,
    membersCanChangeInfo: !group.restrict,
    newMembersApprovalRequired: Boolean(group.membershipApprovalMode),
    ...(!exclude?.includes("participants") && {
      participants: group.participants.getModelsArray().map(describeMember),
    }),
  });

  // --- Channels and labels -------------------------------------------------------------------------------------------

  const describeChannel = (chat, picture) => {
    const metadata = chat.newsletterMetadata ?? {};
    const { inviteLink, inviteCode } = metadata;
    const invite = inviteLink ?? (inviteCode ? `https://whatsapp.com/channel/${inviteCode}` : "");
    return {
      id: text(chat.id),
      name: metadata.name ?? nameOf(chat),
      invite,
      picture,
      role: String(metadata.membershipType ?? "guest").toUpperCase(),
      description: metadata.description ?? "",
      verified: Boolean(metadata.verified),
      subscribersCount: metadata.size ?? 0,
    };
  };

  const channelOf = (id) => WPP.whatsapp.NewsletterStore.get(id) ?? fail("not_found", "Channel not found");

  const describeLabel = ({ id, name, color, colorIndex, hexColor }) => ({
    id: String(id),
    name,
    color: colorIndex ?? color ?? 0,
    colorHex: hexColor ?? attempt(() => WPP.whatsapp.functions.colorIndexToHex(colorIndex ?? color), ""),
  });

  const labelOf = async (id) =>
    (await WPP.labels.getAllLabels()).find((label) => String(label.id) === id) ?? fail("not_found", "Label not found");

  // --- What can be asked ---------------------------------------------------------------------------------------------

  const done = { success: true };

  const methods = {
    snapshot: async () => snapshot(),

    catchUp,

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

    stage: async ({ handle, chunk }) => {
      const now = Date.now();
      for (const [old, { touched }] of staged) if (now - touched > STALE_AFTER) staged.delete(old);
      const entry = staged.get(handle) ?? { parts: [] };
      try {
        entry.parts.push(Uint8Array.from(atob(chunk), (one) => one.charCodeAt(0)));
      } catch {
        fail("bad_request", "file.data is not base64");
      }
      staged.set(handle, { ...entry, touched: now });
      return {};
    },

    // Sending

    newMessageId: async () => ({ id: (await WPP.chat.generateMessageID(WPP.conn.getMyUserId())).id }),

    sendText: (asked) =>
      send(asked, async (_chat, options) => {
        const { text: body, linkPreview, preview } = asked;
        const custom = preview && {
          title: preview.title,
          description: preview.description,
          canonicalUrl: preview.url,
          matchedText: preview.url,
          ...(preview.thumbnail && { thumbnail: preview.thumbnail }),
        };
        const chosen = custom ?? linkPreview !== false;
        return WPP.chat.sendTextMessage(asked.chatId, body, { ...options, linkPreview: chosen });
      }),

    sendFile: (asked) =>
      send(asked, (_chat, options) => {
        const { chatId, file, asNote, caption } = asked;
        return upload(chatId, file, asNote ? "note" : asked.kind, { ...options, caption: caption ?? "" });
      }),

    sendLocation: (asked) =>
      send(asked, (_chat, options) => {
        const { chatId, latitude: lat, longitude: lng, title: name } = asked;
        return WPP.chat.sendLocationMessage(chatId, { ...options, lat, lng, ...(name && { name }) });
      }),

    sendContacts: (asked) =>
      send(asked, (_chat, options) => {
        const cards = asked.contacts.map(vcardOf);
        const [{ displayName, vcard }] = cards;
        const raw =
          cards.length === 1
            ? { type: "vcard", body: vcard, vcardFormattedName: displayName }
            : { type: "multi_vcard", vcardList: cards };
        return WPP.chat.sendRawMessage(asked.chatId, raw, options);
      }),

    sendPoll: (asked) =>
      send(asked, (_chat, options) => {
        const { name, options: choices, multipleAnswers } = asked.poll;
        const selectableCount = multipleAnswers ? 0 : 1;
        return WPP.chat.sendCreatePollMessage(asked.chatId, name, choices, { ...options, selectableCount });
      }),

    sendList: (asked) =>
      send(asked, (_chat, options) => {
        const { button: buttonText, description = "", title, footer, sections } = asked.message;
        const list = { buttonText, description, title, footer, sections };
        return WPP.chat.sendListMessage(asked.chatId, { ...options, ...list });
      }),

    sendEvent: (asked) =>
      send(asked, (_chat, options) => {
        const { name, description, startTime, endTime, location } = asked.event;
        const place = location && { name: location.name, degreesLatitude: 0, degreesLongitude: 0 };
        const event = { name, description, startTime, endTime: endTime ?? undefined, location: place };
        return WPP.chat.sendEventMessage(asked.chatId, { ...options, ...event });
      }),

    forward: async ({ chatId, messageId }) => {
      await mustFind(messageId);
      const chat = await WPP.chat.find(chatId);
      const before = new Set(chat.msgs.getModelsArray().map((one) => text(one.id)));
      const failed = await WPP.chat.forwardMessages(chatId, [messageId], { displayCaptionText: true });
      if (failed?.length) fail("forward_failed", "WhatsApp did not forward the message");
      const added = chat.msgs.getModelsArray().filter((one) => one.id.fromMe && !before.has(text(one.id)));
      if (!added.length) fail("forward_unseen", "WhatsApp has not shown the forwarded message");
      emit("sending", { id: text(added.at(-1).id) });
      return byApi(added.at(-1));
    },

    sendStatus: async ({ text: body, file, kind, caption, backgroundColor, font, id }) => {
      if (file) {
        // WhatsApp gives these an id of its own, whatever it is told.
        const sent = await upload(STORIES, file, kind, { caption: caption ?? "" });
        if (!sent) fail("status_late", "WhatsApp has not taken the file in time; it may still do so");
        emit("sending", { id: text(sent.id) });
        return byApi(await WPP.chat.getMessageById(text(sent.id)));
      }
      const messageId = await storyKey(id);
      const known = id && (await find(text(messageId)));
      if (known) return byApi(known);
      emit("sending", { id: text(messageId) });
      const sent = await WPP.status.sendTextStatus(body, { waitForAck: false, messageId, backgroundColor, font });
      return byApi(await WPP.chat.getMessageById(text(sent?.id) ?? text(messageId)));
    },

    deleteStatus: async ({ id }) => {
      if (!id) fail("bad_request", "id: name the status message to delete");
      const mine = await WPP.status.getMyStatus();
      const message = mine.msgs.getModelsArray().find((one) => [text(one.id), one.id.id].includes(id));
      if (!message) fail("not_found", "Status message not found");
      await WPP.status.remove(text(message.id));
      return done;
    },

    // Messages

    downloadMedia: async ({ messageId }) => {
      const message = await mustFind(messageId);
      let blob;
      try {
        blob = await WPP.chat.downloadMedia(messageId);
      } catch (error) {
        if (!["message_not_contains_media", "media_not_found"].includes(error?.code)) throw error;
      }
      if (!blob) fail("not_found", "File not found");
      if (blob.size > MOST_BYTES) fail("file_too_large", `the file has more than ${MOST_BYTES} bytes`);
      const data = (await WPP.util.blobToBase64(blob)).split(",")[1];
      return { mimetype: message.mimetype || blob.type, filename: message.filename ?? null, data };
    },

    setReaction: async ({ messageId, reaction }) => {
      await mustFind(messageId);
      await WPP.chat.sendReactionToMessage(messageId, reaction || false);
      return done;
    },

    setStar: async ({ messageId, star }) => {
      await mustFind(messageId);
      await WPP.chat.starMessage(messageId, star);
      const message = await mustFind(messageId);
      await until(() => Boolean(message.star) === star, star ? "starred the message" : "taken the star away");
      return done;
    },

    sendSeen: async ({ chatId }) => {
      const chat = await WPP.chat.find(chatId);
      await WPP.chat.markIsRead(chat.id);
      return done;
    },

    editMessage: async ({ messageId, text: body, linkPreview }) => {
      await mustFind(messageId);
      await WPP.chat.editMessage(messageId, body, { linkPreview: linkPreview !== false });
      return byApi(await WPP.chat.getMessageById(messageId));
    },

    deleteMessage: async ({ chatId, messageId }) => {
      const message = await mustFind(messageId);
      // For everybody where that is possible; the messages of others can only be removed here.
      await WPP.chat.deleteMessage(chatId, messageId, true, Boolean(message.id.fromMe) && message.type !== "revoked");
      return done;
    },

    pinMessage: async ({ messageId, pin, duration }) => {
      await mustFind(messageId);
      await WPP.chat.pinMsg(messageId, pin, duration);
      return done;
    },

    getMessages: async ({ chatId, limit, offset = 0, sortOrder, ...filter }) => {
      const chat = await WPP.chat.find(chatId);
      const wanted = matches(filter);
      const since = filter["filter.timestamp.gte"];
      const all = await walk(
        chat,
        (messages) => messages.filter(wanted).length >= limit + offset || messages.some((one) => one.t < since),
      );
      const found = all.filter(wanted).sort((one, other) => other.t - one.t);
      const shown = page(found, { limit, offset }).map(describeMessage);
      return sortOrder === "asc" ? shown.reverse() : shown;
    },

    getMessage: async ({ messageId }) => describeMessage(await mustFind(messageId)),

    rejectCall: async ({ id }) => {
      await WPP.call.reject(id);
      return done;
    },

    // Chats and presence

    getChats: async ({ sortBy = "conversationTimestamp", sortOrder = "desc", ...range }) => {
      const time = (chat) => chat.t;
      const id = (chat) => text(chat.id);
      const keys = { conversationTimestamp: time, messageTimestamp: time, id, name: nameOf };
      return page(sorted(await allChats(), { sortBy, sortOrder }, keys), range).map(describeChat);
    },

    getOverview: async ({ ids, ...range }) => {
      const chats = (await allChats()).filter((chat) => !ids?.length || ids.includes(text(chat.id)));
      const newest = sorted(chats, { sortBy: "t", sortOrder: "desc" }, { t: (chat) => chat.t });
      return Promise.all(
        page(newest, range).map(async (chat) => {
          const { id, name, lastMessage, ...rest } = describeChat(chat);
          return { id, name, picture: await pictureOf(id), lastMessage, _chat: { id, name, ...rest } };
        }),
      );
    },

    actOnChat: async ({ chatId, action }) => {
      const chat = WPP.chat.get(chatId) ?? fail("not_found", "Chat not found");
      const actions = {
        archive: () => archive(chat, true),
        unarchive: () => archive(chat, false),
        unread: () => WPP.chat.markIsUnread(chat.id),
        clear: () => WPP.chat.clear(chat.id, false),
        delete: () => WPP.chat.delete(chat.id),
      };
      await actions[action]();
      return done;
    },

    readChat: async ({ chatId, messages, days }) => {
      const chat = await WPP.chat.find(chatId);
      const unread = Math.max(0, chat.unreadCount ?? 0);
      const all = unread ? await walk(chat, (found) => found.filter((one) => !one.id.fromMe).length >= unread) : [];
      const since = Date.now() / 1000 - days * 86_400;
      const ids = all.filter((one) => !one.id.fromMe && one.t >= since).slice(0, Math.min(unread, messages ?? unread));
      if (unread) await WPP.chat.markIsRead(chat.id);
      return { ids: ids.map((one) => text(one.id)) };
    },

    setPresence: async ({ chatId, presence }) => {
      if (presence === "online" || presence === "offline") {
        await WPP.conn.markAvailable(presence === "online");
        return done;
      }
      if (!chatId) fail("bad_request", `chatId: say in which chat you are ${presence}`);
      const chat = await WPP.chat.find(chatId);
      const marks = { typing: "markIsComposing", recording: "markIsRecording", paused: "markIsPaused" };
      await WPP.chat[marks[presence]](chat.id);
      return { ...done, result: true };
    },

    getPresence: async ({ chatId }) => {
      const { PresenceStore } = WPP.whatsapp;
      if (!chatId) return PresenceStore.getModelsArray().map(describePresence).filter((one) => one.presences.length);
      const wid = WPP.util.createWid(chatId);
      await methods.subscribePresence({ chatId });
      const presence = PresenceStore.get(wid) ?? (lidOf(wid) && PresenceStore.get(lidOf(wid)));
      return presence ? { ...describePresence(presence), id: chatId } : { id: chatId, presences: [] };
    },

    subscribePresence: async ({ chatId }) => {
      await WPP.contact.subscribePresence(chatId);
      return done;
    },

    // People

    checkExists: async ({ phone }) => {
      // wa-js answers null for every error, being offline among them.
      if (WPP.whatsapp.Socket.stream !== "CONNECTED") fail("offline", "WhatsApp is not connected");
      const found = await WPP.contact.queryWidExists(phone);
      return found ? { numberExists: true, chatId: text(found.wid) } : { numberExists: false };
    },

    getContacts: async ({ sortBy, sortOrder, ...range }) => {
      const contacts = (await WPP.contact.list()).map(describeContact);
      return page(sorted(contacts, { sortBy, sortOrder }, { id: (one) => one.id, name: (one) => one.name }), range);
    },

    getContact: async ({ contactId }) => {
      const known = await WPP.contact.get(contactId);
      if (known) return describeContact(known);
      if (!contactId.endsWith("@c.us") && !contactId.endsWith("@lid")) fail("not_found", "Contact not found");
      const found = await WPP.contact.queryWidExists(contactId);
      if (!found) fail("not_found", "Contact not found");
      return describeContact({ id: WPP.util.createWid(text(found.wid)) });
    },

    getAbout: async ({ contactId }) => ({ about: await WPP.contact.getStatus(contactId) }),

    getPicture: async ({ contactId, chatId }) => ({ url: await pictureOf(contactId ?? chatId) }),

    setBlocked: async ({ contactId, blocked }) => {
      await WPP.blocklist[blocked ? "blockContact" : "unblockContact"](contactId);
      return done;
    },

    saveContact: async ({ contactId, firstName, lastName }) => {
      await WPP.contact.save(contactId, firstName, { lastName: lastName ?? "", syncAddressBook: true });
      return done;
    },

    getLids: async ({ count, ...range }) => (count ? { count: allLids().length } : page(allLids(), range)),

    getLid: async ({ contactId }) => {
      const wid = WPP.util.createWid(contactId);
      if (!wid.isLid() && !lidOf(wid)) await WPP.contact.getPnLidEntry(contactId); // fills the cache
      const { lid, pn } = lidPair(wid);
      return { lid, pn };
    },

    getProfile: async () => {
      const id = text(WPP.conn.getMyUserId());
      return { id, name: WPP.profile.getMyProfileName() ?? "", picture: await pictureOf(id) };
    },

    setProfile: async ({ name, status, file, picture }) => {
      if (name !== undefined) await WPP.profile.setMyProfileName(name);
      if (status !== undefined) await WPP.profile.setMyStatus(status);
      if (file) await WPP.profile.setMyProfilePicture(await WPP.util.blobToBase64(take(file)));
      if (picture === "remove") await WPP.profile.removeMyProfilePicture();
      return done;
    },

    // Groups

    createGroup: async ({ name, participants }) => {
      const made = await WPP.group.create(name, participants.map((one) => one.id));
      const results = Object.entries(made.participants).map(([id, { code }]) => ({ id, code: Number(code) }));
      return { ...describeGroup(await groupOf(made.gid)), results };
    },

    getGroups: async ({ sortBy, sortOrder, exclude, count, ...range }) => {
      const groups = (await WPP.group.getAllGroups()).filter(Boolean).map((chat) => chat.groupMetadata ?? chat);
      if (count) return { count: groups.length };
      const keys = { id: (one) => text(one.id), subject: (one) => one.subject };
      return page(sorted(groups, { sortBy, sortOrder }, keys), range).map((one) => describeGroup(one, { exclude }));
    },

    getGroup: async ({ groupId }) => describeGroup(await groupOf(groupId)),

    getParticipants: async ({ groupId, plain }) => {
      const members = await membersOf(groupId);
      const described = members.map(describeMember);
      if (!plain) return described;
      return members.map((one, index) => ({
        id: text(one.id),
        pn: described[index].pn,
        isAdmin: Boolean(one.isAdmin),
        isSuperAdmin: Boolean(one.isSuperAdmin),
      }));
    },

    changeParticipants: async ({ groupId, action, participants }) => {
      await groupOf(groupId);
      const change = { add: "add", remove: "remove", promote: "promote", demote: "demote" }[action];
      const result = await WPP.group[`${change}Participants`](groupId, participants.map((one) => one.id));
      const entries = Object.entries(result ?? {}).filter(([, value]) => value?.code !== undefined);
      return { ...done, participants: entries.map(([id, { code }]) => ({ id, code: Number(code) })) };
    },

    setGroup: async ({ groupId, subject, description, property, value }) => {
      await groupOf(groupId);
      if (subject !== undefined) await WPP.group.setSubject(groupId, subject);
      if (description !== undefined) await WPP.group.setDescription(groupId, description);
      if (property) await WPP.group.setProperty(groupId, property, value);
      return done;
    },

    getInvite: async ({ groupId, renew }) => {
      await groupOf(groupId);
      return WPP.group[renew ? "revokeInviteCode" : "getInviteCode"](groupId);
    },

    getInvitedGroup: async ({ code }) => {
      const info = await WPP.group.getGroupInfoFromInviteCode(code);
      const { id, subject, desc, owner, creation, size, announce, restrict, participants } = info;
      return {
        id: text(id),
        subject,
        description: desc ?? "",
        owner: text(owner),
        creation,
        size,
        membersCanSendMessages: !announce,
        membersCanChangeInfo: !restrict,
        participants: participants.map((one) => ({ id: text(one.id), role: roleOf(one) })),
      };
    },

    joinGroup: async ({ code }) => ({ id: text((await WPP.group.join(code)).id) }),

    leaveGroup: async ({ groupId }) => {
      await groupOf(groupId);
      await WPP.group.leave(groupId);
      return done;
    },

    setPicture: async ({ groupId, file }) => {
      await groupOf(groupId);
      if (file) await WPP.group.setIcon(groupId, await WPP.util.blobToBase64(take(file)));
      else await WPP.group.removeIcon(groupId);
      return done;
    },

    // Labels

    getLabels: async () => (await WPP.labels.getAllLabels()).map(describeLabel),

    putLabel: async ({ labelId, name, color }) => {
      if (labelId === undefined) {
        const before = new Set((await WPP.labels.getAllLabels()).map((label) => String(label.id)));
        await WPP.labels.addNewLabel(name, color === undefined ? {} : { labelColor: color });
        const made = (await WPP.labels.getAllLabels()).find((label) => !before.has(String(label.id)));
        return describeLabel(made);
      }
      const { color: old } = describeLabel(await labelOf(labelId));
      await WPP.labels.editLabel(labelId, { name, labelColor: color ?? old });
      return describeLabel(await labelOf(labelId));
    },

    deleteLabel: async ({ labelId }) => {
      await labelOf(labelId);
      await WPP.labels.deleteLabel(labelId);
      return done;
    },

    getChatLabels: async ({ chatId }) => {
      const chat = await WPP.chat.find(chatId);
      const on = (chat.labels ?? []).map(String);
      return (await WPP.labels.getAllLabels()).filter((label) => on.includes(String(label.id))).map(describeLabel);
    },

    setChatLabels: async ({ chatId, labels }) => {
      const chat = await WPP.chat.find(chatId);
      const wanted = labels.map((label) => label.id);
      for (const id of wanted) await labelOf(id);
      const on = (chat.labels ?? []).map(String);
      const change = (ids, type) => ids.map((labelId) => ({ labelId, type }));
      const less = on.filter((id) => !wanted.includes(id));
      const more = wanted.filter((id) => !on.includes(id));
      const changes = [...change(less, "remove"), ...change(more, "add")];
      if (changes.length) await WPP.labels.addOrRemoveLabels([chat.id], changes);
      return done;
    },

    getLabelledChats: async ({ labelId }) => {
      await labelOf(labelId);
      return (await allChats()).filter((chat) => (chat.labels ?? []).map(String).includes(labelId)).map(describeChat);
    },

    // Channels

    getChannels: async ({ role }) => {
      const chats = await WPP.chat.list({ onlyNewsletter: true });
      const all = await Promise.all(chats.map(async (chat) => describeChannel(chat, await pictureOf(text(chat.id)))));
      return all.filter((channel) => !role || channel.role === role);
    },

    getChannel: async ({ channelId }) => describeChannel(channelOf(channelId), await pictureOf(channelId)),

    createChannel: async ({ name, description, file }) => {
      const picture = file && (await WPP.util.blobToBase64(take(file)));
      const made = await WPP.newsletter.create(name, { description: description ?? "", picture });
      const { idJid: id, inviteLink, inviteCode, subscribersCount } = made;
      return {
        id: text(id),
        name: made.name ?? name,
        invite: inviteLink ?? `https://whatsapp.com/channel/${inviteCode}`,
        picture: null,
        role: "OWNER",
        description: made.description ?? description ?? "",
        verified: false,
        subscribersCount: Number(subscribersCount ?? 0),
      };
    },

    deleteChannel: async ({ channelId }) => {
      channelOf(channelId);
      await WPP.newsletter.destroy(channelId);
      return done;
    },

    followChannel: async ({ channelId, follow }) => {
      await WPP.newsletter[follow ? "follow" : "unfollow"](channelId);
      return done;
    },

    muteChannel: async ({ channelId, mute }) => {
      channelOf(channelId);
      await WPP.newsletter.mute(channelId, mute);
      return done;
    },

    searchChannels: async ({ text: words, limit, startCursor, categories }) => {
      const found = await WPP.newsletter.search(words, {
        limit,
        ...(startCursor && { cursorToken: startCursor }),
        ...(categories?.length && { categories }),
      });
      return {
        page: {
          startCursor: startCursor ?? "",
          endCursor: found.pageInfo?.endCursor ?? "",
          hasNextPage: Boolean(found.pageInfo?.hasNextPage),
          hasPreviousPage: Boolean(startCursor),
        },
        channels: found.newsletters.map((one) => ({
          id: text(one.idJid),
          name: one.name,
          invite: one.inviteCode ? `https://whatsapp.com/channel/${one.inviteCode}` : "",
          picture: one.picture || null,
          description: one.description ?? "",
          verified: one.verification === "VERIFIED",
          subscribersCount: Number(one.subscribersCount ?? 0),
        })),
      };
    },

    getJoinRequests: async ({ groupId }) => {
      await groupOf(groupId);
      const requests = await WPP.group.getMembershipRequests(groupId);
      const names = {
        InviteLink: "invite_link",
        LinkedGroupJoin: "linked_group_join",
        NonAdminAdd: "non_admin_add",
      };
      return requests.map(({ id, addedBy, parentGroupId, requestMethod, t }) => ({
        requesterId: text(id),
        requesterPn: text(numberOf(id)),
        addedById: text(addedBy),
        parentGroupId: text(parentGroupId),
        requestMethod: names[requestMethod] ?? requestMethod ?? null,
        timestamp: t ?? null,
      }));
    },

    answerJoinRequests: async ({ groupId, approve, participants }) => {
      await groupOf(groupId);
      const ids = participants.map((one) => one.id);
      const answers = await WPP.group[approve ? "approve" : "reject"](groupId, ids);
      return answers.map(({ wid, error }) => {
        const code = Number(error);
        return { requesterId: text(wid), success: !error, error: error && Number.isFinite(code) ? code : null };
      });
    },
  };

  const describeError = (error) => {
    if (typeof error === "string") return { code: error, message: error };
    const code = error?.code ?? error?.name ?? "unknown";
    return { code: String(code), message: String(error?.message || error?.text || code) };
  };

  const call = async (name, params) => {
    try {
      if (!Object.hasOwn(methods, name)) fail("not_implemented", `the page has no method ${name}`);
      return JSON.stringify({ ok: true, result: (await methods[name](params)) ?? null });
    } catch (error) {
      return JSON.stringify({ ok: false, error: describeError(error) });
    }
  };

  const names = Object.freeze(Object.keys(methods));
  Object.defineProperty(window, "__bridge", { value: Object.freeze({ call, methods: names }) });

  // --- Events --------------------------------------------------------------------------------------------------------

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
    // An undecrypted message is raised again under the same id once it can be read. Before the page's store was
    // compared with what was told, a new message may be younger than one that is still to be told.
    if (caughtUp) tellOnce(message);
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
