"""A run under way: its lines go to its sender as they come, and then its end is known."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from orvalho.contexts.changes import ContextChanged
from orvalho.control.messages import RunOutput
from orvalho.daemon.ending import Ending
from orvalho.daemon.house import House
from orvalho.daemon.recorder import keep_recording
from orvalho.daemon.run_news import RunNews
from orvalho.daemon.run_record import Arrival
from orvalho.daemon.services import Service
from orvalho.errors import Conflict, InvalidInput, LimitExceeded, ScriptFailed, Unavailable
from orvalho.policies.quota import Usage
from orvalho.policies.quotas import Hold
from orvalho.runtime.job import Ended, Job, Output
from orvalho.scripts.messages import ScriptOutput, encode

# How long a line waits for a sender that reads slowly.
_TELL_S: Final = 1.0


_KEPT: Final = ScriptFailed(
    "the script failed before its target's owner could look at it; why stays there",
    hint="orvalho script send --plan, where the target's rules let you read what it reads",
)


class RunFollower:
    """Starts jobs, and follows them."""

    def __init__(self, house: House, news: RunNews) -> None:
        self._house = house
        self._news = news

    async def follow(self, arrival: Arrival, job: Job, hold: Hold) -> Ending:
        """The run's lines go to its sender as they come; then its end."""
        async with self._house.jobs.open(job) as run:
            self._news.started(arrival)
            hold.on_stop = run.cancel
            if hold.stopped is not None:
                run.cancel()
            async for event in run:
                if isinstance(event, Ended):
                    keep_recording(arrival, job, run)
                    return _ending(event, arrival, hold)
                if hold.stopped is None:
                    await self._tell(arrival, event, hold)
        raise Unavailable("the run ended without a word", where=arrival.run)

    async def follow_service(
        self, arrival: Arrival, job: Job, service: Service, hold: Hold
    ) -> Ending:
        """The same for a call of what runs already.

        Raises:
            InvalidInput: it is to be planned.
        """
        if arrival.is_rehearsed:
            raise InvalidInput("what a service would do cannot be planned: it goes on living")
        arrival.is_served = True
        arrival.recorded = "service"
        with anyio.CancelScope() as scope:
            self._news.started(arrival)
            hold.on_stop = scope.cancel
            if hold.stopped is not None:
                scope.cancel()
            ended = await service.call(job, partial(self._tell, arrival, hold=hold))
            return _ending(ended, arrival, hold)
        return _ending(Ended("cancelled", Usage(cpu_ms=hold.cpu_ms)), arrival, hold)

    async def tell_again(self, arrival: Arrival, why: ContextChanged) -> None:
        """A run is made once more: said where its lines will stand there twice."""
        if not arrival.lines or arrival.hold is None:
            return
        said = Output(
            seq=len(arrival.lines) + 1 - arrival.first_line,
            level="info",
            text=f"(run again: {why.message})",
            at=time.time(),
        )
        # Too much was said already: the script meets that limit itself.
        with suppress(LimitExceeded):
            await self._tell(arrival, said, arrival.hold)

    async def _tell(self, arrival: Arrival, output: Output, hold: Hold) -> None:
        seq = arrival.first_line + output.seq
        line = ScriptOutput(
            run=arrival.run, seq=seq, level=output.level, text=output.text, at=output.at
        )
        body = b""
        # What a held script says is told once its owner has looked at it.
        is_told = arrival.delivery is not None and not arrival.is_held
        if is_told:
            body = encode(line)
            try:
                hold.move(len(body))
            except LimitExceeded:
                return  # the run is being stopped, and its end says why
        arrival.add(line)
        shown = RunOutput(run=line.run, seq=line.seq, level=line.level, text=line.text, at=line.at)
        self._house.feed.publish(arrival.run, shown)
        if is_told:
            # A sender that reads slowly has the line from the ending.
            with anyio.move_on_after(_TELL_S):
                await self._house.node.tell(
                    self._house.trust.heir(arrival.sender), "script.output", body
                )


def overtaken(why: ContextChanged, arrival: Arrival, node: str) -> Conflict:
    """The end of a run whose context has changed, and which is not made again."""
    if arrival.gate is None or not arrival.gate.has_begun:
        message, hint = f"{why.message}; nothing of this run was kept", "send it again"
    else:
        place = "at its caller's and beyond" if arrival.caused else "at its caller's"
        message = f"{why.message}; nothing at {node} was kept; what it did {place} stays"
        hint = "look at what it did there, and send it again if that is right"
    return Conflict(message, where=why.where, hint=hint)


def _ending(ended: Ended, arrival: Arrival, hold: Hold) -> Ending:
    """What the engine says, and the quota behind it where there is one."""
    over = hold.stopped or (hold.over(ended.limit) if ended.limit else None)
    if over is not None:
        return Ending("limited", over, ended.usage)
    ending = Ending.of(ended, arrival.gate)
    if arrival.is_held and ending.outcome == "failed":
        # It may say what it has read: nobody has looked at that.
        arrival.lines.clear()
        return replace(ending, error=_KEPT)
    return ending
