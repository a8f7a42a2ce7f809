"""Casbin behind the seam, for an owner who changed model.conf (the only import of casbin)."""

from __future__ import annotations

import ast
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import casbin
from casbin.model import Model

from orvalho.errors import InvalidInput
from orvalho.policies.access import ANY, AccessRequest, Decision, Rule, Subject
from orvalho.policies.globs import Glob, compile_glob
from orvalho.policies.rule_set import RuleSet

_REQUEST: Final = ["r_sub", "r_dom", "r_act", "r_obj"]
_POLICY: Final = ["p_sub", "p_dom", "p_act", "p_obj", "p_eft"]
_DENY_WINS: Final = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
_SUBJECTS: Final = 64
_TRIES: Final = 16


class CasbinEngine:
    """A PolicyEngine with any model of the shipped definitions. Each decision reads every rule, at
    about 4 us a rule.

    Casbin's enforcers share state in hidden places, and one that is asked about many subjects grows
    with each. So there is one a subject, the newest few are kept, and one thread at a time asks.
    """

    def __init__(self, rules: RuleSet, model: str) -> None:
        """Raises:
        InvalidInput: Casbin cannot use the model, for a reason that it would else tell only in
            the midst of a decision.
        """
        self._rules = rules
        self._model = model
        self._globs: dict[str, Glob] = {r.object: compile_glob(r.object) for r in rules.rules}
        # Under two conditions, the same words may stand there twice: the first is cited.
        self._by_fields = {rule.fields: rule for rule in reversed(rules.rules)}
        self._enforcers: OrderedDict[tuple[str, frozenset[str]], Any] = OrderedDict()
        self._lock = threading.Lock()
        _try_out(model, rules.rules)
        ordered = rules.rules
        if _parse(model)["e"]["e"].value == _DENY_WINS:
            # Here the order decides nothing but the rule that Casbin names: the first deny, or
            # the last allow that it sees. Turned around, that is the first one of the files.
            denies = (rule for rule in rules.rules if rule.effect == "deny")
            allows = (rule for rule in reversed(rules.rules) if rule.effect == "allow")
            ordered = (*denies, *allows)
        self._rows = [list(rule.fields) for rule in ordered]

    def decide(self, request: AccessRequest) -> Decision:
        if not self._rows:
            # Casbin would try the matcher on a rule of empty words, and some matchers like that.
            return Decision(False)
        asked = (request.subject.key, request.context, request.action, request.object)
        with self._lock:
            try:
                allowed, row = self._enforcer(request.subject).enforce_ex(*asked)
            except Exception:  # noqa: BLE001 -- an owner's matcher may fail in any way: it denies
                return Decision(False)
        return Decision(allowed is True, self._rule(row))

    def _rule(self, row: list[str]) -> Rule | None:
        return self._by_fields.get((row[0], row[1], row[2], row[3], row[4])) if row else None

    def _enforcer(self, subject: Subject) -> Any:
        key = (subject.key, subject.names)
        enforcer = self._enforcers.get(key)
        if enforcer is None:
            # All its groups at once: Casbin follows a group in a group ten deep and no further.
            words = self._rules.words(subject)
            rows = [[subject.key, word] for word in sorted(words) if word != subject.key]
            enforcer = _enforcer(self._model, self._rows, rows, self._globs)
            self._enforcers[key] = enforcer
            if len(self._enforcers) > _SUBJECTS:
                self._enforcers.popitem(last=False)
        self._enforcers.move_to_end(key)
        return enforcer


class _Rows(casbin.persist.Adapter):  # type: ignore[misc]  # casbin has no types
    def __init__(self, policy: list[list[str]], groups: list[list[str]]) -> None:
        self._policy = policy
        self._groups = groups

    def load_policy(self, model: Any) -> None:
        model["p"]["p"].policy = self._policy
        if "g" in model.model:
            model["g"]["g"].policy = self._groups


def _parse(text: str) -> Any:
    model = Model()
    model.load_model_from_text(text)
    return model


def _enforcer(
    text: str, policy: list[list[str]], groups: list[list[str]], globs: dict[str, Glob]
) -> Any:
    enforcer = casbin.Enforcer(_parse(text), _Rows(policy, groups))

    def matches(object_: str, pattern: str) -> bool:
        glob = globs.get(pattern)
        return glob.matches(object_) if glob else compile_glob(pattern).matches(object_)

    enforcer.add_function("resMatch", matches)
    return enforcer


def _try_out(text: str, rules: Sequence[Rule]) -> None:
    """Load the model and let it read every rule: Casbin finds an unknown name, or a pattern that a
    function of its own cannot take, only when it gets there."""
    try:
        model = _parse(text)
        for kind, wanted in (("r", _REQUEST), ("p", _POLICY)):
            if model[kind][kind].tokens != wanted:
                raise ValueError(f"the definition of {kind} must stay {_definition(wanted)}")
        if "eval(" in model["m"]["m"].value:
            raise ValueError("eval() would run the words of rules as code")
        # An effect that is neither allow nor deny settles nothing, so no rule is left out.
        rows = [[*rule.fields[:4], "none"] for rule in rules] or [[ANY, ANY, ANY, "/", "none"]]
        enforcer = _enforcer(text, rows, [["ed25519:", row[0]] for row in rows], {})
        _check_words(enforcer)
        # A pattern matches its own text, so each of these is followed to the matcher's end.
        kinds = {(row[1], row[2]): row[3] for row in rows}
        for (context, action), object_ in sorted(kinds.items())[:_TRIES]:
            enforcer.enforce("ed25519:", context, action, object_)
    except Exception as error:
        raise InvalidInput(
            f"Casbin cannot use this model: {type(error).__name__}: {error}",
            where="model.conf",
            hint="delete model.conf to go back to the shipped one",
        ) from error


def _check_words(enforcer: Any) -> None:
    """Refuse unknown words also where no rule of today leads: behind an `&&` that is false."""
    model = enforcer.get_model()
    functions = enforcer.fm.get_functions()
    known = {*_REQUEST, *_POLICY, *functions, *(model["g"] or ())}
    expression = enforcer._get_expression(model["m"]["m"].value, functions)
    for node in ast.walk(expression.ast_parsed_value):
        if isinstance(node, ast.Name) and node.id not in known:
            raise ValueError(f"the matcher says {node.id}, which is nothing here")


def _definition(tokens: Iterable[str]) -> str:
    return ", ".join(token[2:] for token in tokens)
