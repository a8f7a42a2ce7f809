"""The text of the prelude and, as one string, of the parts that are evaluated on first use."""

from __future__ import annotations

import json
from importlib import resources
from typing import Final

from orvalho.runtime.web import scope

# Between the parts. No source file has such a character.
_SEPARATOR: Final = "\0"
# A turn's records are bounded by the run's limits, and by this for all that those do not name.
_MOST_CHARACTERS: Final = 96 << 20
_OWN: Final = ("errors.js", "modules.js", "switches.js")


def _read(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text(encoding="utf-8")


def _compact(text: str) -> str:
    """Without comments and indentation: V8 reads each character again for each run."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _files() -> dict[str, str]:
    names = sorted({*scope.GLOBALS.values(), *scope.PARTS.values()})
    end = "\n//# sourceURL=orvalho:prelude"
    texts = {name: _compact(scope.source(name)) + end for name in names}
    own = {name: _compact(_read(name)) + end for name in _OWN}
    return {**own, **texts}


def _prelude(files: dict[str, str]) -> bytes:
    order = list(files)
    parts = {
        "stack": "errors.js",
        "threw": "errors.js",
        "link": "modules.js",
        "switch": "switches.js",
        **scope.GLOBALS,
        **scope.PARTS,
    }
    numbers = {name: order.index(file) for name, file in parts.items()}
    names = json.dumps(list(scope.GLOBALS))
    text = (
        "((PARTS, GLOBALS, MOST_CHARACTERS) =>"
        f"{_compact(_read('prelude.js'))})"
        f"({json.dumps({'__proto__': None, **numbers})},{names},{_MOST_CHARACTERS})"
        "\n//# sourceURL=orvalho:prelude"
    )
    return text.encode()


_FILES: Final = _files()
PRELUDE: Final = _prelude(_FILES)
SOURCES: Final = _SEPARATOR.join(_FILES.values()).encode()
