"""The bodies that travel between daemons about a run, in msgpack. Fields that a newer peer adds
are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from orvalho.errors import InvalidInput


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    pass


class RunScript(_Body, frozen=True, kw_only=True):
    """Run this. `envelope` is what `sign_script` made, `source` the script it is about, or
    `module` when that is a WebAssembly module, `params` one JSON value, `modules` its ES modules by
    path. `held`: path -> digest of what the target has said it holds and what therefore is left
    out; the script itself has the path "". `grants`: tokens by which it asks for what the target's
    rules do not allow."""

    envelope: bytes
    source: str
    params: bytes
    module: bytes = b""
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    held: dict[str, str] = msgspec.field(default_factory=dict)
    grants: tuple[bytes, ...] = ()

    @property
    def script(self) -> str | bytes:
        """The source, whichever it is."""
        return self.module or self.source


def run_script(
    envelope: bytes,
    source: str | bytes,
    params: bytes,
    modules: Mapping[str, str] | None = None,
    grants: tuple[bytes, ...] = (),
) -> RunScript:
    """The message for a source of either kind."""
    if isinstance(source, str):
        return RunScript(
            envelope=envelope,
            source=source,
            params=params,
            modules=dict(modules or {}),
            grants=grants,
        )
    return RunScript(envelope=envelope, source="", module=source, params=params, grants=grants)


class ScriptOutput(_Body, frozen=True, kw_only=True):
    """One line of the guest's, as it comes. `level`: debug, log, info, warn, error. Lines may be
    lost with a link; `ScriptEnded` brings them all."""

    run: str
    seq: int
    level: str
    text: str
    at: float


class ScriptError(_Body, frozen=True, kw_only=True):
    """An `orvalho.errors` class by its `code`."""

    code: str
    message: str
    where: str | None = None
    rule: str | None = None
    hint: str | None = None
    peer: str | None = None
    detail: str | None = None


class ScriptEnded(_Body, frozen=True, kw_only=True):
    """How it ended. `outcome`: done, failed, refused, limited, cancelled, interrupted, expired,
    planned (`plan` says what it would have done), rejected (by the target's owner).
    `result` is JSON, or the bytes themselves when `is_bytes`; `receipt` is what `sign_receipt`
    made; `logs` are all its lines; `held` the digests of large sources that the target now has."""

    run: str
    outcome: str
    result: bytes | None = None
    is_bytes: bool = False
    error: ScriptError | None = None
    receipt: bytes | None = None
    logs: tuple[ScriptOutput, ...] = ()
    held: tuple[str, ...] = ()
    plan: bytes | None = None


class ScriptHeld(_Body, frozen=True, kw_only=True):
    """The target's owner looks at it before anything comes of it. `logs`: what it has written."""

    run: str
    logs: tuple[ScriptOutput, ...] = ()


class AskSource(_Body, frozen=True, kw_only=True):
    """The part from `offset` of a source that was left out, and is not here after all."""

    digest: str
    offset: int = 0


class SourcePart(_Body, frozen=True, kw_only=True):
    """`size_bytes` is that of the whole; `is_bytes`: it is no text."""

    size_bytes: int
    is_bytes: bool
    content: bytes


class CancelScript(_Body, frozen=True, kw_only=True):
    """Stop this run, if it has not ended."""

    run: str


class CallerCall(_Body, frozen=True, kw_only=True):
    """A running script asks its caller. `op` is `caller.fs.read` and the like; `argument` the
    JSON list of the call's arguments; `call` numbers the calls of one run. `most_bytes`: how large
    an answer the run may still move (None: any)."""

    run: str
    call: int
    op: str
    argument: str
    most_bytes: int | None = None


class CallerReply(_Body, frozen=True, kw_only=True):
    """The answer to the call of that number: JSON, or an error. `wanted_bytes`: how large it would
    have been, where that was more than the run may move."""

    run: str
    call: int
    value: str | None = None
    error: ScriptError | None = None
    wanted_bytes: int = 0


B = TypeVar("B", bound=_Body)


def encode(body: _Body) -> bytes:
    return msgspec.msgpack.encode(body)


def decode(raw: bytes, kind: type[B]) -> B:
    """Raises:
    InvalidInput: it is not a body of that kind.
    """
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is no {kind.__name__}: {error}") from error
