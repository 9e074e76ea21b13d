/*
 * The start: finish a logout, read the keys and the stored chats, show the screen, connect.
 */
"use strict";

(async () => {
  const credentials = window.require("SandboxCredentials");
  await credentials.finishLogout();
  const complete = await credentials.prepare();
  if (!complete) {
    // Half of the credentials are lost, so the account is: what is left is useless and goes.
    credentials.forget();
    location.replace("/?post_logout=1&logout_reason=0");
    return;
  }
  if (window.require("WAWebUserPrefsMultiDevice").isRegistered()) {
    await window.require("SandboxReceive").restore();
  }
  window.require("SandboxComms").start();
  window.require("SandboxScreen").start();
})();
