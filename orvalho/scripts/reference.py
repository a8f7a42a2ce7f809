"""A script that names a library instead of carrying it: which one, its digest, and what its header
asks for. The target runs its own library of that name, if it is still the same."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from orvalho.contexts.names import check_label
from orvalho.errors import InvalidInput

SUFFIX: Final = ".lib"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """`sha256` is over the library's bytes, 64 hex digits; `header` the TOML of what it needs."""

    library: str
    sha256: str
    header: str = ""


def write_reference(reference: Reference) -> str:
    """Its text, the source of a script whose filename ends in SUFFIX."""
    return msgspec.json.encode(reference).decode()


def read_reference(text: str) -> Reference:
    """Raises:
    InvalidInput: it is no reference.
    """
    try:
        found = msgspec.json.decode(text.encode(), type=Reference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this names no library: {error}") from error
    if not _DIGEST.fullmatch(found.sha256):
        raise InvalidInput("a library's digest is 64 hex digits")
    check_label(found.library)
    return found
