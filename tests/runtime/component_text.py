"""Components for tests, in WebAssembly's text form: those that one core module makes, with the
imports of `wat.py` over our own world, and those that use WASI preview 2."""

from __future__ import annotations

from orvalho.scripts.wasm.module import read_module
from tests.runtime import wat

# Memory and a bump allocator, which all modules of a component share.
LIBC = """
  (core module $Libc
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 131072))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get 2))))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (block $room (loop $more
        (br_if $room (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (br $more)))
      (local.get $at)))
  (core instance $libc (instantiate $Libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
"""
# What is lowered with memory.
USES = "(memory (core memory $memory)) (realloc (core func $realloc))"
ERROR = """
  (import "orvalho:host/types@0.1.0" (instance $types
    (type $r (record (field "name" string) (field "message" string)))
    (export "error" (type (eq $r)))))
  (alias export $types "error" (type $error))
"""
WORLD = f"""
  {ERROR}
  (import "orvalho:host/log@0.1.0" (instance $log
    (type $l (enum "debug" "log" "info" "warn" "error"))
    (export "level" (type $level (eq $l)))
    (export "write" (func (param "level" $level) (param "line" string)))))
  (import "orvalho:host/run@0.1.0" (instance $run
    (alias outer 1 $error (type $e1))
    (export "error" (type $e (eq $e1)))
    (export "params" (func (result string)))
    (export "set-result" (func (param "json" string)))
    (export "set-result-bytes" (func (param "content" (list u8))))
    (export "call" (func (param "op" string) (param "arguments" string)
      (result (result string (error $e)))))
    (export "fail" (func (param "message" string)))
    (export "sleep" (func (param "milliseconds" u64)))))
  (core func $write (canon lower (func $log "write") {USES}))
  (core func $params (canon lower (func $run "params") {USES}))
  (core func $result (canon lower (func $run "set-result") {USES}))
  (core func $bytes (canon lower (func $run "set-result-bytes") {USES}))
  (core func $call (canon lower (func $run "call") {USES}))
  (core func $fail (canon lower (func $run "fail") {USES}))
  (core func $sleep (canon lower (func $run "sleep") {USES}))
"""
# The imports of `wat.HEAD`, by way of a table: the module has the memory that they need.
SIGNATURES = {
    "log": "(param i32 i32 i32)",
    "params": "(result i32)",
    "call": "(param i32 i32 i32 i32) (result i32)",
    "take": "(param i32)",
    "result": "(param i32 i32)",
    "result_bytes": "(param i32 i32)",
    "fail": "(param i32 i32)",
    "sleep": "(param i64)",
}
SHIM = (
    '(core module $Shim (table (export "table") 8 8 funcref)'
    + "".join(
        f'(type ${name} (func {text})) (func (export "{name}") (type ${name})'
        + "".join(f"(local.get {n})" for n in range(len(text.partition("(result")[0].split()) - 1))
        + f"(i32.const {number}) (call_indirect (type ${name})))"
        for number, (name, text) in enumerate(SIGNATURES.items())
    )
    + ") (core instance $shim (instantiate $Shim))"
)
ADAPTER = f"""
  (core module $Main)
  (core instance $main (instantiate $Main (with "orvalho" (instance $shim))))
  (alias core export $main "memory" (core memory $memory))
  (core module $Realloc
    (import "main" "memory" (memory 1))
    (global $top (mut i32) (i32.const 196608))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get 2))))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $Realloc (with "main" (instance $main))))
  (alias core export $libc "realloc" (core func $realloc))
  {WORLD}
  (core module $Adapter
    (import "main" "memory" (memory 1))
    (import "shim" "table" (table 8 8 funcref))
    (import "world" "params" (func $params (param i32)))
    (import "world" "call" (func $call (param i32 i32 i32 i32 i32)))
    (import "world" "log" (func $log (param i32 i32 i32)))
    (import "world" "result" (func $result (param i32 i32)))
    (import "world" "result_bytes" (func $bytes (param i32 i32)))
    (import "world" "fail" (func $fail (param i32 i32)))
    (import "world" "sleep" (func $sleep (param i64)))
    (global $at (mut i32) (i32.const 0))
    (global $size (mut i32) (i32.const 0))
    (func $keep (param $place i32)
      (global.set $at (i32.load (local.get $place)))
      (global.set $size (i32.load offset=4 (local.get $place))))
    (func $parameters (result i32)
      (call $params (i32.const 512)) (call $keep (i32.const 512)) (global.get $size))
    (func $ask (param i32 i32 i32 i32) (result i32)
      (call $call (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 512))
      (call $keep (i32.const 516))
      (if (i32.eqz (i32.load8_u (i32.const 512))) (then (return (global.get $size))))
      ;; As the import of a module has it: the error as JSON, as far as its name.
      (i64.store (i32.const 600) (i64.const 0x3a22656d616e227b))
      (i32.store8 (i32.const 608) (i32.const 0x22))
      (memory.copy (i32.const 609) (global.get $at) (global.get $size))
      (i32.store16 (i32.add (i32.const 609) (global.get $size)) (i32.const 0x7d22))
      (global.set $at (i32.const 600))
      (global.set $size (i32.add (global.get $size) (i32.const 11)))
      (i32.sub (i32.const 0) (global.get $size)))
    (func $take (param i32)
      (memory.copy (local.get 0) (global.get $at) (global.get $size)))
    (elem (i32.const 0) $log $parameters $ask $take $result $bytes $fail $sleep))
  (core instance (instantiate $Adapter
    (with "main" (instance $main)) (with "shim" (instance $shim))
    (with "world" (instance
      (export "log" (func $write)) (export "params" (func $params)) (export "call" (func $call))
      (export "result" (func $result)) (export "result_bytes" (func $bytes))
      (export "fail" (func $fail)) (export "sleep" (func $sleep))))))
"""
TYPES = {"i32": "s32", "i64": "s64", "f32": "f32", "f64": "f64"}


