// `fs` and `kv` of both contexts: each function is a call of the operation that has its name. Bytes
// travel as {"$bytes": base64}.
(kit, settings) => {
  'use strict';
  const { apply, defineProperty, emit, isBytes, stringify, toBase64 } = kit;
  const { Error, Promise, RangeError, Uint8Array } = kit;
  const { fromBase64 } = Uint8Array, { ownKeys } = Reflect;
  const waiting = { __proto__: null };
  let calls = 0;

  const encode = (value) =>
    (isBytes(value) ? `{"$bytes":"${apply(toBase64, value, [])}"}` : stringify(value)) ?? 'null';
  const decode = (value) =>
    typeof value === 'object' && value !== null && typeof value.$bytes === 'string' && ownKeys(value).length === 1
      ? apply(fromBase64, Uint8Array, [value.$bytes]) : value;
  const call = (op, args) => {
    const error = new Error();   // made here, so that its stack leads to the guest's line
    calls += 1;
    if (calls === settings.calls + 1) emit('Hhost_calls');
    if (calls > settings.calls) throw new RangeError('this run may make no more host calls');
    const number = calls;
    return new Promise((resolve, reject) => {
      let list = '';
      for (let i = 0; i < args.length; i++) list += (i ? ',' : '') + encode(args[i]);
      emit(`C${number} ${op} [${list}]`);
      waiting[number] = { __proto__: null, resolve, reject, error };
    });
  };
  const answer = (id, isError, value) => {
    const call = waiting[id];
    if (call === undefined) return;
    delete waiting[id];
    if (!isError) return call.resolve(decode(value));
    const keys = ownKeys(value);
    for (let i = 0; i < keys.length; i++) {
      defineProperty(call.error, keys[i], {
        __proto__: null, value: value[keys[i]], writable: true, configurable: true,
        enumerable: keys[i] !== 'name' && keys[i] !== 'message',
      });
    }
    call.reject(call.error);
  };
  const settle = (turn) => {
    for (let i = 1; i < turn.length; i += 3) answer(turn[i], turn[i + 1], turn[i + 2]);
  };

  const off = settings.off?.ops ?? [];
  const room = (path, names) => {
    const made = {};
    next: for (let i = 0; i < names.length; i++) {
      const op = `${path}.${names[i]}`;
      for (let j = 0; j < off.length; j++) if (op === off[j]) continue next;
      made[names[i]] = (...args) => call(op, args);
    }
    return made;
  };
  const collections = (path, names) => (collection) => {
    const made = {};
    for (let i = 0; i < names.length; i++) {
      const op = `${path}.${names[i]}`;
      made[names[i]] = (...args) => call(op, [collection, ...args]);
    }
    return made;
  };
  const files = ['read', 'readText', 'write', 'list', 'stat', 'exists', 'mkdir', 'remove', 'move'];
  return {
    __proto__: null, settle,
    'caller.fs': room('caller.fs', files),
    'target.fs': room('target.fs', files),
    'target.kv': room('target.kv', ['get', 'put', 'delete', 'list']),
    'target.docs': collections('target.docs', ['get', 'put', 'delete', 'list', 'query']),
    'target.node': room('target.node', ['facts', 'call', 'send']),
    'target.rights': room('target.rights', ['drop', 'list']),
  };
}
