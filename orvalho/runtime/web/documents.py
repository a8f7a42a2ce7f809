"""`target.docs(collection)`, the host's half: documents of a context's collections, call by call.

A document is the value of the key `collection/id`, so it takes the rights on that key, and a query
those on all keys of the collection. The collection is the first argument of every call.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from orvalho.contexts.bindings import check_collection
from orvalho.contexts.documents import Documents, Values, document_key
from orvalho.contexts.query import Asked
from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.web.contexts import Gate

G = TypeVar("G")

_LIST_LIMIT: Final = 1000
_HINT: Final = '{where: {city: "Porto", age: {">=": 18}}, order: "name", limit: 20}'


class _One(msgspec.Struct, frozen=True, array_like=True):
    collection: str
    id: str


class _Put(msgspec.Struct, frozen=True, array_like=True):
    collection: str
    id: str
    doc: msgspec.Raw = msgspec.Raw(b"null")


class _ListOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefix: str = ""
    limit: int = _LIST_LIMIT


class _List(msgspec.Struct, frozen=True, array_like=True):
    collection: str
    options: _ListOptions | None = None


class _Query(msgspec.Struct, frozen=True, array_like=True):
    collection: str
    asked: Asked | None = None


def document_calls(
    side: str, values: Values, documents: Documents, gate: Gate
) -> dict[str, HostCall]:
    """`<side>.docs.*`, by name."""
    calls = _DocumentCalls(values, documents, gate)
    return {
        f"{side}.docs.get": calls.get,
        f"{side}.docs.put": calls.put,
        f"{side}.docs.delete": calls.delete,
        f"{side}.docs.list": calls.list,
        f"{side}.docs.query": calls.query,
    }


class _DocumentCalls:
    def __init__(self, values: Values, documents: Documents, gate: Gate) -> None:
        self._values = values
        self._documents = documents
        self._gate = gate

    async def get(self, argument: str) -> str:
        text = await self._values.get(self._key("kv.read", _decode(argument, _One)))
        self._gate.count(read_bytes=len(text or ""))
        return text or "null"

    async def put(self, argument: str) -> str:
        given = _decode(argument, _Put)
        key = self._key("kv.write", given)
        text = bytes(given.doc).decode()
        await self._gate.begin_effect()
        await self._values.put(key, text)
        self._gate.count(written_bytes=len(text))
        return "null"

    async def delete(self, argument: str) -> str:
        key = self._key("kv.write", _decode(argument, _One))
        await self._gate.begin_effect()
        return "true" if await self._values.delete(key) else "false"

    async def list(self, argument: str) -> str:
        given = _decode(argument, _List)
        options = given.options or _ListOptions()
        prefix = f"{check_collection(given.collection)}/{options.prefix}"
        # Asked with a glob, as kv.list: all that could be in the list.
        self._gate.decide("kv.read", f"{prefix}**")
        keys = await self._values.list(prefix, options.limit)
        cut = len(given.collection) + 1
        return msgspec.json.encode([key[cut:] for key in keys]).decode()

    async def query(self, argument: str) -> str:
        given = _decode(argument, _Query)
        collection = check_collection(given.collection)
        self._gate.decide("kv.read", f"{collection}/**")
        page = await self._documents.query(collection, given.asked or Asked())
        text = msgspec.json.encode(page).decode()
        self._gate.count(read_bytes=len(text))
        return text

    def _key(self, action: str, given: _One | _Put) -> str:
        key = document_key(given.collection, given.id)
        self._gate.decide(action, key)
        return key


def _decode(argument: str, kind: type[G]) -> G:
    try:
        return msgspec.json.decode(argument, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        hint = f"a query is {_HINT}" if kind is _Query else None
        raise InvalidInput(f"the arguments are not understood: {error}", hint=hint) from error
