"""What we do when the owner asks why a run went as it did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import parse_address
from orvalho.control import messages as control
from orvalho.control import policies
from orvalho.control import why as answers
from orvalho.daemon.explaining import Asker, Explaining, covering
from orvalho.daemon.holding import HELD
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import path_to
from orvalho.daemon.run_words import failed
from orvalho.daemon.subjects import groups_of, own_subject, peer_subject
from orvalho.daemon.why_run import (
    header_edit,
    held_links,
    is_told,
    quota_edit,
    quota_links,
    read_call,
    send_edit,
    signature_links,
    told_refusal,
    with_rules,
)
from orvalho.policies.audit import Entry
from orvalho.policies.explain import Explained as Recorded
from orvalho.policies.explain import explain
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.receipts import MAX_BYTES as RECEIPT_BYTES
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.receipts import open_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.script import Source
from orvalho.scripts.signing import Call

Replies = AsyncIterator[control.Reply]

# What of the asker's chain comes behind the signature.
_LATER: Final = ("keys", "groups")
# What the log has of a run beside decisions.
_NO_RULES: Final = ("script.ended", HELD)


class WhyOperations:
    """`orvalho why`. `state` tells how a run stands."""

    def __init__(self, house: House, state: Callable[[Run], Awaitable[control.RunState]]) -> None:
        self._house = house
        self._state = state
        self._explaining = Explaining(house)

    async def ask(self, request: answers.WhyAsk) -> Replies:
        """Without a run."""
        yield await self._explaining.asked(request)

    async def why(self, request: control.Why) -> Replies:
        house = self._house
        run = await house.runs.find(request.run)
        entries = await house.audit.newest(1000, run=run.id)
        here = sorted((each for each in entries if each.action not in _NO_RULES), key=_place)
        bodies = await house.runs.bodies(run.id)
        call, signed_by = read_call(bodies.envelope)
        asker = self._asker(run, signed_by)
        declared = (*run.needs, *run.wants)
        explained = await self._explaining.of_entries(here, declared, asker)
        decisions = [_state(each) for each in explain(here)]
        shared = "full"
        if not self._is_here(run):
            shared = "outcome"
            told = self._told(run, bodies.receipt)
            if told:
                shared = "decisions"
                explained = (*explained, *told)
                decisions = decisions or list(map(_told_state, told))
            explained = (*explained, *told_refusal(run))
        mended = [await self._with_edit(each, run, bodies.source, here, call) for each in explained]
        roles = tuple(sorted(asker.subject.names)) if asker else ()
        chain = [
            answers.Link(name="sender", text=f"{run.caller}  {key_text(signed_by)}"),
            answers.Link(name="path", text=self._road(run)),
            *signature_links(call, signed_by),
        ]
        if asker is not None:
            chain += [each for each in self._explaining.chain(asker) if each.name in _LATER]
        if self._is_here(run):
            chain += await quota_links(house, self._groups(run, signed_by), run)
            chain += held_links(entries)
        yield control.WhyReply(
            state=await self._state(run),
            caller_key=key_text(signed_by),
            signature="the caller's signature over script, parameters, target and times holds",
            road=self._road(run),
            roles=roles,
            decisions=tuple(decisions),
            error=failed(run.error) if run.error else None,
            chain=tuple(chain),
            explained=tuple(mended),
            shared=shared,
            edit=await quota_edit(house, run) if self._is_here(run) else None,
        )

    def _is_here(self, run: Run) -> bool:
        """Whether it was decided on this node."""
        me = key_text(self._house.identity.node.key)
        return run.direction == "received" or run.peer_key == me

    def _told(self, run: Run, receipt: bytes | None) -> tuple[answers.Explained, ...]:
        """What the target shared with us of how it decided: no more than its receipt says."""
        if receipt is None:
            return ()
        tried = open_receipt(receipt, self._ran_at(run, receipt)).tried
        declared = (*run.needs, *run.wants)
        return tuple(
            answers.Explained(
                action=each.action,
                object=each.object,
                allowed=each.allowed,
                by="rule" if each.rule else "default",
                reason=f"{run.target} says so",
                rule=each.rule,
                capability=covering(declared, "target", each.action, each.object),
            )
            for each in tried
        )

    async def _with_edit(
        self,
        explained: answers.Explained,
        run: Run,
        source: Source,
        entries: Sequence[Entry],
        call: Call,
    ) -> answers.Explained:
        """What helps where it was no rule that refused."""
        if explained.by == "header":
            side = "target" if self._is_here(run) or is_told(run, explained) else "caller"
            capability = f"{side}.{explained.action}:{explained.object}"
            edit = header_edit(run, source, capability)
            rules = await self._explaining.after_header(explained, entries)
            return msgspec.structs.replace(explained, edit=with_rules(edit, rules))
        if explained.by == "narrowed":
            entry = next(each for each in entries if each.object == explained.object)
            return msgspec.structs.replace(explained, edit=send_edit(entry, call))
        return explained

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

    def _asker(self, run: Run, signed_by: Key) -> Asker | None:
        """The caller, as our policy sees it now; None where its node is no peer any more."""
        house = self._house
        context = parse_address(run.caller).context or ""
        me, node_key = house.identity.node.key, parse_key(run.peer_key)
        if run.direction == "sent" or node_key == me:
            return Asker(own_subject(house.name, me, context, signed_by, house.groups), me)
        if (peer := house.trust.by_key(node_key)) is not None:
            return Asker(peer_subject(peer, context, signed_by, house.groups), node_key)
        return None

    def _groups(self, run: Run, signed_by: Key) -> tuple[str, ...]:
        """Those in whose quotas it counts."""
        sender = parse_key(run.peer_key)
        peer = self._house.trust.by_key(sender)
        return groups_of(self._house.groups, (sender, signed_by), peer)


def _place(entry: Entry) -> tuple[int, bool, bool]:
    """Refusals are written down at once, and what was allowed later: back in the order of calls."""
    number = (entry.call or "").partition(" ")[0]
    is_need = not entry.action.startswith(("script.", "lib."))
    return (int(number) if number.isdecimal() else 0, is_need, entry.cause is not None)


def _state(each: Recorded) -> policies.DecisionState:
    return policies.DecisionState(
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


def _told_state(each: answers.Explained) -> policies.DecisionState:
    return policies.DecisionState(
        action=each.action,
        object=each.object,
        allowed=each.allowed,
        rule=each.rule,
        text=None,
        nearest=None,
        suggestion=None,
        times=1,
    )
