"""Policy files by hand: read all of them, or none and say everything that is wrong.

The files are Casbin's CSV: `p, subject, context, action, object, effect` and
`g, member, @group`. Casbin itself reads such files leniently, and there a misspelled `deny` means
allow; here each mistake is found before a rule is used. A sixth column is a condition
(`policies/conditions.py`): Casbin alone refuses such a line, where a comment would be passed over
and the rule count at all times. A line that starts with `#` is a comment, one that starts with `#?`
is a test which must hold: `#? deny gil@laptop peer fs.read /secret/x`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orvalho.contexts.names import near_miss
from orvalho.policies.access import (
    ACTIONS,
    ANY,
    OWNER,
    PAIRED,
    Effect,
    Rule,
    is_unprintable,
    object_mistake,
)
from orvalho.policies.conditions import parse_condition, parse_given
from orvalho.policies.globs import glob_mistake
from orvalho.policies.rule_set import Membership, Problem, RuleSet, RuleTest
from orvalho.policies.subjects import group_mistake, subject_mistake

MAX_FILE_BYTES: Final = 4 << 20
# An allow, but what the script does is kept until the owner has accepted it.
HOLD: Final = "hold"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the `files` say. `rules` is None exactly when there are problems."""

    files: tuple[str, ...]
    rules: RuleSet | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def rule_files(config_dir: Path) -> list[tuple[str, bytes]]:
    """`policy/*.csv` under `config_dir`, in the order of their names: (name, content).

    Raises:
        OSError: one cannot be read.
    """
    return [
        (f"policy/{path.name}", read_rule_file(path))
        for path in sorted((config_dir / "policy").iterdir())
        if path.suffix == ".csv" and not path.name.startswith(".")
    ]


def read_directory(
    config_dir: Path, *, contexts: Collection[str] | None = None, groups: Collection[str] = ()
) -> Reading:
    """`read_files` of `rule_files`."""
    try:
        files = rule_files(config_dir)
    except OSError as error:
        problem = Problem("policy", 0, 0, f"cannot be read: {error.strerror or error}")
        return Reading((), None, (problem,), ())
    return read_files(files, contexts=contexts, groups=groups)


def read_rule_file(path: Path) -> bytes:
    """What a file of rules holds, and a byte more where it is too large. A link is followed.

    Raises:
        OSError: it cannot be read, or is no file: a pipe would keep whoever reads it for ever.
    """
    # Without O_NONBLOCK the opening itself waits for the other end of a pipe.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is not a file")
        return file.read(MAX_FILE_BYTES + 1)


def read_files(
    files: Sequence[tuple[str, bytes]],
    *,
    contexts: Collection[str] | None = None,
    groups: Collection[str] = (),
) -> Reading:
    """Read (name, content) pairs, such as `policy/peer.csv` and its bytes, as one.

    `contexts` are the names that a rule may name (None: any); `groups` are those that exist as
    directories of keys.
    """
    reader = _Reader(contexts)
    for name, content in files:
        reader.read(name, content)
    names = tuple(name for name, _ in files)
    closure = _closure(reader.memberships, reader.problems)
    if reader.problems:
        in_order = sorted(reader.problems, key=lambda p: (p.file, p.line, p.column))
        return Reading(names, None, tuple(in_order), ())
    warnings = _warnings(reader, groups)
    rules = RuleSet(
        tuple(reader.rules),
        tuple(reader.memberships),
        tuple(reader.tests),
        closure,
        tuple(reader.holds),
    )
    return Reading(names, rules, (), warnings)


