"""The bodies that travel between daemons."""

from __future__ import annotations

import msgspec
import pytest

from orvalho.errors import InvalidInput
from orvalho.scripts.messages import (
    CallerCall,
    CallerReply,
    CancelScript,
    RunScript,
    ScriptEnded,
    ScriptError,
    ScriptOutput,
    decode,
    encode,
)

LINE = ScriptOutput(run="r_1", seq=0, level="info", text="é", at=1.5)
BODIES = [
    RunScript(envelope=b"\x00\xff", source="1", params=b"null"),
    LINE,
    ScriptEnded(run="r_1", outcome="done", result=b"\xff", is_bytes=True, logs=(LINE,)),
    ScriptEnded(run="r_1", outcome="failed", error=ScriptError(code="denied", message="no")),
    CancelScript(run="r_1"),
    CallerCall(run="r_1", call=1, op="caller.fs.read", argument="[]"),
    CallerReply(run="r_1", call=1, value="null"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_body_arrives_as_it_was_sent(body: msgspec.Struct) -> None:
    assert decode(encode(body), type(body)) == body  # type: ignore[arg-type, type-var]


def test_fields_of_a_newer_peer_are_ignored() -> None:
    raw = msgspec.msgpack.encode({"run": "r_1", "why": "tired"})

    assert decode(raw, CancelScript) == CancelScript(run="r_1")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc1", b"\x80", b"\x91" * 100_000, encode(BODIES[0])[:-1], b"\x81\xa6source\xa1\xff"],
)
def test_what_is_no_body_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match="this is no RunScript"):
        decode(raw, RunScript)
