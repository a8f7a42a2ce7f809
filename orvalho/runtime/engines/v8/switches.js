// What the context of this run has switched off is taken out of its world, before the guest's first
// line. Functions stay, but no way from one of them to the constructor that would make code of text.
(kit, settings) => {
  'use strict';
  const { defineProperty, TypeError } = kit, { getPrototypeOf, deleteProperty } = Reflect;
  const refuse = function () { throw new TypeError('code from text is switched off in this context'); };
  const kinds = [function () {}, async function () {}, function* () {}, async function* () {}];
  const close = (global) => {
    const { names, code } = settings.off;
    for (let i = 0; i < names.length; i++) deleteProperty(global, names[i]);
    if (!code) return;
    for (let i = 0; i < kinds.length; i++) {
      defineProperty(getPrototypeOf(kinds[i]), 'constructor', {
        __proto__: null, value: refuse, writable: false, configurable: false, enumerable: false,
      });
    }
  };
  return { __proto__: null, switch: close };
}
