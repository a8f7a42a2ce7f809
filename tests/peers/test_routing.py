"""Which way to take, and which to look for."""

from __future__ import annotations

from orvalho.peers.routing import Path, choose, rank, wanted

RELAY = "relay://server/phone"
WS, WSS, H2, QUIC = "ws://p:1", "wss://p:2", "h2://p:3", "quic://id@p:4"


def way(transport: str, rtt_s: float | None = 0.1, opened_at: float = 1.0, **more: bool) -> Path:
    return Path("p:1", rtt_s, opened_at, transport, **more)


def test_a_path_says_what_kind_it_is() -> None:
    assert str(Path("127.0.0.1:4455", None, 0.0, "ws")) == "direct 127.0.0.1:4455"
    assert str(Path('"server"', None, 0.0, "relay")) == 'relay "server"'


def test_a_slow_direct_way_is_better_than_a_quick_relay_and_a_quiet_one_is_the_last() -> None:
    paths = [way("ws", 0.01, is_quiet=True), way("relay", 0.01), way("ws", None), way("h2", 2.0)]
    assert rank(paths) == [3, 2, 1, 0]


def test_the_choice_sticks_until_another_is_much_better() -> None:
    assert choose([way("ws", 0.100), way("h2", 0.090)], 0) == 0
    assert choose([way("ws", 0.100), way("h2", 0.070)], 0) == 1
    assert choose([way("ws", 0.0010), way("h2", 0.0002)], 0) == 0
    assert choose([way("ws", 0.100), way("h2", None)], 0) == 0
    assert choose([way("ws", None), way("h2", 0.100)], 0) == 1
    assert choose([way("relay", 0.001), way("h2", None)], 0) == 1
    assert choose([way("ws", 0.001, is_quiet=True), way("h2", 0.5)], 0) == 1
    assert choose([way("ws", 0.100), way("h2", 0.090)], None) == 1


def test_an_unsteady_round_trip_does_not_make_it_flap() -> None:
    current, changes = 0, 0
    for turn in range(100):
        wobble = 0.01 * (turn % 3)
        chosen = choose([way("ws", 0.1 + wobble), way("h2", 0.12 - wobble)], current)
        changes += chosen != current
        current = chosen
    assert changes == 0


def test_direct_addresses_are_dialed_before_relays() -> None:
    assert wanted([RELAY, WS, H2, WS], []) == [WS, H2, RELAY]


def test_beside_a_relay_every_direct_address_is_looked_for() -> None:
    assert wanted([RELAY, WS, H2], [way("relay")]) == [WS, H2]


def test_beside_a_direct_way_one_over_another_transport_is() -> None:
    assert wanted([RELAY, WS, WSS, H2, QUIC], [way("ws")]) == [H2, QUIC]
    assert wanted([RELAY, WS, WSS], [way("ws")]) == []
    assert wanted([WS, H2, QUIC], [way("ws"), way("h2")]) == []
