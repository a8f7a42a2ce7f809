// The first code in every isolate, before any of the guest's. It is compiled for each run, so it
// holds only what each run needs: the rest of the guest's world (../../web/*.js) comes as a string,
// whose parts are evaluated when they are first used.
//
// The built-ins that matter are taken here while they are still the engine's own: whatever a guest
// does to a prototype afterwards hurts only that guest. Nothing here is a wall. What a guest can do
// is decided where its calls arrive.
//
// Answers the one function that the host calls from then on, each time with a value as `this`: first
// `notify`, then the string of parts, then the turns of the run.
(function () {
  'use strict';
  const global = globalThis, evaluate = eval;
  const { parse, stringify } = JSON, { apply, defineProperty } = Reflect;
  const { split, slice, indexOf, lastIndexOf, replace } = String.prototype, { toBase64 } = Uint8Array.prototype;
  const { getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const brand = getOwnPropertyDescriptor(getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get;
  let records = '', inTurn = false, notified = false, notify, sources, settings;

  // A record is a line: a letter, then what it carries. JSON never holds a raw line break, so no
  // guest can write a record of its own choosing.
  const emit = ((record) => {
    if (records.length + record.length > MOST_CHARACTERS) throw new kit.RangeError('too much at once');
    records += record + '\n';
    if (!inTurn && !notified) {
      notified = true;
      notify();
    }
  });
  const isBytes = (value) => typeof value === 'object' && value !== null && apply(brand, value, []) === 'Uint8Array';
  const made = { __proto__: null };
  const use = (name) => {
    if (name in made) return made[name];
    if (typeof sources === 'string') sources = apply(split, sources, ['\0']);
    const found = evaluate(sources[PARTS[name]])(kit, settings);
    for (const key in found) made[key] = found[key];
    return made[name];
  };
  const kit = {
    __proto__: null, apply, defineProperty, stringify, emit, isBytes, toBase64, use, slice, indexOf, lastIndexOf, replace,
    Error, RangeError, TypeError, Promise, String, Uint8Array, Date, Intl, time: Date.now, now: () => use('now')(),
    construct: Reflect.construct, getOwnPropertyDescriptor, preventExtensions: Reflect.preventExtensions,
    then: Promise.prototype.then,
  };
  const fix = (object, name, value) => defineProperty(object, name, {
    __proto__: null, value, writable: true, configurable: true, enumerable: object !== global,
  });
  const offer = ((object, name, part) => defineProperty(object, name, {
    __proto__: null, configurable: true, enumerable: object !== global,
    get() {
      const value = use(part);
      fix(object, name, value);
      return value;
    },
    set(value) { fix(object, name, value); },
  }));
  for (let i = 0; i < GLOBALS.length; i++) offer(global, GLOBALS[i], GLOBALS[i]);
  let random;
  Math.random = { random() { return (random ??= use('random'))(); } }.random;
  defineProperty(Error, 'prepareStackTrace', {
    __proto__: null, writable: true, configurable: true,
    value: (error, sites) => use('stack')(error, sites),
  });

  const run = (async (body) => {
    try {
      const { caller, target, params, bare } = settings, log = (...args) => use('write')(1, args);
      offer(caller, 'fs', 'caller.fs');
      const rooms = ['fs', 'kv', 'docs', 'node', 'rights'], off = settings.off?.rooms ?? [];
      next: for (let i = 0; i < rooms.length; i++) {
        for (let j = 0; j < off.length; j++) if (rooms[i] === off[j]) continue next;
        offer(target, rooms[i], 'target.' + rooms[i]);
      }
      let value = bare ? await body(caller, target, params, log) : await body();
      if (!bare && typeof value === 'function') value = await value({ caller, target, params, log });
      const isRaw = isBytes(value), text = isRaw ? apply(toBase64, value, []) : stringify(value);
      if (text !== undefined) emit((isRaw ? 'B' : 'R') + text);
      else if (value === undefined) emit('U');
      else throw new kit.TypeError(`the result is a ${typeof value}, which JSON does not have`);
    } catch (error) {
      try {
        use('threw')(error);
      } catch {
        emit('E["Error","it threw something that cannot be shown",""]');
      }
    }
  });

  // The host sends one JSON array a turn, and right after it a "D" for what came of it: microtasks
  // run between the two.
  return (function () {
    if (this === 'D') {
      const taken = kit.clock ? kit.clock() + records : records;
      records = '';
      inTurn = notified = false;
      return taken;
    }
    if (notify === undefined) return void (notify = this);
    if (sources === undefined) return void (sources = this);
    inTurn = true;
    const turn = parse(this);
    if (turn[0] === 'A') use('settle')(turn);
    else if (turn[0] === 'T') use('tick')();
    else {
      settings = turn[1];
      if (settings.off !== undefined) use('switch')(global);
      if (settings.temporal) use('temporal');
      let body;
      try {
        body = settings.linked ? use('link')(evaluate) : evaluate(settings.program);
      } catch { return emit('X' + (settings.failed ?? 0)); }
      run(body);
    }
  });
})()
