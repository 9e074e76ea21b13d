/*
 * Enumerations and build constants, with the values of WhatsApp Web as its public page API documents them.
 */
"use strict";

__d("WAWebBuildConstants", (require, exports) => {
  const revision = document.documentElement.dataset.revision;
  exports.VERSION_PRIMARY = "2";
  exports.VERSION_SECONDARY = "3000";
  exports.VERSION_TERTIARY = revision;
  exports.VERSION_BASE = `2.3000.${revision}`;
  exports.VERSION_STR = `2.3000.${revision}`;
  exports.SANITIZED_VERSION_STR = `2.3000.${revision}`;
  exports.WINDOWS_BUILD = null;
});

__d("WAWebAck", (require, exports) => {
  exports.ACK = {
    MD_DOWNGRADE: -7,
    INACTIVE: -6,
    CONTENT_UNUPLOADABLE: -5,
    CONTENT_TOO_BIG: -4,
    CONTENT_GONE: -3,
    EXPIRED: -2,
    FAILED: -1,
    CLOCK: 0,
    SENT: 1,
    RECEIVED: 2,
    READ: 3,
    PLAYED: 4,
    PEER: 5,
  };
  exports.EDIT_ATTR = { REVOKE: 7, EDITED: 1 };
  exports.ACK_STRING = { SENDER: "sender", INACTIVE: "inactive", READ: "read", PLAYED: "played", DELIVERY: "delivery" };
});

__d("WAWebMsgType", (require, exports) => {
  const names = `notification notification_template group_notification gp2 broadcast_notification e2e_notification
    call_log protocol chat location payment vcard ciphertext multi_vcard revoked oversized groups_v4_invite hsm
    template_button_reply image video audio ptt sticker document product order list interactive list_response
    buttons_response reaction native_flow poll_creation event_creation unknown`;
  exports.MSG_TYPE = Object.fromEntries(names.split(/\s+/).map((name) => [name.toUpperCase(), name]));
  exports.SYSTEM_MESSAGE_TYPES = [
    "notification",
    "notification_template",
    "group_notification",
    "gp2",
    "e2e_notification",
  ];
});

__d("WAWebSocketConstants", (require, exports) => {
  const states = `OPENING PAIRING UNPAIRED UNPAIRED_IDLE CONNECTED TIMEOUT CONFLICT UNLAUNCHED PROXYBLOCK TOS_BLOCK
    SMB_TOS_BLOCK DEPRECATED_VERSION`;
  const streams = "DISCONNECTED SYNCING RESUMING CONNECTED";
  const same = (text) => Object.fromEntries(text.split(/\s+/).map((name) => [name, name]));
  exports.SOCKET_STATE = same(states);
  exports.SOCKET_STREAM = same(streams);
  exports.WATCHED_SOCKET_STATE = same("CONNECTED");
});

__d("WAWebSendMsgResultAction", (require, exports) => {
  const names = ["OK", "ERROR_NETWORK", "ERROR_EXPIRED", "ERROR_CANCELLED", "ERROR_UPLOAD", "ERROR_UNKNOWN"];
  exports.SendMsgResult = Object.fromEntries(names.map((name) => [name, name]));
});

__d("WAWebLogoutReasonConstants", (require, exports) => {
  exports.LogoutReason = {
    UserInitiated: "user_initiated",
    SyncdFailure: "syncd_failure",
    UnknownCompanion: "unknown_companion",
    AccountLocked: "account_locked",
    HistorySyncTimeout: "history_sync_timeout",
    WebFailStorageInitialization: "web_fail_storage_initialization",
    WebFailEncSalt: "web_fail_enc_salt",
  };
  exports.LOGOUT_REASON_CODE = {
    CLIENT_FATAL: "0",
    SYNC_FAIL: "1",
    INITIAL_HISTORY_SYNC_TIMEOUT: "2",
    ACCOUNT_LOCKED: "3",
  };
});

__d("WAWebLogoutReason", (require, exports) => {
  const { LogoutReason, LOGOUT_REASON_CODE } = require("WAWebLogoutReasonConstants");
  let code = null;
  let message = null;
  exports.getErrorCodeFromLogoutReason = (reason) => {
    switch (reason) {
      case LogoutReason.SyncdFailure:
        return LOGOUT_REASON_CODE.SYNC_FAIL;
      case LogoutReason.HistorySyncTimeout:
        return LOGOUT_REASON_CODE.INITIAL_HISTORY_SYNC_TIMEOUT;
      case LogoutReason.AccountLocked:
        return LOGOUT_REASON_CODE.ACCOUNT_LOCKED;
      case LogoutReason.UserInitiated:
        return null;
      default:
        return LOGOUT_REASON_CODE.CLIENT_FATAL;
    }
  };
  exports.setPrevLogoutReasonCode = (value) => (code = value);
  exports.setPrevCustomLogoutMessage = (value) => (message = value);
  exports.getPrevLogoutReasonCode = () => code;
  exports.getPrevCustomLogoutMessage = () => message;
});

__d("WAWebGroupConstants", (require, exports) => {
  exports.GROUP_SETTING_TYPE = { ANNOUNCEMENT: "announcement", RESTRICT: "restrict", EPHEMERAL: "ephemeral" };
  exports.getGroupSizeLimit = () => 1024;
});

__d("WAWebPinConstants", (require, exports) => {
  exports.PIN_STATE = { INVALID: 0, PIN: 1, UNPIN: 2 };
  exports.PinExpiryDurationOption = {
    FiveSeconds: "FiveSeconds",
    OneDay: "OneDay",
    SevenDays: "SevenDays",
    ThirtyDays: "ThirtyDays",
  };
});

__d("WAWebJids", (require, exports) => {
  exports.STATUS_JID = "status@broadcast";
  exports.GROUP_JID = "g.us";
  exports.CHAT_JID = "c.us";
});

__d("WAWebServerPropConstants", (require, exports) => {
  exports.MAX_FILE_SIZE_BYTES = 100 * 1024 * 1024;
  exports.MULTICAST_LIMIT_GLOBAL = 5;
});

__d("WAWebMentionTypes", (require, exports) => {
  exports.default = { MENTION_ALL: 1 };
});

__d("WAWebIsOfficialClient", (require, exports) => {
  exports.isOfficialClient = !navigator.webdriver && !navigator.userAgent.includes("HeadlessChrome");
});

__d("WAWebBrowserInfo", (require, exports) => {
  const info = () => ({
    os: /Windows|Mac OS|Linux/.exec(navigator.userAgent)?.[0] ?? "Unknown",
    version: /Chrome\/([\d.]+)/.exec(navigator.userAgent)?.[1],
    name: "Chrome",
    ua: navigator.userAgent,
  });
  exports.default = { id: "sandbox", info, hardRefresh: () => location.reload(), startDownloading() {} };
});

__d("WAWebCompanionRegClientUtils", (require, exports) => {
  exports.DEVICE_PLATFORM = "1";
});

__d("WAWebABProps", (require, exports) => {
  exports.getABPropConfigValue = () => undefined;
});

__d("WAWebLid1X1MigrationUtils", (require, exports) => {
  const session = require("SandboxAccount");
  exports.Lid1X1MigrationUtils = {
    isLidMigrated: () => session.isLidMigrated(),
    isSyncdSessionMigrated: () => session.isLidMigrated(),
    shouldApplyNonMigratedMessagingRules: () => false,
  };
});
