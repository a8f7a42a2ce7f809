;; A component: a library whose function takes a variant and gives a result. Its WIT is
;;
;;   record size { width: f64, height: f64 }
;;   variant shape { point, circle(f64), rectangle(size) }
;;   export area: func(of: shape) -> result<f64, string>;
;;
;; shapes.wasm is this text in binary form: `wasm-tools parse shapes.wat -o shapes.wasm`, or in
;; Python `wasmtime.wat2wasm(text)`.
(component
  (type $size-type (record (field "width" f64) (field "height" f64)))
  (export $size "size" (type $size-type))
  (type $shape-type (variant (case "point") (case "circle" f64) (case "rectangle" $size)))
  (export $shape "shape" (type $shape-type))

  (core module $Shapes
    (memory (export "memory") 1)
    (data (i32.const 64) "no side is shorter than nothing")

    ;; The answer lies at 0: which case it is, and at 8 its value.
    (func $ok (param f64) (result i32)
      (i32.store8 (i32.const 0) (i32.const 0))
      (f64.store (i32.const 8) (local.get 0))
      (i32.const 0))
    (func $err (result i32)
      (i32.store8 (i32.const 0) (i32.const 1))
      (i32.store (i32.const 8) (i32.const 64))
      (i32.store (i32.const 12) (i32.const 31))
      (i32.const 0))

    ;; A variant comes as the number of its case and the values that the largest one has.
    (func (export "area") (param $case i32) (param $a f64) (param $b f64) (result i32)
      (if (i32.or (f64.lt (local.get $a) (f64.const 0)) (f64.lt (local.get $b) (f64.const 0)))
        (then (return (call $err))))
      (if (i32.eq (local.get $case) (i32.const 1))
        (then (return (call $ok (f64.mul (f64.const 3.141592653589793)
          (f64.mul (local.get $a) (local.get $a)))))))
      (if (i32.eq (local.get $case) (i32.const 2))
        (then (return (call $ok (f64.mul (local.get $a) (local.get $b))))))
      (call $ok (f64.const 0))))
  (core instance $shapes (instantiate $Shapes))
  (alias core export $shapes "memory" (core memory $memory))
  (func (export "area") (param "of" $shape) (result (result f64 (error string)))
    (canon lift (core func $shapes "area") (memory (core memory $memory)))))
