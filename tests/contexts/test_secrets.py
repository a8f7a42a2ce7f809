"""Secrets: encrypted at rest, bound to their names, and for whom they are for."""

from __future__ import annotations

import os
import stat

import pyrage
import pytest

from orvalho.contexts.identity import Identity
from orvalho.contexts.secrets import MOST_BYTES, Secrets, _bech32
from orvalho.errors import Denied, InvalidInput, NotFound, Untrusted

VALUE = "AKIAEXAMPLE:wJalrXUtnFEMI-this-is-no-real-key"


@pytest.fixture
def secrets(tmp_path):
    return Secrets(tmp_path / "secrets", Identity(bytes(32)).secrets_key())


def test_a_secret_is_kept_encrypted_for_its_owner_alone(tmp_path, secrets):
    assert secrets.set("photos", VALUE, (), now=7.0)
    file = tmp_path / "secrets/photos.age"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.read_bytes().startswith(b"age-encryption.org/v1\n-> X25519 ")
    for part in (VALUE, *VALUE.split(":")):
        assert part.encode() not in file.read_bytes()
    assert secrets.get("photos", "alice") == VALUE
    assert secrets.entries()[0].set_at == 7.0


def test_the_same_secret_again_changes_nothing(tmp_path, secrets):
    secrets.set("photos", VALUE, (), now=1.0)
    before = (tmp_path / "secrets/photos.age").read_bytes()
    assert not secrets.set("photos", VALUE, (), now=2.0)
    assert (tmp_path / "secrets/photos.age").read_bytes() == before
    assert secrets.set("photos", VALUE, ("alice",), now=3.0)


def test_a_secret_is_for_whom_it_is_for(secrets):
    secrets.set("photos", VALUE, ("alice",), now=1.0)
    assert secrets.get("photos", "alice") == VALUE
    with pytest.raises(Denied) as refused:
        secrets.get("photos", "bob")
    assert VALUE not in str(refused.value)


def test_another_seed_opens_nothing_and_the_same_seed_all(tmp_path, secrets):
    secrets.set("photos", VALUE, (), now=1.0)
    with pytest.raises(Untrusted):
        Secrets(tmp_path / "secrets", Identity(b"x" * 32).secrets_key()).get("photos", "alice")
    again = Identity(bytes(32), rotations=(1.0, 2.0))
    assert Secrets(tmp_path / "secrets", again.secrets_key()).get("photos", "alice") == VALUE


def test_a_file_under_another_name_is_not_that_secret(tmp_path, secrets):
    secrets.set("test", "one", (), now=1.0)
    (tmp_path / "secrets/test.age").rename(tmp_path / "secrets/production.age")
    with pytest.raises(Untrusted):
        secrets.get("production", "alice")
    assert secrets.entries()[0].problem


def test_a_damaged_file_is_told_and_holds_nothing_else_up(tmp_path, secrets):
    secrets.set("good", VALUE, (), now=1.0)
    sealed = (tmp_path / "secrets/good.age").read_bytes()
    for content in (b"", b"junk", sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        (tmp_path / "secrets/bad.age").write_bytes(content)
        with pytest.raises(Untrusted) as refused:
            secrets.get("bad", "alice")
        assert VALUE not in str(refused.value)
    (tmp_path / "secrets/linked.age").symlink_to(tmp_path / "secrets/good.age")
    with pytest.raises(Untrusted):
        secrets.get("linked", "alice")
    assert secrets.get("good", "alice") == VALUE


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "A b", "x" * 64])
def test_a_name_is_a_label(secrets, name):
    for call in (
        lambda: secrets.set(name, "v", (), now=1.0),
        lambda: secrets.get(name, "alice"),
        lambda: secrets.remove(name),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_a_secret_has_a_size(secrets):
    for value in ("", "x" * (MOST_BYTES + 1)):
        with pytest.raises(InvalidInput):
            secrets.set("photos", value, (), now=1.0)


def test_a_secret_that_is_not_there_names_the_nearest(secrets):
    secrets.set("photos", VALUE, (), now=1.0)
    with pytest.raises(NotFound) as missing:
        secrets.get("photo", "alice")
    assert missing.value.hint == "did you mean photos?"
    assert secrets.remove("photos")
    assert not secrets.remove("photos")


def test_keys_are_written_as_age_writes_them():
    for _ in range(200):
        text = _bech32("age-secret-key-", os.urandom(32)).upper()
        assert str(pyrage.x25519.Identity.from_str(text)) == text
