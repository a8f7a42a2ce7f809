"""What a person sees of a device that was just paired with, by whatever command."""

from __future__ import annotations

from typing import Final

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.control.messages import PeerAdded, PeerState
from orvalho.control.pairing import PairedState

HELD_STATUS: Final = 7


def show_added(session: Session, reply: PeerAdded) -> int:
    """The new peer, and the words to compare; answers the exit status."""
    screen, peer = session.screen, reply.peer
    if screen.as_json:
        screen.document(plain(reply))
    elif reply.held:
        show_peer(session, f"{peer.name} knows us now", peer)
        screen.notice(
            f"waits for approval at {peer.name}; on {peer.name}: orvalho node pending, then"
            " approve. The rest goes by itself."
        )
    else:
        verb = "paired with" if reply.changed else "already paired with"
        show_peer(session, f"{verb} {peer.name}", peer)
        if reply.changed:
            tell_own(session, peer)
        screen.notice("the same words, on the other device: orvalho peer ls")
    return HELD_STATUS if reply.held else 0


def tell_own(session: Session, peer: PeerState | PairedState) -> None:
    """What it means to have paired without `--guest`."""
    if peer.relation == "own":
        session.screen.notice(f"{peer.name} is your own device now; --guest is for a friend's")


def show_peer(session: Session, headline: str, peer: PeerState | PairedState) -> None:
    contexts = f" ({', '.join(peer.contexts)})" if peer.contexts else ""
    session.screen.line(f"{headline}{contexts}")
    session.screen.line(f"  key    {peer.key}")
    session.screen.line(f"  words  {peer.check_words}")
