"""How fast the way to a peer is: round trips one after the other, then messages one way."""

from __future__ import annotations

import os
import statistics
import time

from orvalho.contexts.names import parse_address
from orvalho.contexts.trust import Peer
from orvalho.control import seeing
from orvalho.daemon.handlers.ping import NOTHING
from orvalho.daemon.house import House
from orvalho.daemon.reach import ask_ping, away, comes
from orvalho.errors import InvalidInput, Unavailable

_MOST_BYTES = 1 << 20
_ANSWER_S = 10.0
_COMES_S = 2.0


async def measure(house: House, request: seeing.Bench) -> list[seeing.Measured]:
    """Raises:
    NotFound, Unavailable: there is no such peer, or it is not reached.
    InvalidInput: more than 1 MiB a message.
    """
    if not 0 < request.size_bytes <= _MOST_BYTES:
        raise InvalidInput(f"a message has 1 to {_MOST_BYTES} bytes")
    if request.peer is None:
        return []
    peer = house.trust.by_name(parse_address(request.peer).node)
    if not await comes(house, peer, _COMES_S):
        raise await away(house, peer)
    message = os.urandom(request.size_bytes)
    return [
        await _round_trips(house, peer, message, request.duration_s),
        await _one_way(house, peer, message, request.duration_s),
    ]


async def _round_trips(
    house: House, peer: Peer, message: bytes, duration_s: float
) -> seeing.Measured:
    taken: list[float] = []
    started = time.perf_counter()
    path = ""
    while not taken or time.perf_counter() - started < duration_s:
        answered = await ask_ping(house, peer, _ANSWER_S, message)
        taken.append(answered.rtt_s)
        path = answered.path
    p50, p99 = percentiles(taken)
    return seeing.Measured(
        what=f"round trips of {len(message)} B",
        path=path,
        count=len(taken),
        per_second=round(len(taken) / (time.perf_counter() - started), 1),
        p50_ms=p50,
        p99_ms=p99,
    )


async def _one_way(house: House, peer: Peer, message: bytes, duration_s: float) -> seeing.Measured:
    """Until the last of them is heard: an answer comes behind all that was told before it."""
    count = 0
    started = time.perf_counter()
    while count == 0 or time.perf_counter() - started < duration_s:
        if not await house.node.tell(peer.node_key, NOTHING, message):
            raise Unavailable(f"the link to {peer.name} was lost", where=peer.name)
        count += 1
        if count % 64 == 0:
            await ask_ping(house, peer, _ANSWER_S)
    answered = await ask_ping(house, peer, _ANSWER_S)
    return seeing.Measured(
        what=f"messages of {len(message)} B",
        path=answered.path,
        count=count,
        per_second=round(count / (time.perf_counter() - started), 1),
        p50_ms=None,
        p99_ms=None,
    )


def percentiles(taken_s: list[float]) -> tuple[float, float]:
    """(p50, p99) in milliseconds."""
    ordered = sorted(taken_s)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return round(1000 * statistics.median(ordered), 3), round(1000 * p99, 3)
