"""`target.node`, the host's half: what the node says of its machine, if its owner lets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.web.contexts import Gate

# The one object of the action: a node is asked as a whole.
WHOLE: Final = "/"


def node_calls(side: str, facts: Callable[[], Awaitable[bytes]], gate: Gate) -> dict[str, HostCall]:
    """`<side>.node.facts`; `facts` answers them as JSON."""

    async def tell(argument: str) -> str:
        if argument.strip() not in ("[]", "null", ""):
            raise InvalidInput("node.facts takes no arguments")
        gate.decide("node.read", WHOLE)
        told = await facts()
        gate.count(read_bytes=len(told))
        return told.decode()

    return {f"{side}.node.facts": tell}
