// console.*, and how a value that is no string is shown in a log line.
(kit, settings) => {
  'use strict';
  const { apply, Date, emit, isBytes, RangeError, stringify } = kit;
  const MOST_ITEMS = 100, MOST_DEPTH = 4, MOST_CHARACTERS = 10000;
  const { getPrototypeOf, keys } = Object, { isArray } = Array;
  const { hasOwn } = Object, { toISOString } = Date.prototype, { toString: regexToString } = RegExp.prototype;
  const identifier = /^[A-Za-z_$][\w$]*$/;

  const scalar = (value) => {
    switch (typeof value) {
      case 'string': return stringify(value);
      case 'bigint': return `${value}n`;
      case 'symbol': return String(value);
      case 'function': return value.name ? `[Function: ${value.name}]` : '[Function]';
      case 'number': return Object.is(value, -0) ? '-0' : `${value}`;
      default: return `${value}`;
    }
  };
  const title = (value) => {
    const made = getPrototypeOf(value)?.constructor?.name;
    return typeof made === 'string' ? made : '[no prototype]';
  };
  const listed = (items, size, open, close) => {
    if (size > items.length) items[items.length] = `... ${size - items.length} more`;
    if (!items.length) return open + close;
    let text = '';
    for (let i = 0; i < items.length; i++) text += (i ? ', ' : '') + items[i];
    return `${open} ${text} ${close}`;
  };
  const list = (values, show) => {
    const items = [];
    for (const value of values) {
      if (items.length >= MOST_ITEMS) break;
      items[items.length] = show(value);
    }
    return items;
  };
  const object = (value, seen) => {
    const inner = (item) => inspect(item, [...seen, value]);
    if (value instanceof Error) return `${value.stack ?? value}`;
    if (value instanceof Date) return apply(toISOString, value, []);
    if (value instanceof RegExp) return apply(regexToString, value, []);
    if (isArray(value)) return listed(list(value, inner), value.length, '[', ']');
    if (isBytes(value) || ArrayBuffer.isView(value) && 'length' in value) {
      return listed(list(value, scalar), value.length, `${title(value)}(${value.length}) [`, ']');
    }
    if (value instanceof Map) {
      return listed(list(value, (e) => `${inner(e[0])} => ${inner(e[1])}`), value.size, `Map(${value.size}) {`, '}');
    }
    if (value instanceof Set) return listed(list(value, inner), value.size, `Set(${value.size}) {`, '}');
    if (value instanceof Promise) return 'Promise {}';
    const names = keys(value), name = title(value);
    const items = list(names, (key) =>
      `${identifier.test(key) ? key : stringify(key)}: ${inner(value[key])}`);
    return listed(items, names.length, name === 'Object' ? '{' : `${name} {`, '}');
  };
  const inspect = (value, seen) => {
    if (typeof value !== 'object' || value === null) return scalar(value);
    if (seen.includes(value)) return '[Circular]';
    if (seen.length >= MOST_DEPTH) return isArray(value) ? '[Array]' : `[${title(value)}]`;
    return object(value, seen);
  };
  const format = (value) => {
    try {
      const text = inspect(value, []);
      return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}...` : text;
    } catch {
      return '[cannot be shown]';
    }
  };
  const formatAll = (args) => {
    let text = '';
    for (let i = 0; i < args.length; i++) {
      text += (i ? ' ' : '') + (typeof args[i] === 'string' ? args[i] : format(args[i]));
    }
    return text;
  };

  let left = settings.output;
  const write = (level, args) => {
    const line = stringify(formatAll(args));
    left -= line.length;
    if (left < 0) {
      emit('Houtput');
      throw new RangeError('this run may write no more output');
    }
    emit(`L${level}${line}`);
  };
  const console = {
    debug: (...args) => write(0, args),
    log: (...args) => write(1, args),
    info: (...args) => write(2, args),
    warn: (...args) => write(3, args),
    error: (...args) => write(4, args),
  };
  console.trace = console.debug;
  console.assert = (holds, ...args) => { if (!holds) write(4, ['Assertion failed:', ...args]); };
  return { __proto__: null, console, format, write };
}
