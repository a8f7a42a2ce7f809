"""Programs for WebAssembly guests, in its text form: what a case needs stands between the imports
and helpers that all share."""

from __future__ import annotations

import wasmtime

# Imports of ours, and memory: texts of a program begin at 1024, answers are put at 65536.
HEAD = """
  (import "orvalho" "log" (func $log (param i32 i32 i32)))
  (import "orvalho" "params" (func $params (result i32)))
  (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (import "orvalho" "take" (func $take (param i32)))
  (import "orvalho" "result" (func $result (param i32 i32)))
  (import "orvalho" "result_bytes" (func $result_bytes (param i32 i32)))
  (import "orvalho" "fail" (func $fail (param i32 i32)))
  (import "orvalho" "sleep" (func $sleep (param i64)))
"""
WASI = """
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir"
    (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
"""
# Logs, calls and results of what lies in memory.
HELPERS = """
  (func $answer (param $n i32)
    (call $take (i32.const 65536)) (call $result (i32.const 65536) (local.get $n)))
"""


def module(body: str, *, data: dict[int, str] | None = None, imports: str = HEAD) -> bytes:
    """A module with two pages of memory, `data` by place, and `body`."""
    texts = "".join(
        f'(data (i32.const {at}) "{text}")' for at, text in (data or {}).items()
    ).replace("\n", "\\n")
    helpers = HELPERS if imports.startswith(HEAD) else ""
    return assemble(f'(module {imports} (memory (export "memory") 4) {texts} {helpers} {body})')


def run(body: str, **settings: object) -> bytes:
    """A module that exports `run`."""
    return module(f'(func $run (export "run") {body})', **settings)  # type: ignore[arg-type]


def command(body: str, *, data: dict[int, str] | None = None, functions: str = "") -> bytes:
    """A program of WASI preview 1."""
    body = f'{functions} (func (export "_start") {body})'
    return module(body, data=data, imports=HEAD + WASI)


def assemble(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))
