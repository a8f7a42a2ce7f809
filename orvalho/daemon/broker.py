"""The permission broker: a program of the owner's that is asked after the rules have allowed.

It listens on a Unix socket that only its owner can reach. Each question is a connection of its own:
one JSON line there, `{"version":1,"action":"fs.write","object":"/a","context":"peer",...}`, one
line back, `{"decision":"allow"}` or `{"decision":"deny","text":"why"}`. Whatever else happens is a
no: no socket, a stranger behind it, silence, nonsense, too much.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeVar

import anyio
import anyio.abc
import msgspec

from orvalho.control.credentials import peer_uid
from orvalho.daemon.settings import Broker as Terms
from orvalho.errors import Denied
from orvalho.policies.access import AccessRequest, Rule, is_unprintable
from orvalho.policies.quota import parse_duration
from orvalho.runtime.bridge import HostCall

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Where a refusal comes from that is no rule's: the setting.
BROKER: Final = "policy.broker"

_LINE_BYTES: Final = 4096
_TEXT: Final = 200
# What one host call may reach that has to be asked about one by one.
_MOST_ASKED: Final = 256
# Questions under way; a broker that hangs holds up no more than these, and each for its time only.
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What the broker is asked. `rule` allowed it; `run` is None for what is no script's."""

    request: AccessRequest
    rule: Rule | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is the broker's own where it answered, else what went wrong."""

    allowed: bool
    text: str


class _Answer(msgspec.Struct, frozen=True):
    decision: Literal["allow", "deny"]
    text: str = ""


class Unasked(Exception):
    """A call came to something that the broker has to be asked about first. Nothing was done."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.request.object)
        self.question = question


@dataclass(slots=True)
class _CallNow:
    """One host call, and what the broker has said of what it reaches."""

    spoken: str
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)


_NOW: Final[ContextVar[_CallNow | None]] = ContextVar("call_now", default=None)


def call_now() -> str | None:
    """The host call that is being made, `3 target.fs.write`; None outside of one."""
    now = _NOW.get()
    return now.spoken if now else None


class Broker:
    """Asks as `terms` say now: they may be read again while we run. For one event loop."""

    def __init__(self, terms: Callable[[], Terms]) -> None:
        self._terms = terms
        self._places = anyio.Semaphore(_AT_ONCE)

    def is_asked(self, action: str) -> bool:
        """Whether this action takes the broker's word."""
        return action in self._terms().actions

    def verdict(self, question: Question) -> Verdict | None:
        """What it said within this host call; None where it need not be asked.

        Raises:
            Unasked: it has to be asked first, see `within_call`.
        """
        request = question.request
        if not self.is_asked(request.action):
            return None
        now = _NOW.get()
        if now is None:
            return Verdict(False, "the broker could not be asked here")
        found = now.verdicts.get((request.action, request.object))
        if found is None:
            raise Unasked(question)
        return found

    async def within_call(self, number: int, name: str, call: HostCall, argument: str) -> str:
        """Make a host call of a run, see `within`."""
        return await self.within(f"{number} {name}", partial(call, argument))

    async def within(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call. What it comes to that the broker decides is asked, and then the call is
        made again from its start: it asks for leave before it does anything."""
        now = _CallNow(name)
        token = _NOW.set(now)
        try:
            for _ in range(_MOST_ASKED):
                try:
                    return await call()
                except Unasked as unasked:
                    request = unasked.question.request
                    said = await self.ask(unasked.question)
                    now.verdicts[request.action, request.object] = said
            raise Denied(
                f"{name} reaches too much for the broker to be asked about one by one", rule=BROKER
            )
        finally:
            _NOW.reset(token)

    async def require(self, question: Question, *, explains: bool) -> None:
        """Ask, outside of a host call.

        Raises:
            Denied: it said no.
        """
        if self.is_asked(question.request.action):
            said = await self.ask(question)
            if not said.allowed:
                raise refused(question.request, said, explains=explains)

    async def ask(self, question: Question) -> Verdict:
        """Its word. Never longer than its time; nothing is raised: what goes wrong is a no."""
        terms = self._terms()
        timeout_s = parse_duration(terms.timeout)
        verdict = Verdict(False, f"the broker did not answer within {terms.timeout}")
        with anyio.move_on_after(timeout_s):
            async with self._places:
                verdict = await self._asked(terms.socket, question)
        if not verdict.allowed:
            _log.info("broker.denied", extra={"why": verdict.text})
        return verdict

    async def _asked(self, path: str, question: Question) -> Verdict:
        try:
            _check_socket(path)
            async with await anyio.connect_unix(path) as stream:
                _check_peer(stream)
                await stream.send(_line(question))
                return _read(await _receive_line(stream))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return Verdict(False, "the broker does not listen")
            return Verdict(False, f"the broker cannot be asked: {error.strerror or error}")
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return Verdict(False, "the broker went away without an answer")
        except _Unfit as error:
            return Verdict(False, str(error))


def refused(request: AccessRequest, said: Verdict, *, explains: bool) -> Denied:
    """The error for a no of the broker's; its text for those whom reasons are told."""
    if not explains:
        return Denied(f"{request.action} {request.object} is not allowed", where=request.object)
    return Denied(
        f"{request.subject.spoken} may not {request.action} {request.object} in {request.context}:"
        f" the broker denies it: {said.text}",
        where=request.object,
        rule=BROKER,
    )


class _Unfit(Exception):
    """The socket, or what came from it, is not what a broker gives."""


def _check_socket(path: str) -> None:
    # Whoever may write to its directory can put another in its place: that is the owner's to keep,
    # and the user at the other end is asked of the kernel below.
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise _Unfit("the broker's socket is no socket")
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise _Unfit("the broker's socket is not its owner's alone: chmod 600")


def _check_peer(stream: anyio.abc.SocketStream) -> None:
    raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - no SQL
    if peer_uid(raw) != os.getuid():
        raise _Unfit("another user answers at the broker's socket")


def _line(question: Question) -> bytes:
    request, rule = question.request, question.rule
    asked = {
        "version": 1,
        "actor": request.subject.spoken,
        "key": request.subject.key,
        "context": request.context,
        "action": request.action,
        "object": request.object,
        "rule": rule.where if rule else None,
        "run": question.run,
    }
    return msgspec.json.encode(asked) + b"\n"


async def _receive_line(stream: anyio.abc.SocketStream) -> bytes:
    found = b""
    while b"\n" not in found:
        found += await stream.receive(_LINE_BYTES)
        if len(found) > _LINE_BYTES:
            raise _Unfit(f"the broker answered more than {_LINE_BYTES} bytes")
    return found.partition(b"\n")[0]


def _read(line: bytes) -> Verdict:
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Unfit("the broker answered what is neither allow nor deny") from error
    shown = "".join(each for each in answer.text if not is_unprintable(each))[:_TEXT]
    return Verdict(answer.decision == "allow", shown or "it says no more")
