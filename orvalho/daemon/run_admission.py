"""What a script has to pass besides the rules, before anything of it runs."""

from __future__ import annotations

from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_record import Arrival
from orvalho.daemon.run_rights import RunRights
from orvalho.daemon.run_switches import disabled, find_disabled
from orvalho.policies.capability import Grants, parse_capability
from orvalho.runtime.engine import Modules
from orvalho.scripts.signing import VerifiedScript


def rights_of(script: VerifiedScript) -> RunRights:
    """What its header declares, less what its sender denied it."""
    declared = Grants((*script.needs, *script.wants))
    return RunRights(declared, map(parse_capability, script.call.denies))


async def admit_beyond_rules(house: House, arrival: Arrival, gate: RunGate) -> None:
    """Once the rules have allowed it to run, and `gate` knows so: no words that its context has
    switched off, and the broker's leave.

    Raises:
        Denied: one of them says no.
    """
    script, call = arrival.script, arrival.script.call
    first = gate.made()[0]
    action, object_ = first.request.action, first.request.object
    context = call.target.context
    modules = Modules(script.modules)
    found = await find_disabled(house, context, script.script, script.needs, modules)
    if found:
        error = disabled(found, call.filename, f"{context}@{house.name}")
        raise gate.refuse("disabled", action, object_, error)
    await gate.require_broker(action, object_, first.decision)
