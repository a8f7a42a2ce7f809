;;; Modules that mean harm, one after the other. A heading is `;;: name -> how it may end`, as for
;;; scripts: done, failed, or the name of a limit.

;;: an endless loop -> cpu
(module (func (export "run") (loop $l (br $l))))

;;: an endless loop in the start function -> cpu
(module (func $s (loop $l (br $l))) (start $s) (func (export "run")))

;;: recursion without end -> failed
(module (func $f (export "run") (call $f)))

;;: recursion with a large frame -> failed
(module (func $f (export "run") (param i64 i64 i64 i64 i64 i64 i64 i64)
  (call $f (local.get 7) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
    (local.get 5) (local.get 6))))

;;: two functions that call each other -> failed
(module (func $f (export "run") (call $g)) (func $g (call $f)))

;;: a memory that begins too large -> memory
(module (memory 60000) (func (export "run")))

;;: a memory that grows without end -> memory
(module (memory (export "memory") 1)
  (func (export "run") (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 8)) (i32.const 0))))
    unreachable))

;;: a memory that is asked to grow, and goes on -> cpu
(module (memory (export "memory") 1)
  (func (export "run") (loop $l (drop (memory.grow (i32.const 1000))) (br $l))))

;;: a table that begins too large -> memory
(module (table 90000000 funcref) (func (export "run")))

;;: a table that grows without end -> cpu
(module (table 1 funcref)
  (func (export "run") (loop $l (drop (table.grow (ref.null func) (i32.const 1000))) (br $l))))

;;: more memories than one -> failed
(module (memory 1) (memory 1) (func (export "run")))

;;: a memory of 64 bits -> failed
(module (memory i64 1) (func (export "run")))

;;: a shared memory -> failed
(module (memory 1 2 shared) (func (export "run")))

;;: fills all its memory -> cpu done
(module (memory (export "memory") 700)
  (func (export "run") (memory.fill (i32.const 0) (i32.const 1) (i32.const 45875200))))

;;: a log line from outside its memory -> failed
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
  (func (export "run") (call $log (i32.const 1) (i32.const 65530) (i32.const 100))))

;;: a log line of a negative size -> failed
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
  (func (export "run") (call $log (i32.const 1) (i32.const 0) (i32.const -1))))

;;: a log line without a memory -> failed
(module (import "orvalho" "log" (func $log (param i32 i32 i32)))
  (func (export "run") (call $log (i32.const 1) (i32.const 0) (i32.const 5))))

;;: a level that there is not -> done
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
  (func (export "run") (call $log (i32.const 77777) (i32.const 0) (i32.const 0))))

;;: lines without end -> output
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
  (func (export "run") (loop $l (call $log (i32.const 1) (i32.const 0) (i32.const 9)) (br $l))))

;;: lines that are empty, without end -> cpu output wall
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (memory (export "memory") 1)
  (func (export "run") (loop $l (call $log (i32.const 1) (i32.const 0) (i32.const 0)) (br $l))))

;;: a text that is no UTF-8 -> failed
(module (import "orvalho" "fail" (func $fail (param i32 i32))) (memory (export "memory") 1)
  (data (i32.const 0) "\ff\fe") (func (export "run") (call $fail (i32.const 0) (i32.const 2))))

;;: a call whose arguments are no JSON -> failed
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "target.kv.get[[[[")
  (func (export "run")
    (drop (call $call (i32.const 0) (i32.const 13) (i32.const 13) (i32.const 4)))))

;;: a call whose name has lines and blanks -> done
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "x\0aR1\0a y []")
  (func (export "run")
    (drop (call $call (i32.const 0) (i32.const 7) (i32.const 8) (i32.const 2)))))

;;: an answer that is put outside its memory -> failed
(module (import "orvalho" "params" (func $params (result i32)))
  (import "orvalho" "take" (func $take (param i32))) (memory (export "memory") 1)
  (func (export "run") (drop (call $params)) (call $take (i32.const -1))))

;;: a result that is no JSON -> failed
(module (import "orvalho" "result" (func $result (param i32 i32))) (memory (export "memory") 1)
  (data (i32.const 0) "1\0aE") (func (export "run") (call $result (i32.const 0) (i32.const 3))))

;;: calls without end -> host_calls
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "target.kv.get[\22a\22]")
  (func (export "run") (loop $l
    (drop (call $call (i32.const 0) (i32.const 13) (i32.const 13) (i32.const 5))) (br $l))))

;;: sleeps for centuries -> wall
(module (import "orvalho" "sleep" (func $sleep (param i64)))
  (func (export "run") (call $sleep (i64.const 9223372036854775807))))

;;: sleeps for less than nothing -> done
(module (import "orvalho" "sleep" (func $sleep (param i64)))
  (func (export "run") (call $sleep (i64.const -9223372036854775808))))

;;: a flood on standard output -> output cpu
(module (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 2)
  (func (export "_start") (i32.store (i32.const 4) (i32.const 65536))
    (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $l))))

;;: writes more pieces than there are -> done
(module (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const -8) (i32.const 1000) (i32.const -4)))))

