"""A script: its source, the language it is in, and the digest that names it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.policies.access import is_unprintable
from orvalho.scripts.wasm.binary import COMPONENT_MAGIC, MODULE_MAGIC

MAX_SOURCE_BYTES: Final = 1 << 20
# A component that holds an interpreter has 18 MB.
MAX_MODULE_BYTES: Final = 32 << 20
_MAX_FILENAME_CHARACTERS: Final = 255


class Language(Enum):
    """What can be run. The value is the name shown to people."""

    JAVASCRIPT = "javascript"
    TYPESCRIPT = "typescript"
    WASM = "wasm"
    STARLARK = "starlark"
    # The name of a library that the target has (`reference.py`).
    LIBRARY = "library"


# Whose sources import others.
HAVE_MODULES: Final = (Language.JAVASCRIPT, Language.TYPESCRIPT, Language.STARLARK)

# Text, or a WebAssembly module as it is.
Source = str | bytes

_SUFFIXES: Final = {
    ".js": Language.JAVASCRIPT,
    ".mjs": Language.JAVASCRIPT,
    ".ts": Language.TYPESCRIPT,
    ".mts": Language.TYPESCRIPT,
    ".wasm": Language.WASM,
    ".star": Language.STARLARK,
    ".lib": Language.LIBRARY,
}


@dataclass(frozen=True, slots=True)
class Script:
    """`source` is bytes for WASM alone. `digest` is SHA-256 over it (text in UTF-8), 64 hex
    digits."""

    filename: str
    source: Source
    language: Language
    digest: str

    @property
    def id(self) -> str:
        """How a policy names it."""
        return f"sha256:{self.digest}"

    @property
    def text(self) -> str:
        """The source of a text language; empty for a module."""
        return self.source if isinstance(self.source, str) else ""

    @property
    def module(self) -> bytes:
        """The module; empty for a text language."""
        return self.source if isinstance(self.source, bytes) else b""


def make_script(filename: str, source: Source) -> Script:
    """Text may come as its bytes, too.

    Raises:
        InvalidInput: no supported suffix, bytes that are not what the suffix says, too large, or
            text that is not Unicode.
    """
    raw = raw_source(filename, source)
    language = language_of(filename, raw)
    limit = MAX_MODULE_BYTES if language is Language.WASM else MAX_SOURCE_BYTES
    if len(raw) > limit:
        raise InvalidInput(
            f"the source has {len(raw)} bytes, more than {limit}",
            where=filename,
            hint="hand large data over as params, or in a file that the script reads",
        )
    digest = hashlib.sha256(raw).hexdigest()
    if language is Language.WASM:
        return Script(filename, raw, language, digest)
    try:
        return Script(filename, raw.decode(), language, digest)
    except UnicodeDecodeError as error:
        raise InvalidInput("the source is not Unicode text", where=filename) from error


def raw_source(filename: str, source: Source) -> bytes:
    """The bytes that the digest is over.

    Raises:
        InvalidInput: text that is not Unicode.
    """
    try:
        return source if isinstance(source, bytes) else source.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the source is not Unicode text", where=filename) from error


def language_of(filename: str, raw: bytes) -> Language:
    """By the suffix, which the first bytes must bear out; by these alone for a name without a known
    suffix. Nothing is guessed: WebAssembly text is not taken for a module.

    Raises:
        InvalidInput: neither tells, or they contradict each other.
    """
    language = _named(filename)
    if raw.startswith((MODULE_MAGIC, COMPONENT_MAGIC)):
        if language in (None, Language.WASM):
            return Language.WASM
        raise InvalidInput(
            "these are the bytes of a WebAssembly module", where=filename, hint="name it *.wasm"
        )
    if language is Language.WASM or filename.endswith(".wat"):
        is_text = raw.lstrip()[:1] in (b"(", b";")
        raise InvalidInput(
            "this is WebAssembly text, which is not run: only its binary form is"
            if is_text
            else "this is no WebAssembly module of version 1",
            where=filename,
            hint="wat2wasm makes the binary" if is_text else None,
        )
    if language is None:
        # Nobody writes a file with the name of a library in it: it is made for each call.
        written = [each for each, of in _SUFFIXES.items() if of is not Language.LIBRARY]
        raise InvalidInput(
            f"scripts end in {' or '.join(written)}: other languages cannot be run",
            where=filename,
        )
    return language


def _named(filename: str) -> Language | None:
    # The name is shown on other people's terminals and stands in stack traces.
    if len(filename) > _MAX_FILENAME_CHARACTERS or (
        not filename.isprintable() and any(map(is_unprintable, filename))
    ):
        raise InvalidInput("a script's filename is short and printable", where=ascii(filename[:80]))
    stem, dot, ending = filename.rpartition(".")
    return _SUFFIXES.get(dot + ending) if stem else None
