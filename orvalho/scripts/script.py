"""A script: source text, the language it is in, and the digest that names it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.policies.access import is_unprintable

MAX_SOURCE_BYTES: Final = 1 << 20
_MAX_FILENAME_CHARACTERS: Final = 255


class Language(Enum):
    """What can be run. The value is the name shown to people."""

    JAVASCRIPT = "javascript"


_SUFFIXES: Final = {".js": Language.JAVASCRIPT, ".mjs": Language.JAVASCRIPT}


@dataclass(frozen=True, slots=True)
class Script:
    """`digest` is SHA-256 over the source in UTF-8, 64 hex digits."""

    filename: str
    source: str
    language: Language
    digest: str

    @property
    def id(self) -> str:
        """How a policy names it."""
        return f"sha256:{self.digest}"


def make_script(filename: str, source: str) -> Script:
    """Raises:
    InvalidInput: no supported suffix, too large, or text that is not Unicode.
    """
    language = _language(filename)
    try:
        raw = source.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the source is not Unicode text", where=filename) from error
    if len(raw) > MAX_SOURCE_BYTES:
        raise InvalidInput(
            f"the source has {len(raw)} bytes, more than {MAX_SOURCE_BYTES}",
            where=filename,
            hint="hand large data over as params, or in a file that the script reads",
        )
    return Script(filename, source, language, hashlib.sha256(raw).hexdigest())


def _language(filename: str) -> Language:
    # The name is shown on other people's terminals and stands in stack traces.
    if len(filename) > _MAX_FILENAME_CHARACTERS or (
        not filename.isprintable() and any(map(is_unprintable, filename))
    ):
        raise InvalidInput("a script's filename is short and printable", where=ascii(filename[:80]))
    stem, dot, ending = filename.rpartition(".")
    language = _SUFFIXES.get(dot + ending) if stem else None
    if language is None:
        raise InvalidInput(
            f"scripts end in {' or '.join(_SUFFIXES)}: other languages cannot be run yet",
            where=filename,
        )
    return language
