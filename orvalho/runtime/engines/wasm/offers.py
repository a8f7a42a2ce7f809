"""All that a WebAssembly guest can import, by module and name."""

from __future__ import annotations

from typing import Final

from orvalho.runtime.engines.wasm.guest import ORVALHO, Offered
from orvalho.runtime.engines.wasm.wasi import WASI_FUNCTIONS
from orvalho.scripts.wasm.module import WASI

_OFFERS: Final = {"orvalho": ORVALHO, WASI: WASI_FUNCTIONS}


def find(module: str, name: str) -> Offered | None:
    """None when there is no such import."""
    return _OFFERS.get(module, {}).get(name)
