"""Receipts: what the target signed, and nothing else."""

from __future__ import annotations

import pytest

from orvalho.errors import Untrusted
from orvalho.policies.quota import Usage
from orvalho.scripts.dsse import seal
from orvalho.scripts.receipts import PAYLOAD_TYPE, Receipt, Tried, open_receipt, sign_receipt
from tests.scripts.scene import NOW, Scene

RECEIPT = Receipt(
    run="r_01",
    script_sha256="00",
    filename="count.js",
    caller="gil@laptop",
    caller_key="ed25519:x",
    target="peer@phone",
    outcome="done",
    error=None,
    tried=(Tried(action="fs.read", object="/photos", allowed=True, rule="policy/peer.csv:3"),),
    usage=Usage(wall_ms=12, host_calls=1),
    result_sha256="11",
    output_sha256=None,
    started_at=NOW,
    ended_at=NOW + 1,
)


def test_a_receipt_reads_as_it_was_written(scene: Scene) -> None:
    signer = scene.phone.context("peer")

    assert open_receipt(sign_receipt(signer, RECEIPT), signer.key) == RECEIPT


def test_a_receipt_that_another_key_signed_is_refused(scene: Scene) -> None:
    forged = sign_receipt(scene.laptop.context("peer"), RECEIPT)

    with pytest.raises(Untrusted, match="another key than the target's"):
        open_receipt(forged, scene.phone.context("peer").key)


def test_a_receipt_that_was_changed_is_refused(scene: Scene) -> None:
    signer = scene.phone.context("peer")
    blob = sign_receipt(signer, RECEIPT)

    for at in range(0, len(blob), 5):
        changed = bytearray(blob)
        changed[at] ^= 1
        with pytest.raises(Untrusted):
            open_receipt(bytes(changed), signer.key)


def test_a_signed_script_is_no_receipt(scene: Scene) -> None:
    with pytest.raises(Untrusted, match="this envelope holds"):
        open_receipt(scene.sign().envelope, scene.laptop.context("gil").key)


def test_a_receipt_without_its_fields_is_refused(scene: Scene) -> None:
    signer = scene.phone.context("peer")

    for payload in (b"{}", b"[]", b"", b"\xff", b'{"run":1}'):
        with pytest.raises(Untrusted):
            open_receipt(seal(signer, PAYLOAD_TYPE, payload), signer.key)
