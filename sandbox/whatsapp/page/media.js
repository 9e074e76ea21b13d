/*
 * Files: preparing and uploading what is sent, downloading and caching what is received.
 *
 * WhatsApp encrypts files before the upload; this stand-in does not, and its media keys are random bytes.
 */
"use strict";

__d("WAWebOpaqueData", (require, exports) => {
  class OpaqueData {
    constructor(blob) {
      this.blob = blob;
      this.released = false;
    }

    static async createFromData(data, type) {
      return new OpaqueData(
        data instanceof Blob ? data.slice(0, data.size, type ?? data.type) : new Blob([data], { type }),
      );
    }

    static async createFromBase64Jpeg(text) {
      return new OpaqueData(new Blob([require("WABase64").decodeB64(text)], { type: "image/jpeg" }));
    }

    type() {
      return this.blob.type;
    }

    size() {
      return this.blob.size;
    }

    forceToBlob() {
      return this.blob;
    }

    url() {
      this.address ??= URL.createObjectURL(this.blob);
      return this.address;
    }

    throwIfReleased() {
      if (this.released) {
        throw new Error("this data was released");
      }
    }

    retain() {}

    autorelease() {
      this.released = true;
      URL.revokeObjectURL(this.address);
    }
  }
  exports.default = OpaqueData;
});

__d("WAWebMediaDataModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class MediaDataModel extends Model {
    static defaults = {
      type: undefined,
      mimetype: undefined,
      size: undefined,
      filehash: undefined,
      filename: undefined,
      mediaStage: "NEED_DOWNLOAD",
      mediaBlob: undefined,
      fullWidth: undefined,
      fullHeight: undefined,
    };
  }
  MediaDataModel.prototype.proxyName = "media-data";
  exports.default = MediaDataModel;
});

__d("WAWebLruMediaStore", (require, exports) => {
  const database = require("SandboxDatabase");
  const STORE = "lru-media-array-buffer-cache";
  /** Files kept; the oldest goes first. */
  const MOST = 200;

  exports.LruMediaStore = {
    async get(id) {
      return (await database.get(STORE, id))?.value ?? null;
    },
    async put(id, value) {
      await database.put(STORE, { id, value, t: Date.now() });
      if ((await database.count(STORE)) > MOST) {
        const [oldest] = (await database.all(STORE)).sort((one, other) => one.t - other.t);
        await database.remove(STORE, oldest.id);
      }
    },
    del: (id) => database.remove(STORE, id),
    clear: () => database.clear(STORE),
    count: () => database.count(STORE),
    async has(id) {
      return (await database.get(STORE, id)) !== undefined;
    },
  };
});

__d("WAWebMediaInMemoryBlobCache", (require, exports) => {
  class InMemoryMediaBlobCacheImpl {
    has() {
      return false;
    }

    get() {
      return null;
    }
  }
  exports.InMemoryMediaBlobCacheImpl = InMemoryMediaBlobCacheImpl;
  exports.InMemoryMediaBlobCache = new InMemoryMediaBlobCacheImpl();
});

__d("WAWebMediaGatingUtils", (require, exports) => {
  const LIMITS = { image: 16, video: 64, audio: 16, sticker: 1, document: 100 };
  exports.getUploadLimit = (type) => (LIMITS[type] ?? 100) * 1024 * 1024;
});

__d("WAWebMediaHash", (require, exports) => {
  exports.calculateFilehashFromBlob = async (blob) => {
    const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
    return require("WABase64").encodeB64(new Uint8Array(digest));
  };
});

__d("SandboxMedia", (require, exports) => {
  const MediaDataModel = require("WAWebMediaDataModel").default;
  const { LruMediaStore } = require("WAWebLruMediaStore");
  const KINDS = new Set(["image", "video", "audio", "ptt", "ptv", "document", "sticker"]);

  /** Give a message with a file its media data. */
  exports.attach = (msg) => {
    if (!KINDS.has(msg.type) || msg.mediaData) {
      return;
    }
    const { type, mimetype, size, filehash, filename, width, height } = msg.attributes;
    msg.mediaData = new MediaDataModel({
      type,
      mimetype,
      size,
      filehash: filehash ?? msg.attributes.directPath,
      filename,
      fullWidth: width,
      fullHeight: height,
    });
    msg.mediaObject = { type: type.toUpperCase() };
  };

  exports.download = async (msg) => {
    const { mediaData } = msg;
    const path = msg.attributes.directPath;
    if (!path) {
      mediaData.mediaStage = "ERROR_MISSING";
      return;
    }
    mediaData.mediaStage = "FETCHING";
    const response = await fetch(path);
    if (!response.ok) {
      mediaData.mediaStage = "ERROR_MISSING";
      return;
    }
    await LruMediaStore.put(mediaData.filehash, await response.arrayBuffer());
    mediaData.mediaStage = "RESOLVED";
  };

  exports.clear = async (msg) => {
    if (msg.mediaData?.filehash) {
      await LruMediaStore.del(msg.mediaData.filehash);
    }
  };
});

