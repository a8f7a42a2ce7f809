"""The policy book: the rules in force, read from the owner's files whenever those change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orvalho.errors import InvalidInput
from orvalho.policies.access import AccessRequest, Decision
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.library_guard import LibraryGuard
from orvalho.policies.mend import Imagined
from orvalho.policies.rule_set import Problem, RuleSet, failed_tests
from orvalho.policies.rules import Reading, policy_texts, read_directory, read_files
from orvalho.policies.shipped import is_shipped_model


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed, in lines; nothing when there are problems."""

    added: int
    removed: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the files say now. `problems` keep them from being used; `warnings` do not."""

    files: tuple[str, ...]
    rules: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Files as read: with problems, or with rules and an engine that passed their tests."""

    reading: Reading
    engine: PolicyEngine | None
    problems: tuple[Problem, ...]


class PolicyBook:
    """Decides by `config_dir`'s model.conf and policy/*.csv.

    Files with a mistake are never used, not in part either: the last good rules stay, and when
    there are none yet (a broken file at start) everything is denied. `decide` may be called from
    any thread, also while another one reloads.
    """

    def __init__(self, config_dir: Path, contexts: Callable[[], Collection[str]]) -> None:
        """`contexts`: the names of the contexts that live here, asked for at each reading."""
        self._directory = config_dir
        self._contexts = contexts
        self._rules = RuleSet()
        self._engine: PolicyEngine = IndexedEngine(self._rules)
        self._decisions = self._denials = self._reloads = 0
        self.problems: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.reload()

    def decide(self, request: AccessRequest) -> Decision:
        decision = self._engine.decide(request)
        self._decisions += 1
        self._denials += not decision.allowed
        return decision

    def peek(self, request: AccessRequest) -> Decision:
        """The answer to a question that nobody acts on: it is not counted."""
        return self._engine.decide(request)

    def reload(self) -> Reloaded:
        """Read the files again, and use them from now on if all is well with them. Blocks for
        the reading: call it in a thread. What is wrong stays in `problems` until it is mended."""
        candidate = self._read()
        self._reloads += 1
        self.problems = tuple(map(str, candidate.problems))
        rules = candidate.reading.rules
        if rules is None or candidate.engine is None:
            return Reloaded(0, 0, self.problems)
        self.warnings = tuple(map(str, candidate.reading.warnings))
        before, after = _rows(self._rules), _rows(rules)
        self._rules, self._engine = rules, candidate.engine
        return Reloaded(len(after - before), len(before - after), ())

    def check(self) -> Checked:
        """Read the files as they are now, without using them."""
        candidate = self._read()
        rules = candidate.reading.rules
        return Checked(
            candidate.reading.files,
            len(rules.rules) if rules else 0,
            tuple(map(str, candidate.problems)),
            tuple(map(str, candidate.reading.warnings)),
        )

    @property
    def rules(self) -> RuleSet:
        """Those in force."""
        return self._rules

    def has_own_model(self) -> bool:
        """Whether the owner changed model.conf. Blocks for a small file."""
        path = self._directory / "model.conf"
        try:
            return path.exists() and not is_shipped_model(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return True

    def texts(self) -> list[tuple[str, bytes]]:
        """(name, content) of each policy file as it is now.

        Raises:
            InvalidInput: one cannot be read.
        """
        try:
            return policy_texts(self._directory)
        except OSError as error:
            raise InvalidInput(f"policy cannot be read: {error.strerror or error}") from error

    def imagine(self, files: Sequence[tuple[str, bytes]]) -> Imagined:
        """What these files would be in place of those on the disk. Nothing is used of it."""
        reading = read_files(files, contexts=self._contexts(), groups=self._group_names())
        candidate = self._candidate(reading)
        return Imagined(tuple(files), reading.rules, candidate.engine, candidate.problems)

    def statistics(self) -> dict[str, int]:
        return {
            "rules": len(self._rules.rules),
            "decisions": self._decisions,
            "denials": self._denials,
            "reloads": self._reloads,
            "problems": len(self.problems),
        }

    def _read(self) -> _Candidate:
        reading = read_directory(
            self._directory, contexts=self._contexts(), groups=self._group_names()
        )
        return self._candidate(reading)

    def _candidate(self, reading: Reading) -> _Candidate:
        if reading.rules is None:
            return _Candidate(reading, None, reading.problems)
        try:
            engine = self._engine_for(reading.rules)
        except InvalidInput as error:
            return _Candidate(reading, None, (Problem("model.conf", 0, 0, error.message),))
        failed = failed_tests(reading.rules, engine)
        return _Candidate(reading, None if failed else engine, tuple(failed))

    def _engine_for(self, rules: RuleSet) -> PolicyEngine:
        path = self._directory / "model.conf"
        try:
            model = path.read_text(encoding="utf-8") if path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot be read: {error}", where=str(path)) from error
        if model is None or is_shipped_model(model):
            return LibraryGuard(rules, IndexedEngine)
        # Most homes never need Casbin, which takes 60 ms and 8 MB to import.
        from orvalho.policies.casbin_engine import CasbinEngine  # noqa: PLC0415

        return LibraryGuard(rules, partial(CasbinEngine, model=model))

    def _group_names(self) -> list[str]:
        directory = self._directory / "groups"
        return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _rows(rules: RuleSet) -> frozenset[tuple[str, ...]]:
    members = (("g", row.member, row.group) for row in rules.memberships)
    return frozenset((*(rule.fields for rule in rules.rules), *members))
