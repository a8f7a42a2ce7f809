"""How a peer is reached, measured live: by asking it, and by dialling each of its addresses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import anyio

from orvalho.contexts.trust import Peer
from orvalho.control import seeing
from orvalho.daemon.handlers.ping import PING, read_here
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import refused_hint, refused_words
from orvalho.errors import OrvalhoError, Unavailable, Untrusted


@dataclass(frozen=True, slots=True)
class Answered:
    """One round trip through both nodes: `rtt_s` there and back, `path` the way it took,
    `ahead_s` how far the peer's clock is ahead of ours, right to within half of `rtt_s`."""

    path: str
    rtt_s: float
    ahead_s: float


async def ask_ping(house: House, peer: Peer, timeout_s: float, padding: bytes = b"") -> Answered:
    """Raises:
    Unavailable: the peer is not linked, or does not answer in time.
    OrvalhoError: what it raised, with `peer` set.
    """
    paths = house.node.paths(peer.node_key)
    sent_at, started = time.time(), time.perf_counter()
    answer = await house.node.ask(peer.node_key, PING, padding, timeout_s)
    rtt_s = time.perf_counter() - started
    ahead_s = read_here(answer).at - (sent_at + rtt_s / 2)
    return Answered(paths[0] if paths else "", rtt_s, ahead_s)


async def comes(house: House, peer: Peer, timeout_s: float) -> bool:
    """Whether the peer is linked, or gets linked in time: it is dialled again at once. Waiting
    ends early when the peer refuses our key."""
    node = house.node
    deadline = time.monotonic() + timeout_s
    node.nudge(peer.node_key)
    while not node.is_online(peer.node_key):
        if time.monotonic() > deadline or node.is_refused_by(peer.node_key):
            return False
        await asyncio.sleep(0.02)
    return True


async def check_addresses(
    house: House, peer: Peer, timeout_s: float
) -> tuple[seeing.AddressCheck, ...]:
    """Dial every address that is known of a peer, all at once."""
    found: dict[str, seeing.AddressCheck] = {}
    async with anyio.create_task_group() as tasks:
        for address in peer.addresses:
            tasks.start_soon(_check, house, peer, address, timeout_s, found)
    return tuple(found[address] for address in peer.addresses)


async def _check(
    house: House,
    peer: Peer,
    address: str,
    timeout_s: float,
    found: dict[str, seeing.AddressCheck],
) -> None:
    took_ms, problem = None, None
    try:
        with anyio.fail_after(timeout_s):
            took_ms = round(1000 * await house.node.probe(address, peer.node_key), 3)
    except TimeoutError:
        problem = f"nobody answers within {timeout_s:g} s"
    except OrvalhoError as error:
        is_refused = house.node.is_refused_by(peer.node_key)
        problem = refused_words(house, peer) if is_refused else error.message
    found[address] = seeing.AddressCheck(address=address, took_ms=took_ms, problem=problem)


async def away(house: House, peer: Peer, timeout_s: float = 2.0) -> OrvalhoError:
    """The error for a peer that is not reached: since when, what was tried, what waits for it."""
    checks = await check_addresses(house, peer, timeout_s)
    lines = [f"tried   {each.address}: {each.problem or 'it answers there'}" for each in checks]
    if not checks:
        lines.append("tried   nothing: no address of it is known")
    queued = await house.node.queued(peer.node_key)
    lines.append(f"queued  {queued} for it" if queued else "queued  nothing for it")
    detail = "\n".join(lines)
    if house.node.is_refused_by(peer.node_key):
        return Untrusted(
            refused_words(house, peer),
            where=peer.name,
            hint=refused_hint(house, peer),
            detail=detail,
        )
    return Unavailable(
        f"{peer.name} is not reachable, {_since(peer)}",
        where=peer.name,
        hint=_server_hint(house, checks) or f"on {peer.name}: orvalho status",
        detail=detail,
    )


def _server_hint(house: House, checks: tuple[seeing.AddressCheck, ...]) -> str | None:
    """What helps, where every way leads through a NATS server and ours has a problem."""
    if not all(check.address.startswith("nats") for check in checks):
        return None
    texts = house.problems.get("nats", ())
    return next((house.hints[text] for text in texts if text in house.hints), None)


def _since(peer: Peer) -> str:
    if not peer.last_seen_at:
        return "and has never been"
    gone_s = max(0.0, time.time() - peer.last_seen_at)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if gone_s >= length:
            return f"last seen {round(gone_s / length)} {unit} ago"
    return f"last seen {round(gone_s)} s ago"
