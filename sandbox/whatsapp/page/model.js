/*
 * Events, models and collections: what every piece of data of the page is made of.
 *
 * A model has attributes; setting one raises "change:<name>" and then "change". A model inside a model passes its
 * changes on as "change:<attribute>.<name>", and a collection passes on every event of its models.
 */
"use strict";

__d("WAWebEventEmitter", (require, exports) => {
  class EventEmitter {
    on(names, callback, context) {
      if (typeof callback !== "function") {
        throw new Error("Callback parameter passed is not a function");
      }
      this._events ??= new Map();
      for (const name of names.split(" ")) {
        const list = this._events.get(name) ?? [];
        list.push({ callback, context: context ?? this });
        this._events.set(name, list);
      }
      return this;
    }

    once(name, callback, context) {
      const wrapped = (...args) => {
        this.off(name, wrapped);
        callback.apply(context ?? this, args);
      };
      wrapped.original = callback;
      return this.on(name, wrapped);
    }

    off(names, callback) {
      for (const name of names ? names.split(" ") : [...(this._events?.keys() ?? [])]) {
        const rest = callback
          ? (this._events?.get(name) ?? []).filter(
              (one) => one.callback !== callback && one.callback.original !== callback,
            )
          : [];
        this._events?.set(name, rest);
      }
      return this;
    }

    removeAllListeners(name) {
      return this.off(name);
    }

    listenTo(other, name, callback) {
      other.on(name, callback, this);
      return this;
    }

    trigger(name, ...args) {
      for (const one of [...(this._events?.get(name) ?? [])]) {
        this._call(one, args);
      }
      for (const one of [...(this._events?.get("all") ?? [])]) {
        this._call(one, [name, ...args]);
      }
      return this;
    }

    _call({ callback, context }, args) {
      try {
        callback.apply(context, args);
      } catch (error) {
        // A listener's failure is its own: the data layer has to go on. It still shows as an uncaught exception.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
  exports.default = EventEmitter;
});

__d("WAWebBaseModel", (require, exports) => {
  const EventEmitter = require("WAWebEventEmitter").default;

  /** `static defaults` gives attributes and their first values; `static children` names attributes that hold models. */
  class Model extends EventEmitter {
    static defaults = {};
    static children = [];

    constructor(attributes = {}) {
      super();
      this.attributes = {};
      this.set({ ...this.constructor.defaults, ...attributes }, { silent: true });
      this.initialize();
    }

    initialize() {}

    set(key, value, options = {}) {
      const values = typeof key === "string" ? { [key]: value } : key;
      const silent = (typeof key === "string" ? options : (value ?? {})).silent ?? false;
      const changes = [];
      for (const [name, next] of Object.entries(values)) {
        if (typeof next === "function") {
          continue;
        }
        this.constructor._accessor(name);
        const previous = this.attributes[name];
        if (previous === next) {
          continue;
        }
        this.attributes[name] = next;
        if (next instanceof Model && this.constructor.children.includes(name)) {
          this._adopt(name, next);
        }
        changes.push([name, next, previous]);
      }
      if (!silent) {
        for (const [name, next, previous] of changes) {
          this.trigger(`change:${name}`, this, next, previous);
        }
        if (changes.length) {
          this.trigger("change", this);
        }
      }
      return this;
    }

    get(name) {
      return this.attributes[name];
    }

    unset(name) {
      if (name in this.attributes) {
        this.set(name, undefined);
      }
      return this;
    }

    serialize() {
      return { ...this.attributes };
    }

    toJSON() {
      return this.serialize();
    }

    _adopt(name, child) {
      child.on("all", (event, ...args) => {
        if (event.startsWith("change:") && this.attributes[name] === child) {
          this.trigger(`change:${name}.${event.slice(7)}`, ...args);
        }
      });
    }

    /** Give the class a property for an attribute. Own methods and properties put there by others come first. */
    static _accessor(name) {
      if (name in this.prototype) {
        return;
      }
      Object.defineProperty(this.prototype, name, {
        configurable: true,
        get() {
          return this.attributes?.[name];
        },
        set(value) {
          this.set(name, value);
        },
      });
    }
  }
  exports.default = Model;
  exports.BaseModel = Model;
});

__d("WAWebCollection", (require, exports) => {
  const EventEmitter = require("WAWebEventEmitter").default;

  const key = (value) => {
    if (value == null) {
      return undefined;
    }
    if (value.attributes || Object.getPrototypeOf(value) === Object.prototype) {
      return value.id === undefined ? undefined : String(value.id);
    }
    return String(value);
  };

  class Collection extends EventEmitter {
    static model = null;
    static comparator = null;

    constructor(models = []) {
      super();
      if (!this.constructor.model) {
        throw new Error("Collection initialized without model");
      }
      this._models = [];
      this._index = new Map();
      this.add(models);
    }

    get length() {
      return this._models.length;
    }

    get modelClass() {
      return this.constructor.model;
    }

    /** Add models or attributes; what is there already is kept, and with `merge` gets the new attributes. */
    add(values, options = {}) {
      const many = Array.isArray(values);
      const result = (many ? values : [values]).map((value) => this._addOne(value, options));
      return many ? result : result[0];
    }

    _addOne(value, { merge = false, silent = false } = {}) {
      const known = this.get(value);
      if (known) {
        if (merge && known !== value) {
          known.set(value.attributes ?? value);
        }
        return known;
      }
      const model = this.isModel(value) ? value : new this.constructor.model(value);
      this._models.push(model);
      this._index.set(key(model), model);
      model.on("all", (event, ...args) => {
        if (this._index.get(key(model)) === model) {
          this.trigger(event, ...args);
        }
      });
      if (!silent) {
        this.trigger("add", model, this);
      }
      return model;
    }

    remove(values, { silent = false } = {}) {
      const removed = [];
      for (const value of Array.isArray(values) ? values : [values]) {
        const model = this.get(value);
        if (model) {
          this._models.splice(this._models.indexOf(model), 1);
          this._index.delete(key(model));
          removed.push(model);
          if (!silent) {
            this.trigger("remove", model, this);
          }
        }
      }
      return removed;
    }

    reset() {
      this._models = [];
      this._index.clear();
      this.trigger("reset", this);
    }

    sort({ silent = false } = {}) {
      if (this.constructor.comparator) {
        this._models.sort(this.constructor.comparator);
      }
      if (!silent) {
        this.trigger("sort", this);
      }
      return this;
    }

    get(value) {
      return this._index.get(key(value));
    }

    assertGet(value) {
      const model = this.get(value);
      if (!model) {
        throw new Error(`there is no ${key(value)} in this collection`);
      }
      return model;
    }

    isModel(value) {
      return value instanceof this.constructor.model;
    }

    at(place) {
      return this._models.at(place);
    }

    head() {
      return this._models[0];
    }

    last() {
      return this._models.at(-1);
    }

    getModelsArray() {
      return this._models;
    }

    toArray() {
      return [...this._models];
    }

    findFirst(test) {
      return this._models.find(test);
    }

    where(ids) {
      return ids.map((id) => this.get(id)).filter(Boolean);
    }

    includes(model) {
      return this._models.includes(model);
    }

    serialize() {
      return this._models.map((model) => model.serialize());
    }

    toJSON() {
      return this.serialize();
    }
  }
  for (const name of ["forEach", "map", "filter", "some", "every", "reduce", "slice", "indexOf", "lastIndexOf"]) {
    Collection.prototype[name] = function (...args) {
      return this._models[name](...args);
    };
  }
  exports.default = Collection;
});

__d("WAWebBaseCollection", (require, exports) => {
  const Collection = require("WAWebCollection").default;

  /** A collection that can ask the server for what it does not have: subclasses give `findImpl(id)`. */
  class BaseCollection extends Collection {
    static staleCollection = false;

    async find(id) {
      const known = this.get(id);
      if (known && !known.stale) {
        return known;
      }
      return this.findQuery(id);
    }

    async findQuery(id) {
      this._searches ??= new Map();
      const name = String(id);
      // Two questions for the same thing share one answer.
      if (!this._searches.has(name)) {
        const search = this.findImpl(id).finally(() => this._searches.delete(name));
        this._searches.set(name, search);
      }
      const found = await this._searches.get(name);
      return found ? this.add(found, { merge: true }) : undefined;
    }

    update(id) {
      return this.findQuery(id);
    }

    findImpl() {
      return Promise.resolve(undefined);
    }

    gadd(value) {
      return this.add(this.isModel(value) || value.attributes ? value : { id: value });
    }

    isStateStale(id) {
      return this.get(id)?.stale ?? true;
    }
  }
  exports.BaseCollection = BaseCollection;
});
