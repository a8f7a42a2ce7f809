"""Groups: directories of public keys, `groups/<name>/*.pub`, read again when they change.

A `.pub` file holds one key a line (`#` starts a comment), or PEM blocks, or the 32 bytes of one key
and nothing else. Understood are `ed25519:...`, 32 bytes in base64 or hex, an OpenSSH line (RFC
4253, section 6.6; RFC 8709) and a PEM SubjectPublicKeyInfo (RFC 8410).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orvalho.contexts.durable import sync_directory
from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import check_label
from orvalho.errors import Conflict, InvalidInput, Unavailable

_FILE_LIMIT_BYTES: Final = 1 << 20
_KEY_BYTES: Final = 32
_PEM_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
_PEM_END: Final = "-----END PUBLIC KEY-----"
# SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }: RFC 8410, section 4.
_SPKI_HEAD: Final = bytes.fromhex("302a300506032b6570032100")
# The strings "ssh-ed25519" and (its length alone) the key: RFC 8709, section 4.
_SSH_HEAD: Final = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reading found: membership `changes`, and `problems` as `file:line: what`."""

    changes: tuple[str, ...]
    problems: tuple[str, ...]


class Groups:
    """Who is in which group. Nothing is read before the first `reload`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, frozenset[Key]] = {}
        self._members: dict[str, frozenset[Key]] = {}
        self._groups: dict[Key, frozenset[str]] = {}
        self._lock = threading.Lock()

    def reload(self) -> Reload:
        """Read the directory again. A file with a problem keeps the members of its last good
        reading: a typo must not let somebody out of a group that a deny rule names. From any
        thread."""
        with self._lock:
            return self._reload()

    def _reload(self) -> Reload:
        problems: list[str] = []
        files: dict[Path, frozenset[Key]] = {}
        before = self._members
        members: dict[str, frozenset[Key]] = {}
        for directory in self._group_directories(problems):
            keys: set[Key] = set()
            for path in sorted(directory.glob("*.pub")):
                found = _read_file(path, str(path.relative_to(self._directory.parent)))
                if found is None:
                    continue
                read, mistakes = found
                files[path] = self._files.get(path, frozenset()) if mistakes else read
                problems += mistakes
                keys |= files[path]
            members[directory.name] = frozenset(keys)
        self._files, self._members = files, members
        self._groups = _by_key(members)
        return Reload(tuple(_changes(before, members)), tuple(problems))

    def groups_of(self, key: Key) -> frozenset[str]:
        """The names of the groups that hold the key."""
        return self._groups.get(key, frozenset())

    def members(self, name: str) -> frozenset[Key]:
        """The keys in a group; empty when there is no such group."""
        return self._members.get(name, frozenset())

    def names(self) -> tuple[str, ...]:
        """All groups, sorted, those without members too."""
        return tuple(sorted(self._members))

    def files_of(self, name: str, key: Key) -> tuple[str, ...]:
        """The files of a group that hold the key, as `groups/family/gil.pub`."""
        top, directory = self._directory.parent, self._directory / name
        return tuple(
            str(path.relative_to(top))
            for path, keys in self._files.items()
            if path.parent == directory and key in keys
        )

    def add(self, name: str, key: Key, label: str) -> str | None:
        """Write the key to a file of the group, which is made if need be; the file, or None when
        the key is in the group already. Durable; counts from the next `reload` on.

        Raises:
            InvalidInput: that is no name of a group.
            Unavailable: the file cannot be written.
        """
        check_label(name)
        if key in self.members(name):
            return None
        directory = self._directory / name
        path = directory / f"{label}.pub"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path = directory / f"{label}-{key.hex()[:16]}.pub"
            # Whole or not at all: a file that is half written would be a mistake for a moment.
            temporary = directory / f".{path.name}~"
            with temporary.open("w") as file:
                file.write(f"{key_text(key)}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(directory)
        except OSError as error:
            raise Unavailable(
                f"the group cannot be written: {error.strerror}", where=str(path)
            ) from error
        return str(path.relative_to(self._directory.parent))

    def remove(self, name: str, key: Key) -> tuple[str, ...]:
        """Remove the files of the group that hold the key; their names. Counts from the next
        `reload` on.

        Raises:
            Conflict: a file holds other keys too.
            Unavailable: a file cannot be removed.
        """
        shown = self.files_of(name, key)
        paths = [self._directory.parent / each for each in shown]
        for path in paths:
            if len(self._files.get(path, ())) > 1:
                raise Conflict(
                    "this file holds other keys too: take the line out of it by hand",
                    where=str(path),
                    hint=f"orvalho group show {name}",
                )
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the key cannot be removed: {error.strerror}", where=str(error.filename)
            ) from error
        return shown

    def _group_directories(self, problems: list[str]) -> Iterator[Path]:
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                check_label(path.name)
            except InvalidInput as error:
                problems.append(f"{path.relative_to(self._directory.parent)}: {error.message}")
                continue
            yield path


def parse_public_key(text: str) -> Key:
    """A key in any of the one-line forms.

    Raises:
        InvalidInput: it is none of them; the message says what is wrong.
    """
    text = text.strip()
    if text.startswith("ed25519:"):
        return parse_key(text)
    if text.startswith("ssh-"):
        return _parse_ssh(text)
    if _HEX.fullmatch(text):
        return Key(bytes.fromhex(text))
    return _sized(_base64(text), "a key in base64 or hex")


def _read_file(path: Path, shown: str) -> tuple[frozenset[Key], list[str]] | None:
    """The keys in a file, and what is wrong with it; None for one that is gone again."""
    try:
        raw = _read_regular(path)
    except FileNotFoundError:
        # A link that leads nowhere is a mistake; a file that was just taken away is none.
        return (frozenset(), [f"{shown}: leads nowhere"]) if path.is_symlink() else None
    except OSError as error:
        return frozenset(), [f"{shown}: cannot be read: {error.strerror or error}"]
    if raw is None:
        return frozenset(), [f"{shown}: is no file"]
    if len(raw) > _FILE_LIMIT_BYTES:
        return frozenset(), [f"{shown}: more than {_FILE_LIMIT_BYTES} bytes"]
    if len(raw) == _KEY_BYTES and not _is_text(raw):
        return frozenset((Key(raw),)), []
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        return frozenset(), [
            f"{shown}: is neither text nor the {_KEY_BYTES} bytes of a key: {error}"
        ]
    keys: set[Key] = set()
    problems: list[str] = []
    for number, text in _entries(lines):
        try:
            keys.add(_parse_pem(text) if text.startswith("-----") else parse_public_key(text))
        except InvalidInput as error:
            problems.append(f"{shown}:{number}: {error.message}")
    if not keys and not problems:
        problems.append(f"{shown}: holds no key")
    return frozenset(keys), problems


def _read_regular(path: Path) -> bytes | None:
    """What a file holds, of a long one no more than shows that it is; None for what is no file. A
    pipe in its place must not keep us waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- it is open already
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(_FILE_LIMIT_BYTES + 1)


