"""`orvalho bench`: how fast this node answers, and the way to a peer is."""

from __future__ import annotations

import time

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.client import Client
from orvalho.control.seeing import Bench, BenchReply, Echo, Measured


@click.command(
    "bench",
    cls=Verb,
    examples=("orvalho bench", "orvalho bench phone2", "orvalho bench phone2 --size 65536 --json"),
)
@click.argument("peer", metavar="[PEER]", required=False)
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
    "duration_s",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    metavar="SECONDS",
    help="How long each row is measured (2).",
)
@click.pass_obj
def command(session: Session, peer: str | None, size_bytes: int, duration_s: float) -> None:
    """Requests to this machine's own daemon; with PEER also round trips and one-way messages to
    it, over the path that is used now."""
    with session.connect() as client:
        rows = [_local(client, duration_s)]
        if peer is not None:
            request = Bench(peer=peer, size_bytes=size_bytes, duration_s=duration_s)
            rows += client.ask(request, BenchReply).rows
    if session.screen.as_json:
        session.screen.document(plain(BenchReply(rows=tuple(rows))))
        return
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
