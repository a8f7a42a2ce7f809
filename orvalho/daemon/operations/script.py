"""What we do when the owner sends a script, or has one looked at."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import anyio
import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import (
    Address,
    Several,
    new_run_id,
    parse_address,
    parse_target,
    ulid_bytes,
)
from orvalho.control import logic, seeing
from orvalho.control import messages as control
from orvalho.daemon.granting import grants_for
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.operations.runs import RunOperations
from orvalho.daemon.peer_words import refused_hint, refused_words, standing
from orvalho.daemon.run_switches import find_disabled
from orvalho.daemon.run_words import (
    script_error,
)
from orvalho.daemon.selection import Candidate, Selection
from orvalho.daemon.subjects import own_subject
from orvalho.daemon.syntax import Syntax, with_unknown
from orvalho.errors import InvalidInput, NotFound, OrvalhoError, Unavailable, Untrusted
from orvalho.peers.envelope import EnvelopeId
from orvalho.policies.access import AccessRequest
from orvalho.policies.audit import decided
from orvalho.policies.explain import refusal
from orvalho.policies.quota import narrow, parse_duration
from orvalho.runtime.engine import Modules
from orvalho.scripts import runs, sources, traces
from orvalho.scripts.manifest import find_problems, read_manifest, within
from orvalho.scripts.messages import (
    encode,
    run_script,
)
from orvalho.scripts.modules import STARLARK, SUFFIXES, check_modules, digest_of, named
from orvalho.scripts.runs import Run
from orvalho.scripts.script import Script, Source, make_script, raw_source
from orvalho.scripts.signing import (
    Caller,
    Parts,
    SignedScript,
    Target,
    json_value,
    sign_script,
)
from orvalho.scripts.traces import Onward
from orvalho.scripts.wasm.binaries import check_parameters, imports_and_exports

Replies = AsyncIterator[control.Reply]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a script goes: a context on a node, which may be this one."""

    address: Address
    node_key: Key


