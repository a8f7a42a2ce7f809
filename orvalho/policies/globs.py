"""Globs over paths and keys: `*` stays within a name, `**` crosses names, `/x/**` matches `/x` too.

There is no other wildcard and no escape. Files that start with a dot match like any other, and a
newline is a letter like any other: a rule about `/**` leaves nothing out.

A guest writes globs too (what its script needs), so matching must not blow up on a hostile one:
there is no regular expression here, and each glob matches in time linear in the path times the
glob's length, which is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from orvalho.errors import InvalidInput

MAX_CHARACTERS: Final = 1024
MAX_NAMES: Final = 32
_MAX_LOOSE: Final = 2


class Deep(Enum):
    """Any number of names, none included: a `**` that stands between slashes."""

    DEEP = "**"


DEEP: Final = Deep.DEEP


@dataclass(frozen=True, slots=True)
class Star:
    """One name with holes: `img-*.jpg` is ("img-", ".jpg")."""

    parts: tuple[str, ...]

    def matches(self, name: str) -> bool:
        first, *middle, last = self.parts
        at, end = len(first), len(name) - len(last)
        if at > end or not name.startswith(first) or not name.endswith(last):
            return False
        for part in middle:
            # The earliest place is always the best one: what follows has the most room left.
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


Token = str | Star | Deep


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled glob. `ways`: token lists, of which one must match."""

    text: str
    ways: tuple[tuple[Token, ...], ...]

    def matches(self, path: str) -> bool:
        names = path.split("/")
        return any(_matches(way, names) for way in self.ways)


def compile_glob(text: str) -> Glob:
    """Raises:
    InvalidInput: it is too long or too deep, has `***`, or more than two `**` inside names.
    """
    mistake = glob_mistake(text)
    if mistake:
        raise InvalidInput(mistake)
    return Glob(text, tuple(tuple(_tokens(way)) for way in _ways(text)))


def glob_mistake(text: str) -> str | None:
    """Why `text` cannot be compiled, or None."""
    if len(text) > MAX_CHARACTERS:
        return f"a pattern has at most {MAX_CHARACTERS} characters"
    if text.count("/") > MAX_NAMES:
        return f"a pattern has at most {MAX_NAMES} names between slashes"
    if "***" in text:
        return '"***" means nothing: write "*" or "**"'
    if len(_LOOSE.findall(text)) > _MAX_LOOSE:
        return f'a pattern has at most {_MAX_LOOSE} "**" that touch other characters'
    return None


# A `**` that touches something other than slashes: `/photos/2024**`, or one that begins a key.
_LOOSE: Final = re.compile(r"(?<!/)\*\*|\*\*(?!/|\Z)")


def _ways(text: str) -> list[str]:
    """`a**b` either stays within one name (`a*b`) or crosses some (`a*/**/*b`)."""
    loose = _LOOSE.search(text)
    if loose is None:
        return [text]
    before, after = text[: loose.start()], text[loose.end() :]
    return _ways(before + "*" + after) + _ways(before + "*/**/*" + after)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    for name in text.split("/"):
        if name == "**":
            tokens.append(DEEP)
        elif "*" in name:
            tokens.append(Star(tuple(name.split("*"))))
        else:
            tokens.append(name)
    return tokens


def _matches(tokens: Sequence[Token], names: Sequence[str]) -> bool:
    """Going back to the last `**` is enough: an earlier one could only waste names."""
    at = token = mark = 0
    deep = -1
    while at < len(names):
        expected = tokens[token] if token < len(tokens) else None
        if expected is DEEP:
            deep, mark = token, at
            token += 1
        elif expected is not None and _fits(expected, names[at]):
            token += 1
            at += 1
        elif deep >= 0:
            mark += 1
            at, token = mark, deep + 1
        else:
            return False
    return all(rest is DEEP for rest in tokens[token:])


def _fits(token: Token, name: str) -> bool:
    return token.matches(name) if isinstance(token, Star) else token == name
