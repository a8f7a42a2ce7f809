"""`--do target.fs.write --on peer:/x`: what a question without a run is about."""

from __future__ import annotations

from typing import Final

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.names import near_miss, parse_address
from orvalho.errors import InvalidInput
from orvalho.policies.access import ACTIONS, object_mistake

# What is meant where no object is given.
_WHOLE: Final = {
    "script.run": "*",
    "node.read": "/",
    "lib.list": "*",
    "lib.get": "*",
    "lib.call": "*",
}


def read_question(who: str, do: str, on: str) -> tuple[str, str, str]:
    """Action, context and object. `on` is `context:object`; for `script.send`, where to.

    Raises:
        InvalidInput: there is no such action, or it cannot be done to that.
    """
    action = do.removeprefix("target.")
    if action not in ACTIONS:
        near = near_miss(action, ACTIONS)
        raise InvalidInput(
            f"there is no action {action[:60]!a}" + (f', did you mean "{near}"?' if near else ""),
            hint=f"one of {', '.join(ACTIONS)}",
        )
    if action == "script.send":
        return action, _sender(who), on
    context, colon, object_ = on.partition(":")
    if not colon:
        if action not in _WHOLE:
            raise InvalidInput(
                f"{action} is done to something: --on {context or 'peer'}:OBJECT",
                hint="orvalho why --who gil@laptop --do fs.write --on peer:/notes",
            )
        object_ = _WHOLE[action]
    if action.startswith("fs.") and "*" not in object_:
        object_ = virtual_path(object_)
    if not object_ or (mistake := object_mistake(action, object_)):
        raise InvalidInput(f"{on[:200]!a}: {mistake if object_ else 'its object is missing'}")
    return action, context, object_


def _sender(who: str) -> str:
    """The context that would send: rules about it name that."""
    context = parse_address(who).context if not who.startswith(("@", "*", "ed25519:")) else None
    if context is None:
        raise InvalidInput(
            "script.send is asked of one of our contexts: --who peer@laptop",
            hint="orvalho ctx ls",
        )
    return context
