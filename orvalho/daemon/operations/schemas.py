"""What we do when the owner looks at the schemas of contexts, and at what does not fit them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from anyio import to_thread

from orvalho.contexts.bindings import MAX_DOCUMENT_BYTES, Binding, Bindings
from orvalho.contexts.context import Context
from orvalho.contexts.files import ContextFiles
from orvalho.contexts.filesystem import FileAction, VirtualPath
from orvalho.control import messages as control
from orvalho.control import schemas
from orvalho.daemon.house import House
from orvalho.errors import LimitExceeded, OrvalhoError

Replies = AsyncIterator[control.Reply]

_MOST_MISFITS: Final = 1000
_BATCH: Final = 500


class SchemaOperations:
    """`orvalho ctx schema ...`."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Request -> operation."""
        return {schemas.SchemaList: self.list, schemas.SchemaCheck: self.check}

    async def list(self, request: schemas.SchemaList) -> Replies:
        states: list[schemas.SchemaState] = []
        closed: list[tuple[str, str]] = []
        for context in self._contexts(request.context):
            bindings = await context.schemas.current()
            if bindings.closed:
                closed.append((context.name, bindings.closed))
            states += [_state(context, binding) for binding in bindings.all]
        yield schemas.SchemaListReply(schemas=tuple(states), closed=tuple(closed))

    async def check(self, request: schemas.SchemaCheck) -> Replies:
        documents = found = 0
        misfits: list[schemas.Misfit] = []
        problems: list[str] = []
        for context in self._contexts(request.context):
            bindings = await context.schemas.current()
            problems += [f"{context.name}:/{text}" for text in bindings.problems]
            usable = [each for each in bindings.all if each.schema is not None]
            async for binding, at, raw in self._bound(context, bindings, usable):
                documents += 1
                mistakes = await to_thread.run_sync(bindings.mistakes, binding, at, raw)
                found += bool(mistakes)
                if mistakes and len(misfits) < _MOST_MISFITS:
                    misfits.append(
                        schemas.Misfit(
                            context=context.name,
                            at=at,
                            schema=binding.file,
                            mistakes=tuple(mistakes),
                        )
                    )
        yield schemas.SchemaChecked(
            documents=documents, found=found, misfits=tuple(misfits), problems=tuple(problems)
        )

    def _contexts(self, name: str | None) -> tuple[Context, ...]:
        contexts = self._house.contexts
        return contexts.list() if name is None else (contexts.get(name),)

    async def _bound(
        self, context: Context, bindings: Bindings, usable: Sequence[Binding]
    ) -> AsyncIterator[tuple[Binding, str, bytes]]:
        """(binding, path or key, content) of all that a schema is bound to."""
        files = context.files(_owner_may)
        for top in _tops(usable):
            async for place in _below(files, top):
                bound = [each for each in bindings.of_file(place) if each in usable]
                if bound:
                    raw = await _read(files, place)
                    for binding in bound:
                        yield binding, place[1:], raw
        documents = self._house.documents_of(context.name)
        for binding in usable:
            after = ""
            while binding.collection:
                rows = await documents.texts(binding.collection, after, _BATCH)
                for key, text in rows:
                    yield binding, key, text.encode()
                if len(rows) < _BATCH:
                    break
                after = rows[-1][0]


def _state(context: Context, binding: Binding) -> schemas.SchemaState:
    return schemas.SchemaState(
        context=context.name,
        schema=binding.file,
        files=tuple(glob[1:] for glob in binding.globs),
        kv=binding.collection,
        indexed=binding.schema.indexed if binding.schema is not None else (),
        problem=binding.problem,
    )


def _tops(usable: Sequence[Binding]) -> list[VirtualPath]:
    """The folders that hold all that globs can match, none of them within another."""
    found: set[str] = set()
    for glob in (glob for binding in usable for glob in binding.globs):
        found.add(glob.partition("*")[0].rpartition("/")[0])
    outer = [top for top in found if not any(f"{top}/".startswith(f"{o}/") for o in found - {top})]
    return [VirtualPath(top or "/") for top in sorted(outer)]


async def _below(files: ContextFiles, top: VirtualPath) -> AsyncIterator[VirtualPath]:
    pending: list[str] = [top]
    while pending:
        at = pending.pop()
        try:
            entries = await files.list(at)
        except OrvalhoError:
            continue  # there is no such folder yet
        for entry in entries:
            inside = f"{at.rstrip('/')}/{entry.name}"
            if entry.kind == "directory":
                pending.append(inside)
            else:
                yield VirtualPath(inside)


async def _read(files: ContextFiles, place: VirtualPath) -> bytes:
    try:
        return await files.read(place, MAX_DOCUMENT_BYTES + 1)
    except LimitExceeded:
        # One byte too many is enough to be told that it is too large.
        return b" " * (MAX_DOCUMENT_BYTES + 1)


def _owner_may(_action: FileAction, _path: VirtualPath) -> None:
    """The owner looks at his own files: there is nothing to decide."""