def component(text: str) -> bytes:
    """A component of that body."""
    return wat.assemble(f"(component {text})")


def componentize(module: bytes) -> bytes:
    """The same program as a component: a module that imports what `wat.HEAD` names, over our own
    world. Its exported functions take and give signed numbers."""
    exports = ""
    for number, each in enumerate(read_module(module).exports):
        if each.type is None:
            continue
        given = "".join(f'(param "p{n}" {TYPES[k]})' for n, k in enumerate(each.type.parameters))
        result = "".join(f"(result {TYPES[kind]})" for kind in each.type.results)
        exports += (
            f'(alias core export $main "{each.name}" (core func $f{number}))'
            f'(func (export "{each.name}") {given} {result} (canon lift (core func $f{number})))'
        )
    return _with_module(component(f"{SHIM} {ADAPTER} {exports}"), module, 1)


def _with_module(whole: bytes, module: bytes, place: int) -> bytes:
    """With that module for the one in that place."""
    made, at = bytearray(whole[:8]), 8
    while at < len(whole):
        section, size, shift, begun = whole[at], 0, 0, at
        while True:
            at += 1
            size |= (whole[at] & 0x7F) << shift
            shift += 7
            if whole[at] < 0x80:
                break
        at += 1 + size
        if section == 1 and place == 0:
            made += b"\x01" + leb(len(module)) + module
        else:
            made += whole[begun:at]
        place -= section == 1
    return bytes(made)


def leb(number: int) -> bytes:
    """Unsigned LEB128."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def run(body: str, *, data: dict[int, str] | None = None) -> bytes:
    """A component that exports `run`: `wat.run` as a component."""
    return componentize(wat.run(body, data=data))


def functions(types: str, core: str, lifted: str) -> bytes:
    """A component without imports: `core` is the body of a module with the memory, `lifted` what is
    exported of its instance `$main`."""
    return component(
        f"""{LIBC} {types}
        (core module $Main (import "libc" "memory" (memory 4)) {core})
        (core instance $main (instantiate $Main (with "libc" (instance $libc))))
        {lifted}"""
    )


STREAMS = f"""
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p1)) (export "pollable" (type $p (eq $p1)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:io/error@0.2.0" (instance $failure (export "error" (type (sub resource)))))
  (alias export $failure "error" (type $io-error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $o (sub resource)))
    (export "input-stream" (type $i (sub resource)))
    (alias outer 1 $io-error (type $e1)) (export "error" (type $e (eq $e1)))
    (type $s (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $s)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $o)) (param "contents" (list u8))
        (result (result (error $se)))))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $i)) (param "len" u64) (result (result (list u8) (error $se)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (alias export $streams "input-stream" (type $input-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $o1)) (export "output-stream" (type $o (eq $o1)))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input-stream (type $i1)) (export "input-stream" (type $i (eq $i1)))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit
    (export "exit" (func (param "status" (result))))))
  (core func $block (canon lower (func $poll "[method]pollable.block") {USES}))
  (core func $now (canon lower (func $clock "now") {USES}))
  (core func $after (canon lower (func $clock "subscribe-duration") {USES}))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") {USES}))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read") {USES}))
  (core func $get-stdout (canon lower (func $stdout "get-stdout") {USES}))
  (core func $get-stdin (canon lower (func $stdin "get-stdin") {USES}))
  (core func $exit-with (canon lower (func $exit "exit") {USES}))
  (core func $drop (canon resource.drop $output-stream))
  (core instance $wasi
    (export "block" (func $block)) (export "now" (func $now)) (export "after" (func $after))
    (export "write" (func $write)) (export "read" (func $read))
    (export "stdout" (func $get-stdout)) (export "stdin" (func $get-stdin))
    (export "exit" (func $exit-with)) (export "drop" (func $drop)))
"""
WASI_HEAD = """
  (import "wasi" "block" (func $block (param i32)))
  (import "wasi" "now" (func $now (result i64)))
  (import "wasi" "after" (func $after (param i64) (result i32)))
  (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
  (import "wasi" "read" (func $read (param i32 i64 i32)))
  (import "wasi" "stdout" (func $stdout (result i32)))
  (import "wasi" "stdin" (func $stdin (result i32)))
  (import "wasi" "exit" (func $exit (param i32)))
  (import "wasi" "drop" (func $drop (param i32)))
  (import "libc" "memory" (memory 4))
"""


def command(body: str, *, data: dict[int, str] | None = None) -> bytes:
    """A program of WASI preview 2. `body` gives 0 for ok, 1 for err."""
    texts = "".join(
        f'(data (i32.const {at}) "{text}")' for at, text in (data or {}).items()
    ).replace("\n", "\\n")
    return component(
        f"""{LIBC} {STREAMS}
        (core module $Main {WASI_HEAD} {texts} (func (export "run") (result i32) {body}))
        (core instance $main (instantiate $Main
          (with "libc" (instance $libc)) (with "wasi" (instance $wasi))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $exported (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exported))"""
    )


def says(text: str, at: int = 1024) -> str:
    """Writes what lies at `at` to standard output."""
    size = len(text.encode())
    return f"(call $write (call $stdout) (i32.const {at}) (i32.const {size}) (i32.const 512))"
