"""How a run ended, in the words of errors."""

from __future__ import annotations

from orvalho.daemon.ending import Ending
from orvalho.errors import ScriptFailed, Unavailable
from orvalho.policies.quota import Usage
from orvalho.runtime.job import Ended


def failed(name: str, message: str, *, is_lost: bool = False) -> Ending:
    ended = Ended("failed", Usage(), error_name=name, error_message=message, is_lost=is_lost)
    return Ending.of(ended, None)


def test_a_run_is_lost_only_with_its_worker() -> None:
    lost = failed("Unavailable", "its worker died", is_lost=True).error
    away = failed("Unavailable", "server is not reachable").error
    assert isinstance(lost, Unavailable)
    assert isinstance(away, Unavailable)
    assert lost.message == "the run was lost: its worker died"
    assert away.message == "a call of the script failed: server is not reachable"
    assert away.hint == "nothing was changed: send it again once that is there"
    assert isinstance(failed("Error", "no").error, ScriptFailed)
