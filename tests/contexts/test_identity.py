"""Keys: derivation against the RFC, signatures bound to a purpose, a seed nobody else may read."""

from __future__ import annotations

import os
import pickle
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.identity import (
    Identity,
    Key,
    Signer,
    certify,
    check_certificate,
    hkdf_sha256,
    key_text,
    parse_key,
    read_phrase,
    verify,
    verify_raw,
)
from orvalho.errors import Conflict, InvalidInput, NotFound, Untrusted

# RFC 5869, appendix A.1 to A.3: secret, salt, info, output.
RFC_5869 = [
    (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "info", "expected"), RFC_5869)
def test_hkdf_gives_the_vectors_of_the_rfc(secret, salt, info, expected):
    output = bytes.fromhex(expected)

    assert hkdf_sha256(secret, salt=salt, info=info, size_bytes=len(output)) == output


def test_a_signature_of_the_rfc_holds():
    # RFC 8032, section 7.1, test 1.
    signer = Signer(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )

    assert signer.key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign_raw(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974")


def test_a_loaded_identity_has_the_keys_that_were_created(tmp_path):
    created = Identity.create(tmp_path / "keys")
    loaded = Identity.load(tmp_path / "keys")

    assert stat.S_IMODE((tmp_path / "keys" / "seed").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert [each.name for each in (tmp_path / "keys").iterdir()] == ["seed"]
    assert loaded.node.key == created.node.key
    assert loaded.owner.key == created.owner.key
    assert loaded.context("gil").key == created.context("gil").key
    assert loaded.noise_static() == created.noise_static()


def test_no_two_derived_keys_are_the_same(tmp_path):
    identity = Identity.create(tmp_path)
    keys = [
        identity.owner.key,
        identity.node.key,
        identity.context("gil").key,
        identity.context("peer").key,
        identity.noise_static(),
    ]

    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_a_second_create_leaves_the_seed_as_it_is(tmp_path):
    identity = Identity.create(tmp_path)

    with pytest.raises(Conflict):
        Identity.create(tmp_path)

    assert Identity.load(tmp_path).node.key == identity.node.key


def test_create_goes_on_where_a_crash_left_half_a_seed(tmp_path):
    (tmp_path / "seed.draft").write_bytes(b"half")

    identity = Identity.create(tmp_path)

    assert Identity.load(tmp_path).node.key == identity.node.key
    assert [each.name for each in tmp_path.iterdir()] == ["seed"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o620, 0o601])
def test_a_seed_that_others_may_use_is_refused(tmp_path, mode):
    Identity.create(tmp_path)
    (tmp_path / "seed").chmod(mode)

    with pytest.raises(Untrusted) as refusal:
        Identity.load(tmp_path)

    assert refusal.value.where == str(tmp_path / "seed")
    assert refusal.value.hint == f"chmod 600 {tmp_path / 'seed'}"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_a_seed_of_somebody_else_is_refused(tmp_path):
    Identity.create(tmp_path)
    os.chown(tmp_path / "seed", 12345, -1)

    with pytest.raises(Untrusted, match="user 12345"):
        Identity.load(tmp_path)


def test_a_seed_that_is_a_link_is_refused(tmp_path):
    Identity.create(tmp_path / "real")
    (tmp_path / "seed").symlink_to(tmp_path / "real" / "seed")

    with pytest.raises(Untrusted):
        Identity.load(tmp_path)


def test_a_seed_that_is_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "seed", 0o600)

    with pytest.raises(Untrusted, match="plain file"):
        Identity.load(tmp_path)


@pytest.mark.parametrize("seed", [b"", b"short", bytes(31), bytes(33)])
def test_a_seed_of_another_size_is_refused(tmp_path, seed):
    (tmp_path / "seed").write_bytes(seed)
    (tmp_path / "seed").chmod(0o600)

    with pytest.raises(Untrusted, match="damaged"):
        Identity.load(tmp_path)


def test_a_node_without_a_seed_is_told_to_make_one(tmp_path):
    with pytest.raises(NotFound) as absence:
        Identity.load(tmp_path)

    assert absence.value.hint == "orvalho init"


def test_a_signature_holds_for_its_purpose_message_and_key_alone():
    signer, other = Signer(b"s" * 32), Signer(b"o" * 32)
    signature = signer.sign(b"orvalho/test/1", b"message")

    verify(signer.key, b"orvalho/test/1", b"message", signature)
    for key, purpose, message, bad in [
        (other.key, b"orvalho/test/1", b"message", signature),
        (signer.key, b"orvalho/test/2", b"message", signature),
        (signer.key, b"orvalho/test/1", b"massage", signature),
        (signer.key, b"orvalho/test/1", b"message", signature[:-1]),
        (signer.key, b"orvalho/test/1", b"message", b""),
        (signer.key, b"orvalho/test/1", b"message", signature + b"\0"),
        (Key(b"short"), b"orvalho/test/1", b"message", signature),
        (Key(bytes(32)), b"orvalho/test/1", b"message", signature),
    ]:
        with pytest.raises(Untrusted):
            verify(key, purpose, message, bad)


