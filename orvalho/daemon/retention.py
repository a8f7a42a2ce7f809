"""What is old is taken away, a little at a time: runs that have ended, sources that no run needs
any more, old history of contexts, and the audit log. What was used stays in the sums."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Final

import anyio

from orvalho.daemon.house import House
from orvalho.daemon.past import terms
from orvalho.errors import Unavailable
from orvalho.policies import audit, usage
from orvalho.policies.quota import parse_duration
from orvalho.scripts import runs, sources, traces

_log = logging.getLogger(__name__)

_FIRST_S: Final = 5.0
_EVERY_S: Final = 3600.0
# What one transaction takes away, and how long others go before the next.
_AT_ONCE: Final = 200
_PAUSE_S: Final = 0.05


class Retention:
    """The sweeper of one daemon."""

    def __init__(self, house: House) -> None:
        self._house = house
        house.runs.kept_s = self._runs_kept_s

    async def run(self) -> None:
        """Sweep now and then, for ever."""
        await anyio.sleep(_FIRST_S)
        while True:
            try:
                await self.sweep(time.time())
            except Unavailable as error:
                _log.warning("retention.failed", extra={"why": error.message})
            except Exception:  # noqa: BLE001 -- the top of a task
                # What is old stays for a while; the node goes on.
                _log.exception("retention.failed")
            await anyio.sleep(_EVERY_S)

    async def sweep(self, now: float) -> None:
        """Take away what was too old at that moment."""
        kept = self._house.settings.config.retention
        runs_before = now - self._runs_kept_s()
        # What a quota's window still counts is not folded.
        window_s = 1.1 * self._house.quotas.longest_window_s
        charges_before = min(runs_before, now - window_s)
        audit_before = now - parse_duration(kept.audit)

        def charges(connection: sqlite3.Connection) -> int:
            found = usage.fold(connection, charges_before, _AT_ONCE)
            sources.stage_pruned(connection, found)
            traces.stage_pruned(connection, found)
            return len(found)

        def old_runs(connection: sqlite3.Connection) -> int:
            found = runs.ended_before(connection, runs_before, _AT_ONCE)
            sources.stage_pruned(connection, found)
            traces.stage_pruned(connection, found)
            return len(found)

        await self._each("charges", charges)
        await self._each("runs", old_runs)
        pruned = await self._house.past.pruning.prune(terms(self._house.settings.config.history))
        if pruned.commits or pruned.contents:
            _log.info(
                "history.pruned", extra={"commits": pruned.commits, "bytes": pruned.contents_bytes}
            )
        await self._each("audit", lambda it: audit.stage_pruned(it, audit_before, _AT_ONCE))

    async def _each(self, what: str, take: Callable[[sqlite3.Connection], int]) -> None:
        total = 0
        while taken := await self._house.store.transact("retention.swept", take):
            total += taken
            await anyio.sleep(_PAUSE_S)
        if total:
            _log.info("retention.swept", extra={"what": what, "rows": total})

    def _runs_kept_s(self) -> float:
        return parse_duration(self._house.settings.config.retention.runs)
