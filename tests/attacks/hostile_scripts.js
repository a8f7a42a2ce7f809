// Scripts that mean harm. A line `//: name -> ends` begins each, where `ends` are the ways in which it
// may end: done, failed, the name of a limit, or died (V8 gave up and ended its own process). What
// it may answer, when it is done, stands behind `=`, in JSON.

//: endless loop -> cpu
for (;;) {}

//: endless loop after an await -> cpu
await 0; for (;;) {}

//: endless loop in a timer -> cpu
setTimeout(() => { for (;;); }); await new Promise(() => {})

//: endless loop after the answer of a host call -> cpu
await target.kv.get('a'); for (;;) {}

//: promises without end -> cpu memory
const f = () => Promise.resolve().then(f); await f()

//: microtasks without end -> cpu memory
const f = () => queueMicrotask(f); f(); await new Promise(() => {})

//: timers without end -> cpu wall memory
const f = () => { setTimeout(f); setTimeout(f); }; f(); await new Promise(() => {})

//: an interval for ever -> wall cpu
setInterval(() => {}, 0); await new Promise(() => {})

//: a hundred thousand timers -> wall cpu done memory
for (let i = 0; i < 1e5; i++) setTimeout(() => {}, i % 7); await new Promise((r) => setTimeout(r, 50))

//: a promise that nobody settles -> wall
await new Promise(() => {})

//: a regular expression that backtracks -> cpu
/^(a+)+$/.test('a'.repeat(40) + 'b')

//: a getter without end, in the result -> cpu
export default () => ({ get x() { for (;;); } })

//: a thenable without end, as the result -> cpu
export default () => ({ then() { for (;;); } })

//: a thenable that never answers -> wall
export default () => ({ then() {} })

//: toJSON without end -> cpu
export default () => ({ toJSON() { for (;;); } })

//: a stack getter without end -> cpu
throw Object.defineProperty(new Error('x'), 'stack', { get() { for (;;); } })

//: a log line whose toString is endless -> cpu
log({ get a() { for (;;); } })

//: a proxy whose traps are endless -> cpu
export default () => new Proxy({}, { ownKeys() { for (;;); } })

//: generators without end -> cpu
function* g() { for (;;) yield 1; } for (const x of g());

//: catching what cannot be caught -> cpu
for (;;) { try { for (;;); } catch {} finally { continue; } }

//: waiting on shared memory -> wall failed
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)

//: waiting on shared memory without blocking -> cpu
const w = Atomics.waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20).value; await w; for (;;);

//: finalisers without end -> cpu wall memory
const r = new FinalizationRegistry(() => { for (;;); }); for (let i = 0; i < 1e5; i++) r.register({ a: new Array(100) }, i); await new Promise(() => {})

//: a big number to a big power -> cpu memory failed
let x = 3n ** 1000000n; for (;;) x = x * x % (x - 1n)

//: sorting with a comparator without end -> cpu
[3, 2, 1].sort(() => { for (;;); })

//: wasm that loops -> cpu
const b = new Uint8Array([0,97,115,109,1,0,0,0,1,4,1,96,0,0,3,2,1,0,7,5,1,1,102,0,0,10,9,1,7,0,3,64,12,0,11,11]); new WebAssembly.Instance(new WebAssembly.Module(b)).exports.f()

//: wasm compiled aside, then a loop -> cpu
const b = new Uint8Array([0,97,115,109,1,0,0,0]); await WebAssembly.instantiate(b); for (;;);

//: a loop that goes on after the result -> done cpu
export default () => { Promise.resolve().then(async () => { for (let i = 0; i < 9; i++) await 0; for (;;); }); return 1 }

//: an array without end -> memory
const a = []; for (;;) a.push(new Array(1000).fill(1.5))

//: an array without end, after an await -> memory
await 0; const a = []; for (;;) a.push(new Array(1000).fill(1.5))

//: a string that doubles -> failed memory cpu
let s = 'x'; for (;;) s += s

//: flat strings that double -> memory cpu died
const a = []; let s = 'x'.repeat(1 << 20); for (;;) a.push((s + a.length).split('').reverse().join(''))

//: one array of four gigabytes -> memory failed died cpu
new Array(2 ** 29).fill({})

//: many array buffers -> memory died cpu
const a = []; for (;;) a.push(new ArrayBuffer(1 << 24).slice(0))

//: many small buffers -> memory died cpu
const a = []; for (;;) a.push(new Uint8Array(4000).fill(1))

//: wasm memory -> memory failed died cpu
const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 1000 }); new Uint8Array(m.buffer).fill(1); a.push(m) }

//: a map without end -> memory died
const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })

//: closures without end -> memory
let f = () => 0; for (;;) { const g = f; f = () => g }

//: a typed array of everything -> failed memory
new Float64Array(2 ** 31)

//: recursion -> failed
const f = () => f() + 1; f()

//: recursion through JSON -> failed memory
const a = []; let b = a; for (let i = 0; i < 1e6; i++) b = b[0] = []; JSON.stringify(a)

//: deeply nested result -> failed
let a = []; for (let i = 0; i < 2000; i++) a = [a]; a

//: a JSON bomb -> memory failed died cpu
JSON.parse('['.repeat(5e6) + ']'.repeat(5e6))

//: log lines without end -> output
for (;;) log('x'.repeat(1000))

//: log lines without end, caught -> cpu output
for (;;) { try { log('x'.repeat(1000)) } catch {} }

