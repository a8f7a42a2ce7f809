"""`caller` and `target`, the host's half: both trees and the key-value store, call by call.

A call's argument is the JSON list of what the guest passed; bytes travel as `{"$bytes": base64}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from orvalho.contexts.files import ContextFiles, Entry
from orvalho.contexts.kv import Values, check_key
from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import HostCall

G = TypeVar("G")

# What one `read` may bring into an isolate at most.
MAX_READ_BYTES: Final = 16 << 20


class Gate(Protocol):
    """What stands between a guest and a context, one per run.

    `decide` raises Denied when the action on the object is not allowed (files ask the same of
    the check they were made with). `begin_effect` returns once the run may change something:
    its mark that it has started is durable. The counters are for the receipt.
    """

    def decide(self, action: str, object_: str) -> None: ...
    async def begin_effect(self) -> None: ...
    def count(self, *, read_bytes: int = 0, written_bytes: int = 0) -> None: ...


def file_calls(side: str, files: ContextFiles, gate: Gate) -> dict[str, HostCall]:
    """`<side>.fs.*`, by name."""
    calls = _FileCalls(files, gate)
    return {
        f"{side}.fs.read": _on_text(calls.read, _PATH),
        f"{side}.fs.readText": _on_text(calls.read_text, _PATH),
        f"{side}.fs.write": _on_text(calls.write, _WRITE),
        f"{side}.fs.list": _on_text(calls.list, _FOLDER),
        f"{side}.fs.stat": _on_text(calls.stat, _PATH),
        f"{side}.fs.exists": _on_text(calls.exists, _PATH),
        f"{side}.fs.mkdir": _on_text(calls.mkdir, _PATH),
        f"{side}.fs.remove": _on_text(calls.remove, _REMOVE),
        f"{side}.fs.move": _on_text(calls.move, _MOVE),
    }


def key_value_calls(side: str, values: Values, gate: Gate) -> dict[str, HostCall]:
    """`<side>.kv.*`, by name."""
    calls = _KeyValueCalls(values, gate)
    return {
        f"{side}.kv.get": calls.get,
        f"{side}.kv.put": calls.put,
        f"{side}.kv.delete": calls.delete,
        f"{side}.kv.list": calls.list,
    }


# The names of `file_calls`, for a side whose calls go over the link.
FILE_CALLS: Final = (
    "fs.read",
    "fs.readText",
    "fs.write",
    "fs.list",
    "fs.stat",
    "fs.exists",
    "fs.mkdir",
    "fs.remove",
    "fs.move",
)


class _Bytes(msgspec.Struct, frozen=True):
    """Bytes within JSON; msgspec writes and reads the base64."""

    content: bytes = msgspec.field(name="$bytes")


class _Entry(msgspec.Struct, frozen=True):
    """`size` in bytes, `modified` in milliseconds since 1970, as JavaScript counts."""

    name: str
    type: str
    size: int
    modified: int


class _Path(msgspec.Struct, frozen=True, array_like=True):
    path: str


class _Folder(msgspec.Struct, frozen=True, array_like=True):
    path: str = "/"


class _Write(msgspec.Struct, frozen=True, array_like=True):
    path: str
    content: str | _Bytes


class _RemoveOptions(msgspec.Struct, frozen=True):
    recursive: bool = False


class _Remove(msgspec.Struct, frozen=True, array_like=True):
    path: str
    options: _RemoveOptions | None = None


class _Move(msgspec.Struct, frozen=True, array_like=True):
    source: str
    target: str


_PATH: Final = msgspec.json.Decoder(_Path)
_FOLDER: Final = msgspec.json.Decoder(_Folder)
_WRITE: Final = msgspec.json.Decoder(_Write)
_REMOVE: Final = msgspec.json.Decoder(_Remove)
_MOVE: Final = msgspec.json.Decoder(_Move)


class _FileCalls:
    def __init__(self, files: ContextFiles, gate: Gate) -> None:
        self._files = files
        self._gate = gate

    async def read(self, given: _Path) -> _Bytes:
        return _Bytes(await self._content(given.path))

    async def read_text(self, given: _Path) -> str:
        content = await self._content(given.path)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{given.path} is not text in UTF-8: {error.reason} at byte {error.start}",
                where=given.path,
                hint="fs.read gives its bytes",
            ) from error

    async def write(self, given: _Write) -> None:
        content = given.content
        raw = content.content if isinstance(content, _Bytes) else content.encode()
        await self._gate.begin_effect()
        await self._files.write(given.path, raw)
        self._gate.count(written_bytes=len(raw))

    async def list(self, given: _Folder) -> list[_Entry]:
        return [_plain(entry) for entry in await self._files.list(given.path)]

    async def stat(self, given: _Path) -> _Entry:
        return _plain(await self._files.stat(given.path))

    async def exists(self, given: _Path) -> bool:
        return await self._files.exists(given.path)

    async def mkdir(self, given: _Path) -> bool:
        await self._gate.begin_effect()
        return await self._files.mkdir(given.path)

    async def remove(self, given: _Remove) -> None:
        await self._gate.begin_effect()
        recursive = given.options is not None and given.options.recursive
        await self._files.remove(given.path, recursive=recursive)

    async def move(self, given: _Move) -> None:
        await self._gate.begin_effect()
        await self._files.move(given.source, given.target)

    async def _content(self, path: str) -> bytes:
        content = await self._files.read(path, MAX_READ_BYTES)
        self._gate.count(read_bytes=len(content))
        return content


class _Key(msgspec.Struct, frozen=True, array_like=True):
    key: str


class _Put(msgspec.Struct, frozen=True, array_like=True):
    key: str
    value: msgspec.Raw = msgspec.Raw(b"null")


class _Prefix(msgspec.Struct, frozen=True, array_like=True):
    prefix: str = ""


class _KeyValueCalls:
    """Values stay JSON text all the way: they are neither decoded nor encoded here."""

    def __init__(self, values: Values, gate: Gate) -> None:
        self._values = values
        self._gate = gate

    async def get(self, argument: str) -> str:
        key = self._key("kv.read", argument)
        value = await self._values.get(key)
        self._gate.count(read_bytes=len(value or ""))
        return value or "null"

    async def put(self, argument: str) -> str:
        key = self._key("kv.write", argument)
        value = bytes(_decode(argument, _Put).value).decode()
        await self._gate.begin_effect()
        await self._values.put(key, value)
        self._gate.count(written_bytes=len(value))
        return "null"

    async def delete(self, argument: str) -> str:
        key = self._key("kv.write", argument)
        await self._gate.begin_effect()
        return "true" if await self._values.delete(key) else "false"

    async def list(self, argument: str) -> str:
        prefix = _decode(argument, _Prefix).prefix
        # Asked with a glob: whoever may list must be allowed all that could be in the list.
        self._gate.decide("kv.read", f"{prefix}**")
        return msgspec.json.encode(await self._values.list(prefix)).decode()

    def _key(self, action: str, argument: str) -> str:
        key = check_key(_decode(argument, _Key).key)
        self._gate.decide(action, key)
        return key


def _plain(entry: Entry) -> _Entry:
    return _Entry(entry.name, entry.kind, entry.size_bytes, round(entry.modified_at * 1000))


def _on_text(call: Callable[[G], Awaitable[Any]], decoder: msgspec.json.Decoder[G]) -> HostCall:
    async def on_text(argument: str) -> str:
        try:
            given = decoder.decode(argument)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _misunderstood(error) from error
        return msgspec.json.encode(await call(given)).decode()

    return on_text


def _decode(argument: str, kind: type[G]) -> G:
    try:
        return msgspec.json.decode(argument, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _misunderstood(error) from error


def _misunderstood(error: Exception) -> InvalidInput:
    return InvalidInput(f"the arguments are not understood: {error}")
