"""From a name of several (`any@gpu=yes`, `@family`, `all`) to contexts on nodes, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.contexts.names import Address, Several, near_miss
from orvalho.contexts.trust import ContextEntry, Peer
from orvalho.daemon.greeting import Greeted
from orvalho.daemon.house import House
from orvalho.daemon.load import Loads
from orvalho.errors import InvalidInput, NotFound, OrvalhoError, Unavailable

# Nodes are equally near when their round trips differ by no more than this: on one network they
# share the work, whichever answered a little faster last time.
_EQUAL_FACTOR: Final = 2.0
_EQUAL_S: Final = 0.025
# And equally busy when what wants to run there differs by no more than half a core's work a core.
_EQUAL_BUSY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node that a name may stand for. `context` is a context there, or None with `problem`:
    why no context of it can be meant."""

    node: str
    node_key: Key
    context: ContextEntry | None
    labels: tuple[str, ...]
    is_online: bool
    path: str
    rtt_s: float | None
    problem: OrvalhoError | None = None
    # Where it is in doubt which context is meant: those that could be.
    known: tuple[ContextEntry, ...] = ()
    # How busy it is, for each core; None where it does not tell, or was not asked.
    busy: float | None = None

    @property
    def address(self) -> Address:
        return Address(self.context.name if self.context else None, self.node)

    @property
    def why(self) -> str:
        """`gpu=yes, env=home; direct 127.0.0.1:4455, 3 ms`."""
        parts = [", ".join(self.labels)] if self.labels else []
        reached = self.path if self.is_online else "offline"
        if self.is_online and self.rtt_s is not None:
            reached += f", {milliseconds(self.rtt_s)}"
        if self.is_online and self.busy is not None:
            reached += f", load {self.busy:g} a core"
        return "; ".join([*parts, reached])


