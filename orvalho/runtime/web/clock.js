// The clock and `Date`. What a guest reads of the time is told to the host, as `delta:times`, and in
// a replay it reads that again: it takes the same way through this file both times.
(kit, settings) => {
  'use strict';
  const { apply, construct, defineProperty, Date: Native, time } = kit;
  const { now: tape, room } = settings, { toString } = Native.prototype;
  let last = 0, delta = 0, times = 0, text = '', isFull = !room;

  let at = 0, left = 0, place = 0;
  const read = tape === null ? time : () => {
    if (left === 0 && place < tape.length) {
      at += tape[place];
      left = tape[place + 1];
      place += 2;
    }
    if (left > 0) left -= 1;
    return at;
  };
  const close = () => {
    if (times) text += `${text ? ' ' : ''}${delta}:${times}`;
    times = 0;
  };
  const now = () => {
    const moment = read();
    if (isFull) return moment;
    if (times && moment === last) {
      times += 1;
      return moment;
    }
    close();
    delta = moment - last;
    last = moment;
    times = 1;
    return moment;
  };
  kit.clock = () => {
    if (isFull) return '';
    close();
    isFull = text.length > room;
    const taken = isFull ? 'K!\n' : text && `K${text}\n`;
    text = '';
    return taken;
  };

  const Date = function Date(year, month, date, hours, minutes, seconds, ms) {
    if (new.target === undefined) return apply(toString, new Native(now()), []);
    return construct(Native, arguments.length ? arguments : [now()], new.target);
  };
  const put = (object, name, value, writable = true) =>
    defineProperty(object, name, { __proto__: null, value, writable, enumerable: false });
  put(Date, 'prototype', Native.prototype, false);
  put(Native.prototype, 'constructor', Date);
  for (const name of ['parse', 'UTC']) {
    defineProperty(Date, name, { __proto__: null, value: Native[name], writable: true, configurable: true });
  }
  const own = { now() { return now(); } };
  defineProperty(Date, 'now', { __proto__: null, value: own.now, writable: true, configurable: true });
  return { __proto__: null, now, Date };
}
