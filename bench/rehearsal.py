"""Rehearsal: recorded requests put to the rules in use and to those that would be, from the log."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bench.table import Row
from orvalho.policies import audit
from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.audit import decided
from orvalho.policies.book import PolicyBook
from orvalho.policies.rehearsal import past, read_rows, rehearse
from orvalho.policies.shipped import write_defaults
from orvalho.store import open_store

RULES: Final = 1000
_REQUESTS: Final = 10_000
_ASKERS: Final = 20


def measure() -> Iterator[Row]:
    took_s = anyio.run(rehearsed_s, _REQUESTS)
    yield Row(
        f"rehearsal, {_REQUESTS} recorded requests, {RULES} rules",
        f"{took_s:.2f} s",
        f"{took_s / _REQUESTS * 1e6:.0f} us a request",
        bar="5 s",
    )


async def rehearsed_s(requests: int) -> float:
    """Seconds from the audit log in a file to what would change, with a tenth of the rules
    denying what they allow now; every request is another one."""
    with tempfile.TemporaryDirectory() as top:
        book = _book(Path(top))
        new = "".join(_line(n, "allow" if n % 10 else "deny") for n in range(RULES)).encode()
        async with open_store(Path(top, "x.db"), [audit.MIGRATIONS]) as store:
            log = audit.Audit(store)
            for number in range(requests):
                asked = _request(number)
                log.note(decided(asked, book.decide(asked), at=1.0))
            await store.transact("bench.wait", lambda connection: None)
            started = time.perf_counter()
            rows = await store.read(partial(read_rows, since_at=0.0))
            found = await to_thread.run_sync(past, rows, lambda actor: None)
            now, then = book.propose({}), book.propose({"policy/peer.csv": new})
            assert now.make is not None and then.make is not None, then.problems
            seen = await to_thread.run_sync(rehearse, found, now.make, then.make)
            took_s = time.perf_counter() - started
    assert seen.requests == requests
    assert sum(group.times for group in seen.refused) == requests // 10
    return took_s


def _book(top: Path) -> PolicyBook:
    write_defaults(top)
    (top / "policy/peer.csv").write_text("".join(_line(n, "allow") for n in range(RULES)))
    return PolicyBook(top, lambda: ["peer"])


def _line(number: int, effect: str) -> str:
    return f"p, gil@laptop, peer, fs.read, /albums/{number % 97}/{number}/**, {effect}\n"


def _request(number: int) -> AccessRequest:
    rule = number % RULES
    names = {"*", "@paired", "gil@laptop", "laptop", f"@group{number % _ASKERS}"}
    subject = Subject(f"ed25519:{number % _ASKERS}", frozenset(names))
    return AccessRequest(subject, "peer", "fs.read", f"/albums/{rule % 97}/{rule}/{number}.jpg")
