"""The one door to wasmtime and its C interface.

Importing it fails on a machine that wasmtime is not made for: with ImportError, OSError or
RuntimeError, since its wheel for "any" machine holds the library of one.
"""

from __future__ import annotations

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime import component
from wasmtime._instance import InstanceExports

__all__ = ["wasmtime", "ffi", "component", "InstanceExports"]