class ScriptOperations:
    """`orvalho script ...` and `orvalho why`."""

    def __init__(self, house: House, handler: ScriptHandler, runs: RunOperations) -> None:
        self._house = house
        self._handler = handler
        self._runs = runs
        self._selection = Selection(house)
        self._syntax = Syntax(house)

    # ---- send -------------------------------------------------------------------------------

    async def send(self, request: control.ScriptSend) -> Replies:
        name = parse_target(request.to)
        if not isinstance(name, Several):
            destination = self._destination(name)
        elif not name.is_any:
            async with aclosing(self._send_to_each(request, name)) as replies:
                async for reply in replies:
                    yield reply
            return
        else:
            chosen = await self._selection.choose(name)
            yield _placed(name, [chosen], self._selection.lost(name, chosen))
            destination = Destination(chosen.address, chosen.node_key)
        async with aclosing(self._send_to(request, destination)) as replies:
            async for reply in replies:
                yield reply

    async def _send_to(
        self, request: control.ScriptSend, destination: Destination
    ) -> AsyncGenerator[control.Reply, None]:
        context = self._house.caller(request.context)
        parts = await self.parts(request)
        run, signed = self._sign(request, destination, context, parts)
        with self._house.feed.watch(run.id) as events:
            await self._queue(run, signed, request.module or request.source, destination)
            is_here = self._is_here(destination.node_key)
            yield await self._runs.queued(run, "sending" if is_here else "queued")
            if request.detach:
                return
            deadline = time.monotonic() + self._grace_s()
            comes = is_here or await self._comes(destination.node_key, deadline)
            if not comes and (refused := self._refused(destination.node_key)) is not None:
                await self._give_up(run, refused)
                raise refused
            is_awaited = comes or request.wait
            # Between our last look and now it may have ended after all.
            if not is_awaited and events.empty():
                yield await self._runs.queued(run, "queued")
                return
            async for reply in self._runs.follow({run.id: run}, events, leaves=not request.wait):
                yield reply

    async def _send_to_each(
        self, request: control.ScriptSend, name: Several
    ) -> AsyncGenerator[control.Reply, None]:
        """One run on every member; what keeps it from one does not keep it from the others."""
        members = self._selection.members(name)
        yield _placed(name, members)
        context = self._house.caller(request.context)
        parts = await self.parts(request)
        signed: list[tuple[Run, SignedScript, Destination]] = []
        for member in members:
            destination = Destination(member.address, member.node_key)
            try:
                if member.problem is not None:
                    raise member.problem
                signed.append((*self._sign(request, destination, context, parts), destination))
            except OrvalhoError as error:
                yield _not_sent(member, error)
        with self._house.feed.watch(*(run.id for run, _, _ in signed)) as events:
            for run, script, destination in signed:
                await self._queue(run, script, request.module or request.source, destination)
                is_here = self._is_here(destination.node_key)
                yield await self._runs.queued(run, "sending" if is_here else "queued")
            if request.detach:
                return
            awaited = {run.id: run for run, _, _ in signed}
            deadline = time.monotonic() + self._grace_s()
            for run, _, destination in signed:
                comes = await self._comes(destination.node_key, deadline)
                if not comes and (refused := self._refused(destination.node_key)) is not None:
                    await self._give_up(awaited.pop(run.id), refused)
                    yield seeing.NotSent(to=run.target, **refused.parts())
                elif not comes and not request.wait:
                    yield await self._runs.queued(awaited.pop(run.id), "queued")
            async for reply in self._runs.follow(awaited, events, leaves=not request.wait):
                yield reply

    # ---- for `ask` --------------------------------------------------------------------------

    def caller_address(self, name: str | None) -> Address:
        """Which of our contexts sends. Raises: NotFound."""
        return Address(self._house.caller(name).name, self._house.name)

    async def start(
        self,
        request: control.ScriptSend,
        parts: Parts,
        node_key: Key,
        onward: Onward | None = None,
    ) -> str:
        """Sign a script for the context `request.to` on that node and send it; the run's id.
        `parts` are its own, from `parts`; `onward` is what it takes from the run that makes it.

        Raises:
            InvalidInput, Denied: as `orvalho script send` would.
        """
        destination = Destination(parse_address(request.to), node_key)
        context = self._house.caller(request.context)
        run, signed = self._sign(request, destination, context, parts, onward)
        await self._queue(run, signed, request.module or request.source, destination)
        return run.id

    def _destination(self, address: Address) -> Destination:
        if address.context is None:
            raise InvalidInput(
                f'"{address}" names a node; a script is sent to a context on it',
                hint=self._contexts_hint(address),
            )
        if address.node == self._house.name:
            self._house.contexts.get(address.context)
            return Destination(address, self._house.identity.node.key)
        return Destination(address, self._house.trust.resolve(address).peer.node_key)

    def _contexts_hint(self, address: Address) -> str:
        with suppress(NotFound):
            peer = self._house.trust.by_name(address.node)
            if peer.contexts:
                return f"orvalho script send {peer.contexts[0].name}@{peer.name} ..."
        return f"orvalho script send CONTEXT@{address.node} ..."

    async def parts(self, request: control.ScriptSend) -> Parts:
        """The modules of a script, once all of it was found fit to be sent.

        Raises:
            InvalidInput: with every mistake in `detail`.
        """
        libraries = await self._libraries_of(request)
        source = request.module or request.source
        await self._syntax.check(
            request.filename, source, request.needs, request.modules, libraries
        )
        return Parts(request.modules, libraries, request.locked, request.deny)

    async def _libraries_of(
        self, request: control.ScriptSend | logic.ScriptCheck
    ) -> tuple[str, ...]:
        """The names such as `lib:images` that a script and its modules import."""
        asked: list[str] = []
        try:
            for path, text in {request.filename: request.source, **request.modules}.items():
                if path.endswith(SUFFIXES) or (path.endswith(STARLARK) and "load" in text):
                    outline = await self._handler.libraries.outlines.of(path, text)
                    asked += [each.specifier for each in outline.requests]
        except Unavailable:
            # A device that can start no worker may still send what imports nothing.
            if request.modules:
                raise
        return named(asked)

    def _sign(
        self,
        request: control.ScriptSend,
        destination: Destination,
        context: Context,
        parts: Parts,
        onward: Onward | None = None,
    ) -> tuple[Run, SignedScript]:
        """Raises:
        InvalidInput: the script's name, header or parameters are wrong.
        Denied: our own policy does not let this context send there.
        """
        house, now = self._house, time.time()
        script = make_script(request.filename, request.module or request.source)
        manifest = within(read_manifest(script, request.needs), onward)
        caller = Address(context.name, house.name)
        params = json_value(bytes(request.params))
        if script.module:
            check_parameters(script.module, msgspec.json.decode(params))
        run_id = new_run_id(now, os.urandom(10))
        self._refuse_unsendable(context, destination, now)
        house.runs.keep_params(run_id, params)
        signed = sign_script(
            script,
            manifest,
            signer=context.signer,
            caller=Caller(
                node=house.name,
                node_key=key_text(house.identity.node.key),
                context=context.name,
                context_key=key_text(context.key),
                certificate=context.certificate,
            ),
            target=Target(
                node_key=key_text(destination.node_key),
                context=destination.address.context or "",
            ),
            params=params,
            run=run_id,
            now=now,
            life_s=request.expires_s,
            parts=parts,
            plan=request.plan,
            chain=onward.chain if onward else (),
        )
        beside = grants_for(house, request.grants, signed.call, context)
        signed = replace(signed, grants=beside)
        run = Run(
            id=run_id,
            direction="sent",
            caller=str(caller),
            target=str(destination.address),
            peer_key=key_text(destination.node_key),
            filename=script.filename,
            digest=script.digest,
            needs=signed.call.needs,
            wants=signed.call.wants,
            exposed=tuple(_exposed(text) for text in request.expose),
            created_at=now,
            expires_at=signed.call.expires_at,
        )
        return run, signed

    def _refuse_unsendable(self, context: Context, destination: Destination, now: float) -> None:
        """Raises:
        Denied: our own policy does not let this context send there.
        """
        house = self._house
        me = house.identity.node.key
        asked = AccessRequest(
            own_subject(house.name, me, context.name, context.key, house.groups),
            context.name,
            "script.send",
            str(destination.address),
        )
        decision = house.policy.decide(asked)
        if not decision.allowed:
            house.audit.note(decided(asked, decision, at=now))
            raise refusal(asked, decision)

    async def _queue(
        self, run: Run, signed: SignedScript, source: Source, destination: Destination
    ) -> None:
        """Durable from here: the run and its envelope are one commit."""
        house = self._house
        message = run_script(signed.envelope, source, signed.params, signed.modules, signed.grants)
        if destination.node_key != house.identity.node.key:
            message = await self._handler.bodies.without_known(message, destination.node_key)
        body = encode(message)
        is_local = destination.node_key == house.identity.node.key

        def stage(connection: sqlite3.Connection) -> None:
            runs.stage_new(
                connection,
                run,
                envelope=signed.envelope,
                source=source,
                params=signed.params,
            )
            sources.stage_modules(connection, run.id, signed.modules)
            traces.stage(connection, run.id, signed.call.chain)
            if message.held or len(body) >= sources.LARGE_BYTES:
                sources.stage_sent(connection, run.id, len(body))
            if not is_local:
                house.node.stage(
                    connection,
                    destination.node_key,
                    # A kind of its own: whoever does not know of plans must not run it.
                    "script.plan" if signed.call.plan else "script.run",
                    body,
                    expires_at=run.expires_at,
                    id=EnvelopeId(ulid_bytes(run.id)),
                )

        # A caller whose time ends meanwhile must know of the run: it takes place all the same.
        with anyio.CancelScope(shield=True):
            await house.store.transact("run.queued", stage)
        if is_local:
            self._handler.run_here(body)
        else:
            house.runs.opened(run)
            house.node.flush(destination.node_key, EnvelopeId(ulid_bytes(run.id)))

    def _is_here(self, node_key: Key) -> bool:
        return node_key == self._house.identity.node.key or self._house.node.is_online(node_key)

    def _grace_s(self) -> float:
        return parse_duration(self._house.settings.config.delivery.grace)

    async def _comes(self, node_key: Key, deadline: float) -> bool:
        """Whether the target is reached in time; no longer waited for once it has refused us."""
        while not self._is_here(node_key):
            if time.monotonic() > deadline or self._house.node.is_refused_by(node_key):
                return False
            await asyncio.sleep(0.05)
        return True

    def _refused(self, node_key: Key) -> Untrusted | None:
        """Why no waiting helps: the target has turned our key away, and not just until it is
        approved there."""
        house = self._house
        peer = house.trust.by_key(node_key)
        if peer is None or standing(house, peer) not in ("refused", "revoked"):
            return None
        return Untrusted(
            refused_words(house, peer), where=peer.name, hint=refused_hint(house, peer)
        )

    async def _give_up(self, run: Run, why: Untrusted) -> None:
        if await self._house.node.withdraw(EnvelopeId(ulid_bytes(run.id))):
            await self._runs.end(run, "refused", script_error(why))

    # ---- ask --------------------------------------------------------------------------------

    async def check(self, request: logic.ScriptCheck) -> Replies:
        check_modules(request.modules)
        libraries = await self._libraries_of(request)
        script = make_script(request.filename, request.module or request.source)
        problems = find_problems(script, request.needs)
        imports, exports = imports_and_exports(script.module) if script.module else ((), ())
        needs: tuple[str, ...] = ()
        wants: tuple[str, ...] = ()
        limits: dict[str, int] = {}
        if not problems:
            manifest = read_manifest(script, request.needs)
            needs, wants = tuple(map(str, manifest.needs)), tuple(map(str, manifest.wants))
            granted = narrow(manifest.limits, allowance(self._house.settings.config.limits))
            limits = {
                "wall_ms": round(granted.wall_s * 1000),
                "cpu_ms": round(granted.cpu_s * 1000),
                "memory_bytes": granted.memory_bytes,
                "output_bytes": granted.output_bytes,
                "host_calls": granted.host_calls,
            }
        problems += tuple(
            f"{each.line}:{each.column}: {each.message}"
            if not each.file
            else f"{each.file}:{each.line}:{each.column}: {each.message}"
            for each in await self._house.jobs.check(
                script.filename, script.source, with_unknown(request.modules, libraries)
            )
        )
        if request.target is not None and not problems:
            problems = await self._disabled(request, script)
        yield logic.ScriptChecked(
            filename=script.filename,
            language=script.language.value,
            digest=script.id,
            size_bytes=len(raw_source(script.filename, script.source)),
            needs=needs,
            wants=wants,
            limits=limits,
            problems=problems,
            imports=imports,
            exports=exports,
            modules={path: digest_of(text) for path, text in request.modules.items()},
            libraries=libraries,
        )

    async def _disabled(self, request: logic.ScriptCheck, script: Script) -> tuple[str, ...]:
        """Where it names what the context that it is meant for has switched off."""
        address = parse_address(request.target or "")
        if address.node != self._house.name or address.context is None:
            raise InvalidInput(
                f"what {address} has switched off is known there alone",
                where=str(address),
                hint=f"orvalho script check {request.filename} --for {address}, over there",
            )
        self._house.contexts.get(address.context)
        needs = read_manifest(script, request.needs).needs
        found = await find_disabled(
            self._house, address.context, script, needs, Modules(request.modules)
        )
        return tuple(each.removeprefix(f"{script.filename}:") for each in found)


def _placed(
    name: Several,
    members: Sequence[Candidate],
    lost: Sequence[tuple[Candidate, str]] = (),
) -> seeing.ScriptPlaced:
    return seeing.ScriptPlaced(
        name=str(name),
        several=not name.is_any,
        choices=tuple(seeing.Choice(to=str(each.address), why=each.why) for each in members),
        others=tuple(seeing.Choice(to=str(each.address), why=why) for each, why in lost),
    )


def _not_sent(member: Candidate, error: OrvalhoError) -> seeing.NotSent:
    return seeing.NotSent(to=str(member.address), **error.parts())


def _exposed(text: str) -> str:
    """`/notes` or `/notes:rw`, spelled in the one way."""
    path, colon, mode = text.partition(":")
    if colon and mode != "rw":
        raise InvalidInput(
            f'"{text}" exposes nothing: write PATH to be read, or PATH:rw', where="--expose"
        )
    return virtual_path(path) + (":rw" if colon else "")