def test_a_purpose_cannot_run_into_the_message():
    with pytest.raises(ValueError, match="NUL"):
        Signer(b"s" * 32).sign(b"purpose\0", b"message")


@given(st.integers(0, 511))
def test_a_signature_with_one_bit_flipped_does_not_hold(bit):
    signer = Signer(b"s" * 32)
    signature = bytearray(signer.sign_raw(b"message"))
    signature[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Untrusted):
        verify_raw(signer.key, b"message", bytes(signature))


def test_a_key_of_small_order_signs_for_nobody():
    # With the identity point as a key, R = identity and s = 0 fit every message in plain Ed25519.
    identity_point = b"\x01" + bytes(31)

    with pytest.raises(Untrusted):
        verify_raw(Key(identity_point), b"anything", identity_point + bytes(32))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_reads_back_as_it_was_printed(raw):
    assert parse_key(key_text(Key(raw))) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ed25519:" + "A" * 42,
        "ed25519:" + "A" * 44,
        "ed25519:" + "A" * 42 + "B",  # the same 32 bytes, other unused bits
        "ed25519:" + "A" * 43 + "=",
        "ed25519:" + "A" * 42 + "\n",
        "ed25519:" + "A" * 42 + "é",
        "ED25519:" + "A" * 43,
        "A" * 43,
        " ed25519:" + "A" * 43,
    ],
)
def test_a_key_has_one_text(text):
    with pytest.raises(InvalidInput):
        parse_key(text)


def test_a_private_key_is_neither_printed_nor_pickled():
    signer = Signer(b"s" * 32)

    assert repr(signer) == f"Signer({key_text(signer.key)})"
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def test_a_certificate_says_what_its_signer_said():
    node, context = Signer(b"n" * 32), Signer(b"c" * 32)

    blob = certify(node, "context", "gil", context.key, now=1234.5)
    certificate = check_certificate(blob, node.key, "context")

    assert (certificate.name, certificate.key) == ("gil", context.key)
    assert certificate.issued_at == 1234.5


def test_a_certificate_by_another_of_another_kind_or_changed_is_refused():
    node, context = Signer(b"n" * 32), Signer(b"c" * 32)
    blob = certify(node, "context", "gil", context.key, now=0.0)

    with pytest.raises(Untrusted):
        check_certificate(blob, context.key, "context")
    with pytest.raises(Untrusted, match="not one of a node"):
        check_certificate(blob, node.key, "node")
    for place in range(len(blob)):
        flipped = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises(Untrusted):
            check_certificate(flipped, node.key, "context")
        with pytest.raises(Untrusted):
            check_certificate(blob[:place], node.key, "context")


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"x" * 2000, b"\x84\xa4kind\xa3foo"]
)
def test_a_well_signed_certificate_of_nonsense_is_refused(body):
    node = Signer(b"n" * 32)

    with pytest.raises(Untrusted):
        check_certificate(node.sign(b"orvalho/certificate/1", body) + body, node.key, "node")


def test_the_phrase_of_a_node_gives_the_same_keys_again(tmp_path):
    identity = Identity.create(tmp_path / "a")
    seed, rotation = read_phrase(identity.phrase())
    again = Identity.create(tmp_path / "b", seed, (0.0,) * rotation)

    assert (again.owner.key, again.node.key) == (identity.owner.key, identity.node.key)
    assert again.noise_static() == identity.noise_static()
    assert again.context("peer").key == identity.context("peer").key
    assert Identity.load(tmp_path / "b").node.key == identity.node.key


def test_a_rotation_changes_the_node_key_and_nothing_else(tmp_path):
    first = Identity.create(tmp_path / "a")
    second = first.rotated(tmp_path / "a", 5.0)

    assert second.node.key != first.node.key
    assert second.noise_static() != first.noise_static()
    assert second.owner.key == first.owner.key
    assert second.context("peer").key == first.context("peer").key
    assert second.node_of(0).key == first.node.key
    assert Identity.load(tmp_path / "a").node.key == second.node.key
    assert (tmp_path / "a/rotation").stat().st_mode & 0o777 == 0o600

    seed, rotation = read_phrase(second.phrase())
    assert rotation == 1
    assert Identity(seed, (0.0,) * rotation).node.key == second.node.key


def test_a_rotation_that_is_cut_short_leaves_the_old_key(tmp_path):
    first = Identity.create(tmp_path)
    # What a loss of power leaves at worst: the draft, half written.
    (tmp_path / "rotation.draft").write_bytes(b"[17000")

    assert Identity.load(tmp_path).node.key == first.node.key
    assert (
        first.rotated(tmp_path, 5.0).node.key == Identity.load(tmp_path).node.key != first.node.key
    )


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'["x"]'])
def test_a_damaged_list_of_rotations_is_told(tmp_path, content):
    Identity.create(tmp_path)
    (tmp_path / "rotation").write_bytes(content)

    with pytest.raises(Untrusted, match="rotations is damaged"):
        Identity.load(tmp_path)


def test_an_absurd_number_behind_the_phrase_is_told():
    with pytest.raises(InvalidInput, match="at most 10000"):
        read_phrase("zoo " * 23 + "vote 99999")