//: one log line too long -> output
log('x'.repeat(1 << 24))

//: a result too long -> output
'x'.repeat(1 << 20)

//: a result far too long -> output failed memory died
'x'.repeat((1 << 29) - 24)

//: host calls without end -> host_calls
for (;;) target.kv.get('a')

//: host calls without end, awaited -> host_calls
for (;;) await target.kv.get('a')

//: host calls without end, caught -> host_calls cpu memory
for (;;) { target.kv.get('a').catch(() => {}) }

//: an argument too long -> failed memory
await target.kv.put('a', 'x'.repeat(1 << 25))

//: half a character -> done = "\ufffd and \ufffd"
log('\ud800'); '\udc00 and \ud83d'

//: half a character in a call -> done = 6
(await target.kv.get('\ud800')).length

//: a symbol as the result -> failed
export default () => Symbol('x')

//: a big number as the result -> failed
10n

//: an invalid date as the result -> done = null
new Date(NaN)

//: a function as the result -> failed
export default () => () => 1

//: a cycle as the result -> failed
const a = {}; a.a = a; a

//: a revoked proxy as the result -> failed
const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); proxy

//: throwing null -> failed
throw null

//: throwing a proxy that throws -> failed
throw new Proxy({}, { get() { throw 1 }, has() { throw 2 } })

//: a stack that throws -> failed
throw Object.defineProperty(new Error('x'), 'stack', { get() { throw 1 } })

//: a message that throws -> failed
throw { get message() { throw 1 } }

//: a name that is no text -> failed
const e = new Error('x'); e.name = Symbol('a'); throw e

//: then replaced -> done cpu wall
Promise.prototype.then = () => { for (;;); }; (await target.kv.get('a')).length

//: then of all objects -> done failed wall
Object.prototype.then = function (f) { f(7) }; 1

//: the constructor of promises -> done failed
Promise.prototype.constructor = class { constructor() { throw 1 } }; 1

//: JSON replaced -> done = 6
JSON.stringify = () => '{'; JSON.parse = () => { throw 1 }; (await target.kv.get('a')).length

//: toJSON of all objects -> done = "mine"
Object.prototype.toJSON = () => 'mine'; Array.prototype.toJSON = () => 'mine'; await target.kv.get('a').catch(() => {}); ({ a: 1 })

//: toJSON that writes records -> done
String.prototype.toJSON = () => 'x\nR1'; ['a']

//: arrays without iteration -> done = 6
delete Array.prototype[Symbol.iterator]; (await target.kv.get('a')).length

//: setters on all arrays -> done failed
Object.defineProperty(Array.prototype, 0, { set() { throw 1 } }); (await target.kv.get('a')).length

//: getters on all objects -> done failed
for (const k of ['get', 'set', 'value', 'writable', 'enumerable']) Object.defineProperty(Object.prototype, k, { get() { throw 1 } }); await target.kv.get('a'); 1

//: strings replaced -> failed
for (const k of Object.getOwnPropertyNames(String.prototype)) try { String.prototype[k] = () => { throw 1 } } catch {}; throw new Error('x')

//: maps replaced -> done failed wall
for (const k of ['get', 'set', 'has', 'delete']) Map.prototype[k] = () => { throw 1 }; await new Promise((r) => setTimeout(r, 5)); 1

//: functions replaced -> done = 6
Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 1 }; Reflect.apply = () => { throw 2 }; log('x'); (await target.kv.get('a')).length

//: errors replaced -> failed
Error.prepareStackTrace = () => { throw 1 }; Error.stackTraceLimit = 1e9; Error = null; null.x

//: errors with a stack that is an object -> failed
Error.prepareStackTrace = (e, s) => s; throw new Error('x')

//: the global object emptied -> done failed
for (const k of Reflect.ownKeys(globalThis)) try { delete globalThis[k] } catch {}; log('x'); 5

//: all globals replaced -> done failed
for (const k of Reflect.ownKeys(globalThis)) try { globalThis[k] = () => { throw 1 } } catch {}; (await target.kv.get('a')).length

//: a prototype of its own for params -> done = 1
Object.getPrototypeOf(params).polluted = 1; ({}).polluted

//: __proto__ in the params -> done = true
params.polluted === undefined && ({}).polluted === undefined && Object.hasOwn(params, '__proto__')

//: looking for the host -> done = ["undefined", "undefined", "undefined", "undefined", "undefined", "undefined", "undefined", "undefined", "undefined"]
[typeof process, typeof require, typeof module, typeof Deno, typeof print, typeof load, typeof read, typeof quit, typeof d8]

//: the constructor of functions -> done = "undefinedobject"
(() => {}).constructor('return typeof process + typeof this')()

//: an import at run time -> failed
export default () => eval('import("fs")')

//: leaving the function it is in -> failed cpu
1 }}); for (;;); (async () => {{

//: a name for itself that is not its own -> failed
throw new Error('x') //# sourceURL=/etc/passwd

//: an operation that it was not given -> failed
await target.fs.read('/etc/passwd')

//: an operation of another side -> failed
await caller.fs.readText('/etc/passwd')

//: talking on file descriptors by an uncaught finaliser -> done memory
new FinalizationRegistry(() => { throw new Error('out') }).register({}, 1); for (let i = 0; i < 300; i++) new Array(1e4).fill(i); await new Promise((r) => setTimeout(r, 20)); 1

//: a uncaught rejection -> done = 3
Promise.reject(new Error('nobody')); await 0; 3
