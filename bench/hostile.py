"""What a script costs others that never ends."""

from __future__ import annotations

from collections.abc import Iterator

from bench.pair import two_daemons
from bench.scripts import round_trip
from bench.table import Row, ms, times
from orvalho.control.client import Client
from orvalho.control.messages import RunQueued, ScriptCancel, ScriptSend

_ENDLESS = '// /// orvalho\n// timeout = "60s"\n// cpu = "60s"\n// ///\nfor (;;);'


def measure() -> Iterator[Row]:
    with two_daemons() as pair, pair.laptop.client() as client:
        alone = round_trip(client, 300)
        for count in (1, 2):
            runs = [_start_endless(client) for _ in range(count)]
            beside = round_trip(client, 300)
            for run in runs:
                list(client.stream(ScriptCancel(run=run)))
            yield Row(
                f"round trip beside {count} endless, same context",
                ms(beside),
                f"alone {ms(alone)}",
                times(beside, alone),
                "3x",
            )


def _start_endless(client: Client) -> str:
    request = ScriptSend(to="peer@phone2", filename="endless.js", source=_ENDLESS, detach=True)
    queued = [reply for reply in client.stream(request) if isinstance(reply, RunQueued)]
    return queued[0].run
