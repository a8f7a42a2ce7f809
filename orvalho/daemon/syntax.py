"""Whether a script can run at all, looked at before it is sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from orvalho.daemon.house import House
from orvalho.errors import InvalidInput, Unavailable
from orvalho.runtime.engine import ELSEWHERE, Modules, Problem
from orvalho.scripts.manifest import read_manifest
from orvalho.scripts.modules import check_modules, digest_of
from orvalho.scripts.script import Language, Source, make_script

# Sources that were found good of late: who sends the same script again does not wait again.
_KNOWN: Final = 256


class Syntax:
    """The mistakes of a script, told at home: the target would tell them too, but only once it
    has come, which may be next week."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._good: OrderedDict[str, None] = OrderedDict()

    async def check(
        self,
        filename: str,
        source: Source,
        needs: str | None,
        modules: Mapping[str, str],
        libraries: Collection[str],
    ) -> None:
        """Read what it needs, which may stand beside it, and its text if it is one: what a
        compiler of modules takes to look at it, the target spends anyway. An engine that we do
        not have tells nothing, and the target decides.

        Raises:
            InvalidInput: with every mistake in `detail`, a line each: `job.js:3:1: ...`.
        """
        script = make_script(filename, source)
        digest = script.digest
        if modules:
            check_modules(modules)
            parts = [digest, *(f"{path}={digest_of(each)}" for path, each in modules.items())]
            digest = digest_of("\n".join(parts))
        if digest in self._good:
            return
        read_manifest(script, needs)
        if script.language in (Language.WASM, Language.LIBRARY):
            return
        try:
            problems = await self._house.jobs.check(
                script.filename, script.source, with_unknown(modules, libraries)
            )
        except Unavailable:
            # A device that can start no worker may still send: the target decides.
            return
        if problems:
            lines = [place(filename, each) for each in problems]
            raise InvalidInput(
                f"{filename} cannot be run: {problems[0].message}",
                where=lines[0].partition(": ")[0],
                detail="\n".join(lines),
            )
        self._good[digest] = None
        if len(self._good) > _KNOWN:
            self._good.popitem(last=False)


def with_unknown(modules: Mapping[str, str], libraries: Collection[str]) -> Modules:
    """A script's own files, with libraries that only its target has."""
    return Modules(modules, dict.fromkeys(libraries, ELSEWHERE))


def place(filename: str, problem: Problem) -> str:
    """`thumb.ts:3:5: message`."""
    file = problem.file or filename
    return f"{file}:{problem.line}:{problem.column}: {problem.message}"
