"""As much JavaScript as a prompt must know: is a text complete, and what may a word become."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

_CLOSER: Final = {"(": ")", "[": "]", "{": "}"}
# After one of these a slash begins a regular expression; after a value it divides.
_BEFORE_REGEX: Final = "(,=:[!&|?{};+-*%~^<>"
_TOKEN: Final = re.compile(
    r"""//[^\n]* | /\*.*?\*/
      | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'? | `(?:\\.|[^`\\])*`
      | (?P<open>/\*.*\Z | `(?:\\.|[^`\\])*\\?\Z)
      | \s+ | .""",
    re.VERBOSE | re.DOTALL,
)
_REGEX: Final = re.compile(r"/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/")

_MEMBERS: Final = {
    "target": ("docs", "fs", "id", "kv", "name", "node"),
    "caller": ("fs", "id", "kv", "name"),
    "fs": ("exists", "list", "mkdir", "move", "read", "remove", "stat", "write"),
    "kv": ("delete", "get", "list", "put"),
    "docs": ("delete", "get", "list", "put", "query"),
    "node": ("facts",),
}
_SCOPE: Final = ("await", "caller", "log", "params", "target")
COMMANDS: Final = (":help", ":logs", ":quit", ":why")


def is_complete(text: str) -> bool:
    """Whether Enter ends the input: no bracket, template or comment is left open. A text that
    closes more than it opened is complete too, and the engine says what is wrong with it."""
    expected: list[str] = []
    before, at = ";", 0
    while at < len(text):
        found = _REGEX.match(text, at) if before in _BEFORE_REGEX else None
        found = found or _TOKEN.match(text, at)
        assert found is not None
        token, at = found[0], found.end()
        if found.groupdict().get("open") is not None:
            return False
        if token in _CLOSER:
            expected.append(_CLOSER[token])
        elif token in (")", "]", "}") and (not expected or expected.pop() != token):
            return True
        if not token.isspace() and not token.startswith(("//", "/*")):
            before = token[-1]
    return not expected


def complete_word(
    text: str, paths: Callable[[str, str], Sequence[str]]
) -> tuple[int, Sequence[str]]:
    """What the end of `text` may become: the length of the word there, and the words.

    `paths(side, start)` answers the paths in the target's or caller's tree that begin so.
    """
    if re.fullmatch(r":\w*", text):
        return len(text), _begin(COMMANDS, text)
    if path := re.search(r"""\b(target|caller)\.fs\.\w+\(\s*["'`]([^"'`]*)$""", text):
        return len(path[2]), paths(path[1], path[2])
    if member := re.search(r"\b(?:target|caller)\.(fs|kv|node)\.(\w*)$", text):
        return len(member[2]), _begin(_MEMBERS[member[1]], member[2])
    if member := re.search(r"""\btarget\.docs\(\s*(?:"[^"]*"|'[^']*')\s*\)\.(\w*)$""", text):
        return len(member[1]), _begin(_MEMBERS["docs"], member[1])
    if member := re.search(r"\b(target|caller)\.(\w*)$", text):
        return len(member[2]), _begin(_MEMBERS[member[1]], member[2])
    if word := re.search(r"(?<![\w.$\"'`/])(\w+)$", text):
        return len(word[1]), _begin(_SCOPE, word[1])
    return 0, ()


def _begin(words: Sequence[str], start: str) -> list[str]:
    return [word for word in words if word.startswith(start)]
