"""What stands between one run and a context: declared, allowed, marked as begun, counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from orvalho.daemon.broker import BROKER, Broker, Question, call_now, refused
from orvalho.daemon.run_rights import RunRights
from orvalho.errors import Denied, LimitExceeded
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.audit import Audit, Entry, decided
from orvalho.policies.capability import Grants, Side
from orvalho.policies.explain import refusal

# Different decisions of one run that its receipt and the audit name one by one.
_KEPT: Final = 500

Decide = Callable[[AccessRequest], Decision]


@dataclass(frozen=True, slots=True)
class Deciding:
    """One decision of a run."""

    request: AccessRequest
    decision: Decision
    call: str | None = None


class RunGate:
    """The gate of one run in front of one context (`runtime.web.contexts.Gate`).

    `side` is the context's part in the run, `grants` what the script declared and was granted,
    `begin` makes the run's start durable; it is called before the first effect, and again before
    the next one if it failed. `explains`: whether refusals tell the rule. `on_decided` is told of
    each different decision. `rights` narrow it further, and `broker` is asked last.
    """

    def __init__(
        self,
        *,
        run: str,
        side: Side,
        subject: Subject,
        context: str,
        grants: Grants,
        decide: Decide,
        audit: Audit,
        begin: Callable[[], Awaitable[None]],
        explains: bool = True,
        on_decided: Callable[[AccessRequest, Decision], None] | None = None,
        rights: RunRights | None = None,
        broker: Broker | None = None,
    ) -> None:
        self._run = run
        self._side = side
        self._subject = subject
        self._context = context
        self._grants = grants
        self._ask = decide
        self._audit = audit
        self._begin = begin
        self._explains = explains
        self._on_decided = on_decided
        self.rights = rights or RunRights(grants)
        self.broker = broker
        self.calls = itertools.count(1)
        self._told: set[tuple[str, str, str]] = set()
        self._taken = 0
        self._begun = False
        self._beginning = anyio.Lock()
        self._made: dict[tuple[str, str, bool], Deciding] = {}
        self._refusals: list[Denied] = []
        self._exceeded: list[LimitExceeded] = []
        self.read_bytes = 0
        self.written_bytes = 0

    @property
    def has_begun(self) -> bool:
        """Whether the run may have had an effect that cannot be taken back."""
        return self._begun

    @property
    def subject(self) -> Subject:
        """Who asks."""
        return self._subject

    def made(self) -> tuple[Deciding, ...]:
        """Each different decision, in the order they first fell; the first 500 of them."""
        return tuple(self._made.values())

    def take_allowed(self) -> list[Deciding]:
        """What was allowed and has not been taken yet, for the audit log. From any thread."""
        made = self.made()
        new, self._taken = made[self._taken :], len(made)
        return [each for each in new if each.decision.allowed]

    @property
    def taken(self) -> int:
        """How many of `made` were taken."""
        return self._taken

    def give_back(self, taken: int) -> None:
        """What was taken since then was not written down after all."""
        self._taken = taken

    def put(self, action: str, object_: str) -> Decision:
        """The policy's answer, remembered for the receipt; a refusal is audited at once."""
        request = AccessRequest(self._subject, self._context, action, object_)
        decision = self._ask(request)
        key = (action, object_, decision.allowed)
        if key not in self._made and len(self._made) < _KEPT:
            call = call_now()
            self._made[key] = Deciding(request, decision, call)
            if not decision.allowed:
                entry = decided(request, decision, at=time.time(), run=self._run, call=call)
                self._audit.note(entry)
            if self._on_decided is not None:
                self._on_decided(request, decision)
        return decision

    def decide(self, action: str, object_: str) -> None:
        """Raises:
        Denied: the script did not declare it, it or its sender took it away, or the policy or
            its broker refuses it.
        Unasked: the broker has to be asked first.
        """
        narrowed = self.rights.refusal(self._side, action, object_)
        if narrowed is not None:
            raise self.refuse(narrowed[0], action, object_, narrowed[1])
        if not self._grants.permits(self._side, action, object_):
            raise self.refuse("header", action, object_, self._undeclared(action, object_))
        decision = self.put(action, object_)
        request = AccessRequest(self._subject, self._context, action, object_)
        if not decision.allowed:
            raise self.keep_refusal(
                refusal(request, decision) if self._explains else _bare(request)
            )
        if self.broker is not None:
            said = self.broker.verdict(Question(request, decision.rule, self._run))
            if said is not None and not said.allowed:
                error = refused(request, said, explains=self._explains)
                raise self.refuse("broker", action, object_, error, said.text)

    async def require_broker(self, action: str, object_: str, decision: Decision) -> None:
        """For what is no host call, after `put`. Raises: Denied."""
        request = AccessRequest(self._subject, self._context, action, object_)
        if self.broker is not None and self.broker.is_asked(action):
            said = await self.broker.ask(Question(request, decision.rule, self._run))
            if not said.allowed:
                error = refused(request, said, explains=self._explains)
                raise self.refuse("broker", action, object_, error, said.text)

    def refuse(
        self, cause: str, action: str, object_: str, error: Denied, text: str = ""
    ) -> Denied:
        """Audit a refusal that is no rule's, each once."""
        key = (cause, action, object_)
        if key not in self._told and len(self._told) < _KEPT:
            self._told.add(key)
            self._audit.note(
                Entry(
                    at=time.time(),
                    actor=self._subject.spoken,
                    context=self._context,
                    action=action,
                    object=object_,
                    allowed=False,
                    run=self._run,
                    text=text or error.message,
                    cause=cause,
                    call=call_now(),
                )
            )
        return self.keep_refusal(error)

    async def begin_effect(self) -> None:
        # The lock: a second effect waits until the mark of the first is durable.
        async with self._beginning:
            if not self._begun:
                await self._begin()
                self._begun = True

    def count(self, *, read_bytes: int = 0, written_bytes: int = 0) -> None:
        self.read_bytes += read_bytes
        self.written_bytes += written_bytes

    def refusal_behind(self, message: str) -> Denied | None:
        """The refusal with which a guest ended that let it through; None when it made its own."""
        return next((each for each in self._refusals if each.message == message), None)

    def note_escape(self, call: str, error: Denied) -> None:
        """A call was refused by the tree itself: a path that tries to leave it. Audited, unless
        the refusal was this gate's own and is known."""
        if any(error is known for known in self._refusals):
            return
        self.keep_refusal(error)
        self._audit.note(
            Entry(
                at=time.time(),
                actor=self._subject.spoken,
                context=self._context,
                action=call.partition(".")[2],
                object=error.where or "",
                allowed=False,
                run=self._run,
                text=error.message,
                cause="broker" if error.rule == BROKER else "path",
                call=call_now(),
            )
        )

    def _undeclared(self, action: str, object_: str) -> Denied:
        capability = f"{self._side}.{action}:{object_}"
        return Denied(
            f"the script did not say that it needs {capability}",
            where=object_,
            hint=f'add "{capability}" to needs in its header',
        )

    def keep_refusal(self, error: Denied) -> Denied:
        """Remember a refusal, for when the guest lets it through."""
        if len(self._refusals) < _KEPT:
            self._refusals.append(error)
        return error

    def keep_exceeded(self, error: LimitExceeded) -> LimitExceeded:
        """Remember a call that a limit ended, for when the guest lets it through."""
        if len(self._exceeded) < _KEPT:
            self._exceeded.append(error)
        return error

    def exceeded_behind(self, message: str) -> LimitExceeded | None:
        """As `refusal_behind`, of what a limit ended."""
        return next((each for each in self._exceeded if each.message == message), None)


def _bare(request: AccessRequest) -> Denied:
    """For those whom the owner's reasons are not told: neither in an error, nor to a guest that
    would pass them on."""
    return Denied(f"{request.action} {request.object} is not allowed", where=request.object)