class _Reader:
    """Reads files one after the other, and keeps going after a mistake."""

    def __init__(self, contexts: Collection[str] | None) -> None:
        self._contexts = contexts
        self._file = ""
        self._line = 0
        self._seen: dict[tuple[str, ...], str] = {}
        self.rules: list[Rule] = []
        self.holds: list[Rule] = []
        self.memberships: list[Membership] = []
        self.tests: list[RuleTest] = []
        self.problems: list[Problem] = []

    def read(self, name: str, content: bytes) -> None:
        self._file, self._line = name, 0
        text = self._decode(content)
        if text is None:
            return
        for number, line in enumerate(text.split("\n"), 1):
            self._line = number
            self._read_line(line.removesuffix("\r"))

    def _problem(self, column: int, message: str) -> None:
        self.problems.append(Problem(self._file, self._line, column, message))

    def _decode(self, content: bytes) -> str | None:
        if not content:
            # An editor that was interrupted leaves this behind, and every deny with it is gone.
            self._problem(0, "is empty: delete it, or write a comment into it")
        elif len(content) > MAX_FILE_BYTES:
            self._problem(0, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        elif content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            self._problem(0, "starts with a byte order mark: save it as UTF-8 without BOM")
        else:
            try:
                return content.decode()
            except UnicodeDecodeError as error:
                self._line = content.count(b"\n", 0, error.start) + 1
                column = error.start - content.rfind(b"\n", 0, error.start)
                self._problem(column, "is not UTF-8")
        return None

    def _read_line(self, line: str) -> None:
        for column, character in enumerate(line, 1):
            if character != "\t" and is_unprintable(character):
                name = f"U+{ord(character):04X}"
                self._problem(column, f"control and format characters are not allowed ({name})")
                return
        text = line.strip(" \t")
        if text.startswith("#?"):
            self._read_test(line, text)
        elif text and not text.startswith("#"):
            self._read_row(line)

    def _read_row(self, line: str) -> None:
        for column, character in enumerate(line, 1):
            if character in _FORBIDDEN or (character.isspace() and character not in " \t"):
                self._problem(column, _FORBIDDEN.get(character, "write a plain space"))
                return
        fields = _fields(line)
        kind = fields[0][1]
        shape = _SHAPES.get(kind)
        if shape is None:
            self._problem(fields[0][0], f'a line starts with "p" or "g", not "{kind}"')
        elif len(fields) != len(shape) and not _is_conditional(kind, fields):
            problem = f"a {kind} line has {len(shape)} fields ({', '.join(shape)})"
            self._problem(fields[-1][0], f"{problem}, this one has {len(fields)}")
        elif empty := [place for place, (_, value) in enumerate(fields) if not value]:
            self._problem(fields[empty[0]][0], f"the {(*shape, 'condition')[empty[0]]} is missing")
        elif kind == "p":
            self._read_rule(fields[1:])
        else:
            self._read_membership(fields[1:])

    def _read_rule(self, fields: list[tuple[int, str]]) -> None:
        condition = None
        if len(fields) > _RULE_FIELDS:
            column, text = fields.pop()
            parsed = parse_condition(text)
            if isinstance(parsed, str):
                self._problem(column, parsed)
                return
            condition = parsed
        values = tuple(value for _, value in fields)
        row = ("p", *values, condition.text if condition else "")
        if not self._is_sound(fields) or not self._is_new(fields[0][0], row):
            return
        subject, context, action, object_, effect = values
        order = len(self.rules)
        self.rules.append(
            Rule(
                file=self._file,
                line=self._line,
                order=order,
                subject=subject,
                context=context,
                action=action,
                object=object_,
                effect="deny" if effect == "deny" else "allow",
                condition=condition,
                holds=effect == HOLD,
            )
        )
        if effect == HOLD:
            self.holds.append(self.rules[-1])

    def _read_membership(self, fields: list[tuple[int, str]]) -> None:
        (member_column, member), (group_column, group) = fields
        everybody = f'"{ANY}" in a group is everybody: write the rule for "{ANY}"'
        mistakes = (
            (member_column, everybody if member == ANY else subject_mistake(member)),
            (group_column, group_mistake(group)),
        )
        for column, mistake in mistakes:
            if mistake:
                self._problem(column, mistake)
        is_sound = not any(mistake for _, mistake in mistakes)
        if is_sound and self._is_new(member_column, ("g", member, group)):
            self.memberships.append(Membership(self._file, self._line, member, group))

    def _read_test(self, line: str, text: str) -> None:
        parts = parts_of_test(text)
        given = parse_given(parts.given)
        words = parts.words
        if isinstance(given, str):
            self._problem(0, given)
            return
        if len(words) != 5:
            self._problem(0, f"a test is `{_TEST_SHAPE}`")
            return
        effect, subject, context, action, object_ = words
        columns = [line.find(words[0], line.find("#?") + 2 + parts.skipped)]
        for word in words[1:]:
            columns.append(line.find(word, columns[-1] + 1))
        order = (1, 2, 3, 4, 0)  # a test names its effect first, a rule last
        if self._is_sound([(columns[place] + 1, words[place]) for place in order]):
            answer: Effect = "deny" if effect == "deny" else "allow"
            self.tests.append(
                RuleTest(self._file, self._line, subject, context, action, object_, answer, given)
            )

    def _is_new(self, column: int, row: tuple[str, ...]) -> bool:
        first = self._seen.setdefault(row, f"{self._file}:{self._line}")
        if first == f"{self._file}:{self._line}":
            return True
        self._problem(column, f"stands already at {first}")
        return False

    def _is_sound(self, fields: list[tuple[int, str]]) -> bool:
        """Whether subject, context, action, object and effect are; each mistake is told."""
        subject, context, action, object_, effect = (value for _, value in fields)
        mistakes = (
            subject_mistake(subject),
            self._context_mistake(context),
            _word_mistake("action", action, (*ACTIONS, ANY)),
            object_mistake(action, object_) or glob_mistake(object_),
            _effect_mistake(action, effect),
        )
        for (column, _), mistake in zip(fields, mistakes, strict=True):
            if mistake:
                self._problem(column, mistake)
        return not any(mistakes)

    def _context_mistake(self, context: str) -> str | None:
        if context == ANY or (self._contexts is not None and context in self._contexts):
            return None
        if self._contexts is not None:
            return _word_mistake("context", context, (*self._contexts, ANY))
        return subject_mistake(context) if "@" not in context else "a context is named without @"


def _effect_mistake(action: str, effect: str) -> str | None:
    if effect == HOLD and action != "script.run":
        return "only a script as a whole is held: script.run"
    return _word_mistake("effect", effect, ("allow", "deny", HOLD))


@dataclass(frozen=True, slots=True)
class RuleTestParts:
    """A `#?` line: the words after `when`, and the five of the test; `skipped` characters stand
    between its `#?` and the first of these."""

    given: list[str]
    words: list[str]
    skipped: int


def parts_of_test(text: str) -> RuleTestParts:
    """Take a line apart that starts with `#?`. Whether the parts are right is for the reader."""
    rest = text[2:]
    if rest.split(maxsplit=1)[:1] != ["when"]:
        return RuleTestParts([], rest.split(maxsplit=4), 0)
    found = re.search(r"\s(?:allow|deny)\s", rest)
    start = found.start() if found else len(rest)
    return RuleTestParts(rest[:start].split()[1:], rest[start:].split(maxsplit=4), start)


_TEST_SHAPE: Final = "#? [when battery=31 ...] allow|deny subject context action object"
_RULE_FIELDS: Final = 5
_SHAPES: Final = {
    "p": ("p", "subject", "context", "action", "object", "effect"),
    "g": ("g", "member", "@group"),
}
# Casbin reads past some of these and trips over the others; a person who writes them means
# something that the file does not say.
_FORBIDDEN: Final = {
    "#": "a comment has a line of its own",
    '"': "no quotes: a field is written as it is",
    "'": 'no quotes: a field is written as it is ("*" stands for one in a name)',
    "`": "no quotes: a field is written as it is",
    "\\": "there is no escape",
    "?": 'the only wildcards are "*" and "**"',
} | dict.fromkeys("()[]{}", 'brackets mean nothing here ("*" stands for one in a name)')
FORBIDDEN_CHARACTERS: Final = frozenset((*_FORBIDDEN, ","))


def _is_conditional(kind: str, fields: list[tuple[int, str]]) -> bool:
    """A path with a comma in it makes a field too many as well."""
    has_condition = kind == "p" and len(fields) == len(_SHAPES["p"]) + 1
    return has_condition and fields[-2][1] in ("allow", "deny", "")


def _fields(line: str) -> list[tuple[int, str]]:
    """Each field with its column."""
    fields = []
    at = 0
    for piece in line.split(","):
        value = piece.strip(" \t")
        blank = len(piece) - len(piece.lstrip(" \t")) if value else 0
        fields.append((at + blank + 1, value))
        at += len(piece) + 1
    return fields


def _word_mistake(kind: str, word: str, known: Collection[str]) -> str | None:
    if word in known:
        return None
    near = near_miss(word, known) or next((w for w in known if w == word.lower()), None)
    return f'unknown {kind} "{word}"' + (f', did you mean "{near}"?' if near else "")


def _closure(
    memberships: Sequence[Membership], problems: list[Problem]
) -> dict[str, frozenset[str]]:
    """What each member is, through groups in groups. A circle is a problem."""
    direct: dict[str, list[Membership]] = {}
    for row in memberships:
        direct.setdefault(row.member, []).append(row)
    closure: dict[str, frozenset[str]] = {}
    for member, rows in direct.items():
        found: set[str] = set()
        waiting = list(rows)
        while waiting:
            row = waiting.pop()
            if row.group == member:
                problems.append(
                    Problem(row.file, row.line, 0, f"{member} is a member of itself, in a circle")
                )
            elif row.group not in found:
                found.add(row.group)
                waiting += direct.get(row.group, ())
        closure[member] = frozenset(found)
    return closure


def _warnings(reader: _Reader, groups: Collection[str]) -> tuple[Problem, ...]:
    known = {OWNER, PAIRED, *(f"@{name}" for name in groups)}
    known |= {row.group for row in reader.memberships}
    warnings = []
    for rule in reader.rules:
        if rule.subject.startswith("@") and rule.subject not in known:
            known.add(rule.subject)
            near = near_miss(rule.subject, known - {rule.subject})
            text = f"nobody is in {rule.subject}" + (f', did you mean "{near}"?' if near else "")
            warnings.append(Problem(rule.file, rule.line, 0, text))
    return tuple(warnings)
