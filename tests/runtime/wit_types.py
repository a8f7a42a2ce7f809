"""Types of components and their values, for property tests; and how a type is written in a
component's text."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

from orvalho.scripts.wasm.wit import PRIMITIVES, WitType, make_type

NAMES = st.lists(
    st.sampled_from(["a", "b", "long-name", "x9", "one", "two", "three"]),
    min_size=1, max_size=4, unique=True,
).map(tuple)  # fmt: skip


def _compound(inner: st.SearchStrategy[WitType]) -> st.SearchStrategy[WitType]:
    maybe = st.none() | inner
    return st.one_of(
        inner.map(lambda part: make_type("list", (), (part,))),
        inner.map(lambda part: make_type("option", (), (part,))),
        st.lists(inner, min_size=1, max_size=4).map(lambda p: make_type("tuple", (), tuple(p))),
        st.tuples(maybe, maybe).map(lambda parts: make_type("result", (), parts)),
        st.tuples(NAMES, st.lists(inner, min_size=4, max_size=4)).map(
            lambda both: make_type("record", both[0], tuple(both[1][: len(both[0])]))
        ),
        st.tuples(NAMES, st.lists(maybe, min_size=4, max_size=4)).map(
            lambda both: make_type("variant", both[0], tuple(both[1][: len(both[0])]))
        ),
    )


TYPES: st.SearchStrategy[WitType] = st.recursive(
    st.one_of(
        st.sampled_from(PRIMITIVES).map(WitType),
        NAMES.map(lambda names: make_type("enum", names)),
        NAMES.map(lambda names: make_type("flags", names)),
    ),
    _compound,
    max_leaves=8,
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def json_values(kind: WitType) -> st.SearchStrategy[Any]:
    """JSON values that stand for values of that type."""
    name = kind.kind
    if name in ("enum", "variant"):
        cases = zip(kind.names, kind.parts or [None] * len(kind.names), strict=True)
        return st.one_of(
            st.just(case) if part is None
            else st.builds(lambda value, case: {case: value}, json_values(part), st.just(case))
            for case, part in cases
        )  # fmt: skip
    if name == "result":
        return st.one_of(
            st.builds(lambda value, case: {case: value},
                      st.none() if part is None else json_values(part), st.just(case))
            for case, part in zip(("ok", "err"), kind.parts, strict=True)
        )  # fmt: skip
    if name == "flags":
        return st.lists(st.sampled_from(kind.names), unique=True)
    if name == "option":
        inside = json_values(_known(kind.parts[0]))
        if _known(kind.parts[0]).kind == "option":
            inside = inside.map(lambda value: {"some": value})
        return st.none() | inside
    if name == "list":
        if kind.parts[0] == WitType("u8"):
            return st.binary(max_size=40).map(
                lambda raw: {"$bytes": base64.b64encode(raw).decode()}
            )
        return st.lists(json_values(_known(kind.parts[0])), max_size=4)
    if name == "tuple":
        return st.tuples(*(json_values(_known(part)) for part in kind.parts)).map(list)
    if name == "record":
        pairs = zip(kind.names, kind.parts, strict=True)
        return st.fixed_dictionaries({name: json_values(_known(part)) for name, part in pairs})
    return _primitive(name)


def _primitive(name: str) -> st.SearchStrategy[Any]:
    if name == "bool":
        return st.booleans()
    if name == "string":
        return TEXTS
    if name == "char":
        return st.characters(codec="utf-8")
    if name in ("f32", "f64"):
        width = int(name[1:])
        return st.floats(allow_nan=False, allow_infinity=False, width=width) | st.sampled_from(
            ["nan", "inf", "-inf"]
        )
    bits = int(name[1:])
    if name[0] == "s":
        return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return st.integers(0, (1 << bits) - 1)


def _known(part: WitType | None) -> WitType:
    assert part is not None
    return part


class Text:
    """Definitions of types in a component's text; each named one is exported, as the rules are."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def name(self, kind: WitType) -> str:
        """What the type is called."""
        if not kind.parts and not kind.names:
            return kind.kind
        number = len(self.lines)
        self.lines.append("")
        self.lines[number] = self._define(kind, number)
        return f"$e{number}" if kind.kind in _NAMED else f"$t{number}"

    def _define(self, kind: WitType, number: int) -> str:
        parts = [None if part is None else self.name(part) for part in kind.parts]
        if kind.kind in ("enum", "flags"):
            inside = " ".join(f'"{name}"' for name in kind.names)
        elif kind.kind == "record":
            inside = " ".join(
                f'(field "{name}" {part})' for name, part in zip(kind.names, parts, strict=True)
            )
        elif kind.kind == "variant":
            inside = " ".join(
                f'(case "{name}"{f" {part}" if part else ""})'
                for name, part in zip(kind.names, parts, strict=True)
            )
        elif kind.kind == "result":
            inside = (parts[0] or "") + (f" (error {parts[1]})" if parts[1] else "")
        else:
            inside = " ".join(str(part) for part in parts)
        text = f"(type $t{number} ({kind.kind} {inside}))"
        if kind.kind in _NAMED:
            text += f' (export $e{number} "t{number}" (type $t{number}))'
        return text

    def definitions(self) -> str:
        """All of them, in an order in which each stands before its use."""
        return "\n".join(reversed(self.lines))


_NAMED = ("record", "variant", "enum", "flags")
