"""How a run ended, in the words of errors: from what the engine says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orvalho.daemon.run_gate import RunGate
from orvalho.errors import Denied, LimitExceeded, OrvalhoError, ScriptFailed, Unavailable
from orvalho.policies.quota import Usage
from orvalho.runtime.job import Ended

_NO_USAGE: Final = Usage()
# How a script asks for more of a limit, by the limit's name.
_ASKED_BY: Final = {
    "wall": 'timeout = "1m"',
    "cpu": 'cpu = "20s"',
    "memory": 'memory = "128MB"',
    "output": 'output = "2MB"',
    "host_calls": "host_calls = 20000",
    "network": 'network = "512MB"',
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, in the words of errors. `error` is None when it is done."""

    outcome: str
    error: OrvalhoError | None = None
    usage: Usage = _NO_USAGE
    result: bytes | None = None
    is_bytes: bool = False
    plan: bytes | None = None

    @classmethod
    def of(cls, ended: Ended, gate: RunGate | None) -> Ending:
        """What the engine says. A run that was lost with this daemon ends as cancelled."""
        outcome = "cancelled" if ended.outcome == "lost" else ended.outcome
        return cls(outcome, _error_of(ended, gate), ended.usage, ended.result, ended.is_bytes)


INTERRUPTED: Final = ScriptFailed(
    "the target node stopped while the script was running; what it had done until then stays",
    hint="look at what it did, and send it again if that is right",
)
BROKEN: Final = Unavailable(
    "the target node broke over this script; its log says why", hint="tell its owner"
)
CANCELLED: Final = ScriptFailed("the run was cancelled")


def _error_of(ended: Ended, gate: RunGate | None) -> OrvalhoError | None:
    if ended.outcome == "done":
        return None
    if ended.outcome == "limited":
        return LimitExceeded(
            f"{ended.limit}: the run used up its limit",
            hint=f"ask for more in its header: {_ASKED_BY.get(ended.limit or '', 'limits')}",
        )
    if ended.outcome in ("cancelled", "lost"):
        return CANCELLED
    if ended.is_lost:
        return Unavailable(
            f"the run was lost: {ended.error_message}", hint="send it again, if that is right"
        )
    if ended.error_name == "Unavailable":
        # What a call of the script reached for is away; the run itself is well.
        is_begun = gate is not None and gate.has_begun
        return Unavailable(
            f"a call of the script failed: {ended.error_message}",
            hint="look at what it did elsewhere, and send it again once that is there"
            if is_begun
            else "nothing was changed: send it again once that is there",
            detail=ended.error_stack or None,
        )
    denied = gate.refusal_behind(ended.error_message or "") if gate else None
    if denied is not None and ended.error_name == "Denied":
        return Denied(
            denied.message,
            where=denied.where,
            rule=denied.rule,
            hint=denied.hint,
            detail=ended.error_stack or None,
        )
    exceeded = gate.exceeded_behind(ended.error_message or "") if gate else None
    if exceeded is not None and ended.error_name == "LimitExceeded":
        # A limit ended a call, and the guest let it through: no failure of its own.
        return LimitExceeded(
            exceeded.message,
            where=exceeded.where,
            hint=exceeded.hint,
            detail=ended.error_stack or None,
        )
    name = ended.error_name or "Error"
    return ScriptFailed(f"{name}: {ended.error_message}", detail=ended.error_stack or None)
