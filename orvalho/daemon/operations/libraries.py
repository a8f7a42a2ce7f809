"""What we do when the owner publishes a library, asks about one, or calls it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
from anyio import to_thread

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address, parse_address
from orvalho.contexts.trust import ContextEntry, Peer
from orvalho.control import libraries as words
from orvalho.control import messages as control
from orvalho.daemon.greeting import Greeted
from orvalho.daemon.house import House
from orvalho.daemon.library_words import (
    LIST,
    PART,
    PART_BYTES,
    SERVICES,
    SHOW,
    AskPart,
    Listed,
    ListLibraries,
    Part,
    Row,
    RunningServices,
    ShowLibrary,
    Shown,
    check_shown,
    row_of,
    shown_of,
)
from orvalho.daemon.limits import allowance
from orvalho.daemon.reach import away, comes
from orvalho.daemon.selection import meant_context
from orvalho.daemon.wire import T, decode, encode
from orvalho.errors import Conflict, InvalidInput, Untrusted
from orvalho.runtime.job import Job
from orvalho.scripts.library import replaced
from orvalho.scripts.reference import SUFFIX, Reference, write_reference
from orvalho.scripts.wasm.arguments import convert
from orvalho.scripts.wasm.metadata import Metadata, read_metadata

Replies = AsyncIterator[control.Reply]
Send = Callable[[control.ScriptSend], Replies]

_ANSWER_S: Final = 30.0
_COMES_S: Final = 5.0
_PARTS_AT_ONCE: Final = 4
_MOST_KNOWN: Final = 1_000


class LibraryOperations:
    """`orvalho lib ...`, `libs`, and `wasi ...` where it is about what is published. `send` is how
    a script is sent."""

    def __init__(self, house: House, send: Send) -> None:
        self._house = house
        self._send = send
        # What peers told of their libraries: a call is then one message.
        self._known: dict[tuple[Key, str], Shown] = {}

    def table(self) -> dict[type[control.Message], Callable[[Any], Any]]:
        """Request -> operation."""
        return {
            words.LibraryPublish: self.publish,
            words.LibraryRemove: self.remove,
            words.LibraryList: self.list,
            words.LibraryShow: self.show,
            words.LibraryGet: self.get,
            words.LibraryCall: self.call,
            words.ServiceStart: self.start_service,
            words.ServiceStop: self.stop_service,
            words.ServiceList: self.services,
        }

    # ---- ours ---------------------------------------------------------------------------------

    async def publish(self, request: words.LibraryPublish) -> Replies:
        libraries = self._house.libraries
        differs = await to_thread.run_sync(libraries.differs, request.name, request.content)
        if differs is not None and not request.replace:
            raise replaced(request.name, differs)
        changed = await to_thread.run_sync(
            lambda: libraries.publish(
                request.filename,
                request.content,
                name=request.name,
                doc=request.doc,
                needs=request.needs,
            )
        )
        library = await to_thread.run_sync(libraries.find, request.name)
        yield words.LibraryPublished(library=_state(row_of(library)), changed=changed)

    async def remove(self, request: words.LibraryRemove) -> Replies:
        was_there = await to_thread.run_sync(self._house.libraries.remove, request.name)
        if not was_there:
            # With the name that was meant instead.
            await to_thread.run_sync(self._house.libraries.find, request.name)
        yield control.Note(text=f"{request.name} is published no longer")

    # ---- ours and theirs ----------------------------------------------------------------------

    async def list(self, request: words.LibraryList) -> Replies:
        house = self._house
        if request.node is None or request.node == house.name:
            found = await to_thread.run_sync(house.libraries.list)
            rows = tuple(map(row_of, found))
            yield words.LibraryListReply(node=house.name, libraries=tuple(map(_state, rows)))
            return
        peer = self._peer(request.node)
        asked = ListLibraries(caller=self._house.caller(request.context, "ask").name)
        listed = await self._ask(peer, LIST, encode(asked), Listed)
        states = tuple(map(_state, listed.libraries))
        yield words.LibraryListReply(node=peer.name, libraries=states)

    async def show(self, request: words.LibraryShow) -> Replies:
        name, peer = self._parse(request.library)
        shown = await self._shown(name, peer, request.context)
        yield words.LibraryShown(
            node=peer.name if peer else self._house.name,
            library=_state(shown.row),
            needs=shown.header,
            metadata=_metadata(shown.metadata),
        )

    async def get(self, request: words.LibraryGet) -> Replies:
        name, peer = self._parse(request.library)
        shown = await self._shown(name, peer, request.context)
        if peer is None:
            library = await to_thread.run_sync(self._house.libraries.find, name)
            content = library.content
        else:
            content = await self._fetch(
                peer, shown.row, self._house.caller(request.context, "ask").name
            )
        if hashlib.sha256(content).hexdigest() != shown.row.sha256:
            raise Untrusted(f"what came as {name} is not what was told of it", where=name)
        yield words.LibraryContent(
            node=peer.name if peer else self._house.name,
            library=_state(shown.row),
            content=content,
            needs=shown.needs,
        )

    async def _fetch(self, peer: Peer, row: Row, caller: str) -> bytes:
        """Part after part, some at once."""

        async def part(offset: int) -> bytes:
            asked = AskPart(caller=caller, name=row.name, sha256=row.sha256, offset=offset)
            return (await self._ask(peer, PART, encode(asked), Part)).content

        parts: list[bytes] = []
        step = _PARTS_AT_ONCE * PART_BYTES
        for start in range(0, row.size_bytes, step):
            offsets = range(start, min(row.size_bytes, start + step), PART_BYTES)
            parts += await asyncio.gather(*[part(at) for at in offsets])
        return b"".join(parts)

    # ---- services -----------------------------------------------------------------------------

    async def start_service(self, request: words.ServiceStart) -> Replies:
        house = self._house
        library = await to_thread.run_sync(house.libraries.find, request.name)
        if library.kind not in ("library", "reactor"):
            raise InvalidInput(
                f"{library.filename} is no module that can stay: a library or a reactor is",
                where=library.filename,
            )
        context = house.contexts.get(self._target(None, request.target).context or "")
        job = Job(
            run_id=f"service {library.name}",
            context=context.name,
            filename=library.filename,
            source=library.content,
            params=b"null",
            caller={"id": key_text(context.key), "name": f"{context.name}@{house.name}"},
            target={"id": key_text(context.key), "name": f"{context.name}@{house.name}"},
            limits=allowance(house.settings.config.limits).usual,
            ops={},
        )
        changed = await house.services.start(library, job)
        verb = "runs" if changed else "runs already"
        yield control.Note(text=f"{library.name} {verb} in {context.name}", changed=changed)

    async def stop_service(self, request: words.ServiceStop) -> Replies:
        stopped = self._house.services.stop(request.name, request.target)
        yield control.Note(text=f"{request.name} is stopped in {', '.join(stopped)}")

    async def services(self, request: words.ServiceList) -> Replies:
        house = self._house
        if request.node is None or request.node == house.name:
            node, running = house.name, house.services.list()
        else:
            peer = self._peer(request.node)
            asked = encode(ListLibraries(caller=self._house.caller(request.context, "ask").name))
            found = await self._ask(peer, SERVICES, asked, RunningServices)
            node, running = peer.name, found.services
        states = tuple(
            msgspec.convert(each, words.ServiceState, from_attributes=True) for each in running
        )
        yield words.ServiceListReply(node=node, services=states)

    # ---- call ---------------------------------------------------------------------------------

    async def call(
        self, request: words.LibraryCall, send: Send | None = None
    ) -> AsyncGenerator[control.Reply, None]:
        """An ordinary signed script, of which the library is named and not carried. What we know
        of it may be old: it is asked about again when that does not fit, before and after. `send`
        is how it is sent, if not as the owner's own."""
        send = send or self._send
        if request.module:
            async with aclosing(self._stream(self._carried(request), send)) as replies:
                async for reply in replies:
                    yield reply
            return
        name, peer = self._parse(request.library)
        key = (peer.node_key, name) if peer else None
        while True:
            is_old = key is not None and key in self._known
            try:
                shown = await self._shown(name, peer, request.context, is_fresh=False)
                script = self._referring(request, shown, peer)
            except InvalidInput:
                if peer is None or key is None or not is_old:
                    raise
                if not self._house.node.is_online(peer.node_key):
                    raise
                self._known.pop(key, None)
                continue
            again = False
            async with aclosing(self._stream(script, send)) as replies:
                async for reply in replies:
                    again = is_old and _is_outdated(reply)
                    if not again:
                        yield reply
            if key is None or not again:
                return
            self._known.pop(key, None)

    async def _stream(
        self, script: control.ScriptSend, send: Send
    ) -> AsyncGenerator[control.Reply, None]:
        replies = send(script)
        try:
            async for reply in replies:
                yield reply
        finally:
            if isinstance(replies, AsyncGenerator):
                await replies.aclose()

    def _carried(self, request: words.LibraryCall) -> control.ScriptSend:
        """A file of the owner's, run on this very node."""
        metadata = read_metadata(request.module)
        return control.ScriptSend(
            to=str(self._target(None, request.target)),
            filename=request.library,
            source="",
            module=request.module,
            needs=request.needs,
            params=_params(request, metadata, request.library),
            context=request.context,
            wait=True,
        )

    def _referring(
        self, request: words.LibraryCall, shown: Shown, peer: Peer | None
    ) -> control.ScriptSend:
        if shown.metadata is None:
            raise InvalidInput(
                f"{shown.row.filename} is a text: it is imported, not called",
                where=request.library,
            )
        reference = Reference(library=shown.row.name, sha256=shown.row.sha256, header=shown.header)
        return control.ScriptSend(
            to=str(self._target(peer, request.target)),
            filename=shown.row.name + SUFFIX,
            source=write_reference(reference),
            params=_params(request, shown.metadata, request.library),
            context=request.context,
            wait=request.wait,
        )

    # ---- whom and what ------------------------------------------------------------------------

    def _parse(self, text: str) -> tuple[str, Peer | None]:
        """`add` or `add@phone2`; None for this very node."""
        name, at, node = text.partition("@")
        if not name or (at and not node):
            raise InvalidInput("a library is NAME, or NAME@NODE", where=ascii(text[:200]))
        if not at or node == self._house.name:
            return name, None
        return name, self._peer(node)

    def _peer(self, node: str) -> Peer:
        address = parse_address(node)
        if address.context is not None:
            raise InvalidInput(
                "libraries are a node's, not a context's", where=node, hint="NAME@NODE"
            )
        return self._house.trust.resolve(address).peer

    def _target(self, peer: Peer | None, wanted: str | None) -> Address:
        house = self._house
        if peer is None:
            node, usual = house.name, house.settings.config.context
            entries = [ContextEntry(name=each.name, key=each.key) for each in house.contexts.list()]
        else:
            node, entries = peer.name, list(peer.contexts)
            usual = house.greeted.get(peer.node_key, Greeted()).usual
        found, problem = meant_context(node, entries, wanted, usual)
        if isinstance(problem, InvalidInput):
            raise InvalidInput(
                f"{node} has several contexts: say in which it is to run",
                where=node,
                hint=f"--ctx {entries[0].name}",
            )
        if found is None:
            assert problem is not None
            raise problem
        return Address(found.name, node)

    async def _shown(
        self, name: str, peer: Peer | None, context: str | None, *, is_fresh: bool = True
    ) -> Shown:
        if peer is None:
            library = await to_thread.run_sync(self._house.libraries.find, name)
            return await to_thread.run_sync(shown_of, library)
        known = None if is_fresh else self._known.get((peer.node_key, name))
        if known is not None:
            return known
        asked = ShowLibrary(caller=self._house.caller(context, "ask").name, name=name)
        shown = await self._ask(peer, SHOW, encode(asked), Shown)
        check_shown(shown, name)
        self._known[peer.node_key, name] = shown
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return shown

    async def _ask(self, peer: Peer, kind: str, body: bytes, answer: type[T]) -> T:
        if not await comes(self._house, peer, _COMES_S):
            raise await away(self._house, peer)
        return decode(await self._house.node.ask(peer.node_key, kind, body, _ANSWER_S), answer)


