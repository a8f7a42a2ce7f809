"""What a run that waits for the owner's word may do by the rules: when it ran, and today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.daemon.holding import HELD
from orvalho.daemon.house import House
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.daemon.why_run import read_call
from orvalho.policies.access import AccessRequest
from orvalho.policies.audit import Entry
from orvalho.scripts.held_runs import HeldRun

# More than a run has different decisions.
_MOST: Final = 1000


async def used_rights(house: House, run: str) -> list[Entry]:
    """What a run was allowed, each once, in order: also what it only declared that it needs."""
    found: dict[tuple[str, str], Entry] = {}
    for entry in reversed(list(await house.audit.newest(_MOST, run=run))):
        if entry.allowed and entry.action != HELD:
            found.setdefault((entry.action, entry.object), entry)
    return list(found.values())


def refused_now(
    house: House, held: HeldRun, envelope: bytes, decided: Sequence[Entry]
) -> tuple[str, ...]:
    """Of what it was allowed (`used_rights`), what today's rules refuse: `fs.write /notes  by
    policy/peer.csv:3`. What a grant allowed is not looked at: no rule did."""
    call, signed_by = read_call(envelope)
    name, me = call.caller.context, house.identity.node.key
    sender = house.trust.heir(Key(held.sender))
    if sender == me:
        subject = own_subject(house.name, me, name, signed_by, house.groups)
    elif (peer := house.trust.by_key(sender)) is not None:
        subject = peer_subject(peer, name, signed_by, house.groups)
    else:
        return ("anything: it is no peer any more",)
    refused = []
    for entry in decided:
        if entry.rule is None or not entry.rule.startswith("policy/"):
            continue
        request = AccessRequest(subject, held.context, entry.action, entry.object)
        decision = house.policy.peek(request)
        if not decision.allowed:
            by = decision.rule.where if decision.rule else "no rule"
            refused.append(f"{entry.action} {entry.object}  by {by}")
    return tuple(refused)