class Selection:
    """Who a name of several stands for. `any` stands for paired nodes, as `all` does: this node
    goes by its own name, or as a member of a group."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loads = Loads(house)
        self._turns: dict[str, int] = {}

    def members(self, name: Several) -> list[Candidate]:
        """Every node that it may stand for, by name.

        Raises:
            NotFound: no such group, nobody in it that we know, no node with these labels.
        """
        if name.group is not None:
            return self._of_group(name, name.group)
        peers = self._house.trust.peers()
        if not peers:
            raise NotFound("no other device is paired", hint="orvalho pair")
        wanted = set(name.labels)
        found = [
            self._candidate(peer, name)
            for peer in peers
            if wanted <= self._house.labels_of(peer.node_key)
        ]
        if not found:
            raise self._no_such_label(name, peers)
        return found

    def member(self, address: Address) -> Candidate:
        """One node by its name, this one included.

        Raises:
            NotFound: no peer is called so.
        """
        house, name = self._house, Several(address.context)
        me = house.identity.node.key
        if address.node == house.name and (own := self._own(name, frozenset({me}))) is not None:
            return own
        return self._candidate(house.trust.by_name(address.node), name)

    async def choose(self, name: Several) -> Candidate:
        """The one that `any` stands for now: of the nearest the one that is least busy; equal ones
        take turns.

        Raises:
            NotFound: as `members`.
            Unavailable: none of them is reached.
            InvalidInput: which context is meant is not clear on any of them.
        """
        members = self.members(name)
        usable = [each for each in members if each.problem is None]
        if not usable:
            assert members[0].problem is not None
            raise members[0].problem
        online = [each for each in usable if each.is_online]
        if not online:
            raise Unavailable(
                f"{name} stands for {_listed(each.node for each in usable)}, and none is reached",
                where=str(name),
                hint="orvalho status",
            )
        limit_s = _near_s(online)
        near = [each for each in online if (each.rtt_s or 0.0) <= limit_s]
        equal = await self._least_busy(near)
        turn = self._turns[str(name)] = self._turns.get(str(name), -1) + 1
        return equal[turn % len(equal)]

    async def _least_busy(self, near: list[Candidate]) -> list[Candidate]:
        if len(near) == 1:
            return near
        told = await self._loads.of(each.node_key for each in near)
        near = [replace(each, busy=told[each.node_key]) for each in near]
        least = min(each.busy or 0.0 for each in near)
        return [each for each in near if (each.busy or 0.0) <= least + _EQUAL_BUSY]

    def lost(self, name: Several, chosen: Candidate) -> list[tuple[Candidate, str]]:
        """Who was not chosen in its place, by name, and why not."""
        wanted = set(name.labels)
        members = {each.node_key: each for each in self.members(name)}
        limit_s = _near_s([each for each in members.values() if each.is_online])
        found: list[tuple[Candidate, str]] = []
        for peer in self._house.trust.peers():
            each = members.get(peer.node_key)
            if each is None and name.group is None:
                each = self._candidate(peer, Several(name.context))
                lacks = sorted(wanted - self._house.labels_of(peer.node_key))
                found.append((each, f"it has no {' and no '.join(lacks)}"))
            elif each is not None and each.node_key != chosen.node_key:
                each = replace(each, busy=self._loads.known(each.node_key))
                found.append((each, _why_not(each, limit_s, chosen)))
        return found

    # ---- inside -----------------------------------------------------------------------------

    def _of_group(self, name: Several, group: str) -> list[Candidate]:
        house = self._house
        if group not in house.groups.names():
            near = near_miss(group, house.groups.names())
            raise NotFound(
                f"there is no group @{group}",
                where=str(name),
                hint=f"did you mean @{near}?" if near else "orvalho group ls",
            )
        keys = house.groups.members(group)
        found = [
            candidate
            for peer in house.trust.peers()
            if (candidate := self._member(peer, name, keys)) is not None
        ]
        own = self._own(name, keys)
        found += [own] if own else []
        if not found:
            raise NotFound(
                f"nobody in @{group} is this node or a peer",
                where=str(name),
                hint=f"orvalho group show {group}",
            )
        return sorted(found, key=lambda each: each.node)

    def _member(self, peer: Peer, name: Several, keys: frozenset[Key]) -> Candidate | None:
        """A node whose key is in the group; or the context whose key is, and no other one."""
        if peer.node_key in keys:
            return self._candidate(peer, name)
        entries = [entry for entry in peer.contexts if Key(entry.key) in keys]
        if not entries:
            return None
        return self._candidate(peer, name, entries)

    def _own(self, name: Several, keys: frozenset[Key]) -> Candidate | None:
        house = self._house
        me = house.identity.node.key
        entries = [ContextEntry(name=each.name, key=each.key) for each in house.contexts.list()]
        if me not in keys:
            entries = [entry for entry in entries if Key(entry.key) in keys]
            if not entries:
                return None
        usual = house.settings.config.context
        context, problem = meant_context(house.name, entries, name.context, usual)
        labels = tuple(sorted(house.given_labels_of(me)))
        known = tuple(entries) if name.context is None else ()
        return Candidate(house.name, me, context, labels, True, "this node", 0.0, problem, known)

    def _candidate(
        self, peer: Peer, name: Several, entries: Iterable[ContextEntry] | None = None
    ) -> Candidate:
        node = self._house.node
        paths = node.paths(peer.node_key)
        known = list(peer.contexts if entries is None else entries)
        usual = self._house.greeted.get(peer.node_key, Greeted()).usual
        context, problem = meant_context(peer.name, known, name.context, usual)
        labels = self._house.given_labels_of(peer.node_key)
        return Candidate(
            node=peer.name,
            node_key=peer.node_key,
            context=context,
            # The ones that were asked for stand first.
            labels=(*name.labels, *sorted(labels - set(name.labels))),
            is_online=node.is_online(peer.node_key),
            path=paths[0] if paths else "",
            rtt_s=node.rtt_s(peer.node_key),
            problem=problem,
            known=tuple(known) if name.context is None else (),
        )

    def _no_such_label(self, name: Several, peers: Iterable[Peer]) -> NotFound:
        known = {label for peer in peers for label in self._house.labels_of(peer.node_key)}
        near = next(
            (
                found
                for each in name.labels
                if each not in known and (found := near_miss(each, known))
            ),
            None,
        )
        return NotFound(
            f"no paired node has {' and '.join(name.labels)}",
            where=str(name),
            hint=f"did you mean {near}?" if near else "orvalho resolve all",
        )


def meant_context(
    node: str, entries: Sequence[ContextEntry], wanted: str | None, usual: str
) -> tuple[ContextEntry | None, OrvalhoError | None]:
    """The context that is meant on a node: the one of that name; where none is named the node's
    usual one, or the only one. Or why none can be meant."""
    by_name = {entry.name: entry for entry in entries}
    if wanted is not None:
        found = by_name.get(wanted)
        return found, None if found else NotFound(
            f'{node} has no context "{wanted}" that we know of', where=node
        )
    if usual in by_name:
        return by_name[usual], None
    if len(entries) == 1:
        return entries[0], None
    if not entries:
        return None, NotFound(f"{node} has no context that we know of", where=node)
    names = _listed(entry.name for entry in entries)
    return None, InvalidInput(
        f"{node} has several contexts ({names}): put one in front, as in {entries[0].name}@all",
        where=node,
    )


def _near_s(online: Sequence[Candidate]) -> float:
    """The longest round trip that still counts as near."""
    best_s = min((each.rtt_s or 0.0 for each in online), default=0.0)
    return best_s * _EQUAL_FACTOR + _EQUAL_S


def _why_not(each: Candidate, limit_s: float, chosen: Candidate) -> str:
    if each.problem is not None:
        return each.problem.message
    if not each.is_online:
        return "it is offline"
    if (each.rtt_s or 0.0) > limit_s:
        return f"it is farther away: {milliseconds(each.rtt_s or 0.0)}"
    if (each.busy or 0.0) > (chosen.busy or 0.0) + _EQUAL_BUSY:
        return f"it is busier: load {each.busy:g} a core"
    return "it is as near, and takes another turn"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_some(names))


def _some(names: Iterable[str], most: int = 10) -> Iterator[str]:
    for count, name in enumerate(names):
        if count == most:
            yield "..."
            return
        yield name


def milliseconds(seconds: float) -> str:
    """`3.2 ms`, `120 ms`."""
    value = 1000 * seconds
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