def _params(request: words.LibraryCall, metadata: Metadata, name: str) -> msgspec.Raw:
    """What the guest gets, its arguments checked before anything is signed."""
    if request.function is not None:
        if not metadata.functions or (metadata.kind == "command" and metadata.is_program):
            raise InvalidInput(
                f"{name} is a program: it is run, not called", hint=f"orvalho wasi run {name}"
            )
        function = metadata.function(request.function)
        params: dict[str, Any] = {
            "call": function.path,
            "args": convert(function, request.arguments),
        }
    elif not metadata.is_program:
        raise InvalidInput(
            f"{name} is no program: its functions are called",
            hint=f"orvalho wasi call {name} FUNCTION",
        )
    else:
        params = {"args": request.arguments, "env": request.env}
        if request.stdin is not None:
            params["stdin"] = request.stdin
    return msgspec.Raw(msgspec.json.encode(params))


def _is_outdated(reply: control.Reply) -> bool:
    """Whether the target's library is another one by now. Nothing has run then."""
    return (
        isinstance(reply, control.RunEnded)
        and reply.outcome == "refused"
        and reply.error is not None
        and reply.error.code == Conflict.code
    )


def _state(row: Row) -> words.LibraryState:
    return msgspec.convert(row, words.LibraryState, from_attributes=True)


def _metadata(found: Metadata | None) -> words.WasmMetadata | None:
    return None if found is None else as_told(found)


def as_told(found: Metadata) -> words.WasmMetadata:
    """The same for the control socket."""
    return msgspec.convert(found, words.WasmMetadata, from_attributes=True)
