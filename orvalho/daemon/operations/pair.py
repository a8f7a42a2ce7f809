"""What we do when the owner pairs by a short code, or approves of who came with one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

import anyio
import msgspec

from orvalho.contexts.held import HeldNode, HeldNodes, Introducible
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.trust import Relation
from orvalho.control import messages as control
from orvalho.control import pairing as messages
from orvalho.daemon.addresses import dialable
from orvalho.daemon.greeting import read_greeting
from orvalho.daemon.house import House
from orvalho.daemon.operations.peer import remember
from orvalho.daemon.peer_words import peer_state, words_between, words_for
from orvalho.errors import Unavailable, Untrusted
from orvalho.peers.code_pairing import Arrived, Ended, Shown, Tried
from orvalho.peers.codes import parse_code
from orvalho.peers.pairing import Paired, Ticket, format_ticket

Replies = AsyncIterator[control.Reply]

_IN_A_PICTURE: Final = 6


class PairOperations:
    """`orvalho pair` and `orvalho node ...`."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._held = HeldNodes(house.store)

    async def show(self, request: messages.PairShow) -> Replies:
        """Raises:
        Unavailable: nobody came in time.
        Untrusted: three came with a wrong code.
        """
        node = self._house.node
        async with node.show_code(lifetime_s=request.expires_s, is_guest=request.guest) as shown:
            expires_at = shown.ticket.expires_at
            yield messages.PairShown(
                at=time.time(),
                text=f"code {shown.code}",
                code=str(shown.code),
                ticket=format_ticket(_short(shown.ticket)),
                expires_at=expires_at,
                guest=request.guest,
            )
            while True:
                event = await _next(shown, expires_at - time.time())
                match event:
                    case Tried(left=left):
                        text = f"somebody tried a wrong code; {left} more and it is withdrawn"
                        yield messages.PairTried(at=time.time(), text=text, left=left)
                    case Arrived(paired=paired):
                        yield await self._arrived(paired)
                        return
                    case Ended(error=error):
                        raise error

    async def _arrived(self, paired: Paired) -> messages.PairArrived:
        house = self._house
        peer = house.trust.by_key(paired.node_key)
        name = peer.name if peer else paired.name
        state = messages.PairedState(
            name=name,
            key=key_text(paired.node_key),
            relation=_relation(paired),
            contexts=tuple(entry.name for entry in peer.contexts) if peer else (),
            check_words=await words_between(house, paired.node_key),
        )
        text = f"paired with {name}" if peer else f"{name} waits for your approval"
        return messages.PairArrived(at=time.time(), text=text, peer=state, held=peer is None)

    async def join(self, request: messages.PairJoin) -> Replies:
        code = parse_code(request.code)
        at = [dialable(request.at)] if request.at else []
        paired = await self._house.node.join(code, at)
        relation: Relation = "guest" if request.guest else "own"
        peer, is_new = await remember(
            self._house, paired, relation, name=request.name, introduced="code, typed here"
        )
        words = await words_for(self._house, peer)
        yield control.PeerAdded(
            peer=await peer_state(self._house, peer, words), changed=is_new, held=paired.is_held
        )

    async def pending(self, _request: messages.NodePending) -> Replies:
        states = [
            messages.HeldState(
                name=node.name,
                key=key_text(Key(node.node_key)),
                relation="guest" if node.is_guest else "own",
                check_words=await words_between(self._house, Key(node.node_key)),
                asked_at=node.asked_at,
                state="rejected" if node.is_rejected else "waits",
            )
            for node in await self._held.all()
        ]
        yield messages.NodePendingReply(nodes=tuple(states))

    async def approve(self, request: messages.NodeApprove) -> Replies:
        held = await self._held.named(request.name)
        paired = _paired(held)
        # First the book: a crash in between leaves a peer that waits, who may be approved again.
        peer, _ = await remember(
            self._house, paired, _relation(paired), name=None, introduced=_introduced(paired)
        )
        await self._held.remove(held.node_key)
        yield control.Note(text=f"{peer.name} is a peer now")

    async def reject(self, request: messages.NodeReject) -> Replies:
        held = await self._held.named(request.name)
        if not held.is_rejected:
            await self._held.put(msgspec.structs.replace(held, is_rejected=True))
        word = "already rejected" if held.is_rejected else "rejected"
        yield control.Note(
            text=f"{held.name} is {word}: its key is refused, whatever code it comes with",
            changed=not held.is_rejected,
        )


async def admit(house: House, paired: Paired) -> bool:
    """Somebody came with a good code or ticket of ours: a peer from now on, or, where the owner
    wants to approve first, one that waits (False).

    Raises:
        Untrusted: the owner has rejected this node, or a certificate does not hold.
        Conflict: another node goes by that name already.
    """
    nodes = HeldNodes(house.store)
    held = await nodes.find(paired.node_key)
    if held is not None and held.is_rejected:
        raise Untrusted(f"the owner of {house.name} has rejected this node")
    is_known = house.trust.by_key(paired.node_key) is not None
    if is_known or not house.settings.config.pairing.approve:
        await remember(house, paired, _relation(paired), name=None, introduced=_introduced(paired))
        if held is not None:
            await nodes.remove(held.node_key)
        return True
    read_greeting(paired.greeting, paired.node_key)
    await nodes.put(
        HeldNode(
            node_key=paired.node_key,
            name=paired.name,
            is_guest=paired.is_guest,
            introduction=msgspec.msgpack.encode(
                Introducible(
                    owner_key=paired.owner_key,
                    addresses=paired.addresses,
                    greeting=paired.greeting,
                    certificate=paired.certificate,
                    by_code=paired.by_code,
                )
            ),
            asked_at=held.asked_at if held else time.time(),
        )
    )
    return False


async def _next(shown: Shown, left_s: float) -> Tried | Arrived | Ended:
    """Raises:
    Unavailable: the time is over.
    """
    try:
        # A little longer than the code is good: it has then expired, and was not withdrawn.
        with anyio.fail_after(max(0.0, left_s) + 0.05):
            return await shown.events.receive()
    except TimeoutError as error:
        raise Unavailable(
            "the code has expired, and nobody came", hint="orvalho pair, for a new one"
        ) from error


def _short(ticket: Ticket) -> Ticket:
    """Without the contexts, which the other side is told anyway, and with the most promising
    addresses only: a QR code has little room."""
    introduction = msgspec.structs.replace(
        ticket.introduction, greeting=b"", addresses=ticket.introduction.addresses[:_IN_A_PICTURE]
    )
    return msgspec.structs.replace(ticket, introduction=introduction)


def _relation(paired: Paired) -> Relation:
    return "guest" if paired.is_guest else "own"


def _introduced(paired: Paired) -> str:
    return "code, shown here" if paired.by_code else "ticket, given out here"


def _paired(held: HeldNode) -> Paired:
    more = msgspec.msgpack.decode(held.introduction, type=Introducible)
    return Paired(
        node_key=Key(held.node_key),
        name=held.name,
        owner_key=Key(more.owner_key),
        addresses=more.addresses,
        greeting=more.greeting,
        certificate=more.certificate,
        is_guest=held.is_guest,
        by_code=more.by_code,
    )
