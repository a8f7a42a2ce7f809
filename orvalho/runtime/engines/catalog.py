"""Which engine runs which language. An engine is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from orvalho.errors import NotFound
from orvalho.runtime.engine import Engine

_ENGINES: Final = {"javascript": ("orvalho.runtime.engines.v8.engine", "V8Engine")}


def make_engine(language: str) -> Engine:
    """Raises:
    NotFound: nothing here runs that language.
    """
    found = _ENGINES.get(language)
    if found is None:
        raise NotFound(
            f'there is no engine for "{language}"', hint=f"there is one for {', '.join(_ENGINES)}"
        )
    module, name = found
    return cast("Engine", getattr(import_module(module), name)())
