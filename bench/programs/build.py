"""The C sources beside this, as WebAssembly (kept beside them) and natively.

`python -m bench.programs.build` makes the modules again, with the compiler of the package ziglang.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
KERNELS: Final = ("fib", "sieve", "matmul", "matrows", "sha256", "nbody")
# The same for every compiler. Square roots set no errno, which nothing here reads.
_FLAGS: Final = ("-O2", "-fno-math-errno", "-ffp-contract=off")
_ZIG: Final = (sys.executable, "-m", "ziglang", "cc")


def build_modules() -> None:
    """`kernels.wasm`, the same with vector instructions, and `hello.wasm`."""
    exports = ",".join(f"--export={name}" for name in KERNELS)
    library = ("-s", "-nostdlib", f"-Wl,--no-entry,{exports}", "kernels.c")
    _run(*_ZIG, "-target", "wasm32-wasi", *_FLAGS, *library, "-o", "kernels.wasm")
    _run(*_ZIG, "-target", "wasm32-wasi", *_FLAGS, "-msimd128", *library, "-o", "kernels-simd.wasm")
    hello = ("-s", "-Wl,-z,stack-size=65536", "hello.c", "-o", "hello.wasm")
    _run(*_ZIG, "-target", "wasm32-wasi", *_FLAGS, *hello)


def build_native(directory: Path) -> dict[str, Path]:
    """The kernels as a program (`native.c`), by each compiler that there is; by its name."""
    found = {}
    compilers = {"gcc": ("gcc",) if shutil.which("gcc") else None, "clang": _ZIG}
    for name, command in compilers.items():
        if command is not None:
            found[name] = directory / name
            _run(*command, *_FLAGS, "kernels.c", "native.c", "-o", str(found[name]))
    return found


def _run(*command: str) -> None:
    subprocess.run(command, cwd=HERE, check=True, timeout=300)


if __name__ == "__main__":
    build_modules()
