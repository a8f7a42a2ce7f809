;; A program of WASI preview 1: prints the file that its first argument names, as `cat` does.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))

  ;; 0: a vector of one buffer; 16: sizes; 24: a descriptor; 32: the argument's places
  (func (export "_start") (local $path i32) (local $end i32)
    (call $check (call $sizes (i32.const 16) (i32.const 20)))
    (if (i32.lt_u (i32.load (i32.const 16)) (i32.const 2)) (then (call $exit (i32.const 64))))
    (call $check (call $args (i32.const 32) (i32.const 1024)))
    ;; Without the slash in front: paths are relative to the folder that is open as 3.
    (local.set $path (i32.load (i32.const 36)))
    (if (i32.eq (i32.load8_u (local.get $path)) (i32.const 47))
      (then (local.set $path (i32.add (local.get $path) (i32.const 1)))))
    (local.set $end (local.get $path))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $next))))
    (call $check (call $open (i32.const 3) (i32.const 0) (local.get $path)
      (i32.sub (local.get $end) (local.get $path)) (i32.const 0) (i64.const 2) (i64.const 0)
      (i32.const 0) (i32.const 24)))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 4096))
      (call $check (call $read (i32.load (i32.const 24)) (i32.const 0) (i32.const 1)
        (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (call $check (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
          (br $more))))))
