"""The Noise handshake against published vectors, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from orvalho.errors import Untrusted
from orvalho.peers.noise import CipherState, HandshakeState

VECTORS = json.loads((Path(__file__).parent / "noise_vectors.json").read_text())


def sides(vector: dict[str, Any]) -> tuple[HandshakeState, HandshakeState]:
    def side(name: str) -> HandshakeState:
        return HandshakeState(
            prologue=bytes.fromhex(vector["prologue"]),
            static=bytes.fromhex(vector[f"{name}_static"]),
            ephemeral=bytes.fromhex(vector[f"{name}_ephemeral"]),
            initiator=name == "init",
        )

    return side("init"), side("resp")


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_every_message_is_the_published_one(vector: dict[str, Any]) -> None:
    writer, reader = init, resp = sides(vector)
    messages = [(bytes.fromhex(m["payload"]), m["ciphertext"]) for m in vector["messages"]]
    for payload, ciphertext in messages[:3]:
        said = writer.write_message(lambda _, payload=payload: payload)
        assert said.hex() == ciphertext
        assert reader.read_message(said)[0] == payload
        writer, reader = reader, writer

    assert init.is_complete and resp.is_complete
    assert init.hash == resp.hash
    assert init.hash.hex() == vector.get("handshake_hash", init.hash.hex())
    ciphers = {
        "init": (init.split()[0], resp.split()[1]),
        "resp": (resp.split()[0], init.split()[1]),
    }
    for message in vector["messages"][3:]:
        near, far = ciphers[message["sender"]]
        sealed = near.encrypt_with_ad(b"", bytes.fromhex(message["payload"]))
        assert sealed.hex() == message["ciphertext"]
        assert far.decrypt_with_ad(b"", sealed).hex() == message["payload"]


def test_both_sides_hash_alike_before_a_payload() -> None:
    init, resp = sides(VECTORS[0])
    seen: list[bytes] = []

    def payload(transcript: bytes) -> bytes:
        seen.append(transcript)
        return b""

    resp.read_message(init.write_message(payload))
    _, before = init.read_message(resp.write_message(payload))
    assert before == seen[1]


def test_a_key_of_low_order_is_refused() -> None:
    _, resp = sides(VECTORS[0])
    resp.read_message(bytes(32))
    with pytest.raises(Untrusted, match="unusable key"):
        resp.write_message(lambda _: b"")


def test_rekey_moves_both_sides_to_another_key() -> None:
    near, far, stale = (CipherState(bytes(range(32))) for _ in range(3))
    near.rekey()
    far.rekey()
    sealed = near.encrypt_with_ad(b"", b"hello")
    assert far.decrypt_with_ad(b"", sealed) == b"hello"
    with pytest.raises(Untrusted):
        stale.decrypt_with_ad(b"", sealed)
