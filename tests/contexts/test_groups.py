"""Groups: every form of key, and what a mistake in a file does and does not do."""

from __future__ import annotations

import base64
import subprocess

import pytest

from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Signer, key_text

KEY = Signer(b"k" * 32).key
OTHER = Signer(b"o" * 32).key
SPKI = bytes.fromhex("302a300506032b6570032100")
SSH = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"


def pem(der: bytes, kind: str = "PUBLIC") -> str:
    body = base64.b64encode(der).decode()
    return f"-----BEGIN {kind} KEY-----\n{body}\n-----END {kind} KEY-----\n"


def ssh_line(key: bytes, comment: str = "gil@laptop") -> str:
    return f"ssh-ed25519 {base64.b64encode(SSH + key).decode()} {comment}"


FORMS = {
    "text": key_text(KEY),
    "hex": KEY.hex(),
    "hex capitals": KEY.hex().upper(),
    "base64": base64.b64encode(KEY).decode(),
    "base64url": base64.urlsafe_b64encode(KEY).decode(),
    "base64 without padding": base64.b64encode(KEY).rstrip(b"=").decode(),
    "openssh": ssh_line(KEY),
    "openssh without comment": ssh_line(KEY, "").strip(),
    "pem": pem(SPKI + KEY),
    "with comments and blanks": f"# Gil's laptop\n\n  {key_text(KEY)}  \n",
    "windows line ends": key_text(KEY) + "\r\n",
}


@pytest.fixture
def directory(tmp_path):
    groups = tmp_path / "groups"
    (groups / "family").mkdir(parents=True)
    return groups


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_key_is_understood(directory, form):
    (directory / "family" / "gil.pub").write_text(form)
    groups = Groups(directory)

    reload = groups.reload()

    assert reload.problems == ()
    assert groups.members("family") == {KEY}
    assert groups.groups_of(KEY) == {"family"}
    assert reload.changes == (f"@family: + {key_text(KEY)}",)


def test_keys_that_openssl_and_ssh_keygen_make_are_understood(directory, tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True
    )
    private = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519"], check=True, capture_output=True
    ).stdout
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=private, check=True, capture_output=True
    ).stdout
    (directory / "family" / "a.pub").write_bytes((tmp_path / "id.pub").read_bytes())
    (directory / "family" / "b.pub").write_bytes(public)
    groups = Groups(directory)

    assert groups.reload().problems == ()
    assert len(groups.members("family")) == 2


WRONG = {
    "nonsense": ("not a key", "understood"),
    "too short": (base64.b64encode(KEY[:31]).decode(), "31"),
    "rsa": ("ssh-rsa AAAAB3NzaC1yc2E= x", "ssh-rsa keys are not understood"),
    "ssh without key": ("ssh-ed25519", "does not hold"),
    "ssh cut": (f"ssh-ed25519 {base64.b64encode(SSH + KEY[:5]).decode()}", "32 bytes"),
    "private": (pem(SPKI + KEY, "PRIVATE"), "private key"),
    "x25519 pem": (pem(bytes.fromhex("302a300506032b656e032100") + KEY), "Ed25519"),
    "pem without end": ("-----BEGIN PUBLIC KEY-----\nAAAA", "stands between"),
    "key text with a typo": (key_text(KEY)[:-1], "43 characters"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_told_with_its_file_and_line(directory, content, said):
    (directory / "family" / "gil.pub").write_text(f"# comment\n{content}")
    groups = Groups(directory)

    (problem,) = groups.reload().problems

    assert problem.startswith("groups/family/gil.pub:2: ")
    assert said in problem
    assert groups.members("family") == frozenset()


def test_an_empty_file_and_one_that_is_no_text_are_told(directory):
    (directory / "family" / "empty.pub").write_text("# nobody\n")
    (directory / "family" / "noise.pub").write_bytes(b"\xff\xfe\x00")

    problems = Groups(directory).reload().problems

    assert [problem.split(":")[0] for problem in problems] == [
        "groups/family/empty.pub",
        "groups/family/noise.pub",
    ]


def test_a_file_that_broke_keeps_its_members_until_it_is_mended(directory):
    file = directory / "family" / "gil.pub"
    file.write_text(key_text(KEY))
    groups = Groups(directory)
    groups.reload()

    file.write_text(key_text(KEY)[:-3])
    broken = groups.reload()
    assert broken.changes == ()
    assert len(broken.problems) == 1
    assert groups.members("family") == {KEY}

    file.write_text(key_text(OTHER))
    mended = groups.reload()
    assert mended.problems == ()
    assert set(mended.changes) == {
        f"@family: + {key_text(OTHER)}",
        f"@family: - {key_text(KEY)}",
    }


def test_a_removed_file_and_a_removed_group_let_their_members_go(directory):
    (directory / "work").mkdir()
    for group in ("family", "work"):
        (directory / group / "gil.pub").write_text(key_text(KEY))
    groups = Groups(directory)
    groups.reload()
    assert groups.groups_of(KEY) == {"family", "work"}

    (directory / "family" / "gil.pub").unlink()
    (directory / "work" / "gil.pub").unlink()
    (directory / "work").rmdir()
    groups.reload()

    assert groups.groups_of(KEY) == frozenset()
    assert groups.names() == ("family",)


def test_a_directory_that_is_no_label_is_told_and_left_out(directory):
    (directory / "My Family").mkdir()
    (directory / "My Family" / "gil.pub").write_text(key_text(KEY))
    (directory / ".git").mkdir()
    groups = Groups(directory)

    (problem,) = groups.reload().problems

    assert problem.startswith("groups/My Family: ")
    assert groups.names() == ("family",)


def test_without_a_directory_there_are_no_groups(tmp_path):
    groups = Groups(tmp_path / "groups")

    assert groups.reload().problems == ()
    assert groups.groups_of(KEY) == frozenset()
