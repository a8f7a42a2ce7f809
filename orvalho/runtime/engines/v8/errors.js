// What the guest threw, and stacks whose positions are those of the guest's own file.
(kit, settings) => {
  'use strict';
  const { apply, emit, stringify, String } = kit;
  const { slice, indexOf, lastIndexOf, replace } = kit;
  const { toString } = kit.Error.prototype;

  // `shifts` are the places where text was put into the guest's line to make a program of it.
  const shiftsOf = (file) => {
    const { linked } = settings;
    if (linked === null) return settings.shifts;
    for (let i = 0; i < linked.modules.length; i++) if (linked.modules[i].name === file) return linked.modules[i].shifts;
    return [];
  };
  const original = (file, line, column) => {
    const shifts = shiftsOf(file);
    let by = 0;
    for (let i = 0; i < shifts.length; i++) {
      const shift = shifts[i], inside = column - shift.column;
      if (shift.line === line && inside > 0) by += inside > shift.size ? shift.size : inside - 1;
    }
    return column - by;
  };
  const frame = (site) => {
    const file = site.getScriptNameOrSourceURL();
    if (file === 'orvalho:prelude') return '';
    const text = site.toString(), line = site.getLineNumber(), column = site.getColumnNumber();
    const at = `:${line}:${column}`, start = apply(lastIndexOf, text, [at]);
    if (start < 0) return `\n    at ${text}`;
    const before = apply(slice, text, [0, start]), after = apply(slice, text, [start + at.length]);
    const called = apply(replace, before, ['$out (', 'default (']), place = `:${line}:${original(file, line, column)}`;
    // The function that the whole file was put into has no name for the author.
    const named = apply(indexOf, called, ['eval (']);
    const isFile = named === 0 || (named === 6 && apply(slice, called, [0, 6]) === 'async ');
    return `\n    at ${isFile ? apply(replace, called, ['eval (', '']) + place : called + place + after}`;
  };
  const stack = (error, sites) => {
    let text;
    try { text = apply(toString, error, []); } catch { text = 'Error'; }
    for (let i = 0; i < sites.length; i++) text += frame(sites[i]);
    return text;
  };

  const cut = (value, most) => apply(slice, String(value), [0, most]);
  const threw = (error) => {
    let name = 'Error', message = 'it threw something that cannot be shown', trace = '';
    try {
      if (typeof error === 'object' && error !== null && 'message' in error) {
        message = cut(error.message, 10000);
        name = cut(error.name, 200);
        trace = cut(error.stack ?? '', 20000);
      } else {
        message = cut(typeof error === 'string' ? error : kit.use('format')(error), 10000);
      }
    } catch {
      // A getter of the guest's threw in its turn: what was read before stands.
    }
    const at = apply(indexOf, trace, ['\n    at ']);
    trace = at < 0 ? '' : apply(slice, trace, [at + 1]);
    emit(`E[${stringify(name)},${stringify(message)},${stringify(trace)}]`);
  };
  return { __proto__: null, stack, threw };
}