__d("WAWebMediaUploadAction", (require, exports) => {
  /** Upload a file; returns the attributes that the message carries. */
  exports.uploadMedia = async ({ mediaBlob, mimetype }) => {
    const response = await fetch("/mms/upload", {
      method: "POST",
      body: mediaBlob,
      headers: { "Content-Type": mimetype },
    });
    if (!response.ok) {
      throw new Error(`the upload failed with status ${response.status}`);
    }
    return (await response.json()).directPath;
  };
});

__d("WAWebMediaImageThumbs", (require, exports) => {
  /** Edge of the preview that travels inside the message, in pixels. */
  const EDGE = 72;

  /** Width, height and a small JPEG (base64), or nothing for what is no picture. */
  exports.describe = async (blob) => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      // Not a picture that this browser can show: it travels without a preview.
      return {};
    }
    const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const { width, height } = bitmap;
    bitmap.close();
    const small = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.6 });
    const body = require("WABase64").encodeB64(new Uint8Array(await small.arrayBuffer()));
    return { width, height, body };
  };
});

__d("WAWebMediaPrep", (require, exports) => {
  const MediaDataModel = require("WAWebMediaDataModel").default;

  function kindOf(mimetype, { asDocument, asSticker, isPtt, asGif }) {
    if (asDocument) {
      return "document";
    }
    if (asSticker) {
      return "sticker";
    }
    const main = mimetype.split("/")[0];
    if (main === "audio") {
      return isPtt ? "ptt" : "audio";
    }
    return main === "image" || main === "video" || asGif ? main : "document";
  }

  class MediaPrep {
    constructor(data, options) {
      this.data = data;
      this.options = options;
      const mimetype = data.type() || "application/octet-stream";
      this.mediaData = new MediaDataModel({
        type: kindOf(mimetype, options),
        mimetype,
        size: data.size(),
        mediaBlob: data,
        mediaStage: "PREPARING",
      });
      this.prepared = this._prepare();
    }

    async _prepare() {
      const blob = this.data.forceToBlob();
      const { type } = this.mediaData;
      this.details =
        type === "image" || type === "sticker" ? await require("WAWebMediaImageThumbs").describe(blob) : {};
      const { duration, waveform } = this.options.precomputedFields ?? {};
      Object.assign(this.details, duration === undefined ? {} : { duration, waveform });
      this.mediaData.set({
        filehash: await require("WAWebMediaHash").calculateFilehashFromBlob(blob),
        fullWidth: this.details.width,
        fullHeight: this.details.height,
        mediaStage: "PREPARED",
      });
    }

    async waitForPrep() {
      await this.prepared;
      return this.mediaData;
    }

    /** Add the message to the chat, upload the file, then send. Resolves with WhatsApp's result object. */
    async sendToChat({ chat, options }) {
      await this.prepared;
      const { mediaData } = this;
      const { mimetype, size, filehash } = mediaData;
      const attributes = { mimetype, size, filehash, ...this.details };
      const { productMsgOptions, caption, footer, isViewOnce, quotedMsg } = options;
      const base = productMsgOptions ?? (await require("SandboxMessageActions").createOutgoing(chat, {}));
      const quote = quotedMsg ? quotedMsg.msgContextInfo(chat.id) : {};
      const raw = { ...base, ...quote, ...attributes, type: mediaData.type, caption, footer, mediaData };
      const actions = require("WAWebSendMsgChatAction");
      const msg = await actions.addMsgToChat(chat, { ...raw, isViewOnce, isGif: Boolean(this.options.asGif) });
      mediaData.mediaStage = "UPLOADING";
      try {
        const file = { mediaBlob: this.data.forceToBlob(), mimetype, mediaType: mediaData.type };
        msg.set({ directPath: await require("WAWebMediaUploadAction").uploadMedia(file) });
      } catch {
        // The result says it; the message stays with the mark of a failure.
        mediaData.mediaStage = "ERROR_UNSUPPORTED";
        msg.updateAck(-1);
        await require("SandboxMessages").save(msg);
        return { messageSendResult: "ERROR_UPLOAD" };
      }
      mediaData.mediaStage = "RESOLVED";
      const buffer = await this.data.forceToBlob().arrayBuffer();
      await require("WAWebLruMediaStore").LruMediaStore.put(filehash, buffer);
      return require("SandboxOutbox").send(msg);
    }
  }

  exports.MediaPrep = MediaPrep;
  exports.prepRawMedia = (data, options = {}) => new MediaPrep(data, options);
  exports.uploadProductImage = (data) => require("WAWebMediaUploadAction").uploadMedia({ mediaBlob: data });
});
