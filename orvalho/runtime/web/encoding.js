// TextEncoder, TextDecoder (UTF-8 alone: WHATWG Encoding, section 8), atob and btoa.
() => {
  'use strict';
  const { fromCharCode, fromCodePoint } = String, { fromBase64 } = Uint8Array, { toBase64 } = Uint8Array.prototype;

  class TextEncoder {
    get encoding() { return 'utf-8'; }
    encode(text = '') {
      text = `${text}`.toWellFormed();
      const bytes = new Uint8Array(text.length * 3);
      return bytes.slice(0, fill(text, bytes).written);
    }
    encodeInto(text, bytes) { return fill(`${text}`.toWellFormed(), bytes); }
  }
  const fill = (text, bytes) => {
    let read = 0, at = 0;
    while (read < text.length) {
      const code = text.codePointAt(read), size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      if (at + size > bytes.length) break;
      if (size === 1) bytes[at] = code;
      else {
        bytes[at] = (0xf00 >> size) & 0xff | code >> 6 * (size - 1);
        for (let i = 1; i < size; i++) bytes[at + i] = 0x80 | code >> 6 * (size - 1 - i) & 0x3f;
      }
      at += size;
      read += size === 4 ? 2 : 1;
    }
    return { read, written: at };
  };

  class TextDecoder {
    #fatal; #keepsMark;
    constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {
      if (!/^\s*(utf-?8|unicode-1-1-utf-8)\s*$/i.test(label)) throw new RangeError(`TextDecoder: ${label} is not supported, only utf-8`);
      this.#fatal = !!fatal;
      this.#keepsMark = !!ignoreBOM;
    }
    get encoding() { return 'utf-8'; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#keepsMark; }
    decode(input = new Uint8Array(), { stream = false } = {}) {
      if (stream) throw new TypeError('TextDecoder: streams are not supported: decode the whole');
      const bytes = ArrayBuffer.isView(input) ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength) : new Uint8Array(input);
      const text = decode(bytes, this.#fatal);
      return !this.#keepsMark && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
    }
  }
  const decode = (bytes, fatal) => {
    let text = '', at = 0;
    while (at < bytes.length) {
      let plain = at;
      while (plain < bytes.length && plain - at < 4096 && bytes[plain] < 0x80) plain += 1;
      if (plain > at) {
        text += fromCharCode.apply(null, bytes.subarray(at, plain));
        at = plain;
        continue;
      }
      const [code, size] = point(bytes, at);
      if (code < 0 && fatal) throw new TypeError('TextDecoder: these bytes are not UTF-8');
      text += code < 0 ? '\ufffd' : fromCodePoint(code);
      at += size;
    }
    return text;
  };
  // One code point from several bytes, or -1 and how many bytes make one replacement character.
  const point = (bytes, at) => {
    const lead = bytes[at], more = lead >= 0xc2 && lead < 0xe0 ? 1 : lead >= 0xe0 && lead < 0xf0 ? 2 : lead >= 0xf0 && lead < 0xf5 ? 3 : 0;
    if (!more) return [-1, 1];
    let lower = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    let upper = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    let code = lead & 0x3f >> more;
    for (let i = 1; i <= more; i++) {
      const next = bytes[at + i];
      if (!(next >= lower && next <= upper)) return [-1, i];
      code = code << 6 | next & 0x3f;
      lower = 0x80;
      upper = 0xbf;
    }
    return [code, more + 1];
  };

  const invalid = (what) => Object.assign(new Error(what), { name: 'InvalidCharacterError' });
  return {
    __proto__: null,
    TextEncoder,
    TextDecoder,
    btoa: (text) => {
      text = `${text}`;
      const bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) {
        const code = text.charCodeAt(i);
        if (code > 255) throw invalid('btoa: a character is beyond U+00FF');
        bytes[i] = code;
      }
      return toBase64.call(bytes);
    },
    atob: (text) => {
      let bytes;
      try { bytes = fromBase64.call(Uint8Array, `${text}`); } catch { throw invalid('atob: this is not base64'); }
      let out = '';
      for (let i = 0; i < bytes.length; i += 4096) out += fromCharCode.apply(null, bytes.subarray(i, i + 4096));
      return out;
    },
  };
}
