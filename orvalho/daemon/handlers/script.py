"""A peer's script: verify, decide, grant, reserve, run, keep. In that order.

A run happens once. What it changes here is kept apart until its end (`Workspace`), and is committed
with its receipt, its answer and the end of its envelope, or not at all; when a crash cuts it before
that, the envelope is in the mailbox or comes again, and it runs again, having done nothing. Only
what it does to its caller cannot be taken back: before the first of that its mark "started" is
durable (`RunGate`), and a run that is cut after it ends as `interrupted`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import anyio.abc
from anyio import to_thread

from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.commit import Exclusive
from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import ulid_text
from orvalho.daemon.bodies import Bodies
from orvalho.daemon.ending import BROKEN, CANCELLED, INTERRUPTED, Ending
from orvalho.daemon.granting import Granting, reason_of
from orvalho.daemon.handlers.libraries import called, reference_of
from orvalho.daemon.handlers.run_ids import EarlyCancels, SeenRuns
from orvalho.daemon.handlers.target_calls import (
    CallTable,
    caller_calls,
    governed,
    rehearsed,
    target_calls,
)
from orvalho.daemon.holding import Holding
from orvalho.daemon.house import House
from orvalho.daemon.imports import Imports
from orvalho.daemon.interpreting import interpret
from orvalho.daemon.limits import allowance
from orvalho.daemon.planning import MaySee, everything, make_plan
from orvalho.daemon.recorder import room_bytes
from orvalho.daemon.run_admission import admit_beyond_rules, rights_of
from orvalho.daemon.run_following import RunFollower, overtaken
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_keeping import ANSWER_LIFE_S, RunKeeper
from orvalho.daemon.run_news import RunNews
from orvalho.daemon.run_record import Arrival, OnwardCalls, RunRecord
from orvalho.daemon.run_switches import words_of
from orvalho.daemon.subjects import groups_of, own_subject, peer_subject
from orvalho.errors import (
    Conflict,
    LimitExceeded,
    NotFound,
    OrvalhoError,
    Unavailable,
    Untrusted,
)
from orvalho.peers.desk import Delivery, Repeated
from orvalho.peers.envelope import Envelope
from orvalho.policies.access import AccessRequest, Decision, Rule, Subject
from orvalho.policies.capability import Capability, Grants, grant, read_only
from orvalho.policies.explain import refusal
from orvalho.policies.quota import Usage, narrow
from orvalho.policies.quotas import Hold
from orvalho.runtime.engine import Modules
from orvalho.runtime.job import HostCall, Job
from orvalho.scripts import runs, sources
from orvalho.scripts.messages import (
    CancelScript,
    RunScript,
    decode,
    encode,
    run_script,
)
from orvalho.scripts.plan import encode_plan
from orvalho.scripts.reference import Reference
from orvalho.scripts.runs import Run
from orvalho.scripts.script import Source
from orvalho.scripts.signing import Expected, VerifiedScript, open_call, verify_script

_log = logging.getLogger(__name__)

_NO_MODULES: Final = Modules()
# So long a plan waits for trees that are not ours.
_PLAN_S: Final = 60.0


class ScriptHandler:
    """Runs what peers send, and stops it when they say so."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
        self._record = RunRecord(house)
        self._news = RunNews(house.events, self._record.caller_name)
        self.holding = Holding(house, self._record)
        self._follower = RunFollower(house, self._news)
        self._keeper = RunKeeper(house, self._record, self._news, self._again)
        self.bodies = Bodies(house)
        self.libraries = Imports(house)
        self._granting = Granting(house)
        self._tasks = tasks
        self.onward: OnwardCalls | None = None  # set once there is who makes them
        self._running: dict[str, tuple[anyio.CancelScope, Key]] = {}
        # What had begun to change something when this node last stopped, and its end.
        self._interrupted: dict[str, Run] = {}
        self._cancelled_early = EarlyCancels()
        self._seen = SeenRuns(house.store)
        self._idle = anyio.Event()
        self._resumed = anyio.Event()

    async def until_idle(self) -> None:
        """Until no script runs here."""
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def resume(self) -> None:
        """Learn what an earlier daemon left: what had begun ends as interrupted when its envelope
        is seen again; what this node sent to itself and had not begun is run now."""
        await self._house.store.transact(
            "run.expired",
            lambda connection: runs.stage_expired(connection, time.time() - ANSWER_LIFE_S),
        )
        found = await self._house.runs.open_runs("received")
        self._interrupted = {run.id: run for run in found}
        me = key_text(self._house.identity.node.key)
        for run in await self._house.runs.open_runs("sent"):
            if run.peer_key == me:
                bodies = await self._house.runs.bodies(run.id)
                modules = await self._house.store.read(partial(sources.modules_of, run=run.id))
                message = run_script(bodies.envelope, bodies.source, bodies.params, modules)
                self.run_here(encode(message), run if run.state == "running" else None)
        await self._seen.load()
        self._resumed.set()

    # ---- what comes -------------------------------------------------------------------------

    async def run(self, envelope: Envelope, delivery: Delivery) -> None:
        """A `script.run` envelope. Seen twice after a crash: see the top of this file."""
        await self._resumed.wait()
        # A sender names the envelope like the run in it, so what had begun is known before its
        # signature, which may have expired meanwhile, is looked at.
        begun = self._interrupted.get(f"r_{ulid_text(delivery.envelope_id)}")
        if begun is not None and begun.peer_key != key_text(self._heir(envelope.sender)):
            begun = None
        await self._take(envelope.body, envelope.sender, delivery, begun)

    def run_here(self, body: bytes, begun: Run | None = None) -> None:
        """A script from this node to itself: the same way, without the mail."""
        self._tasks.start_soon(self._take_here, body, begun)

    async def _take_here(self, body: bytes, begun: Run | None) -> None:
        try:
            await self._take(body, self._house.identity.node.key, None, begun)
        except Exception:  # noqa: BLE001 -- the top of a handler
            # Its row is still open: the next start takes it up again.
            _log.exception("script.failed")

    async def cancel(self, envelope: Envelope, _delivery: Delivery) -> None:
        """A `script.cancel` envelope. Harmless when it comes late, or twice; one that overtakes
        its script is remembered."""
        run = decode(envelope.body, CancelScript).run
        scope, sender = self._running.get(run, (None, None))
        teller = self._heir(envelope.sender)
        if scope is not None and sender is not None and self._heir(sender) == teller:
            scope.cancel()
            return
        if not await self.holding.cancel(run, teller):
            self._cancelled_early.add(teller, run)

    def is_running(self, run: str) -> bool:
        return run in self._running

    def stop(self, run: str) -> bool:
        """End a run that is running here; False when it is not."""
        found = self._running.get(run)
        if found:
            found[0].cancel()
        return found is not None

    def stop_all_of(self, sender: Key) -> None:
        """End what a node has running or waiting here."""
        for scope, each in list(self._running.values()):
            if self._heir(each) == sender:
                scope.cancel()

    def _heir(self, sender: Key) -> Key:
        """A sender may change its key while its script waits or runs here."""
        return self._house.trust.heir(sender)

    async def _take(
        self, body: bytes, sender: Key, delivery: Delivery | None, begun: Run | None
    ) -> None:
        message = decode(body, RunScript)
        try:
            if message.held:
                message = await self._filled(message, sender, begun)
            script = self._verify(message, sender, begun)
            await self._refuse_seen(script, sender, delivery, begun)
        except Untrusted as error:
            await self._keeper.refuse_unverified(message, sender, delivery, error)
            return
        peer = self._house.trust.by_key(self._heir(script.caller_node))
        arrival = Arrival(script, message, self._heir(sender), delivery, peer, time.time())
        keys = (arrival.sender, script.signed_by)
        arrival.groups = groups_of(self._house.groups, keys, peer)
        self._news.received(arrival)
        self._house.runs.keep_params(arrival.run, script.params)
        self._seen.add(arrival.run)
        try:
            await self._to_its_end(arrival, begun)
        except BaseException:
            self._seen.forget(arrival.run)
            raise
        finally:
            if arrival.hold is not None:
                # It counts here even where nothing of it was kept.
                arrival.hold.settle(None, time.time())
            await self._let_go(arrival)

    async def _to_its_end(self, arrival: Arrival, begun: Run | None) -> None:
        if begun is not None:
            arrival.is_written = True
            ending = Ending("interrupted", INTERRUPTED)
        elif self._cancelled_early.has(arrival.sender, arrival.run):
            ending = Ending("cancelled", CANCELLED)
        else:
            ending = await self._run_once(arrival)
            if arrival.is_rehearsed and ending.outcome == "done":
                ending = await self._planned(arrival, ending)
                if arrival.is_held and ending.outcome == "planned":
                    await self._hold(arrival, ending)
                    return
        await self._keeper.end(arrival, ending)
        self._interrupted.pop(arrival.run, None)

    async def _hold(self, arrival: Arrival, ending: Ending) -> None:
        try:
            await self.holding.hold(arrival, ending)
        except (Untrusted, Conflict) as error:
            untrusted = Untrusted(error.message, where=arrival.run)
            await self._keeper.refuse_unverified(
                arrival.message, arrival.sender, arrival.delivery, untrusted
            )
        except (LimitExceeded, Unavailable) as error:
            await self._keeper.end(arrival, Ending("failed", error, ending.usage))

    async def _planned(self, arrival: Arrival, ending: Ending) -> Ending:
        """What it would have done: for the owner, or as far as its sender may see what is there."""
        workspace = arrival.workspace or self._house.workspace(
            self._house.contexts.get(arrival.script.call.target.context)
        )
        subject = self._subject(arrival)
        may_see: MaySee = everything
        held_by: str | None = None
        if not arrival.is_held:
            may_see = partial(self._may_see, subject, workspace.context.name)
            if arrival.held_by is not None and self._record.explains_to(arrival):
                held_by = arrival.held_by.where
        make = partial(make_plan, workspace, arrival.not_run, may_see, held_by)
        is_foreign = arrival.is_foreign
        with anyio.move_on_after(_PLAN_S if is_foreign else None):
            plan = await to_thread.run_sync(make, abandon_on_cancel=is_foreign)
            return replace(ending, outcome="planned", plan=encode_plan(plan))
        error = Unavailable("a mounted tree does not answer", hint="orvalho ctx mounts")
        return Ending("failed", error, ending.usage)

    def _may_see(self, subject: Subject, context: str, action: str, object_: str) -> bool:
        house = self._house
        if house.broker.is_asked(action):
            return False
        return house.policy.decide(AccessRequest(subject, context, action, object_)).allowed

    async def _again(self, arrival: Arrival, ending: Ending, why: ContextChanged) -> Ending:
        """Run a script once more whose context has changed under it: nothing of it was kept.
        Nobody else commits meanwhile, for a while."""
        gate, workspace = arrival.gate, arrival.workspace
        is_begun = gate is not None and gate.has_begun
        if workspace is None or arrival.attempts or arrival.is_served or is_begun:
            return Ending("failed", overtaken(why, arrival, self._house.name), ending.usage)
        arrival.attempts = (self._record.used(arrival, ending.usage),)
        await self._follower.tell_again(arrival, why)
        if arrival.hold is not None:
            arrival.hold.settle(None, time.time())
            arrival.hold = None
        await to_thread.run_sync(workspace.discard)
        arrival.workspace = None
        arrival.read_cpu_ms = 0
        arrival.first_line = len(arrival.lines)
        arrival.turn = await Exclusive.take(workspace.context)
        return await self._run_once(arrival)

    async def _let_go(self, arrival: Arrival) -> None:
        if arrival.turn is not None:
            arrival.turn.release()
        if arrival.workspace is not None and arrival.workspace.has_drafts:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(arrival.workspace.discard)

    async def _filled(self, message: RunScript, sender: Key, begun: Run | None) -> RunScript:
        """Nothing is looked for before the call itself is known to be good."""
        call = open_call(message.envelope, **self._expected(sender, begun)).call
        until = math.inf if begun else call.expires_at
        return await self.bodies.fill(message, sender, call, until)

    def _verify(self, message: RunScript, sender: Key, begun: Run | None) -> VerifiedScript:
        """Raises:
        Untrusted: see `verify_script`.
        """
        return verify_script(
            message.envelope,
            message.script,
            message.params,
            modules=message.modules,
            **self._expected(sender, begun),
        )

    async def _refuse_seen(
        self, script: VerifiedScript, sender: Key, delivery: Delivery | None, begun: Run | None
    ) -> None:
        """Raises:
        Untrusted: the run's id is in use here, or was.
        """
        house, call = self._house, script.call
        was_seen = False
        if delivery is not None and begun is None:
            was_seen = await self._seen.has(call.run, call.issued_at)
        is_ours = sender != house.identity.node.key and house.runs.at_hand(call.run) is not None
        if was_seen or is_ours or call.run in self._running:
            raise Untrusted("this script was sent once before, and runs once", where=call.run)

    def _expected(self, sender: Key, begun: Run | None) -> Expected:
        """What a call is held against."""
        house = self._house
        me = house.identity.node.key

        def is_known(key: Key) -> bool:
            # Mail is kept only from peers, so a key that has passed on was one when it came.
            heir = self._heir(key)
            return key == me or begun is not None or house.trust.by_key(heir) is not None

        return {
            "node_key": me,
            "now": begun.created_at if begun else time.time(),
            "is_known_node": is_known,
            "sender": sender,
            "formerly": house.identity.former_keys,
        }

    async def _run_once(self, arrival: Arrival) -> Ending:
        with anyio.CancelScope() as scope:
            self._running[arrival.run] = (scope, arrival.sender)
            arrival.recorded = arrival.recording = None
            try:
                return await self._admit(arrival)
            except OrvalhoError as error:
                limited = isinstance(error, LimitExceeded)
                return Ending(
                    "limited" if limited else "refused", reason_of(error, arrival.granted)
                )
            except Repeated:
                raise
            except Exception:  # noqa: BLE001 -- the top of a run
                # Never again: whatever broke may have come after an effect.
                _log.exception("script.failed", extra={"run": arrival.run})
                return Ending("failed", BROKEN)
            finally:
                del self._running[arrival.run]
                if not self._running:
                    self._idle.set()
        used = Usage(cpu_ms=arrival.hold.cpu_ms) if arrival.hold else Usage()
        return Ending("cancelled", CANCELLED, used)

    # ---- decide, grant, reserve, run --------------------------------------------------------

    async def _admit(self, arrival: Arrival) -> Ending:
        """Raises:
        Denied: the policy refuses the script, or something that it needs.
        """
        house, call = self._house, arrival.script.call
        subject = self._subject(arrival)
        arrival.granted = self._granting.read(arrival.message, arrival.script, arrival.sender)
        arrival.gate = gate = self._gate(arrival, subject)
        reference = reference_of(arrival.script.script)
        action, object_ = "script.run", arrival.script.script.id
        if reference is not None:
            action, object_ = "lib.call", reference.library
        decision = gate.put(action, object_)
        context = self._context(call.target.context)
        if not decision.allowed or context is None:
            # A context that is not there is refused in the words of one that says no.
            request = AccessRequest(subject, call.target.context, action, object_)
            denied = decision if not decision.allowed else Decision(allowed=False)
            raise refusal(request, denied)
        await admit_beyond_rules(house, arrival, gate)

        def decide(capability: Capability) -> tuple[AccessRequest, Decision] | None:
            if capability.side == "caller":
                return None
            request = AccessRequest(
                subject, call.target.context, capability.action, capability.object
            )
            return request, gate.put(capability.action, capability.object)

        arrival.held_by = self._held_by(subject, arrival)
        arrival.is_held = arrival.held_by is not None and not call.plan
        named = await called(house, reference, call) if reference is not None else None
        grant(arrival.script.needs, (), decide)
        # Also for a plan: what it reads, its sender has.
        await arrival.granted.count(arrival.script, time.time())
        return await self._start(arrival, gate, context, reference, named)

    async def _start(
        self,
        arrival: Arrival,
        gate: RunGate,
        context: Context,
        reference: Reference | None,
        named: tuple[str, Source] | None,
    ) -> Ending:
        """Reserve, and run. `named`: file name and source of the library that is called.

        Raises:
            LimitExceeded: a quota has no room for it.
            Denied: the context's own hook refuses it.
        """
        house, call = self._house, arrival.script.call
        spoken = gate.subject.spoken
        filename, source = named or (call.filename, arrival.script.script.source)
        limits = narrow(call.limits, allowance(house.settings.config.limits))
        # By the node: it can certify as many contexts as it likes.
        node = key_text(arrival.sender)
        hold = arrival.hold = await house.quotas.admit(
            arrival.groups, node, limits, until=call.expires_at
        )
        async with house.ledger.reserve(node, hold.limits) as lease:
            modules = await self._modules(arrival, context)
            params = await interpret(house, context, arrival, spoken)
            job = self._job(arrival, context, gate, hold)
            job = replace(job, filename=filename, source=source, params=params, modules=modules)
            service = house.services.find(reference, context.name) if reference else None
            if service is not None:
                ending = await self._follower.follow_service(arrival, job, service, hold)
            else:
                ending = await self._follower.follow(arrival, job, hold)
            hold.ended(self._record.used(arrival, ending.usage))
            lease.settle(self._record.used(arrival, ending.usage))
        return ending

    def _job(self, arrival: Arrival, context: Context, gate: RunGate, hold: Hold) -> Job:
        """The script as it was sent."""
        house, call = self._house, arrival.script.call
        return Job(
            run_id=arrival.run,
            context=context.name,
            filename=call.filename,
            source=arrival.script.script.source,
            params=arrival.script.params,
            caller={"id": call.caller.context_key, "name": gate.subject.spoken},
            target={"id": key_text(context.key), "name": f"{context.name}@{house.name}"},
            limits=hold.limits,
            ops=self._calls(arrival, context, gate, hold),
            digest=arrival.script.script.digest,
            metering_s=hold.metering_s,
            on_metered=hold.metered,
            off=words_of(house, context.name),
            read_only=read_only(arrival.script.needs, arrival.script.wants),
            record_bytes=room_bytes(house.settings),
        )

    async def _modules(self, arrival: Arrival, context: Context) -> Modules:
        """The script's own files, and those of the target that it imports. These are read with the
        owner's rights, and run with those of the script.

        Raises:
            NotFound: a library is not here.
            Untrusted: it is not the one that the lock names.
        """
        script, call = arrival.script, arrival.script.call
        if not call.libraries:
            return Modules(script.modules) if script.modules else _NO_MODULES
        found = await self.libraries.gather(
            context.name, call, tells=self._record.explains_to(arrival)
        )
        arrival.libraries, arrival.read_cpu_ms = found.used, found.cpu_ms
        return Modules({**script.modules, **found.sources}, found.names)

    def _held_by(self, subject: Subject, arrival: Arrival) -> Rule | None:
        """The rule by which the owner wants to see it before anything comes of it."""
        script, context = arrival.script, arrival.script.call.target.context
        request = AccessRequest(subject, context, "script.run", script.script.id)
        return self._house.policy.held_by(request)

    def _subject(self, arrival: Arrival) -> Subject:
        house, call = self._house, arrival.script.call
        name, key = call.caller.context, arrival.script.signed_by
        if arrival.peer is None:
            return own_subject(house.name, house.identity.node.key, name, key, house.groups)
        return peer_subject(arrival.peer, name, key, house.groups)

    def _gate(self, arrival: Arrival, subject: Subject) -> RunGate:
        async def begin() -> None:
            # Not to be cut: whether the mark stands must be known.
            with anyio.CancelScope(shield=True):
                await self._house.store.transact(
                    "run.started",
                    lambda connection: self._record.stage_started(connection, arrival),
                )

        return RunGate(
            run=arrival.run,
            side="target",
            subject=subject,
            context=arrival.script.call.target.context,
            grants=Grants((*arrival.script.needs, *arrival.script.wants)),
            decide=arrival.granted.decide if arrival.granted else self._house.policy.decide,
            audit=self._house.audit,
            begin=begin,
            explains=self._record.explains_to(arrival),
            on_decided=partial(self._news.decided, arrival.run),
            rights=rights_of(arrival.script),
            broker=self._house.broker,
        )

    def _context(self, name: str) -> Context | None:
        try:
            return self._house.contexts.get(name)
        except NotFound:
            return None

    def _calls(
        self, arrival: Arrival, context: Context, gate: RunGate, hold: Hold
    ) -> Mapping[str, HostCall]:
        onward = self.onward(arrival, gate, hold) if self.onward else {}

        def make() -> Mapping[str, HostCall]:
            arrival.workspace = self._house.workspace(context)
            beyond = {
                **governed(self._house, context.name, onward, gate),
                **caller_calls(self._house, arrival.sender, arrival.run, gate, hold),
            }
            if arrival.is_rehearsed:
                beyond = rehearsed(beyond, arrival.not_run)
            return target_calls(self._house, arrival.workspace, gate) | beyond

        return CallTable(make)
