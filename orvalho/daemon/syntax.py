"""Whether a script can run at all, looked at before it is sent."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from orvalho.daemon.house import House
from orvalho.errors import InvalidInput, Unavailable
from orvalho.scripts.manifest import read_manifest
from orvalho.scripts.script import Language, Source, make_script

# Sources that were found good of late: who sends the same script again does not wait again.
_KNOWN: Final = 256


class Syntax:
    """The mistakes of a script, told at home: the target would tell them too, but only once it
    has come, which may be next week."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._good: OrderedDict[str, None] = OrderedDict()

    async def check(self, filename: str, source: Source, needs: str | None) -> None:
        """Read what it needs, which may stand beside it, and its text if it is one: what a
        compiler of modules takes to look at it, the target spends anyway. An engine that we do
        not have tells nothing, and the target decides.

        Raises:
            InvalidInput: with every mistake in `detail`, a line each: `job.js:3:1: ...`.
        """
        script = make_script(filename, source)
        if script.digest in self._good:
            return
        read_manifest(script, needs)
        if script.language is Language.WASM:
            return
        try:
            problems = await self._house.jobs.check(script.filename, script.source)
        except Unavailable:
            # A device that can start no worker may still send: the target decides.
            return
        if problems:
            lines = [f"{filename}:{each.line}:{each.column}: {each.message}" for each in problems]
            raise InvalidInput(
                f"{filename} cannot be run: {problems[0].message}",
                where=lines[0].partition(": ")[0],
                detail="\n".join(lines),
            )
        self._good[script.digest] = None
        if len(self._good) > _KNOWN:
            self._good.popitem(last=False)
