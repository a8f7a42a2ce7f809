"""Runs as the control socket tells them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from orvalho.control import messages as control
from orvalho.control import planning
from orvalho.errors import OrvalhoError
from orvalho.policies.quota import Usage
from orvalho.scripts.messages import ScriptEnded, ScriptError
from orvalho.scripts.plan import decode_plan
from orvalho.scripts.runs import Run


def run_state(run: Run) -> control.RunState:
    return control.RunState(
        run=run.id,
        direction=run.direction,
        caller=run.caller,
        target=run.target,
        filename=run.filename,
        digest=run.digest,
        state=run.state,
        outcome=run.outcome,
        created_at=run.created_at,
        ended_at=run.ended_at,
        wall_ms=run.usage.wall_ms if run.state == "ended" else None,
    )


@dataclass(frozen=True, slots=True)
class RunOver:
    """How a run ended, and how many lines it wrote: whoever has seen fewer can read the rest."""

    reply: control.RunEnded
    lines: int


RunEvent = control.RunOutput | control.RunHeld | RunOver


def run_over(ended: ScriptEnded, usage: Usage | None, *, peer: str) -> RunOver:
    return RunOver(ended_reply(ended, usage, peer=peer), len(ended.logs))


def ended_reply(ended: ScriptEnded, usage: Usage | None, *, peer: str) -> control.RunEnded:
    is_json = ended.result is not None and not ended.is_bytes
    return control.RunEnded(
        run=ended.run,
        outcome=ended.outcome,
        result=msgspec.Raw(ended.result if is_json and ended.result else b"null"),
        result_bytes=ended.result if ended.is_bytes else None,
        error=failed(ended.error, peer=peer) if ended.error else None,
        plan=shown_plan(ended.plan) if ended.plan is not None else None,
        usage=control.Usage(**msgspec.structs.asdict(usage or Usage())),
    )


def shown_plan(plan: bytes) -> planning.PlanState:
    """Raises:
    Untrusted: it is none.
    """
    return msgspec.convert(msgspec.to_builtins(decode_plan(plan)), planning.PlanState)


def is_json_line(raw: bytes) -> bool:
    """Whether it is one JSON value on one line, as it may stand in a reply."""
    try:
        raw.decode()
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return b"\n" not in raw


def failed(error: ScriptError, *, peer: str | None = None) -> control.Failed:
    return control.Failed(
        code=error.code,
        message=error.message,
        where=error.where,
        rule=error.rule,
        hint=error.hint,
        peer=error.peer or peer,
        detail=error.detail,
    )


def script_error(error: OrvalhoError) -> ScriptError:
    """An error as it travels, and as it is kept with its run."""
    return ScriptError(**error.parts())


def digest_of(content: bytes | None) -> str | None:
    """SHA-256, 64 hex digits; None of nothing."""
    return None if content is None else hashlib.sha256(content).hexdigest()
