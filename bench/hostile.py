"""What a script costs others that never ends, in each language."""

from __future__ import annotations

from collections.abc import Iterator

from bench.base import median
from bench.engine_costs import endless
from bench.engines import STARLARK, send
from bench.pair import two_daemons
from bench.programs.build import HERE
from bench.scripts import TRIVIAL
from bench.table import Row, ms, times
from orvalho.control.client import Client
from orvalho.control.messages import ScriptCancel

_COUNT = 150


def measure() -> Iterator[Row]:
    programs: dict[str, tuple[str, str | bytes]] = {
        "JavaScript": ("bench.js", TRIVIAL),
        "WebAssembly": ("hello.wasm", (HERE / "hello.wasm").read_bytes()),
        "Starlark": ("bench.star", STARLARK),
    }
    with two_daemons() as pair, pair.laptop.client() as client:
        for language, (filename, source) in programs.items():
            alone = _round_trip(client, filename, source)
            for count in (1, 2):
                runs = [endless(client, language) for _ in range(count)]
                beside = _round_trip(client, filename, source)
                for run in runs:
                    list(client.stream(ScriptCancel(run=run)))
                yield Row(
                    f"round trip of {language} beside {count} endless, same context",
                    ms(beside),
                    f"alone {ms(alone)}",
                    times(beside, alone),
                    "3x",
                )


def _round_trip(client: Client, filename: str, source: str | bytes) -> float:
    params = {} if filename.endswith(".wasm") else {"n": 1}
    return median(lambda: send(client, filename, source, params), _COUNT)
