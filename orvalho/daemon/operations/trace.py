"""What we do when the owner asks which runs a run has caused."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from orvalho.control import messages as control
from orvalho.control import tracing as words
from orvalho.daemon.house import House
from orvalho.daemon.tracing import Proven, Tracing
from orvalho.errors import InvalidInput
from orvalho.scripts.traces import Hop

Replies = AsyncIterator[control.Reply]

_LONGEST_S = 60.0


class TraceOperations:
    """`orvalho trace`."""

    def __init__(self, house: House, tracing: Tracing) -> None:
        self._house = house
        self._tracing = tracing

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Request -> operation."""
        return {words.Trace: self.trace}

    async def trace(self, request: words.Trace) -> Replies:
        """Raises:
        NotFound: there is no such run.
        InvalidInput: the time is none.
        """
        if not (math.isfinite(request.timeout_s) and 0 < request.timeout_s <= _LONGEST_S):
            raise InvalidInput(f"other nodes may be waited for up to {_LONGEST_S:g} s")
        tree = await self._tracing.tree(request.run, request.timeout_s)
        yield words.TraceReply(
            trace=tree.trace,
            runs=tuple(map(_run, tree.runs)),
            above=tuple(
                _above(hop, before)
                for before, hop in zip(
                    (None, *tree.above[:-1]), tree.above, strict=bool(tree.above)
                )
            ),
        )


def _run(found: Proven) -> words.TracedRun:
    part = found.part
    return words.TracedRun(
        run=part.run,
        parent=part.parent,
        node=part.node,
        caller=part.caller,
        target=part.target,
        filename=part.filename,
        state=part.state,
        outcome=part.outcome,
        started_at=part.started_at,
        wall_ms=part.wall_ms,
        signed=found.signed,
        problem=part.problem,
    )


def _above(hop: Hop, before: Hop | None) -> words.TracedRun:
    return words.TracedRun(
        run=hop.run,
        parent=before.run if before else None,
        node=hop.target.rpartition("@")[2],
        caller=hop.caller,
        target=hop.target,
        filename="",
        state="told",
        outcome=None,
        started_at=None,
        wall_ms=None,
        signed="caller",
    )
