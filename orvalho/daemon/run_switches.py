"""What a context has switched off, told by word and place before a script of its runs."""

from __future__ import annotations

from collections.abc import Iterable

from orvalho.daemon.house import House
from orvalho.errors import Denied, Unavailable
from orvalho.policies.capability import Capability
from orvalho.runtime.engine import Modules
from orvalho.runtime.web.switches import Off, switched_off
from orvalho.scripts.script import Language, Script

_READ: tuple[Language, ...] = (Language.JAVASCRIPT, Language.TYPESCRIPT)


def words_of(house: House, context: str) -> tuple[str, ...]:
    """The owner's words for one of our contexts."""
    settings = house.settings.config.contexts.get(context)
    return settings.disabled if settings else ()


def off_of(house: House, context: str) -> Off:
    """What they take away."""
    words = words_of(house, context)
    return switched_off(words) if words else Off()


async def find_disabled(
    house: House, context: str, script: Script, needs: Iterable[Capability], modules: Modules
) -> tuple[str, ...]:
    """`job.js:3:9: target.kv is switched off in this context`, each place. What hides from this is
    not there all the same when it runs."""
    words = words_of(house, context)
    if not words:
        return ()
    off, found = switched_off(words), []
    lines = script.text.split("\n") if script.language is not Language.WASM else []
    for need in needs:
        if need.side == "target" and need.action in off.actions:
            at = next((at for at, line in enumerate(lines, 1) if str(need) in line), 0)
            column = lines[at - 1].index(str(need)) + 1 if at else 1
            place = f"{script.filename}:{at or 1}:{column}"
            found.append(f"{place}: {need.action} is switched off in this context")
    if script.language in _READ:
        try:
            problems = await house.jobs.forbidden(script.filename, script.text, modules, words)
        except Unavailable:
            problems = ()
        found += (
            f"{each.file or script.filename}:{each.line}:{each.column}: {each.message}"
            for each in problems
        )
    return tuple(found)


def disabled(found: tuple[str, ...], filename: str, address: str) -> Denied:
    """The refusal of a script for these places."""
    place, _, what = found[0].partition(": ")
    return Denied(
        f"{address} does not run {filename}: {what}",
        where=place,
        hint=f"orvalho script check {filename} --for {address}, over there",
        detail="\n".join(found[1:]) or None,
    )
