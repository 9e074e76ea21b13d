/*
 * The state of the session as WhatsApp Web models it: Stream, Socket, Conn, the command and backend event buses.
 *
 * Must not open connections: `socket.js` does, and tells the models here what happened.
 */
"use strict";

__d("WAWebBackendEventBus", (require, exports) => {
  const EventEmitter = require("WAWebEventEmitter").default;
  const names = `app_state_sync_completed logout refresh_qr starting_logout on_initial_chat_synced
    on_recent_chat_history_synced on_full_chat_history_synced on_critical_sync_done new_history_sync_chunk_processed
    storage_initialization_error socket_stream_disconnected open_socket_stream reconnect_socket set_socket_state
    account_temporarily_banned unexpected_logout_modal initial_load_ready main_stream_mode_ready service_unavailable_503
    offline_process_ready offline_delivery_end offline_delivery_state_reset`;
  exports.BackendEvent = Object.fromEntries(names.split(/\s+/).map((name) => [name.toUpperCase(), name]));
  exports.BackendEventBus = new EventEmitter();
  exports.BackendEventBus.isMainStreamReadyMd = false;
  exports.BackendEventBus.isOfflineDeliveryEnd = false;
});

__d("WAWebCmd", (require, exports) => {
  const EventEmitter = require("WAWebEventEmitter").default;

  class CmdImpl extends EventEmitter {
    isMainLoaded = false;

    mainLoaded() {
      this.isMainLoaded = true;
      this.trigger("main_loaded");
    }

    refreshQR() {
      require("WAWebBackendEventBus").BackendEventBus.trigger("refresh_qr");
    }

    logout() {
      this.trigger("logout");
    }

    openChatBottom({ chat }) {
      require("SandboxActiveChat").activate(chat);
      return Promise.resolve(true);
    }

    closeChat() {
      require("SandboxActiveChat").activate(null);
    }

    sendRevokeMsgs(chat, messages, { clearMedia = false } = {}) {
      return require("SandboxMessageActions").revoke(chat, messages.list, { clearMedia });
    }

    sendDeleteMsgs(chat, messages) {
      return require("SandboxMessageActions").remove(chat, messages.list);
    }

    sendStarMsgs(chat, messages) {
      chat.promises.sendStarMsgs = require("SandboxMessageActions").star(chat, messages, true);
    }

    sendUnstarMsgs(chat, messages) {
      chat.promises.sendStarMsgs = require("SandboxMessageActions").star(chat, messages, false);
    }

    archiveChat(chat, archive) {
      return require("WAWebSetArchiveChatAction").setArchive(chat, archive);
    }
  }
  exports.CmdImpl = CmdImpl;
  exports.Cmd = new CmdImpl();
});

__d("WAWebStreamModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class StreamModel extends Model {
    static defaults = {
      mode: undefined,
      info: undefined,
      needsUpdate: undefined,
      available: undefined,
      /** Messages that waited on the server at the last login. */
      resumeCount: undefined,
    };

    markAvailable() {
      this.available = true;
      this.sendAvailability(true);
    }

    markUnavailable() {
      this.available = false;
      this.sendAvailability(false);
    }

    sendAvailability(available) {
      require("SandboxComms").request("available", { available }).catch(require("SandboxComms").ignoreOffline);
    }
  }
  exports.Stream = new StreamModel();
});

__d("WAWebConnModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class ConnImpl extends Model {
    static defaults = { ref: undefined, connected: false, platform: undefined, pushname: undefined, wid: undefined };

    get isSMB() {
      return Boolean(require("SandboxAccount").get().business);
    }
  }
  exports.ConnImpl = ConnImpl;
  exports.Conn = new ConnImpl();
});

