"""What we do when the owner reports a fault, or wants to see what was counted."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping

from anyio import to_thread

from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.house import House
from orvalho.daemon.operations.node import NodeOperations
from orvalho.daemon.peer_words import peer_state
from orvalho.daemon.report import counters, live_parts, named_by, report
from orvalho.runtime.workers.pool import rss_bytes_of

Replies = AsyncIterator[control.Reply]


class ReportOperations:
    """`orvalho bugreport` and `orvalho metrics`."""

    def __init__(self, house: House, environ: Mapping[str, str], node: NodeOperations) -> None:
        self._house = house
        self._environ = environ
        self._node = node

    async def report(self, _request: seeing.Bugreport) -> Replies:
        house = self._house
        peers = [await peer_state(house, peer) for peer in house.trust.peers()]
        live, named = live_parts(house, peers), named_by(house)
        findings = await self._node.findings()
        yield await to_thread.run_sync(
            lambda: report(house.home, self._environ, named, findings=findings, live=live)
        )

    async def metrics(self, _request: seeing.Metrics) -> Replies:
        yield seeing.MetricsReply(
            up_s=round(time.time() - self._house.started_at),
            rss_bytes=rss_bytes_of(os.getpid()),
            counters=dict(sorted(counters(self._house).items())),
        )
