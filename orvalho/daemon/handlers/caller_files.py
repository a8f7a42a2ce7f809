"""What a script of ours does to our own files from afar: each change is a commit of its own."""

from __future__ import annotations

import time
from typing import Final

from anyio import to_thread

from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.context import Context
from orvalho.contexts.history import Origin, new_commit_id
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.errors import NotFound
from orvalho.runtime.web.contexts import file_calls
from orvalho.scripts.runs import Run

_CHANGING: Final = frozenset(
    {"caller.fs.write", "caller.fs.mkdir", "caller.fs.remove", "caller.fs.move"}
)
_TRIES: Final = 5


class CallerFiles:
    """`caller.fs.*` of one call, as far as `gate` lets through."""

    def __init__(self, house: House, context: Context, gate: RunGate) -> None:
        self._house = house
        self._context = context
        self._gate = gate

    async def call(self, op: str, run: Run, argument: str) -> str:
        """The call's value, as JSON. A change is on disk and in the history when this returns.

        Raises:
            NotFound: there is no such call.
            Denied, and whatever the call raises.
            ContextChanged: others changed the same again and again.
        """
        if op not in _CHANGING:
            calls = file_calls("caller", self._context.files(self._gate.decide), self._gate)
            if op not in calls:
                raise NotFound("there is no such call", where=op)
            return await calls[op](argument)
        for left in reversed(range(_TRIES)):
            try:
                return await self._change(op, argument, run)
            except ContextChanged:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _change(self, op: str, argument: str, run: Run) -> str:
        house = self._house
        workspace = house.workspace(self._context)
        try:
            files = workspace.files(self._gate.decide)
            value = await file_calls("caller", files, self._gate)[op](argument)
            if workspace.is_changed:
                now = time.time()
                origin = Origin(
                    context=self._context.name,
                    author=run.target,
                    cause="run",
                    at=now,
                    run=run.id,
                    note=f"{run.filename}, at its caller",
                )
                await house.committer.commit(
                    workspace,
                    origin,
                    lambda _connection: None,
                    name="caller.changed",
                    id_=new_commit_id(now),
                )
            return value
        finally:
            await to_thread.run_sync(workspace.discard)
