"""What a guest sees: which file of this directory makes which name, and which names are global.

Nothing is taken away from a guest afterwards, because nothing else is there: the engine's own
built-ins, these names, and no way to load more.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

# A name of the guest's global scope -> the file that makes it.
GLOBALS: Final = {
    "console": "console.js",
    "setTimeout": "timers.js",
    "setInterval": "timers.js",
    "clearTimeout": "timers.js",
    "clearInterval": "timers.js",
    "queueMicrotask": "timers.js",
    "TextEncoder": "encoding.js",
    "TextDecoder": "encoding.js",
    "atob": "encoding.js",
    "btoa": "encoding.js",
    "crypto": "crypto.js",
    "Date": "clock.js",
    "Intl": "intl.js",
}
# What the engine asks for by these names, and no guest sees by them.
PARTS: Final = {
    "write": "console.js",
    "format": "console.js",
    "tick": "timers.js",
    "now": "clock.js",
    "random": "crypto.js",
    "temporal": "temporal.js",
    "settle": "contexts.js",
    "caller.fs": "contexts.js",
    "target.fs": "contexts.js",
    "target.kv": "contexts.js",
    "target.docs": "contexts.js",
    "target.node": "contexts.js",
    "target.rights": "contexts.js",
}


@cache
def source(file: str) -> str:
    """The text of one of them: a function of the engine's kit and of the run's settings, which
    answers an object with its parts."""
    return resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
