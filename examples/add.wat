;; A library: `--param call=add --param args=[2,3]` calls its function.
(module
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))
  (func (export "mean") (param f64 f64) (result f64)
    (f64.mul (f64.const 0.5) (f64.add (local.get 0) (local.get 1)))))