__d("WAWebSocketModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;
  const { SOCKET_STATE, SOCKET_STREAM } = require("WAWebSocketConstants");

  /** WhatsApp gives the server this long to hear of a logout, in milliseconds. */
  const LOGOUT_PATIENCE = 3000;

  class SocketModel extends Model {
    static defaults = { state: SOCKET_STATE.OPENING, stream: SOCKET_STREAM.DISCONNECTED, hasSynced: false };

    poke() {
      require("SandboxComms").reconnectNow();
    }

    takeover() {
      throw new Error("Takeover called without conflict!");
    }

    /** Unlink this device and forget everything. */
    async logout(tellServer = true, reason = "user_initiated") {
      const { BackendEventBus } = require("WAWebBackendEventBus");
      const comms = require("SandboxComms");
      BackendEventBus.trigger("starting_logout");
      if (tellServer) {
        const told = comms.request("logout").catch(comms.ignoreOffline);
        await Promise.race([told, new Promise((resolve) => setTimeout(resolve, LOGOUT_PATIENCE))]);
      }
      this.leave(reason);
    }

    /** The account is gone from this device: say so, forget it, and start again without it. */
    leave(reason) {
      const { BackendEventBus } = require("WAWebBackendEventBus");
      const code = require("WAWebLogoutReason").getErrorCodeFromLogoutReason(reason);
      require("SandboxComms").stop();
      BackendEventBus.trigger("logout");
      require("WAWebCmd").Cmd.logout();
      require("SandboxCredentials").forget();
      // Listeners hear of the logout before the page goes away.
      setTimeout(() => {
        if (code === null) {
          location.reload();
        } else {
          location.replace(`/?post_logout=1&logout_reason=${code}`);
        }
      }, 100);
    }
  }
  exports.Socket = new SocketModel();
});

__d("WAWebUserPrefsIsLoggedIn", (require, exports) => {
  exports.isLoggedIn = () =>
    require("WAWebUserPrefsMultiDevice").isRegistered() && require("WAWebSocketModel").Socket.state === "CONNECTED";
});

__d("WAWebNetworkStatus", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class NetworkStatus extends Model {
    static defaults = { online: navigator.onLine };

    checkOnline() {
      this.online = navigator.onLine;
      return this.online;
    }
  }
  const status = new NetworkStatus();
  window.addEventListener("online", () => status.checkOnline());
  window.addEventListener("offline", () => status.checkOnline());
  exports.default = status;
});

__d("WAWebLinkDeviceEvents", (require, exports) => {
  const EventEmitter = require("WAWebEventEmitter").default;

  class LinkDeviceEvents extends EventEmitter {
    triggerRefreshAltLinkingCode() {
      this.trigger("link_device_events:refresh_alt_linking_code");
    }

    triggerPrimaryHelloReceived() {
      this.trigger("link_device_events:primary_hello_received");
    }
  }
  exports.WAWebLinkDeviceEvents = new LinkDeviceEvents();
});

__d("WAWebAltDeviceLinkingApi", (require, exports) => {
  exports.initializeAltDeviceLinking = async () => {
    if (require("WAWebUserPrefsMultiDevice").isRegistered()) {
      throw new Error("this device is linked already");
    }
  };
  exports.genLinkDeviceCodeForPhoneNumber = (phone, sendPushNotification) =>
    require("SandboxComms").linkCode(phone, sendPushNotification);
});

__d("WAWebUserPrefsGeneral", (require, exports) => {
  const preferences = { photos: true, audio: true, videos: false, documents: false, theme: "light" };
  exports.getPushname = () => require("SandboxCredentials").pushname();
  exports.setBrowserId = () => {};
  exports.getUserPrivacySettings = () => ({ readReceipts: "all", lastSeen: "all", about: "all", groupAdd: "all" });
  for (const [name, key] of [
    ["Photos", "photos"],
    ["Audio", "audio"],
    ["Videos", "videos"],
    ["Documents", "documents"],
  ]) {
    exports[`getAutoDownload${name}`] = () => preferences[key];
    exports[`setAutoDownload${name}`] = (value) => (preferences[key] = value);
  }
  exports.getTheme = () => preferences.theme;
  exports.setTheme = (value) => (preferences.theme = value);
});

__d("WAWebHistorySyncProgress", (require, exports) => {
  const progress = { realProgress: 100, remainingPausedSeconds: 0 };
  exports.getHistorySyncProgressModel = () => progress;
});