def _is_text(raw: bytes) -> bool:
    """Whether it can be read: no text of this length is a key, and few keys can be read."""
    return all(byte in b"\t\r\n" or 0x20 <= byte < 0x7F for byte in raw)


def _entries(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(line number, text) of each key: one line, or all lines of a PEM block."""
    block: list[str] = []
    start = 0
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if block:
            block.append(line)
            if line.startswith("-----END"):
                yield start, "\n".join(block)
                block = []
        elif line.startswith("-----BEGIN"):
            block, start = [line], number
        elif line and not line.startswith("#"):
            yield number, line
    if block:
        yield start, "\n".join(block)


def _parse_pem(block: str) -> Key:
    lines = block.split("\n")
    if "PRIVATE" in lines[0]:
        raise InvalidInput("this is a private key: keep it secret, and put its public half here")
    if lines[0] != _PEM_BEGIN or lines[-1] != _PEM_END:
        raise InvalidInput(f"a PEM key stands between {_PEM_BEGIN} and {_PEM_END}")
    der = _base64("".join(lines[1:-1]))
    if not der.startswith(_SPKI_HEAD):
        raise InvalidInput("the PEM block does not hold an Ed25519 public key")
    return _sized(der.removeprefix(_SPKI_HEAD), "the key in the PEM block")


def _parse_ssh(line: str) -> Key:
    kind, _, rest = line.partition(" ")
    if kind != "ssh-ed25519":
        raise InvalidInput(f"{kind} keys are not understood, only ssh-ed25519")
    blob = _base64(rest.split()[0] if rest.split() else "")
    if not blob.startswith(_SSH_HEAD):
        raise InvalidInput("the ssh-ed25519 line does not hold an Ed25519 key")
    return _sized(blob.removeprefix(_SSH_HEAD), "the key of the ssh-ed25519 line")


def _base64(text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("this is not a public key in a form that is understood") from error


def _sized(raw: bytes, what: str) -> Key:
    if len(raw) != 32:
        raise InvalidInput(f"{what} has 32 bytes, this one has {len(raw)}")
    return Key(raw)


def _by_key(members: dict[str, frozenset[Key]]) -> dict[Key, frozenset[str]]:
    found: dict[Key, set[str]] = {}
    for name, keys in members.items():
        for key in keys:
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def _changes(before: dict[str, frozenset[Key]], after: dict[str, frozenset[Key]]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, frozenset()), after.get(name, frozenset())
        yield from (f"@{name}: + {key_text(key)}" for key in sorted(new - old))
        yield from (f"@{name}: - {key_text(key)}" for key in sorted(old - new))