;;: every descriptor there could be -> done
(module (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $i i32)
    (loop $l (drop (call $close (local.get $i)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 500))))))

;;: waits for the end of time -> wall
(module (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
  (func (export "_start")
    (i64.store (i32.const 24) (i64.const -1))
    (drop (call $poll (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 2000)))))

;;: polls a million things -> done
(module (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $poll (i32.const 0) (i32.const 1000) (i32.const 1000000) (i32.const 2000)))))

;;: asks for more chance than there is -> done
(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $r (i32.const 0) (i32.const 2147483647)))))

;;: an import that nobody offers -> failed
(module (import "env" "system" (func (param i32) (result i32))) (func (export "run")))

;;: an import with another type -> failed
(module (import "orvalho" "log" (func (param i32))) (func (export "run")))

;;: an import that is a memory -> failed
(module (import "orvalho" "log" (memory 1)) (func (export "run")))

;;: an exit status beyond all -> failed
(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const -1))))

;;: exports something else as its memory -> failed
(module (import "orvalho" "log" (func $log (param i32 i32 i32))) (func (export "memory"))
  (func (export "run") (call $log (i32.const 1) (i32.const 0) (i32.const 5))))

;;: divides by nothing -> failed
(module (func (export "run") (result i32) (i32.div_s (i32.const 1) (i32.const 0))))

;;: reads beyond its memory -> failed
(module (memory 1) (func (export "run") (result i32) (i32.load (i32.const 65536))))

;;: many arrays of the garbage collector's -> memory failed cpu
(module (type $a (array (mut i64)))
  (func (export "run") (local $x (ref null $a)) (loop $l
    (local.set $x (array.new $a (i64.const 1) (i32.const 1000000))) (br $l))))
;;: a table that is called where nothing is -> failed
(module (type $t (func)) (table 10 funcref)
  (func (export "run") (call_indirect (type $t) (i32.const 3))))

;;: a table that is called beyond its end -> failed
(module (type $t (func)) (table 10 funcref)
  (func (export "run") (call_indirect (type $t) (i32.const -1))))

;;: a call by another type than it has -> failed
(module (type $t (func (param i64))) (table 1 funcref) (elem (i32.const 0) $f) (func $f)
  (func (export "run") (call_indirect (type $t) (i64.const 1) (i32.const 0))))

;;: data that lies beyond its memory -> failed
(module (memory 1) (data (i32.const 65530) "0123456789") (func (export "run")))

;;: a start function that traps -> failed
(module (func $s unreachable) (start $s) (func (export "run")))

;;: a start function that calls, and then loops -> cpu host_calls
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "target.kv.get[\22a\22]")
  (func $s (loop $l
    (drop (call $call (i32.const 0) (i32.const 13) (i32.const 13) (i32.const 5))) (br $l)))
  (start $s) (func (export "run")))

;;: tail calls without end -> cpu
(module (func $f (export "run") (return_call $f)))

;;: an answer taken before there is one -> done
(module (import "orvalho" "take" (func $take (param i32))) (memory (export "memory") 1)
  (func (export "run") (call $take (i32.const 0))))

;;: a result as large as its memory -> output
(module (import "orvalho" "result_bytes" (func $r (param i32 i32))) (memory (export "memory") 100)
  (func (export "run") (call $r (i32.const 0) (i32.const 6553600))))

;;: a result of a negative size -> failed
(module (import "orvalho" "result_bytes" (func $r (param i32 i32))) (memory (export "memory") 1)
  (func (export "run") (call $r (i32.const 0) (i32.const -1))))

;;: a name of a call as large as its memory -> failed done
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 100)
  (func (export "run") (drop
    (call $call (i32.const 0) (i32.const 6553600) (i32.const 0) (i32.const 2)))))

;;: arguments that are nested without end -> failed
(module (import "orvalho" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 100) (data (i32.const 0) "target.kv.get")
  (func (export "run") (memory.fill (i32.const 100) (i32.const 91) (i32.const 1000000)) (drop
    (call $call (i32.const 0) (i32.const 13) (i32.const 100) (i32.const 1000000)))))

;;: a million arguments of its program -> done
(module (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $args (i32.const -4) (i32.const -4)))))

;;: opens a path as large as its memory -> done
(module (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 100)
  (func (export "_start") (memory.fill (i32.const 0) (i32.const 47) (i32.const 6553600))
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 6553600) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))))

;;: reads more at once than there is -> done
(module (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32))) (memory (export "memory") 1)
  (func (export "_start") (i32.store (i32.const 4) (i32.const -1))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))

;;: divides the least number by minus one -> failed
(module (func (export "run") (result i64)
  (i64.div_s (i64.const -9223372036854775808) (i64.const -1))))

;;: makes a number of what is none -> failed
(module (func (export "run") (result i32) (i32.trunc_f64_s (f64.const nan))))

;;: an exception that nobody catches -> failed
(module (tag $e) (func (export "run") (throw $e)))

;;: exports what is no function under its name -> failed
(module (global (export "run") i32 (i32.const 1)))
