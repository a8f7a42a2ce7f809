"""What we do when the owner looks at scripts that wait for a word."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from orvalho.control import messages as control
from orvalho.control import planning
from orvalho.daemon.held_rights import refused_now, used_rights
from orvalho.daemon.holding import Holding
from orvalho.daemon.house import House
from orvalho.daemon.run_words import shown_plan
from orvalho.errors import InvalidInput, NotFound
from orvalho.scripts.held_runs import HeldRun
from orvalho.scripts.plan import decode_plan
from orvalho.scripts.runs import Run

Replies = AsyncIterator[control.Reply]


class InboxOperations:
    """`orvalho inbox`."""

    def __init__(self, house: House, holding: Holding) -> None:
        self._house = house
        self._holding = holding

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Which request each of these answers."""
        return {
            planning.InboxList: self.list,
            planning.InboxShow: self.show,
            planning.InboxAccept: self.accept,
            planning.InboxReject: self.reject,
        }

    async def list(self, _request: planning.InboxList) -> Replies:
        found = await self._holding.all()
        yield planning.InboxReply(held=tuple(_state(each) for each in found))

    async def show(self, request: planning.InboxShow) -> Replies:
        held = await self._find(request.run)
        run = await self._house.runs.find(held.run)
        bodies = await self._house.runs.bodies(held.run)
        is_json = held.result is not None and not held.is_bytes
        decided = await used_rights(self._house, held.run)
        yield planning.InboxShown(
            state=_state(held),
            source=bodies.source if isinstance(bodies.source, str) else None,
            needs=run.needs,
            params=msgspec.Raw(bodies.params),
            plan=shown_plan(held.plan),
            result=msgspec.Raw(held.result if is_json and held.result else b"null"),
            output=tuple(line.text for line in held.logs),
            rights=tuple(
                f"{each.action} {each.object}" + (f"  by {each.rule}" if each.rule else "")
                for each in decided
            ),
            rule_text=held.rule_text,
            refused_now=refused_now(self._house, held, bodies.envelope, decided),
        )

    async def accept(self, request: planning.InboxAccept) -> Replies:
        held = await self._find(request.run)
        receipt = await self._holding.accept(held.run)
        changed = f": {receipt.commit}" if receipt.commit else ", which changes nothing"
        yield control.Note(text=f"accepted {held.run} of {receipt.caller}{changed}")

    async def reject(self, request: planning.InboxReject) -> Replies:
        held = await self._find(request.run)
        await self._holding.reject(held.run, request.reason)
        yield control.Note(text=f"rejected {held.run} of {held.receipt.caller}; it is told so")

    async def _find(self, prefix: str) -> HeldRun:
        """Raises:
        NotFound: no run that begins so is held.
        InvalidInput: several are.
        """
        start = f"r_{re.sub(r'^r_', '', prefix, flags=re.IGNORECASE).upper()}"
        found = [each for each in await self._holding.all() if each.run.startswith(start)]
        if len(found) == 1 and start != "r_":
            return found[0]
        if found:
            some = ", ".join(each.run for each in found[:3])
            raise InvalidInput(
                f"{prefix[:80]!a} is the beginning of several held runs", hint=f"one of {some}"
            )
        run = await self._ended(prefix)
        if run is None:
            raise NotFound(f"no run {prefix[:80]!a} is held", hint="orvalho inbox")
        raise NotFound(
            f"{run.id} is not held: it has ended, {run.outcome}",
            where=run.id,
            hint=f"orvalho script show {run.id}",
        )

    async def _ended(self, prefix: str) -> Run | None:
        try:
            run = await self._house.runs.find(prefix)
        except (NotFound, InvalidInput):
            return None
        return run if run.state == "ended" else None


def _state(held: HeldRun) -> planning.HeldState:
    plan = decode_plan(held.plan)
    return planning.HeldState(
        run=held.run,
        caller=held.receipt.caller,
        target=held.receipt.target,
        filename=held.receipt.filename,
        digest=held.receipt.script_sha256,
        held_at=held.at,
        rule=held.rule,
        files=len(plan.files),
        values=len(plan.values),
    )
