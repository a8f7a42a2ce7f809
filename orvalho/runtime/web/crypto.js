// crypto.getRandomValues and randomUUID: ChaCha20 (RFC 8439, section 2.3) over a key that the host
// draws afresh for each run, since an isolate has no entropy of its own. Math.random is sfc32 over a
// stream apart, of which nothing can be told about the other. The host is told that the key was used.
(kit, settings) => {
  'use strict';
  kit.emit(`N${settings.seed}`);
  const key = new Uint32Array(Uint8Array.fromHex(settings.seed).buffer);
  const block = new Uint32Array(16), stream = new Uint8Array(block.buffer);
  let counter = 0, used = 64;

  const quarter = (x, a, b, c, d) => {
    x[a] += x[b]; x[d] ^= x[a]; x[d] = x[d] << 16 | x[d] >>> 16;
    x[c] += x[d]; x[b] ^= x[c]; x[b] = x[b] << 12 | x[b] >>> 20;
    x[a] += x[b]; x[d] ^= x[a]; x[d] = x[d] << 8 | x[d] >>> 24;
    x[c] += x[d]; x[b] ^= x[c]; x[b] = x[b] << 7 | x[b] >>> 25;
  };
  const refill = (apart = 0) => {
    const start = new Uint32Array(16);
    start.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
    start.set(key, 4);
    start[12] = counter++;
    start[13] = counter / 2 ** 32;
    start[15] = apart;
    block.set(start);
    for (let round = 0; round < 10; round++) {
      quarter(block, 0, 4, 8, 12); quarter(block, 1, 5, 9, 13); quarter(block, 2, 6, 10, 14); quarter(block, 3, 7, 11, 15);
      quarter(block, 0, 5, 10, 15); quarter(block, 1, 6, 11, 12); quarter(block, 2, 7, 8, 13); quarter(block, 3, 4, 9, 14);
    }
    for (let i = 0; i < 16; i++) block[i] += start[i];
    used = 0;
  };
  const fill = (bytes) => {
    for (let i = 0; i < bytes.length; i++) {
      if (used === 64) refill();
      bytes[i] = stream[used];
      stream[used++] = 0;
    }
  };
  const getRandomValues = (array) => {
    const kind = ArrayBuffer.isView(array) ? array[Symbol.toStringTag] : '';
    if (!/^(Big)?(Ui|I)nt(8|16|32|64)(Clamped)?Array$/.test(kind)) throw new TypeError('getRandomValues takes an array of integers');
    if (array.byteLength > 65536) throw new RangeError('getRandomValues fills at most 65536 bytes');
    fill(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return array;
  };
  const randomUUID = () => {
    const bytes = getRandomValues(new Uint8Array(16));
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    const hex = bytes.toHex();
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  };
  refill(1);
  let [a, b, c, d] = block;
  block.fill(0);
  counter = 0;
  used = 64;
  const step = () => {
    const sum = a + b + d | 0;
    d = d + 1 | 0;
    a = b ^ b >>> 9;
    b = c + (c << 3) | 0;
    c = (c << 21 | c >>> 11) + sum | 0;
    return sum >>> 0;
  };
  for (let i = 0; i < 12; i++) step();
  const { random } = { random() { return ((step() >>> 5) * 0x4000000 + (step() >>> 6)) / 2 ** 53; } };
  return { __proto__: null, crypto: { getRandomValues, randomUUID }, random };
}
