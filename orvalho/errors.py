"""The error taxonomy: one class for each way a caller can react.

Every error carries four parts: what failed and why (the message), where (`where` or `rule`),
and what to type next (`hint`). `code` never changes once released; `exit_status` is what the
CLI exits with. From another peer an error is the same class with `peer` set.
"""

from __future__ import annotations

from typing import ClassVar, Final, TypedDict


class ErrorParts(TypedDict):
    """An error as fields, with the names and order that every Struct of ours gives them."""

    code: str
    message: str
    where: str | None
    rule: str | None
    hint: str | None
    peer: str | None
    detail: str | None


class OrvalhoError(Exception):
    """The root. Never raised itself: raise one of the eight below.

    Args:
        message: what failed, and why, in one sentence for a person.
        where: `file:line[:column]`, a path, an address or an id; None when the message says it.
        rule: for a refusal, the `file:line` of the policy rule that decided.
        hint: the command or edit that helps.
        peer: the `context@node` or node that raised it, when it was not this one.
        detail: further lines (a guest's stack, each mistake in a file).
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        rule: str | None = None,
        hint: str | None = None,
        peer: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.rule = rule
        self.hint = hint
        self.peer = peer
        self.detail = detail

    def parts(self) -> ErrorParts:
        """All of it, for the Struct that carries it somewhere; `from_code` is the way back."""
        return ErrorParts(
            code=self.code,
            message=self.message,
            where=self.where,
            rule=self.rule,
            hint=self.hint,
            peer=self.peer,
            detail=self.detail,
        )


class InvalidInput(OrvalhoError):
    """The caller must fix what it gave: an argument, a file, a message."""

    code = "invalid-input"
    exit_status = 2


class Denied(OrvalhoError):
    """A rule said no. `rule` is the policy line, or None when no line speaks."""

    code = "denied"
    exit_status = 3


class NotFound(OrvalhoError):
    """There is nothing of that name here."""

    code = "not-found"
    exit_status = 4


class Unavailable(OrvalhoError):
    """It exists but cannot be reached now; later may work."""

    code = "unavailable"
    exit_status = 4


class LimitExceeded(OrvalhoError):
    """A limit or quota ended it. The message starts with the limit's name."""

    code = "limit-exceeded"
    exit_status = 5


class Untrusted(OrvalhoError):
    """A key, signature, certificate or age did not hold."""

    code = "untrusted"
    exit_status = 6


class Conflict(OrvalhoError):
    """It changed meanwhile, or exists already: read again."""

    code = "conflict"
    exit_status = 1


class ScriptFailed(OrvalhoError):
    """The guest's own fault; `detail` holds its stack."""

    code = "script-failed"
    exit_status = 1


_BY_CODE: Final[dict[str, type[OrvalhoError]]] = {
    kind.code: kind
    for kind in (
        InvalidInput,
        Denied,
        NotFound,
        Unavailable,
        LimitExceeded,
        Untrusted,
        Conflict,
        ScriptFailed,
    )
}


def from_code(
    code: str,
    message: str,
    *,
    where: str | None = None,
    rule: str | None = None,
    hint: str | None = None,
    peer: str | None = None,
    detail: str | None = None,
) -> OrvalhoError:
    """The error that `code` names, as it came over a wire; an unknown code becomes Unavailable,
    since a newer peer may know classes that this version does not."""
    kind = _BY_CODE.get(code, Unavailable)
    return kind(message, where=where, rule=rule, hint=hint, peer=peer, detail=detail)
