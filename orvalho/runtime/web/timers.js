// setTimeout, setInterval and queueMicrotask. The host keeps one alarm for an isolate, however many
// timers there are, and rings once for each that is due, so that microtasks run in between.
(kit) => {
  'use strict';
  const { apply, emit, now } = kit;
  const { max, min, trunc } = Math, resolved = Promise.resolve(), { then } = Promise.prototype;
  const LONGEST_MS = 0x7fffffff;
  const timers = new Map();
  const { get, set, delete: drop } = Map.prototype;
  // A binary heap of [when, id], the earliest first; a cleared timer stays until its time comes.
  const heap = [];
  let lastId = 0, turn = 0, alarmAt = Infinity;

  const before = (a, b) => a.when < b.when || (a.when === b.when && a.turn < b.turn);
  const push = (entry) => {
    let i = heap.length;
    heap[i] = entry;
    for (let up; i > 0 && before(entry, heap[up = (i - 1) >> 1]); i = up) {
      heap[i] = heap[up];
      heap[up] = entry;
    }
  };
  const pop = () => {
    const first = heap[0], last = heap[heap.length - 1];
    heap.length -= 1;
    if (!heap.length) return first;
    let i = 0;
    heap[0] = last;
    for (;;) {
      let low = 2 * i + 1;
      if (low >= heap.length) return first;
      if (low + 1 < heap.length && before(heap[low + 1], heap[low])) low += 1;
      if (!before(heap[low], last)) return first;
      heap[i] = heap[low];
      heap[low] = last;
      i = low;
    }
  };
  const isLive = (entry) => apply(get, timers, [entry.id]) === entry.timer;
  const arm = () => {
    while (heap.length && !isLive(heap[0])) pop();
    const at = heap.length ? heap[0].when : Infinity;
    if (at === alarmAt || at === Infinity) return;
    alarmAt = at;
    emit(`W${max(0, at - now())}`);
  };
  const schedule = (id, timer) => {
    push({ when: now() + timer.delay, turn: ++turn, id, timer });
    arm();
  };
  const add = (callback, delay, args, every) => {
    if (typeof callback !== 'function') throw new TypeError('a timer takes a function');
    const id = ++lastId, ms = trunc(min(max(Number(delay) || 0, every ? 1 : 0), LONGEST_MS));
    const timer = { callback, args, delay: ms, every };
    apply(set, timers, [id, timer]);
    schedule(id, timer);
    return id;
  };
  const tick = () => {
    alarmAt = Infinity;
    while (heap.length && !isLive(heap[0])) pop();
    if (heap.length && heap[0].when <= now()) {
      const { id, timer } = pop();
      if (timer.every) schedule(id, timer);
      else apply(drop, timers, [id]);
      try {
        apply(timer.callback, undefined, timer.args);
      } catch (error) {
        kit.use('threw')(error);
      }
    }
    arm();
  };
  const clear = (id) => { apply(drop, timers, [id]); };
  return {
    __proto__: null,
    tick,
    setTimeout: (callback, delay, ...args) => add(callback, delay, args, false),
    setInterval: (callback, delay, ...args) => add(callback, delay, args, true),
    clearTimeout: clear,
    clearInterval: clear,
    queueMicrotask: (callback) => {
      if (typeof callback !== 'function') throw new TypeError('queueMicrotask takes a function');
      apply(then, resolved, [() => { try { callback(); } catch (error) { kit.use('threw')(error); } }]);
    },
  };
}
