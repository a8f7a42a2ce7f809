"""What is said of a context's schemas where it is said to the owner."""

from __future__ import annotations

from anyio import Path as AsyncPath

from orvalho.contexts.bindings import FOLDER
from orvalho.daemon.house import House


async def schema_problems(house: House) -> list[str]:
    """What the owner should mend, a line each. A context without schemas is not opened for it."""
    found = []
    for context in house.contexts.list():
        if await AsyncPath(house.home.contexts / context.name / FOLDER[1:]).is_dir():
            bindings = await context.schemas.current()
            found += [f"{context.name}:/{text}" for text in bindings.problems]
    return found
