"""`orvalho bench`: how fast this node answers, and the way to a peer is."""

from __future__ import annotations

import time

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.client import Client
from orvalho.control.seeing import Bench, BenchReply, Echo, Loopback, Measured
from orvalho.errors import InvalidInput

_TRANSPORTS = ("ws", "nats", "http2", "quic")
_DAEMON = "local"


@click.command(
    "bench",
    cls=Verb,
    examples=(
        "orvalho bench",
        "orvalho bench phone2",
        "orvalho bench ws nats http2 quic",
        "orvalho bench ws --peer phone2 --size 65536 --json",
    ),
)
@click.argument("names", metavar="[ws|nats|http2|quic|local|PEER]...", nargs=-1)
@click.option("--peer", metavar="PEER", help="Measure the way to this peer, whatever its name.")
@click.option(
    "--size",
    "size_bytes",
    type=click.IntRange(1, 1 << 20),
    default=256,
    metavar="BYTES",
    help="How large a message is (256).",
)
@click.option(
    "--duration",
    "--seconds",
    "duration_s",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    metavar="SECONDS",
    help="How long each row is measured (2).",
)
@click.pass_obj
def command(
    session: Session, names: tuple[str, ...], peer: str | None, size_bytes: int, duration_s: float
) -> None:
    """Requests to this machine's own daemon (local); with PEER also round trips and one-way
    messages to it, over the path that is used now. With ws, nats, http2 or quic: that transport
    alone, between two nodes on this machine, over real sockets and with the session's seal."""
    transports = tuple(dict.fromkeys(name for name in names if name in _TRANSPORTS))
    request = Bench(
        peer=_peer(names, peer), size_bytes=size_bytes, duration_s=duration_s, transports=transports
    )
    with session.connect() as client:
        rows = (_local(client, duration_s),) if _DAEMON in names or not transports else ()
        reply = BenchReply(rows=rows)
        if transports or request.peer is not None:
            found = client.ask(request, BenchReply)
            reply = BenchReply(rows=(*rows, *found.rows), transports=found.transports)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    if reply.transports:
        _show_transports(session, reply.transports)
    if reply.rows:
        _show_rows(session, reply.rows)


def _peer(names: tuple[str, ...], peer: str | None) -> str | None:
    """Raises:
    InvalidInput: more than one is named.
    """
    others = {name for name in names if name not in (*_TRANSPORTS, _DAEMON)}
    if peer is not None:
        others.add(peer)
    if len(others) > 1:
        raise InvalidInput(
            f"one peer at a time, not {len(others)}",
            where=" ".join(sorted(others)),
            hint=f"transports are {', '.join(_TRANSPORTS)}",
        )
    return others.pop() if others else None


def _show_transports(session: Session, transports: tuple[Loopback, ...]) -> None:
    headers = ("transport", "messages/s", "round trips", "p50 ms", "p99 ms", "stream MB/s")
    session.screen.table(
        headers,
        [
            (
                each.transport,
                f"{each.messages_per_second:.0f}",
                each.round_trips,
                each.p50_ms,
                each.p99_ms,
                f"{each.stream_mb_per_second:.0f}",
            )
            for each in transports
        ],
    )


def _show_rows(session: Session, rows: tuple[Measured, ...]) -> None:
    headers = ("what", "path", "count", "per second", "p50 ms", "p99 ms")
    cells = [
        (row.what, row.path, row.count, f"{row.per_second:.0f}", row.p50_ms, row.p99_ms)
        for row in rows
    ]
    session.screen.table(headers, cells)


def _local(client: Client, duration_s: float) -> Measured:
    taken: list[float] = []
    started = time.perf_counter()
    while not taken or time.perf_counter() - started < duration_s:
        sent_at = time.perf_counter()
        for _ in client.stream(Echo()):
            pass
        taken.append(time.perf_counter() - sent_at)
    ordered = sorted(taken)
    return Measured(
        what="requests to the daemon",
        path="local",
        count=len(taken),
        per_second=round(len(taken) / (time.perf_counter() - started), 1),
        p50_ms=round(1000 * ordered[len(ordered) // 2], 3),
        p99_ms=round(1000 * ordered[len(ordered) * 99 // 100], 3),
    )
