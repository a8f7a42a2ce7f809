"""A context's own word on what it is asked: `/lib/interpret.js` may rewrite a script's parameters.

The hook is the owner's code, so only whom a rule lets change `/lib` can put one there. It runs
before the script, in an isolate of its own without any operation: what it is given is what it has.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from typing import Final

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import unchecked
from orvalho.control.metering import Event
from orvalho.daemon.house import House
from orvalho.daemon.run_record import Arrival
from orvalho.errors import Denied, Unavailable
from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job
from orvalho.scripts.receipts import Interpreted

HOOK: Final = "/lib/interpret.js"
_LIMITS: Final = Limits(wall_s=2.0, cpu_s=1.0)
_MOST_BYTES: Final = 1 << 20
_MOST_TOLD: Final = 300
# What a hook does not throw to refuse a call, but because it is wrong itself.
_MISTAKES: Final = ("SyntaxError", "TypeError", "ReferenceError", "RangeError")
_PLACE: Final = re.compile(re.escape(HOOK) + r":(\d+(?::\d+)?)")

_log = logging.getLogger(__name__)


class _Rewritten(msgspec.Struct, frozen=True):
    """What a hook returns when it has something to say."""

    params: msgspec.Raw


async def interpret(house: House, context: Context, arrival: Arrival, caller: str) -> bytes:
    """The parameters that the script gets: its own, or those that the context's hook makes of them,
    which is then noted in `arrival`.

    Raises:
        Denied: the hook threw: it refuses the call.
        Unavailable: it did not come to its end.
    """
    params = arrival.script.params
    # Looked for without a thread: most contexts have none, and every run asks.
    if not (house.home.contexts / context.name / HOOK[1:]).is_file():
        _tell_owner(house, context.name, None)
        return params
    source = (await context.files(unchecked).read(HOOK, _MOST_BYTES)).decode(errors="replace")
    job = Job(
        run_id=f"{arrival.run}-interpret",
        context=context.name,
        filename=HOOK,
        source=source,
        params=_call(arrival, params, caller),
        caller={"id": arrival.script.call.caller.context_key, "name": caller},
        target={"id": "", "name": f"{context.name}@{house.name}"},
        limits=_LIMITS,
        ops={},
        digest=hashlib.sha256(source.encode()).hexdigest(),
    )
    ended = await _end_of(house, job)
    arrival.read_cpu_ms += ended.usage.cpu_ms
    if ended.outcome == "failed" and not ended.is_lost:
        if ended.error_name in _MISTAKES:
            _tell_owner(house, context.name, f"{ended.error_name}: {ended.error_message}", ended)
        raise Denied(f"{context.name} does not take this call: {ended.error_message}", where=HOOK)
    if ended.outcome != "done":
        end = ended.limit or ended.outcome
        if ended.limit is not None:
            _tell_owner(house, context.name, f"it used up its limit: {end}", ended)
        raise Unavailable(
            f"the hook that looks at calls of {context.name} did not come to its end: {end}",
            where=HOOK,
            hint="tell its owner",
        )
    try:
        rewritten = _params(ended)
    except Unavailable as error:
        _tell_owner(house, context.name, error.message, ended)
        raise
    _tell_owner(house, context.name, None)
    if rewritten is None:
        return params
    arrival.interpreted = Interpreted(
        path=HOOK,
        sha256=job.digest,
        params_sha256=hashlib.sha256(rewritten).hexdigest(),
    )
    return rewritten


def _tell_owner(house: House, context: str, what: str | None, ended: Ended | None = None) -> None:
    """Remember how the hook last failed of itself, for `doctor`, the log and the events; None once
    it is well or gone. A refusal is no failure."""
    origin = f"hook of {context}"
    for text in house.problems.pop(origin, ()):
        house.hints.pop(text, None)
    if what is None:
        return
    found = _PLACE.search(ended.error_stack or ended.error_message or "") if ended else None
    place = f"{HOOK}:{found[1]}" if found else HOOK
    text = f"{context}:{place}: {what[:_MOST_TOLD]}"
    house.problems[origin] = (text,)
    house.hints[text] = f"mend {HOOK} of {context}: until then calls that it breaks on are refused"
    _log.warning("hook.failed", extra={"context": context, "why": text})
    if house.events.is_followed:
        event = Event(kind="hook.failed", at=time.time(), level="warn", text=text, context=context)
        house.events.publish(event)


def _call(arrival: Arrival, params: bytes, caller: str) -> bytes:
    call = arrival.script.call
    return msgspec.json.encode(
        {
            "params": msgspec.Raw(params),
            "caller": caller,
            "script": call.filename,
            "digest": arrival.script.script.digest,
            "needs": call.needs,
        }
    )


async def _end_of(house: House, job: Job) -> Ended:
    async with house.jobs.open(job) as run:
        async for event in run:
            if isinstance(event, Ended):
                return event
    raise Unavailable("the hook ended without a word", where=HOOK)


def _params(ended: Ended) -> bytes | None:
    """Raises:
    Unavailable: the hook returned something else than `{ params }`, or nothing.
    """
    if ended.result is None or ended.result == b"null":
        return None
    try:
        return bytes(msgspec.json.decode(ended.result, type=_Rewritten).params)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(
            f"the hook returned something else than {{ params }}: {error}",
            where=HOOK,
            hint="tell its owner",
        ) from error
