"""Addresses as people type them."""

from __future__ import annotations

import pytest

from orvalho.daemon.addresses import dialable
from orvalho.errors import InvalidInput


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("192.168.1.20", "ws://192.168.1.20:4455"),
        ("192.168.1.20:4460", "ws://192.168.1.20:4460"),
        ("laptop.local", "ws://laptop.local:4455"),
        ("fd00::20", "ws://[fd00::20]:4455"),
        ("[fd00::20]:4460", "ws://[fd00::20]:4460"),
        ("wss://laptop.example/orvalho", "wss://laptop.example/orvalho"),
        ("ws://127.0.0.1:7405", "ws://127.0.0.1:7405"),
    ],
)
def test_what_a_person_types_becomes_a_url(typed: str, meant: str) -> None:
    assert dialable(typed) == meant


@pytest.mark.parametrize("typed", ["", ":4455", "host:port", "host:99999", "ws://", "[::1"])
def test_what_is_no_address_is_told(typed: str) -> None:
    with pytest.raises(InvalidInput, match="is no address"):
        dialable(typed)
