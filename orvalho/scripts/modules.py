"""What a module is called: specifiers, the paths that they stand for, and digests.

A script's own files have paths below the folder that all of them lie in (`job.js`,
`src/thumb.ts`); a context's library is `/lib/images.js`, one that the node shares
`shared:/images.js`. `lib:images` and `shared:images` are names, which stand for one of those where
the script runs.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.policies.access import is_unprintable

MAX_MODULES: Final = 256
MAX_MODULE_SOURCE_BYTES: Final = 4 << 20
# Of a script with all that came with it.
MAX_MODULES_BYTES: Final = 16 << 20
_MAX_PATH_CHARACTERS: Final = 255
SUFFIXES: Final = (".js", ".mjs", ".ts", ".mts")
STARLARK: Final = (".star",)
# What JavaScript may import beside code.
DATA: Final = (".json",)
LIBRARIES: Final = "/lib"
SHARED: Final = "shared:"
_ENDINGS: Final = (*SUFFIXES, *STARLARK, *DATA)
# What no relative path leads out of.
_TOPS: Final = (f"{LIBRARIES}/", f"{SHARED}/")
_NAME: Final = re.compile(r"(?:lib|shared):[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def suffixes_for(referrer: str) -> tuple[str, ...]:
    """How the modules end that a source may import, by its own language."""
    return STARLARK if referrer.endswith(STARLARK) else SUFFIXES


def is_named(path: str) -> bool:
    """Whether this is a name such as `lib:images`, whose file is known where the script runs."""
    return _NAME.fullmatch(path) is not None


def resolve(specifier: str, referrer: str) -> str:
    """The path, or the name, that a specifier in the module `referrer` stands for.

    Raises:
        InvalidInput: it names nothing that could travel with a script or lie on its target.
    """
    if specifier.startswith(("./", "../")):
        return _beside(specifier, referrer)
    if is_named(specifier):
        is_of_owner = referrer.startswith((f"{LIBRARIES}/", SHARED))
        if specifier.startswith(SHARED) and not is_of_owner:
            raise InvalidInput(
                f'"{specifier}": a script imports lib:{specifier.removeprefix(SHARED)}; '
                "shared: is for the libraries of a context"
            )
        return specifier
    if specifier.startswith(("http:", "https:", "data:", "file:", "node:", "npm:", "jsr:")):
        raise InvalidInput(f'"{specifier}": nothing is fetched; keep a copy beside the script')
    if _URL.match(specifier):
        raise InvalidInput(f'"{specifier}" is no module: write "./name.js" or "lib:name"')
    if specifier.startswith("/"):
        raise InvalidInput(f'"{specifier}": a module is named from where it is used, "./name.js"')
    ending = "" if specifier.endswith(suffixes_for(referrer)) else suffixes_for(referrer)[0]
    raise InvalidInput(f'"{specifier}" is a bare name: write "./{specifier}{ending}" or "lib:name"')


def check_path(path: str) -> None:
    """Whether a path that came from elsewhere is one that `resolve` answers for a script's file.

    Raises:
        InvalidInput: it is not.
    """
    is_plain = path == posixpath.normpath(path) and not path.startswith(("/", ".."))
    if not is_plain or is_named(path) or ":" in path or "\\" in path:
        raise InvalidInput(f"{path[:80]!a} is no path of a module")
    if len(path) > _MAX_PATH_CHARACTERS or any(map(is_unprintable, path)):
        raise InvalidInput(f"a module's path is short and printable, not {path[:80]!a}")
    if not path.endswith(_ENDINGS):
        raise InvalidInput(f"{path[:80]!a}: a module ends in {' or '.join(_ENDINGS)}")


def check_modules(sources: Mapping[str, str]) -> None:
    """Raises:
    InvalidInput: too many, too large, or not named like modules.
    """
    if len(sources) > MAX_MODULES:
        raise InvalidInput(f"a script has at most {MAX_MODULES} modules, not {len(sources)}")
    total = 0
    for path, source in sources.items():
        check_path(path)
        size = len(source.encode("utf-8", "replace"))
        total += size
        if size > MAX_MODULE_SOURCE_BYTES:
            raise InvalidInput(
                f"a module has at most {MAX_MODULE_SOURCE_BYTES} bytes, not {size}", where=path
            )
    if total > MAX_MODULES_BYTES:
        raise InvalidInput(f"a script's modules have at most {MAX_MODULES_BYTES} bytes together")


def digest_of(source: str | bytes) -> str:
    """SHA-256, 64 hex digits.

    Raises:
        InvalidInput: text that is not Unicode.
    """
    try:
        raw = source if isinstance(source, bytes) else source.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the source is not Unicode text") from error
    return hashlib.sha256(raw).hexdigest()


def named(specifiers: Iterable[str]) -> tuple[str, ...]:
    """Those that are names, each once, in order."""
    return tuple(sorted({each for each in specifiers if is_named(each)}))


def _beside(specifier: str, referrer: str) -> str:
    top = next((each for each in _TOPS if referrer.startswith(each)), "")
    if "\\" in specifier or "\0" in specifier or "//" in specifier:
        raise InvalidInput(f'"{specifier}" is no path: its parts are parted by one /')
    start = posixpath.dirname(referrer.removeprefix(top))
    found = posixpath.normpath(posixpath.join(start, specifier))
    if found == ".." or found.startswith("../"):
        raise InvalidInput(f'"{specifier}" leads out of the folder that the script is in')
    endings = suffixes_for(referrer)
    if found.endswith(".wasm"):
        raise InvalidInput(
            f'"{specifier}": WebAssembly is not imported. Send it as a script of its own, or call'
            " it where it is published (orvalho lib publish)"
        )
    if not found.endswith(endings if endings is STARLARK else (*endings, *DATA)):
        if found.endswith(_ENDINGS):
            raise InvalidInput(f'"{specifier}" is of another language than what imports it')
        raise InvalidInput(f'"{specifier}" has no ending: write "{specifier}{endings[0]}", in full')
    return top + found
