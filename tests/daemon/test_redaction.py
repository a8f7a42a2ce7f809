"""What a report leaves out: every key in every form, every name, every address."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import Key, key_text
from orvalho.daemon.redaction import Redactor, encodings

KEY = Key(bytes(range(32)))


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "x=", '"', "ws://"]))
def test_a_key_is_taken_out_in_every_form(raw: bytes, before: str) -> None:
    redactor = Redactor()
    redactor.know_key("key", raw)
    key = Key(raw)
    forms = {
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        base64.b32encode(raw).decode(),
        base64.b32encode(raw).decode().lower(),
        device_id(key),
        key_text(key),
    }
    assert forms <= {
        *encodings(raw),
        *(each.upper() for each in encodings(raw)),
        *(each.lower() for each in encodings(raw)),
    }
    for form in forms:
        assert form not in redactor.text(f"{before}{form} and more"), form


def test_a_key_that_nobody_told_of_is_taken_out_too() -> None:
    text = Redactor().text(f"strange {key_text(KEY)}, {KEY.hex()} and orvalho1:{KEY.hex()}")
    assert text == "strange key-1, token-2 and token-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ws://192.168.1.20:4455 refused", "ws://addr-1:4455 refused"),
        ("from 10.0.0.7, again 10.0.0.7", "from addr-1, again addr-1"),
        ("wss://home.example.org/x", "wss://addr-1/x"),
        ("[2001:db8::7]:4455", "[addr-1]:4455"),
        ("fe80::1 is link-local.", "addr-1 is link-local."),
        ("at 02:42:ac:11:00:02", "at addr-1"),
        ("ws://127.0.0.1:4455 and ::1", "ws://127.0.0.1:4455 and ::1"),
        ("12:00:01 version 0.1.0, 3.11.7", "12:00:01 version 0.1.0, 3.11.7"),
    ],
)
def test_addresses_are_taken_out_and_times_are_not(text: str, expected: str) -> None:
    assert Redactor().text(text) == expected


def test_the_same_thing_is_always_the_same_placeholder() -> None:
    redactor = Redactor()
    redactor.know("node", "phone2")
    redactor.know("ctx", "peer")
    assert (
        redactor.text("peer@phone2 and PHONE2-old; phone23")
        == "ctx-1@node-1 and node-1-old; phone23"
    )
    assert redactor.value({"peer": ["phone2", 3]}) == {"peer": ["node-1", 3]}
    assert redactor.counts == {"node": 3, "ctx": 1}
