"""`orvalho netcheck`: what the network lets this node do."""

from __future__ import annotations

from collections.abc import Iterator

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.seeing import AddressCheck, Netcheck, NetcheckReply, PeerCheck

# Less than this and two clocks agree, as far as expiry times go.
_CLOCK_MS = 1000.0


@click.command(
    "netcheck",
    cls=Verb,
    examples=("orvalho netcheck", "orvalho netcheck --timeout 2", "orvalho netcheck --json"),
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    metavar="SECONDS",
    help="How long an address may take to answer (5).",
)
@click.pass_obj
def command(session: Session, timeout_s: float) -> None:
    """Interfaces, IPv4 and IPv6, multicast, where this node listens, and each address of each
    peer: dialled now, with the time it took or why it does not answer."""
    with session.connect() as client:
        reply = client.ask(Netcheck(timeout_s=timeout_s), NetcheckReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(_lines(reply))


def _lines(reply: NetcheckReply) -> Iterator[str]:
    for each in reply.interfaces:
        yield f"interface  {each.name}  {', '.join(each.addresses)}"
    yield f"ipv4       {'yes' if reply.ipv4 else 'no way out'}"
    yield f"ipv6       {'yes' if reply.ipv6 else 'no way out'}"
    yield f"multicast  {', '.join(reply.multicast) or 'comes back over no interface'}"
    if reply.proxies:
        yield f"proxies    {', '.join(reply.proxies)} in the environment: not used for links"
    for check in reply.listening:
        yield f"listening  {_checked(check)}"
    for peer in reply.peers:
        yield from _peer(peer)


def _peer(peer: PeerCheck) -> Iterator[str]:
    parts = [peer.name, peer.state, *peer.paths]
    if peer.rtt_ms is not None:
        parts.append(f"{peer.rtt_ms:.1f} ms")
    if peer.clock_ahead_ms is not None and abs(peer.clock_ahead_ms) > _CLOCK_MS:
        way = "ahead" if peer.clock_ahead_ms > 0 else "behind"
        parts.append(f"its clock is {abs(peer.clock_ahead_ms) / 1000:.0f} s {way}")
    yield f"peer       {'  '.join(parts)}"
    for check in peer.addresses:
        yield f"           {_checked(check)}"


def _checked(check: AddressCheck) -> str:
    if check.took_ms is not None:
        return f"{check.address}  {check.took_ms:.1f} ms"
    return f"{check.address}  {check.problem or 'not dialled'}"
