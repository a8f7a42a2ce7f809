"""What we do when the owner tries rules out on the requests of the past."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from anyio import to_thread

from orvalho.contexts.identity import Key, parse_key
from orvalho.contexts.names import parse_address
from orvalho.contexts.trust import Peer
from orvalho.control import messages as control
from orvalho.control import policy_tools as tools
from orvalho.daemon.house import House
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.errors import InvalidInput, NotFound
from orvalho.policies.access import Rule, Subject
from orvalho.policies.book import Proposal
from orvalho.policies.rehearsal import Changed, Past, past, read_rows, rehearse, unused

Replies = AsyncIterator[control.Reply]

_SHOWN: Final = 100


class PolicyToolOperations:
    """`orvalho policy diff`, `orvalho policy unused`."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Request -> operation."""
        return {tools.PolicyDiff: self.diff, tools.PolicyUnused: self.unused}

    async def diff(self, request: tools.PolicyDiff) -> Replies:
        """Raises:
        InvalidInput: the new rules have a mistake, or those in use are not those of the files.
        """
        book = self._house.policy
        files = {f"policy/{each.name}": each.content for each in request.files}
        new = await to_thread.run_sync(partial(book.propose, files, instead=request.whole))
        old = await self._now()
        if new.make is None or old.make is None:
            raise InvalidInput(
                f"the new rules have mistakes: {new.problems[0]}",
                detail="\n".join(new.problems[1:]) or None,
            )
        known = set(old.files)
        found = await self._past(request.since_s)
        seen = await to_thread.run_sync(rehearse, found, old.make, new.make)
        yield tools.PolicyDiffed(
            requests=seen.requests,
            since_s=request.since_s,
            refused_count=sum(group.times for group in seen.refused),
            allowed_count=sum(group.times for group in seen.allowed),
            refused=_groups(seen.refused),
            allowed=_groups(seen.allowed),
            skipped=_skipped(seen.skipped),
            added=() if request.whole else tuple(name for name in files if name not in known),
        )

    async def unused(self, request: tools.PolicyUnused) -> Replies:
        now = await self._now()
        assert now.rules is not None and now.make is not None, "they would have been refused"
        found = await self._past(request.since_s)
        idle = await to_thread.run_sync(unused, found, now.rules, now.make)
        yield tools.PolicyUnusedReply(
            requests=idle.requests,
            since_s=request.since_s,
            rules=len(now.rules.rules),
            allow=_rules(idle.allow),
            deny=_rules(idle.deny),
            skipped=_skipped(idle.skipped),
        )

    async def _now(self) -> Proposal:
        """The rules of the files as they are, which are those in force unless one is broken."""
        now = await to_thread.run_sync(self._house.policy.propose, {})
        if now.make is None:
            raise InvalidInput(
                f"the policy files have mistakes: {now.problems[0]}",
                detail="\n".join(now.problems[1:]) or None,
                hint="orvalho policy check",
            )
        return now

    async def _past(self, since_s: int) -> Past:
        since_at = time.time() - since_s
        rows = await self._house.store.read(partial(read_rows, since_at=since_at))
        # Names are looked up here: the trust book is the event loop's.
        names = {str(row[1]) for row in rows if not row[7]}
        known = {name: self._recall(name) for name in names}
        return await to_thread.run_sync(past, rows, known.get)

    def _recall(self, actor: str) -> Subject | None:
        """Who is called so today, for entries that say no more than a name."""
        house = self._house
        try:
            if actor.startswith("ed25519:"):
                return self._by_key(parse_key(actor))
            address = parse_address(actor)
            if address.node in (None, house.name):
                context = house.contexts.get(address.context or "")
                me = house.identity.node.key
                return own_subject(house.name, me, context.name, context.key, house.groups)
            return self._of(house.trust.by_name(address.node), address.context)
        except (InvalidInput, NotFound):
            return None

    def _of(self, peer: Peer, context: str | None) -> Subject | None:
        entry = peer.context(context or "")
        if entry is None:
            return None
        return peer_subject(peer, entry.name, Key(entry.key), self._house.groups)

    def _by_key(self, key: Key) -> Subject | None:
        for peer in self._house.trust.peers():
            for entry in peer.contexts:
                if key in (entry.key, peer.node_key):
                    return peer_subject(peer, entry.name, key, self._house.groups)
        return None


def _groups(found: tuple[Changed, ...]) -> tuple[tools.ChangedRequests, ...]:
    return tuple(
        tools.ChangedRequests(
            actor=each.actor,
            context=each.context,
            action=each.action,
            objects=each.shown,
            distinct=len(each.objects),
            times=each.times,
            before=each.before,
            after=each.after,
        )
        for each in found[:_SHOWN]
    )


def _skipped(found: Mapping[str, int]) -> tuple[tools.Skipped, ...]:
    return tuple(tools.Skipped(reason=why, times=times) for why, times in found.items())


def _rules(found: Iterable[Rule]) -> tuple[tools.IdleRule, ...]:
    return tuple(tools.IdleRule(rule=each.where, text=each.text) for each in found)
