"""What we do when the owner brings two devices together, or parts them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Several, parse_target
from orvalho.contexts.refused import Refusal
from orvalho.contexts.trust import Peer, Relation
from orvalho.control import mesh, seeing
from orvalho.control import messages as control
from orvalho.daemon.greeting import read_greeting
from orvalho.daemon.house import House
from orvalho.daemon.parting import Parting
from orvalho.daemon.peer_words import path_to, peer_state, standing, unapproved, words_for
from orvalho.daemon.selection import Selection
from orvalho.errors import Conflict, InvalidInput, NotFound, Unavailable
from orvalho.peers.pairing import Paired, format_ticket, parse_ticket

Replies = AsyncIterator[control.Reply]


class PeerOperations:
    """`orvalho peer ...` and `orvalho resolve`."""

    def __init__(self, house: House, parting: Parting) -> None:
        self._house = house
        self._parting = parting
        self._selection = Selection(house)

    async def invite(self, request: control.PeerInvite) -> Replies:
        ticket = await self._house.node.invite(lifetime_s=request.expires_s, is_guest=request.guest)
        yield control.Ticket(
            ticket=format_ticket(ticket), expires_at=ticket.expires_at, guest=request.guest
        )

    async def add(self, request: control.PeerAdd) -> Replies:
        paired = await self._house.node.redeem(parse_ticket(request.ticket))
        relation: Relation = "guest" if request.guest else "own"
        peer, is_new = await remember(
            self._house, paired, relation, name=request.name, introduced="ticket, redeemed here"
        )
        words = await words_for(self._house, peer)
        yield control.PeerAdded(
            peer=await peer_state(self._house, peer, words), changed=is_new, held=paired.is_held
        )

    async def list(self, _request: control.PeerList) -> Replies:
        states = [
            await peer_state(self._house, peer, await words_for(self._house, peer))
            for peer in self._house.trust.peers()
        ]
        yield control.PeerListReply(peers=tuple(states))

    async def remove(self, request: control.PeerRemove) -> Replies:
        house = self._house
        peer, me = house.trust.by_name(request.name), house.identity.node.key
        # First of all, or an introducer would bring it back.
        await house.refused.add(
            Refusal(
                node_key=peer.node_key,
                by_key=me,
                why="removed",
                name=peer.name,
                by_name="this node",
                at=time.time(),
                owner_key=peer.owner_key,
            )
        )
        await self._parting.part(peer)
        house.mesh.stir()
        yield control.Note(text=f"{peer.name} is forgotten: its key is refused from now on")

    async def set(self, request: mesh.PeerSet) -> Replies:
        changed = await self._house.trust.set_introducer(request.name, request.introducer)
        self._house.mesh.stir()
        verb = "may introduce" if request.introducer else "may not introduce"
        yield control.Note(text=f"{request.name} {verb} devices", changed=changed)

    async def rename(self, request: mesh.PeerRename) -> Replies:
        if request.new_name == self._house.name:
            raise Conflict("this node itself has that name", where=request.new_name)
        changed = await self._house.trust.rename(request.name, request.new_name)
        self._house.mesh.stir()
        yield control.Note(
            text=f"{request.name} is called {request.new_name} from now on", changed=changed
        )

    async def revoke(self, request: mesh.PeerRevoke) -> Replies:
        house = self._house
        peer = house.trust.by_name(request.name)
        await house.mesh.revoke(peer)
        yield control.Note(
            text=f"{peer.name} is revoked: its key is refused here, and on your other devices"
            " as soon as they hear of it"
        )

    async def resolve(self, request: control.Resolve) -> Replies:
        house = self._house
        address = parse_target(request.name)
        if isinstance(address, Several):
            yield await self._resolve_several(address)
            return
        if address.node == house.name:
            context = house.contexts.get(address.context) if address.context else None
            yield control.Resolved(
                name=str(address),
                node=house.name,
                node_key=key_text(house.identity.node.key),
                context=address.context,
                context_key=key_text(context.key) if context else None,
                state="online",
                path="this node",
            )
            return
        target = house.trust.resolve(address)
        peer, entry = target.peer, target.context
        yield control.Resolved(
            name=str(address),
            node=peer.name,
            node_key=key_text(peer.node_key),
            context=entry.name if entry else None,
            context_key=key_text(Key(entry.key)) if entry else None,
            state=standing(house, peer),
            path=path_to(house, peer),
        )

    async def _resolve_several(self, name: Several) -> seeing.ResolvedAll:
        members = self._selection.members(name)
        chosen = None
        if name.is_any:
            with suppress(Unavailable, InvalidInput, NotFound):
                chosen = str((await self._selection.choose(name)).address)
        return seeing.ResolvedAll(
            name=str(name),
            members=tuple(
                seeing.Member(
                    name=str(each.address),
                    node=each.node,
                    node_key=key_text(each.node_key),
                    context=each.context.name if each.context else None,
                    context_key=key_text(Key(each.context.key)) if each.context else None,
                    state="online" if each.is_online else "offline",
                    path=each.path,
                    labels=each.labels,
                    why=each.problem.message if each.problem else each.why,
                )
                for each in members
            ),
            chosen=chosen,
        )


async def remember(
    house: House, paired: Paired, relation: Relation, *, name: str | None, introduced: str
) -> tuple[Peer, bool]:
    """Write a pairing into the trust book. The second part says whether it was news.

    Raises:
        Conflict: another node goes by that name already.
        Untrusted: a certificate does not hold.
    """
    known = house.trust.by_key(paired.node_key)
    peer = Peer(
        node_key=paired.node_key,
        name=name or (known.name if known else paired.name),
        owner_key=paired.owner_key,
        relation=relation,
        addresses=paired.addresses,
        contexts=read_greeting(paired.greeting, paired.node_key),
        added_at=known.added_at if known else time.time(),
        introduced=unapproved(known.introduced if known else introduced, is_held=paired.is_held),
        last_seen_at=time.time(),
        is_introducer=known.is_introducer if known else False,
    )
    await house.refused.lift(peer.node_key, peer.owner_key)
    await house.trust.add(peer)
    house.node.refresh()
    house.mesh.stir()
    return peer, known is None
