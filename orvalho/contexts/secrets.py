"""Secrets of the owner's: credentials that mounts use, at rest in the age format (C2SP age 1.0).

One file a secret, encrypted to an X25519 key that is derived from the home's seed. So a backup of
the directory is of no use without the seed, and of full use with the recovery phrase. A secret
never leaves by way of a log, a policy, a setting or an error: whoever holds one passes it on to
the store it is for, and no one else.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from orvalho.contexts.durable import replace_file
from orvalho.contexts.names import check_label, near_miss
from orvalho.errors import Denied, InvalidInput, NotFound, Unavailable, Untrusted

MOST_BYTES: Final = 64 << 10
_SUFFIX: Final = ".age"
_HINT: Final = "orvalho secret set NAME"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a file. The name too: one file renamed to another does not become it."""

    name: str
    value: str
    contexts: tuple[str, ...] = ()
    set_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """A secret without its value. `contexts`: whose mounts may use it; empty for all. `problem`:
    why it cannot be used, None if it can."""

    name: str
    contexts: tuple[str, ...]
    set_at: float
    problem: str | None = None


class Secrets:
    """Those in `directory`. All calls touch the disk: call them in a thread."""

    def __init__(self, directory: Path, key: bytes) -> None:
        """`key`: 32 bytes, an X25519 private key that nothing else uses."""
        self._directory = directory
        self._key = key

    def set(self, name: str, value: str, contexts: Collection[str], *, now: float) -> bool:
        """Keep a value, durably; whether it is another than was kept. Only `contexts` may use it,
        or all where there are none.

        Raises:
            InvalidInput: the name is no label, or the value is empty or over 64 KiB.
            Unavailable: the disk does not take it.
        """
        check_label(name)
        for context in contexts:
            check_label(context)
        if not value or len(value.encode()) > MOST_BYTES:
            raise InvalidInput(f"a secret has 1 to {MOST_BYTES} bytes", where=name)
        kept = _Kept(name=name, value=value, contexts=tuple(sorted(set(contexts))), set_at=now)
        try:
            before = self._read(name)
        except (NotFound, Untrusted):
            before = None
        if before is not None and (before.value, before.contexts) == (kept.value, kept.contexts):
            return False
        pyrage = _age()
        sealed = pyrage.encrypt(msgspec.json.encode(kept), [self._identity().to_public()])
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._directory / f"{name}{_SUFFIX}", sealed)
        except OSError as error:
            raise Unavailable(f"the secret is not kept: {error.strerror}", where=name) from error
        return True

    def get(self, name: str, context: str) -> str:
        """The value, for a mount of `context`.

        Raises:
            NotFound: there is none of that name.
            Denied: it is for other contexts.
            Untrusted: the file is damaged, or was not made with this home's keys.
        """
        kept = self._read(name)
        if kept.contexts and context not in kept.contexts:
            raise Denied(
                f"the secret {name} is not for {context}",
                where=name,
                hint=f"orvalho secret set {name} --for {context}",
            )
        return kept.value

    def reveal(self, name: str) -> str:
        """The value, for its owner's eyes. Raises as `get` does."""
        return self._read(name).value

    def entries(self) -> list[SecretEntry]:
        """All of them, by name."""
        found = []
        for name in self._names():
            try:
                kept = self._read(name)
            except (NotFound, Untrusted) as error:
                found.append(SecretEntry(name, (), 0.0, error.message))
            else:
                found.append(SecretEntry(name, kept.contexts, kept.set_at))
        return found

    def find(self, name: str) -> SecretEntry:
        """Raises:
        NotFound, Untrusted: as `get`.
        """
        kept = self._read(name)
        return SecretEntry(name, kept.contexts, kept.set_at)

    def remove(self, name: str) -> bool:
        """Forget it; False when there was none.

        Raises:
            InvalidInput: the name is no label.
        """
        check_label(name)
        try:
            (self._directory / f"{name}{_SUFFIX}").unlink()
        except FileNotFoundError:
            return False
        return True

    def _names(self) -> list[str]:
        if not self._directory.is_dir():
            return []
        return sorted(each.stem for each in self._directory.glob(f"*{_SUFFIX}") if each.is_file())

    def _read(self, name: str) -> _Kept:
        check_label(name)
        path = self._directory / f"{name}{_SUFFIX}"
        try:
            with os.fdopen(
                os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"
            ) as file:
                sealed = file.read(4 * MOST_BYTES)
        except FileNotFoundError as error:
            near = near_miss(name, self._names())
            hint = f"did you mean {near}?" if near else _HINT
            raise NotFound(f"there is no secret {name}", where=name, hint=hint) from error
        except OSError as error:
            raise Untrusted(f"the secret cannot be read: {error.strerror}", where=name) from error
        try:
            kept = msgspec.json.decode(_age().decrypt(sealed, [self._identity()]), type=_Kept)
        # Without its cause: the text of a decoder may repeat what it could not decode.
        except (_age().DecryptError, msgspec.DecodeError):
            kept = None
        if kept is None or kept.name != name:
            raise Untrusted(
                f"the secret {name} is damaged, or was made with other keys",
                where=name,
                hint=f"orvalho secret set {name}",
            )
        return kept

    def _identity(self) -> Any:
        return _age().x25519.Identity.from_str(_bech32("age-secret-key-", self._key).upper())

    def __repr__(self) -> str:
        return f"Secrets({str(self._directory)!r})"


def _age() -> Any:
    import pyrage  # noqa: PLC0415 -- 10 ms that only a home with secrets needs

    return pyrage


def _bech32(prefix: str, content: bytes) -> str:
    """BIP 173, as age writes its keys."""
    bits = "".join(f"{byte:08b}" for byte in content)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    spread = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    check = _polymod([*spread, *values, *[0] * 6]) ^ 1
    values += [(check >> 5 * (5 - at)) & 31 for at in range(6)]
    return f"{prefix}1{''.join(_BECH32[value] for value in values)}"


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for at, generator in enumerate(_GENERATOR):
            check ^= generator if top >> at & 1 else 0
    return check
