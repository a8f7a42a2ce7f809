"""The policy book: the rules in force, read from the owner's files whenever those change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orvalho.errors import InvalidInput
from orvalho.policies.access import AccessRequest, Decision, Rule
from orvalho.policies.conditions import Probe, Readings, Reads, clock_alone, spoken
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.library_guard import LibraryGuard
from orvalho.policies.mend import Imagined
from orvalho.policies.rule_set import (
    MakeEngine,
    Problem,
    RuleSet,
    Tested,
    failures,
    run_tests,
)
from orvalho.policies.rules import Reading, read_directory, read_files, rule_files
from orvalho.policies.shipped import is_shipped_model


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed, in lines; nothing when there are problems."""

    added: int
    removed: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the files say now. `problems` keep them from being used; `warnings` do not. `tests`:
    what came of each `#?` line, none where a line is broken."""

    files: tuple[str, ...]
    rules: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    tests: tuple[Tested, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Files as read: with problems, or with rules that passed their tests and what makes an engine
    of them."""

    reading: Reading
    make: MakeEngine | None
    problems: tuple[Problem, ...]
    tests: tuple[Tested, ...] = ()
    is_shipped: bool = True


@dataclass(frozen=True, slots=True)
class Proposal:
    """Rules that are not in force, and what makes an engine of them; with problems, neither."""

    files: tuple[str, ...]
    rules: RuleSet | None
    make: MakeEngine | None
    problems: tuple[str, ...]


