"""What every message on the control socket is: a Struct, tagged by its own name."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Tagged by its own name in snake case, with dots: `ScriptSend` is `script.send`."""


def tag(name: str) -> str:
    words = "".join("." + c.lower() if c.isupper() else c for c in name)
    return words.lstrip(".")
