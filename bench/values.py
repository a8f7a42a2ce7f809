"""Values of a context among 200,000 of them: a get, a durable put, and what of it is not the disk.

The full million takes half a minute to fill and gives the same figures, so it is not done here.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from bench import base
from bench.table import Row
from orvalho.contexts import documents, kv
from orvalho.contexts.bindings import Bindings
from orvalho.contexts.kv import KeyValue, KvLimits
from orvalho.store import Store, open_store

_VALUES = 200_000
_CALLS = 2_000
_AT_ONCE = 64
_LIMITS = KvLimits(value_bytes=1 << 20, total_bytes=1 << 30, items=2_000_000)
_VALUE = '{"n":1,"text":"yyyyyyyyyyyyyyyyyyyy"}'


def measure() -> Iterator[Row]:
    get, put, many = uvloop.run(_measured())
    told = f"{_VALUES} values"
    yield Row(f"{told}, get", f"{get * 1e3:.3f} ms", bar="0.2 ms")
    fsync = f"append and fsync {base.fsync() * 1e3:.2f} ms"
    yield Row(f"{told}, durable put", f"{put * 1e3:.3f} ms", fsync, bar="0.2 ms")
    yield Row(f"{told}, {_AT_ONCE} puts at once, each", f"{many * 1e3:.3f} ms", bar="0.2 ms")


async def _measured() -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "orvalho.db"
        async with open_store(path, [kv.MIGRATIONS, documents.MIGRATIONS]) as store:
            await _fill(store)
            values = KeyValue(store, "bench", _LIMITS, _unbound)
            get = await _median(lambda: values.get(_key()))
            put = await _median(lambda: values.put(_key(), _VALUE))

            async def some() -> None:
                for _ in range(_CALLS // _AT_ONCE):
                    await values.put(_key(), _VALUE)

            start = time.perf_counter()
            await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
            each = (time.perf_counter() - start) / (_CALLS // _AT_ONCE * _AT_ONCE)
    return get, put, each


async def _unbound() -> Bindings:
    return Bindings()


def _key() -> str:
    return f"k/{random.randrange(_VALUES):08}"


async def _fill(store: Store) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "insert into kv values ('bench', ?, ?, ?)",
            ((f"k/{number:08}", _VALUE, len(_VALUE) + 10) for number in range(_VALUES)),
        )

    await store.transact("bench.fill", fill)


async def _median(call: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