class PolicyBook:
    """Decides by `config_dir`'s model.conf and policy/*.csv.

    Files with a mistake are never used, not in part either: the last good rules stay, and when
    there are none yet (a broken file at start) everything is denied. `decide` may be called from
    any thread, also while another one reloads.
    """

    def __init__(
        self,
        config_dir: Path,
        contexts: Callable[[], Collection[str]],
        reads: Reads = clock_alone,
    ) -> None:
        """`contexts`: the names of the contexts that live here, asked for at each reading of the
        files. `reads`: what is so now, for the conditions of rules."""
        self._directory = config_dir
        self._contexts = contexts
        self._reads = reads
        self._probes: frozenset[Probe] = frozenset()
        self._rules = RuleSet()
        self._engine: PolicyEngine = IndexedEngine(self._rules)
        self._holding: PolicyEngine | None = None
        self._decisions = self._denials = self._reloads = 0
        self._takes_grants = False
        self.problems: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.reload()

    def decide(self, request: AccessRequest) -> Decision:
        decision = self._engine.decide(request)
        self._decisions += 1
        self._denials += not decision.allowed
        return decision

    def held_by(self, request: AccessRequest) -> Rule | None:
        """The rule by which a script that may run is kept for the owner to look at."""
        return self._holding.decide(request).rule if self._holding is not None else None

    @property
    def takes_grants(self) -> bool:
        """Whether a grant may allow what no rule speaks of. Not before the files were read without
        a mistake once, since a deny in them would be unknown; and not under a model of the owner's
        own, where a refusal need not name the rule that made it."""
        return self._takes_grants

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
        if rules is None or candidate.make is None:
            return Reloaded(0, 0, self.problems)
        self.warnings = tuple(map(str, candidate.reading.warnings))
        before, after = _rows(self._rules), _rows(rules)
        self._rules, self._engine = rules, candidate.make(self._reads)
        self._probes = rules.probes
        held = RuleSet(rules.holds, rules.memberships, (), rules.groups)
        self._holding = IndexedEngine(held, reads=self._reads) if rules.holds else None
        self._takes_grants = candidate.is_shipped
        return Reloaded(len(after - before), len(before - after), ())

    def check(self) -> Checked:
        """Read the files as they are now, without using them."""
        return _checked(self._read())

    def check_with(self, files: Mapping[str, bytes]) -> Checked:
        """The same, as if `files` (`policy/x.csv` and its content) stood among the others."""
        return _checked(self._read(self._files(files)))

    def propose(self, files: Mapping[str, bytes], *, instead: bool = False) -> Proposal:
        """Rules as they would be with these files: among the others, in place of those of the same
        names, or `instead` of all of them. Their tests are not asked."""
        found = list(files.items()) if instead else self._files(files)
        reading = self._reading(found)
        make, problems = self._maker(reading)
        return Proposal(reading.files, reading.rules, make, tuple(map(str, problems)))

    @property
    def rules(self) -> RuleSet:
        """Those in force."""
        return self._rules

    @property
    def probes(self) -> frozenset[Probe]:
        """What the conditions of the rules in force ask of the machine."""
        return self._probes

    def readings(self) -> dict[Probe, str | None]:
        """What is so now of each thing that a condition in force asks of the machine, in words;
        None where it is not known."""
        now = self._reads()
        return {probe: spoken(probe, now) for probe in self._probes}

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
            return list(rule_files(self._directory))
        except OSError as error:
            raise InvalidInput(f"policy cannot be read: {error.strerror or error}") from error

    def imagine(self, files: Sequence[tuple[str, bytes]]) -> Imagined:
        """What these files would be in place of those on the disk. Nothing is used of it."""
        candidate = self._read(files)
        engine = candidate.make(self._reads) if candidate.make else None
        return Imagined(tuple(files), candidate.reading.rules, engine, candidate.problems)

    def now(self) -> Readings:
        """What is so now, for the conditions of rules."""
        return self._reads()

    def statistics(self) -> dict[str, int]:
        return {
            "rules": len(self._rules.rules),
            "decisions": self._decisions,
            "denials": self._denials,
            "reloads": self._reloads,
            "problems": len(self.problems),
        }

    def _read(self, files: Sequence[tuple[str, bytes]] | None = None) -> _Candidate:
        reading = self._reading(files)
        make, problems = self._maker(reading)
        if make is None or reading.rules is None:
            return _Candidate(reading, None, problems)
        tests = run_tests(reading.rules, make)
        failed = tuple(failures(tests))
        return _Candidate(
            reading, None if failed else make, failed, tests, not self.has_own_model()
        )

    def _reading(self, files: Sequence[tuple[str, bytes]] | None) -> Reading:
        contexts, groups = self._contexts(), self._group_names()
        if files is None:
            return read_directory(self._directory, contexts=contexts, groups=groups)
        return read_files(files, contexts=contexts, groups=groups)

    def _files(self, changed: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        return sorted({**dict(rule_files(self._directory)), **changed}.items())

    def _maker(self, reading: Reading) -> tuple[MakeEngine | None, tuple[Problem, ...]]:
        if reading.rules is None:
            return None, reading.problems
        try:
            make = self._engine_for(reading.rules)
            # A model that cannot be used says so when its engine is made.
            make(clock_alone)
        except InvalidInput as error:
            return None, (Problem("model.conf", 0, 0, error.message),)
        return make, ()

    def _engine_for(self, rules: RuleSet) -> MakeEngine:
        path = self._directory / "model.conf"
        try:
            model = path.read_text(encoding="utf-8") if path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot be read: {error}", where=str(path)) from error
        if model is None or is_shipped_model(model):
            return lambda reads: LibraryGuard(rules, partial(IndexedEngine, reads=reads))
        # Most homes never need Casbin, which takes 60 ms and 8 MB to import.
        from orvalho.policies.casbin_engine import CasbinEngine  # noqa: PLC0415
        from orvalho.policies.conditional_engine import ConditionalEngine  # noqa: PLC0415

        casbin = partial(CasbinEngine, model=model)
        return lambda reads: LibraryGuard(
            rules, partial(ConditionalEngine, reads=reads, make=casbin)
        )

    def _group_names(self) -> list[str]:
        directory = self._directory / "groups"
        return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _checked(candidate: _Candidate) -> Checked:
    rules = candidate.reading.rules
    return Checked(
        candidate.reading.files,
        len(rules.rules) if rules else 0,
        tuple(map(str, candidate.problems)),
        tuple(map(str, candidate.reading.warnings)),
        candidate.tests,
    )


def _rows(rules: RuleSet) -> frozenset[str]:
    members = (f"g, {row.member}, {row.group}" for row in rules.memberships)
    return frozenset((*(rule.text for rule in rules.rules), *members))
