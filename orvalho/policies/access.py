"""The words of a policy: who asks (subject), where (context), what (action, object), the answer.

An object is a path (`fs.*`), a key (`kv.*`), `/` (`node.read`), a script's digest `sha256:...`
(`script.run`), `context@node` (`script.send`, `node.send`), `library@node` (`node.call`) or a
library's name (`lib.*`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

from orvalho.policies.conditions import Condition, Truth

ACTIONS: Final = (
    "script.send",  # our context sends a script to that target
    "script.run",  # a peer's script runs in this context
    "fs.read",  # read, list, stat, exists
    "fs.write",  # write, mkdir, the destination of a move
    "fs.remove",  # remove, the source of a move
    "kv.read",  # get, list
    "kv.write",  # put, delete
    "node.read",  # what the node says of its machine
    "node.call",  # a script that runs here calls a library of another node, in our context's name
    "node.send",  # it sends a script there
    "lib.list",  # what a library of this node is: its name, digest, exports and types
    "lib.get",  # its bytes
    "lib.call",  # run it here, in this context
)
ANY: Final = "*"
OWNER: Final = "@owner"
PAIRED: Final = "@paired"

Effect = Literal["allow", "deny"]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks.

    `key` is a verified `ed25519:...`; `names` are all the policy words that hold for it: `*`,
    `@paired`, `@owner`, `laptop`, `gil@laptop`, the key itself, `@family`. Whoever makes one has
    checked the key: names that a stranger chose for itself never get here.
    """

    key: str
    names: frozenset[str]

    def __post_init__(self) -> None:
        # Casbin takes a subject that is named like a role for a member of it.
        if not self.key.startswith("ed25519:"):
            raise ValueError(f"a subject is a key, not {self.key!r}")

    @property
    def spoken(self) -> str:
        """The name a person knows it by, the most exact one that a policy line can hold."""
        plain = sorted(name for name in self.names if not name.startswith(("@", ANY, "ed25519:")))
        return next((name for name in plain if "@" in name), plain[0] if plain else self.key)


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """May `subject` do `action` to `object` in the context named `context`?"""

    subject: Subject
    context: str
    action: str
    object: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One `p` line. `order` counts the rules of a set from 0, across its files. `condition` is its
    sixth column; None: it counts at all times. `holds`: an allow that is written `hold`."""

    file: str
    line: int
    order: int
    subject: str
    context: str
    action: str
    object: str
    effect: Effect
    condition: Condition | None = None
    holds: bool = False

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def fields(self) -> tuple[str, str, str, str, str]:
        """The five columns that Casbin knows: without the condition."""
        return (self.subject, self.context, self.action, self.object, self.effect)

    @property
    def text(self) -> str:
        effect = "hold" if self.holds else self.effect
        row = ", ".join(("p", *self.fields[:-1], effect))
        return f"{row}, {self.condition.text}" if self.condition else row


@dataclass(frozen=True, slots=True)
class Unmet:
    """A rule that hangs on its condition: an allow that does not count now, or a deny that counts
    because it cannot be told (`truth` is None). `now`: `battery 31, not charging`."""

    rule: Rule
    truth: Truth
    now: str

    @property
    def reason(self) -> str:
        """`only if charging or battery>40; now battery 31, not charging`"""
        only = "only if" if self.rule.effect == "allow" else "if"
        condition = self.rule.condition.text if self.rule.condition else ""
        return f"{only} {condition}; now {self.now}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and the rule that gave it.

    `rule` is the first deny that matches, else the first allow, else an allow whose condition does
    not hold, else None: nothing speaks of it, which is a refusal. Only in that last case are set:
    `nearest`, the rule that came closest, `suggestion`, the smallest line that would allow it, and
    `group`, `@name`, whose members may. `unmet`: the condition that is why it is refused now.
    `lasting`: no condition took part, so the same question has the same answer for as long as the
    rules stay; only such a decision may be kept and used again.
    """

    allowed: bool
    rule: Rule | None = None
    nearest: Rule | None = None
    suggestion: str | None = None
    group: str | None = None
    unmet: Unmet | None = None
    lasting: bool = True


def object_mistake(action: str, text: str) -> str | None:
    """What is wrong with `text` as the object of `action`, or None.

    An object that no request can ever name is a mistake: on a `deny` line it would silently deny
    nothing.
    """
    names = text.split("/")
    if any(is_unprintable(character) for character in text):
        return "control and format characters are not allowed"
    if unicodedata.normalize("NFC", text) != text:
        return "write it in Unicode normal form C, as paths are kept"
    if ".." in names or "." in names:
        return '"." and ".." never match: write the path itself'
    if "//" in text:
        return '"//" never matches: write one "/"'
    if action.startswith("fs."):
        return _path_mistake(text)
    shape = _SHAPES.get(action)
    if shape and not shape[0].fullmatch(text):
        return shape[1]
    return None


_SHAPES: Final = {
    "script.run": (re.compile(r"\*\*?|sha256:[0-9a-f*]+"), 'write "*" or "sha256:<hex>"'),
    "node.read": (re.compile(r"/|/?\*\*?"), 'write "/": a node is asked as a whole'),
    **dict.fromkeys(
        ("lib.list", "lib.get", "lib.call"),
        (re.compile(r"[a-z0-9*-]+"), 'write "*" or a library\'s name'),
    ),
    **dict.fromkeys(
        ("script.send", "node.send"),
        (re.compile(r"[a-z0-9*-]+(@[a-z0-9*-]+)?"), 'write "*" or "context@node"'),
    ),
    "node.call": (re.compile(r"[a-z0-9*-]+(@[a-z0-9*-]+)?"), 'write "*" or "library@node"'),
}


def _path_mistake(text: str) -> str | None:
    if not text.startswith("/"):
        return f'a path starts with "/": write "/{text}"'
    if text.endswith("/") and text != "/":
        return f'a path never ends with "/": write "{text}**" for all that lies there'
    return None


def is_unprintable(character: str) -> bool:
    # Control, format and surrogate characters, and Unicode's own line breaks.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
