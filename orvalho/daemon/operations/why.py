"""What we do when the owner asks why a run went as it did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import (
    parse_address,
)
from orvalho.control import messages as control
from orvalho.control import policies
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import path_to
from orvalho.daemon.run_words import (
    failed,
)
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.policies.explain import explain
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.receipts import MAX_BYTES as RECEIPT_BYTES
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.receipts import open_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import (
    MAX_ENVELOPE_BYTES,
)
from orvalho.scripts.signing import PAYLOAD_TYPE as SCRIPT_TYPE

Replies = AsyncIterator[control.Reply]


class WhyOperations:
    """`orvalho why`. `state` tells how a run stands."""

    def __init__(self, house: House, state: Callable[[Run], Awaitable[control.RunState]]) -> None:
        self._house = house
        self._state = state

    async def why(self, request: control.Why) -> Replies:
        house = self._house
        run = await house.runs.find(request.run)
        entries = await house.audit.newest(1000, run=run.id)
        here = [entry for entry in entries if entry.action != "script.ended"]
        decisions = [
            policies.DecisionState(
                action=each.action,
                object=each.object,
                allowed=each.allowed,
                rule=each.rule,
                text=each.text,
                nearest=each.nearest,
                suggestion=each.suggestion,
                times=each.times,
                unmet=each.unmet,
            )
            for each in explain(here)
        ]
        bodies = await house.runs.bodies(run.id)
        if not decisions and bodies.receipt is not None:
            ran_at = self._ran_at(run, bodies.receipt)
            decisions = _decisions_of(bodies.receipt, ran_at)
        _, signed_by = open_sealed(bodies.envelope, SCRIPT_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
        yield control.WhyReply(
            state=await self._state(run),
            caller_key=key_text(signed_by),
            signature="the caller's signature over script, parameters, target and times holds",
            road=self._road(run),
            roles=self._roles(run, signed_by),
            decisions=tuple(decisions),
            error=failed(run.error) if run.error else None,
        )

    def _ran_at(self, run: Run, receipt: bytes) -> Key:
        """The key that has to have signed a receipt; for our own, the one we had then."""
        if run.direction != "received":
            return parse_key(run.peer_key)
        identity = self._house.identity
        _, signed_by = open_sealed(receipt, RECEIPT_TYPE, max_bytes=RECEIPT_BYTES)
        return signed_by if signed_by in identity.former_keys else identity.node.key

    def _road(self, run: Run) -> str:
        house = self._house
        node_key = parse_key(run.peer_key)
        if node_key == house.identity.node.key:
            return "within this node"
        peer = house.trust.by_key(node_key)
        if peer is None:
            return "a node that is no peer any more"
        way = "to" if run.direction == "sent" else "from"
        return f"{way} {peer.name}: {path_to(house, peer)}"

    def _roles(self, run: Run, signed_by: Key) -> tuple[str, ...]:
        """The words of our policy that hold for the caller now."""
        house = self._house
        context = parse_address(run.caller).context or ""
        me, node_key = house.identity.node.key, parse_key(run.peer_key)
        if run.direction == "sent" or node_key == me:
            subject = own_subject(house.name, me, context, signed_by, house.groups)
        elif (peer := house.trust.by_key(node_key)) is not None:
            subject = peer_subject(peer, context, signed_by, house.groups)
        else:
            return ()
        return tuple(sorted(subject.names))


def _decisions_of(receipt: bytes, target: Key) -> list[policies.DecisionState]:
    """What the target shared with us of how it decided."""
    return [
        policies.DecisionState(
            action=each.action,
            object=each.object,
            allowed=each.allowed,
            rule=each.rule,
            text=None,
            nearest=None,
            suggestion=None,
            times=1,
        )
        for each in open_receipt(receipt, target).tried
    ]
