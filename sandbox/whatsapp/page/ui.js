/*
 * What a person sees: the QR code, then the chats on the left and the newest one on the right. It only shows.
 */
"use strict";

__d("SandboxScreen", (require, exports) => {
  /** At most this often, in milliseconds: a burst of messages is one picture. */
  const PACE = 200;
  const SHOWN_CHATS = 40;
  const SHOWN_MESSAGES = 40;
  const TICKS = { 0: "🕓", 1: "✓", 2: "✓✓", 3: "✓✓", 4: "✓✓" };

  let timer = null;

  exports.draw = () => {
    timer ??= setTimeout(() => {
      timer = null;
      paint();
    }, PACE);
  };

  const place = (name) => document.getElementById(name);

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children.filter((one) => one !== null && one !== undefined));
    return element;
  }

  function paint() {
    const { Stream } = require("WAWebStreamModel");
    const { Socket } = require("WAWebSocketModel");
    const main = Stream.mode === "MAIN";
    document.body.dataset.mode = Stream.mode ?? "";
    place("state").textContent = main ? Socket.stream.toLowerCase() : (Stream.info ?? "").toLowerCase();
    place("state").className = Socket.stream === "CONNECTED" ? "good" : "bad";
    place("loading").hidden = main || Stream.mode === "QR";
    place("pairing").hidden = Stream.mode !== "QR";
    place("app").hidden = !main;
    if (main) {
      paintMain();
    } else {
      paintPairing();
    }
  }

  // --- Pairing ------------------------------------------------------------------------------------------------------

  let drawnRef = null;

  function paintPairing() {
    const { Socket } = require("WAWebSocketModel");
    const { Conn } = require("WAWebConnModel");
    place("idle").hidden = Socket.state !== "UNPAIRED_IDLE";
    place("qr").hidden = !Conn.ref;
    if (Conn.ref && Conn.ref !== drawnRef) {
      drawnRef = Conn.ref;
      drawQr(Conn.ref).catch(() => {
        // The server is gone for the moment; the next code is drawn again.
        drawnRef = null;
      });
    }
  }

  /** The text of the code as WhatsApp makes it: five fields. */
  exports.qrText = (ref) => {
    const credentials = require("SandboxCredentials");
    const { DEVICE_PLATFORM } = require("WAWebCompanionRegClientUtils");
    return [ref, credentials.noise().pub, credentials.signal().pub, credentials.advSecret(), DEVICE_PLATFORM].join(",");
  };

  async function drawQr(ref) {
    const text = exports.qrText(ref);
    const response = await fetch("/qr", { method: "POST", body: text });
    const url = URL.createObjectURL(await response.blob());
    const image = new Image();
    image.src = url;
    await image.decode();
    URL.revokeObjectURL(url);
    const canvas = place("qr-canvas");
    canvas.width = canvas.height = 264;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    place("qr").dataset.ref = text;
  }

  // --- Chats --------------------------------------------------------------------------------------------------------

  function paintMain() {
    const { ChatCollection } = require("WAWebChatCollection");
    const me = require("WAWebUserPrefsMeUser").getMaybeMePnUser();
    place("me").textContent = `${require("SandboxCredentials").pushname() ?? ""} · +${me?.user ?? ""}`;
    const chats = ChatCollection.filter((chat) => !chat.id.isStatus() && !chat.archive).slice(0, SHOWN_CHATS);
    const active = ChatCollection.getActive() ?? chats[0];
    place("chats").replaceChildren(...chats.map((chat) => chatLine(chat, chat === active)));
    place("title").textContent = active?.formattedTitle ?? "";
    const shown = active ? active.msgs.toArray().slice(-SHOWN_MESSAGES) : [];
    place("messages").replaceChildren(...shown.map(bubble));
    place("messages").scrollTop = place("messages").scrollHeight;
  }

  function chatLine(chat, active) {
    const last = chat.msgs.last();
    const unread = chat.unreadCount
      ? make("span", "unread", chat.unreadCount > 0 ? String(chat.unreadCount) : "•")
      : null;
    const title = make("div", "name", chat.formattedTitle ?? String(chat.id));
    const line = make(
      "li",
      active ? "chat active" : "chat",
      avatar(chat),
      make("div", "text", title, make("div", "last", summary(last))),
      unread,
    );
    line.addEventListener("click", () => {
      require("SandboxActiveChat").activate(chat);
      exports.draw();
    });
    return line;
  }

  function avatar(chat) {
    const picture = require("WAWebProfilePicThumbCollection").ProfilePicThumbCollection.get(chat.id)?.img;
    const circle = make("div", "avatar", picture ? null : (chat.formattedTitle ?? "?").replace("+", "").slice(0, 1));
    if (picture) {
      const image = make("img", "");
      image.src = picture;
      circle.append(image);
    }
    return circle;
  }

  function summary(msg) {
    if (!msg) {
      return "";
    }
    const { type, body, caption, pollName, loc, filename, vcardFormattedName, subtype } = msg.attributes;
    switch (type) {
      case "chat":
        return body ?? "";
      case "image":
      case "video":
        return `📷 ${caption ?? type}`;
      case "audio":
      case "ptt":
        return "🎤 voice";
      case "document":
        return `📄 ${caption ?? filename ?? "file"}`;
      case "location":
        return `📍 ${loc || "location"}`;
      case "vcard":
        return `👤 ${vcardFormattedName}`;
      case "poll_creation":
        return `📊 ${pollName}`;
      case "revoked":
        return "🚫 this message was deleted";
      case "gp2":
        return `the group changed: ${subtype}`;
      default:
        return type ?? "";
    }
  }

  function bubble(msg) {
    const { type, body, t, ack, mimetype, notifyName, latestEditMsgKey } = msg.attributes;
    if (msg.isNotification) {
      return make("div", "notice", summary(msg));
    }
    const time = new Date((t ?? 0) * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const ticks = msg.id.fromMe ? make("span", ack >= 3 ? "ticks read" : "ticks", TICKS[ack] ?? "⚠") : null;
    const author = msg.id.remote.isGroup() && !msg.id.fromMe ? make("div", "author", notifyName ?? "") : null;
    const picture = type === "image" && body && mimetype ? make("img", "preview") : null;
    if (picture) {
      picture.src = `data:image/jpeg;base64,${body}`;
    }
    const reactions = Object.values(require("SandboxReactions").of(msg.id)).map((one) => one.reactionText);
    const edited = latestEditMsgKey ? "edited · " : "";
    return make(
      "div",
      msg.id.fromMe ? "bubble out" : "bubble in",
      author,
      picture,
      make("div", "body", summary(msg)),
      make("div", "meta", `${edited}${time} `, ticks),
      reactions.length ? make("div", "reactions", reactions.join(" ")) : null,
    );
  }

  exports.start = () => {
    require("WAWebStreamModel").Stream.on("change", exports.draw);
    require("WAWebSocketModel").Socket.on("change", exports.draw);
    require("WAWebConnModel").Conn.on("change", exports.draw);
    require("WAWebMsgCollection").MsgCollection.on("add change:ack change:type change:body", exports.draw);
    place("idle").addEventListener("click", () => require("WAWebCmd").Cmd.refreshQR());
    paint();
  };
});
