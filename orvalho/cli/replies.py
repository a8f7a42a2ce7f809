"""Replies as plain JSON values: the other view of the same Struct."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def plain(reply: msgspec.Struct) -> dict[str, Any]:
    """The reply's fields, without its tag. Raw JSON inside becomes what it says."""
    fields: dict[str, Any] = json.loads(msgspec.json.encode(reply))
    fields.pop("type", None)
    if isinstance(error := fields.get("error"), dict):
        error.pop("type", None)
    return fields
