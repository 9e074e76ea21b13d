/*
 * The module system, under the names of WhatsApp Web's own: `__d` registers, `require` and `importNamespace` evaluate
 * on first use, `require('__debug').modulesMap` lists, and `ErrorGuard` decides whether a failing factory is reported.
 *
 * The page API (wa-js) finds modules by evaluating every one whose name begins with "WA" or "useWA" and by looking at
 * its exports. Modules that are this stand-in's own business are therefore named "Sandbox…", which it does not read.
 */
"use strict";

(() => {
  const modulesMap = Object.create(null);

  function define(id, factory) {
    if (modulesMap[id]) {
      throw new Error(`the module ${id} is defined twice`);
    }
    modulesMap[id] = { id, factory, exports: null, evaluated: false };
  }

  function importNamespace(id) {
    const module = modulesMap[id];
    if (!module) {
      throw new Error(`Requiring unknown module "${id}"`);
    }
    if (!module.evaluated) {
      module.evaluated = true;
      module.exports = {};
      module.factory(importNamespace, module.exports);
    }
    // The very object, not a copy: the page API replaces functions in it, and the page has to call the replacement.
    return module.exports;
  }

  window.ErrorGuard = { skipGuardGlobal() {} };
  window.importNamespace = importNamespace;
  // The page API starts when it sees these two appear.
  window.require = (id) => (id === "__debug" ? { modulesMap } : importNamespace(id));
  window.__d = define;
})();
