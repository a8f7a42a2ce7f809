// Intl, whose formats of dates look at the clock when they are given no date.
(kit) => {
  'use strict';
  const { apply, defineProperty, getOwnPropertyDescriptor, Intl } = kit;
  const now = kit.use('now'), { prototype } = Intl.DateTimeFormat;
  const { get: formatOf } = getOwnPropertyDescriptor(prototype, 'format'), { formatToParts } = prototype;
  const made = new WeakMap(), { get, set } = WeakMap.prototype;
  const moment = (date) => date === undefined ? now() : date;

  defineProperty(prototype, 'format', {
    __proto__: null, configurable: true, enumerable: false,
    get() {
      const format = apply(formatOf, this, []);
      let ours = apply(get, made, [this]);
      if (ours === undefined) apply(set, made, [this, ours = (date) => format(moment(date))]);
      return ours;
    },
  });
  const own = { formatToParts(date) { return apply(formatToParts, this, [moment(date)]); } };
  defineProperty(prototype, 'formatToParts', {
    __proto__: null, value: own.formatToParts, writable: true, configurable: true, enumerable: false,
  });
  return { __proto__: null, Intl };
}
