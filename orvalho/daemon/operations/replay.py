"""What we do when the owner has a run made again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import msgspec

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import parse_address
from orvalho.control import messages as control
from orvalho.control import replaying as api
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.replaying import (
    Bundle,
    Checked,
    check,
    decode_bundle,
    encode_bundle,
    replay,
)
from orvalho.errors import NotFound
from orvalho.policies.quota import narrow
from orvalho.runtime.recording import Difference, Recording, encode_recording, shown
from orvalho.scripts import recordings, sources
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.receipts import MAX_BYTES as RECEIPT_BYTES
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.runs import Run, RunBodies
from orvalho.scripts.script import HAVE_MODULES
from orvalho.scripts.signing import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Call

Replies = AsyncIterator[control.Reply]

_MOST_SHOWN: Final = 10_000
_MOST_DIGITS: Final = 15
_WHY_NOT: Final = {
    "off": (
        "the recorder is off",
        "orvalho config set recorder.keep on",
    ),
    "large": (
        "it got more than `recorder.max_bytes`",
        "orvalho config set recorder.max_bytes 4MB",
    ),
    "lost": ("its worker ended without a last word", None),
    "service": (
        "a service answered it, which had been called before and went on living",
        None,
    ),
    None: ("it did not run to an end of its own, or is older than the recorder", None),
}


class ReplayOperations:
    """`orvalho replay`."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Which request each of these answers."""
        return {api.Replay: self.replay, api.ReplayExport: self.export}

    async def replay(self, request: api.Replay) -> Replies:
        identity = self._house.identity
        if request.content is not None:
            bundle = decode_bundle(request.content)
            own = bundle.node_key == key_text(identity.node.key)
        else:
            bundle, own = await self._bundle(request.run), True
        checked = check(bundle, tuple(identity.former_keys) if own else ())
        outcome = await replay(self._house, checked)
        receipt, recording = checked.receipt, checked.recording
        found = outcome.difference
        yield api.Replayed(
            run=receipt.run,
            filename=receipt.filename,
            caller=receipt.caller,
            target=receipt.target,
            signed_by=self._signer(checked.key),
            outcome=receipt.outcome,
            ran_at=receipt.started_at,
            deterministic=found is None,
            difference=_shown(found) if found is not None else None,
            stopped=outcome.stopped,
            host_calls=len(recording.calls),
            clock_readings=_readings(checked),
            lines=len(bundle.lines) - recording.lines,
            wall_ms=outcome.ended.usage.wall_ms,
            calls=_calls(checked) if request.with_calls else (),
        )

    async def export(self, request: api.ReplayExport) -> Replies:
        bundle = await self._bundle(request.run)
        checked = check(bundle, tuple(self._house.identity.former_keys))
        yield api.ReplayFile(run=checked.receipt.run, content=encode_bundle(bundle))

    async def _bundle(self, prefix: str) -> Bundle:
        """Raises:
        NotFound: there is no such run, or no recording of it.
        """
        house = self._house
        run = await house.runs.find(prefix)
        me = key_text(house.identity.node.key)
        ours = {me, *map(key_text, house.identity.former_keys)}
        if run.direction == "sent" and run.peer_key not in ours:
            raise NotFound(
                f"{run.id} ran on {parse_address(run.target).node}, and was recorded there",
                where=run.id,
                hint=f"orvalho replay --export {run.id} -o run.orvreplay, on that device",
            )
        bodies = await house.runs.bodies(run.id)
        if run.state != "ended" or bodies.receipt is None:
            raise NotFound(
                f"{run.id} has not ended: it is {run.state}",
                where=run.id,
                hint=f"orvalho script show {run.id}",
            )
        modules = await house.store.read(partial(sources.modules_of, run=run.id))
        logs = await house.runs.logs(run.id)
        _, signed_by = open_sealed(bodies.receipt, RECEIPT_TYPE, max_bytes=RECEIPT_BYTES)
        source = bodies.source
        return Bundle(
            node_key=key_text(signed_by) if signed_by in house.identity.former_keys else me,
            receipt=bodies.receipt,
            envelope=bodies.envelope,
            text=source if isinstance(source, str) else None,
            module=source if isinstance(source, bytes) else None,
            params=bodies.params,
            modules=modules,
            recording=await self._recording(run, bodies),
            result=bodies.result,
            is_bytes=bodies.is_bytes,
            lines=tuple((line.level, line.text) for line in logs),
            error=run.error,
        )

    async def _recording(self, run: Run, bodies: RunBodies) -> bytes:
        """Raises:
        NotFound: it has none.
        """
        if run.recorded == "kept":
            kept = await self._house.store.read(partial(recordings.recording_of, run=run.id))
            if kept is not None:
                return kept
        if run.recorded == "empty":
            return self._empty(run, bodies)
        why, hint = _WHY_NOT.get(run.recorded, _WHY_NOT[None])
        raise NotFound(f"there is no recording of {run.id}: {why}", where=run.id, hint=hint)

    def _empty(self, run: Run, bodies: RunBodies) -> bytes:
        """That of a run that got nothing from outside is known by its row."""
        payload, _ = open_sealed(bodies.envelope, PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
        call = msgspec.json.decode(payload, type=Call)
        try:
            target = key_text(self._house.contexts.get(call.target.context).key)
        except NotFound:
            target = ""
        limits = narrow(call.limits, allowance(self._house.settings.config.limits))
        return encode_recording(
            Recording(
                caller={"id": call.caller.context_key, "name": run.caller},
                target={"id": target, "name": run.target},
                limits=limits,
            )
        )

    def _signer(self, key: Key) -> str:
        house = self._house
        if key == house.identity.node.key or key in house.identity.former_keys:
            return "this node"
        peer = house.trust.by_key(house.trust.heir(key))
        return peer.name if peer else f"a node that is no peer, {key_text(key)}"


def _shown(difference: Difference) -> api.ReplayDifference:
    return api.ReplayDifference(
        what=difference.what,
        number=difference.number,
        operation=difference.operation,
        recorded=difference.recorded,
        now=difference.now,
    )


def _readings(checked: Checked) -> int:
    """How often the clock was read; in JavaScript `delta:times` stands for many."""
    tokens = checked.recording.tape.clock.split()
    if checked.script.script.language not in HAVE_MODULES:
        return len(tokens)
    times = [each.partition(b":")[2][:_MOST_DIGITS] for each in tokens]
    return sum(int(each) for each in times if each.isdigit())


def _calls(checked: Checked) -> tuple[api.ReplayedCall, ...]:
    return tuple(
        api.ReplayedCall(
            number=number,
            operation=call.op,
            argument=call.shown,
            answer=None if call.answer is None else shown(call.answer),
            is_error=call.is_error,
        )
        for number, call in enumerate(checked.recording.calls[:_MOST_SHOWN], 1)
    )
