"""What a context can have switched off: the words of its owner, and what each takes away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_READS: Final = ("read", "readText", "list", "stat", "exists")
_OPS: Final[dict[str, tuple[str, ...]]] = {
    "fs.read": tuple(f"fs.{each}" for each in (*_READS, "move")),
    "fs.write": ("fs.write", "fs.mkdir", "fs.move"),
    "fs.remove": ("fs.remove", "fs.move"),
    "kv.read": ("kv.get", "kv.list", "docs.get", "docs.list", "docs.query"),
    "kv.write": ("kv.put", "kv.delete", "docs.put", "docs.delete"),
    "node": ("node.facts", "node.call", "node.send"),
}
_FAMILIES: Final = {
    "fs": ("fs.read", "fs.write", "fs.remove"),
    "kv": ("kv.read", "kv.write"),
}
_NODE_ACTIONS: Final = ("node.read", "node.call", "node.send")
_TIMERS: Final = ("setTimeout", "setInterval", "clearTimeout", "clearInterval")
# Names of a JavaScript guest's global scope.
_GLOBALS: Final[dict[str, tuple[str, ...]]] = {
    "eval": ("eval", "Function"),
    "Function": ("Function",),
    "WebAssembly": ("WebAssembly",),
    "timers": _TIMERS,
}
WORDS: Final = (*_GLOBALS, *_FAMILIES, *_OPS)


@dataclass(frozen=True, slots=True)
class Off:
    """What is not there. `ops` are calls of the target (`target.fs.write`), `rooms` whole objects
    of it (`kv`), `names` global names, `code`: no text becomes code; `actions` those of the rules
    that cannot be done at all."""

    ops: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    code: bool = False
    actions: tuple[str, ...] = ()


def switched_off(words: Iterable[str]) -> Off:
    """All that these words, of WORDS, take away."""
    chosen = set(words)
    for family, parts in _FAMILIES.items():
        if family in chosen:
            chosen |= set(parts)
        elif chosen.issuperset(parts):
            chosen.add(family)
    names = sorted({name for word in chosen for name in _GLOBALS.get(word, ())})
    actions = [word for word in (*_FAMILIES["fs"], *_FAMILIES["kv"]) if word in chosen]
    return Off(
        ops=tuple(sorted({f"target.{op}" for word in chosen for op in _OPS.get(word, ())})),
        # Documents are values.
        rooms=(
            *(room for room in ("fs", "kv", "node") if room in chosen),
            *(("docs",) if "kv" in chosen else ()),
        ),
        names=tuple(names),
        code="Function" in names,
        actions=(*actions, *(_NODE_ACTIONS if "node" in chosen else ())),
    )
