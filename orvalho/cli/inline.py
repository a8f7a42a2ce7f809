"""Code that is typed rather than kept in a file: it asks for all that the rules may give."""

from __future__ import annotations

from typing import Final

_WANTS: Final = (
    *(
        f"{side}.{action}"
        for side in ("target", "caller")
        for action in ("fs.read:/**", "fs.write:/**", "fs.remove:/**", "kv.read:**", "kv.write:**")
    ),
    "target.node.read:/",
)

# `wants`, not `needs`: what the rules refuse throws when it is called, and nothing else is lost.
HEADER: Final = f"""\
// /// orvalho
// wants = [{", ".join(f'"{want}"' for want in _WANTS)}]
// ///
"""


def inline_source(code: str) -> str:
    """A bare script: the value of its last expression is its result. The header stands behind the
    code, so that errors name the lines that were typed."""
    return f"{code}\n{HEADER}"
