"""Policy files by hand: read all of them, or none and say everything that is wrong.

The files are Casbin's CSV: `p, subject, context, action, object, effect` and
`g, member, @group`. Casbin itself reads such files leniently, and there a misspelled `deny` means
allow; here each mistake is found before a rule is used. A line that starts with `#` is a comment,
one that starts with `#?` is a test which must hold: `#? deny gil@laptop peer fs.read /secret/x`.
"""

from __future__ import annotations

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
from orvalho.policies.globs import glob_mistake
from orvalho.policies.rule_set import Membership, Problem, RuleSet, RuleTest
from orvalho.policies.subjects import group_mistake, subject_mistake

MAX_FILE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """What the `files` say. `rules` is None exactly when there are problems."""

    files: tuple[str, ...]
    rules: RuleSet | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def read_directory(
    config_dir: Path, *, contexts: Collection[str] | None = None, groups: Collection[str] = ()
) -> Reading:
    """Read `policy/*.csv` under `config_dir`, in the order of their names, as one.

    `contexts` are the names that a rule may name (None: any); `groups` are those that exist as
    directories of keys.
    """
    try:
        files = policy_texts(config_dir)
    except OSError as error:
        problem = Problem("policy", 0, 0, f"cannot be read: {error.strerror or error}")
        return Reading((), None, (problem,), ())
    return read_files(files, contexts=contexts, groups=groups)


def policy_texts(config_dir: Path) -> list[tuple[str, bytes]]:
    """(name, content) of each `policy/*.csv`, in the order of their names.

    Raises:
        OSError: one cannot be read.
    """
    files: list[tuple[str, bytes]] = []
    for path in sorted((config_dir / "policy").iterdir()):
        if path.suffix == ".csv" and not path.name.startswith("."):
            with path.open("rb") as file:
                files.append((f"policy/{path.name}", file.read(MAX_FILE_BYTES + 1)))
    return files


def read_files(
    files: Sequence[tuple[str, bytes]],
    *,
    contexts: Collection[str] | None = None,
    groups: Collection[str] = (),
) -> Reading:
    """Like `read_directory`, for (name, content) pairs."""
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
        elif len(fields) != len(shape):
            problem = f"a {kind} line has {len(shape)} fields ({', '.join(shape)})"
            self._problem(fields[-1][0], f"{problem}, this one has {len(fields)}")
        elif empty := [place for place, (_, value) in enumerate(fields) if not value]:
            self._problem(fields[empty[0]][0], f"the {shape[empty[0]]} is missing")
        elif kind == "p":
            self._read_rule(fields[1:])
        else:
            self._read_membership(fields[1:])

    def _read_rule(self, fields: list[tuple[int, str]]) -> None:
        values = tuple(value for _, value in fields)
        if not self._is_sound(fields) or not self._is_new(fields[0][0], ("p", *values)):
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
            )
        )

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
        words = text[2:].split(maxsplit=4)
        if len(words) != 5:
            self._problem(0, "a test is `#? allow|deny subject context action object`")
            return
        effect, subject, context, action, object_ = words
        columns = [line.find(words[0], line.find("#?") + 2)]
        for word in words[1:]:
            columns.append(line.find(word, columns[-1] + 1))
        order = (1, 2, 3, 4, 0)  # a test names its effect first, a rule last
        if self._is_sound([(columns[place] + 1, words[place]) for place in order]):
            answer: Effect = "deny" if effect == "deny" else "allow"
            self.tests.append(
                RuleTest(self._file, self._line, subject, context, action, object_, answer)
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
            _word_mistake("effect", effect, ("allow", "deny")),
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
