"""What we do when the owner asks about policy, groups and the audit log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from anyio import to_thread

from orvalho.contexts.identity import Key, key_text
from orvalho.control import messages as control
from orvalho.control import policies
from orvalho.daemon.house import House
from orvalho.daemon.policy_warnings import warnings
from orvalho.errors import NotFound
from orvalho.policies.audit import Entry, Wanted

Replies = AsyncIterator[control.Reply]


class PolicyOperations:
    """`orvalho policy ...`, `orvalho group ...`, `orvalho audit`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def check(self, _request: policies.PolicyCheck) -> Replies:
        checked = await to_thread.run_sync(self._house.policy.check)
        read = await to_thread.run_sync(self._house.policy.propose, {})
        yield policies.PolicyChecked(
            files=checked.files,
            rules=checked.rules,
            problems=checked.problems,
            warnings=() if read.rules is None else warnings(self._house, read.rules),
        )

    async def list_groups(self, _request: policies.GroupList) -> Replies:
        names = self._house.groups.names()
        yield policies.GroupListReply(groups=tuple(self._group(name) for name in names))

    async def show_group(self, request: policies.GroupShow) -> Replies:
        if request.name not in self._house.groups.names():
            raise NotFound(
                f"there is no group {request.name!a}",
                where=str(self._house.home.groups),
                hint=f"orvalho group add {request.name} PEER",
            )
        yield policies.GroupListReply(groups=(self._group(request.name),))

    def _group(self, name: str) -> policies.GroupState:
        groups = self._house.groups
        return policies.GroupState(
            name=name,
            members=tuple(
                (key_text(key), ", ".join(groups.files_of(name, key)), self._named(key))
                for key in sorted(groups.members(name))
            ),
        )

    def _named(self, key: Key) -> str | None:
        for peer in self._house.trust.peers():
            if peer.node_key == key:
                return peer.name
            for entry in peer.contexts:
                if entry.key == key:
                    return f"{entry.name}@{peer.name}"
        return None

    async def audit(self, request: policies.Audit) -> Replies:
        audit = self._house.audit
        run = (await self._house.runs.find(request.run)).id if request.run else None
        wanted = Wanted(
            run=run,
            actor=request.actor,
            action=request.action,
            context=request.context,
            allowed=request.allowed,
            since=None if request.since_s is None else time.time() - request.since_s,
        )
        last = 0
        for entry in await audit.newest(request.limit, wanted=wanted):
            last = entry.seq
            yield _shown(entry)
        if request.follow:
            async with audit.follow(last, wanted=wanted) as entries:
                async for entry in entries:
                    yield _shown(entry)


def _shown(entry: Entry) -> policies.AuditEntry:
    return policies.AuditEntry(
        seq=entry.seq,
        at=entry.at,
        actor=entry.actor,
        context=entry.context,
        action=entry.action,
        object=entry.object,
        allowed=entry.allowed,
        rule=entry.rule,
        run=entry.run,
        text=entry.text,
        cause=entry.cause,
        call=entry.call,
    )
