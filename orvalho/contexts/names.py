"""The grammar of names: labels, `context@node`, run ids. Pure: time and randomness come in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType

from orvalho.errors import InvalidInput

RunId = NewType("RunId", str)

_LABEL: Final = re.compile(r"[a-z0-9](-?[a-z0-9])*")
_LABEL_LIMIT: Final = 63
# What a node says of itself, for others to choose it by: `env=home`.
NODE_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}=[A-Za-z0-9_.:-]{1,63}")
_ANY: Final = re.compile(r"(?:([^@]+)@)?any(@(.*))?", re.DOTALL)
_GROUP: Final = re.compile(r"(?:([^@]+)@)?@(.*)", re.DOTALL)
_ALL: Final = re.compile(r"(?:([^@]+)@)?all(@(.*))?", re.DOTALL)
# Words that mean something of their own in an address, a policy line or a command.
_RESERVED: Final = frozenset(
    {"all", "any", "anyone", "everyone", "here", "local"}
    | {"nobody", "none", "owner", "paired", "self", "this"}
)
# Crockford's base 32: no I, L, O or U, so that nothing is misread aloud.
_ULID_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LETTERS: Final = 26
_RUN_ID: Final = re.compile(rf"r_[0-7][{_ULID_ALPHABET}]{{{_ULID_LETTERS - 1}}}")


@dataclass(frozen=True, slots=True)
class Address:
    """`context@node`, or a node alone (`context` is None: the node's own choice)."""

    context: str | None
    node: str

    def __str__(self) -> str:
        return self.node if self.context is None else f"{self.context}@{self.node}"


@dataclass(frozen=True, slots=True)
class Several:
    """A name that stands for a choice among paired nodes, or for each of several.

    `any@gpu=yes,env=home` is one node that has all these `labels`, `@family` every member of
    the `group`, `all` every paired node, `all@env=home` every one with these labels. With a
    context in front (`work@any@gpu=yes`, `work@@family`, `work@all`) it is that context on them.
    """

    context: str | None
    group: str | None = None
    labels: tuple[str, ...] = ()
    is_any: bool = False

    def __str__(self) -> str:
        front = "" if self.context is None else f"{self.context}@"
        if self.group is not None:
            return f"{front}@{self.group}"
        word = "any" if self.is_any else "all"
        return f"{front}{word}" + (f"@{','.join(self.labels)}" if self.labels else "")


def check_label(text: str) -> str:
    """The text itself, if it can name a context, a node or a group: lower-case letters and
    digits, with single dashes between them, at most 63.

    Raises:
        InvalidInput: it cannot, or the word is reserved.
    """
    if len(text) > _LABEL_LIMIT:
        raise InvalidInput(
            f"a name has at most {_LABEL_LIMIT} characters, this one has {len(text)}",
            where=ascii(text[:_LABEL_LIMIT]),
        )
    if not _LABEL.fullmatch(text):
        raise InvalidInput(
            "a name is made of a-z and 0-9, with single dashes between them",
            where=ascii(text),
            hint=_suggested_label(text),
        )
    if text in _RESERVED:
        raise InvalidInput(
            f'"{text}" is a word of Orvalho\'s own and names no device, context or group',
            where=text,
            hint="orvalho peer ls",
        )
    return text


def parse_address(text: str) -> Address:
    """`gil@phone2` or `phone2`.

    Raises:
        InvalidInput: a part is not a label, or there is more than one `@`.
    """
    context, at, node = text.rpartition("@")
    if not at:
        return Address(None, check_label(text))
    if not context or not node or "@" in context:
        raise InvalidInput("an address is context@node, or node", where=ascii(text[:200]))
    return Address(check_label(context), check_label(node))


def parse_target(text: str) -> Address | Several:
    """An address, or a name of several: `any@gpu=yes`, `@family`, `all`, `all@env=home`, each
    with or without `ctx@` in front.

    Raises:
        InvalidInput: it is neither.
    """
    if found := _ANY.fullmatch(text):
        return Several(_context(found[1]), labels=_labels(found[3]), is_any=True)
    if found := _GROUP.fullmatch(text):
        return Several(_context(found[1]), group=check_label(found[2]))
    if found := _ALL.fullmatch(text):
        return Several(_context(found[1]), labels=_labels(found[3]))
    return parse_address(text)


def _context(text: str | None) -> str | None:
    return None if text is None else check_label(text)


def _split(text: str | None) -> list[str]:
    return text.split(",") if text is not None else []


def _labels(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_node_label(each) for each in _split(text)))


def _node_label(text: str) -> str:
    if not NODE_LABEL.fullmatch(text):
        raise InvalidInput(
            "a label is KEY=VALUE, as in any@gpu=yes,env=home", where=ascii(text[:200])
        )
    return text


def near_miss(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was most likely meant, or None when none is near."""
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return close[0] if close else None


def new_ulid(now: float, randomness: bytes) -> str:
    """26 letters that sort by time: 48 bits of milliseconds, then the 80 of `randomness`
    (the ULID specification). `now` is in Unix seconds, `randomness` 10 bytes."""
    if len(randomness) != 10:
        raise ValueError("a ULID takes 10 random bytes")
    number = int(now * 1000) << 80 | int.from_bytes(randomness)
    if not 0 <= number < 1 << 128:
        raise ValueError("the moment does not fit 48 bits of milliseconds")
    return ulid_text(number.to_bytes(16))


def ulid_text(raw: bytes) -> str:
    """The 26 letters of a ULID's 16 bytes."""
    number = int.from_bytes(raw)
    return "".join(_ULID_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def ulid_bytes(run: str) -> bytes:
    """The 16 bytes of the ULID in a run id, as `parse_run_id` gives it."""
    number = 0
    for letter in run.removeprefix("r_"):
        number = number << 5 | _ULID_ALPHABET.index(letter)
    return number.to_bytes(16)


def new_run_id(now: float, randomness: bytes) -> RunId:
    """`r_` and a ULID."""
    return RunId(f"r_{new_ulid(now, randomness)}")


def parse_run_id(text: str) -> RunId:
    """The run id that was typed, in whatever case.

    Raises:
        InvalidInput: it is not one.
    """
    candidate = "r_" + text[2:].upper()
    if text[:2].lower() != "r_" or not _RUN_ID.fullmatch(candidate):
        raise InvalidInput(
            f"a run id is r_ and {_ULID_LETTERS} letters or digits", where=ascii(text[:80])
        )
    return RunId(candidate)


def _suggested_label(text: str) -> str | None:
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"did you mean {label}?" if label else None
