"""Groups: every form of key, and what a mistake in a file does and does not do."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import threading

import pytest

from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Key, Signer, key_text
from orvalho.errors import Conflict, InvalidInput

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


# ---- files that are none, many files, and files that come and go -----------------------------


def test_the_bytes_of_a_key_alone_are_a_key(directory):
    (directory / "family" / "gil.pub").write_bytes(KEY)
    raw = bytes(range(32))
    (directory / "family" / "raw.pub").write_bytes(raw)
    text = b"# nobody is in here, for now...\n"
    assert len(text) == len(KEY) == 32
    (directory / "family" / "note.pub").write_bytes(text)
    groups = Groups(directory)

    problems = groups.reload().problems

    assert problems == ("groups/family/note.pub: holds no key",)
    assert groups.members("family") == {KEY, raw}


def test_a_link_to_a_key_counts_and_one_to_nowhere_is_told(directory, tmp_path):
    (tmp_path / "key").write_text(key_text(KEY))
    (directory / "family" / "a.pub").symlink_to(tmp_path / "key")
    (directory / "family" / "b.pub").symlink_to(tmp_path / "nothing")
    (directory / "family" / "c.pub").symlink_to(directory / "family" / "c.pub")
    (directory / "linked").symlink_to(directory / "family", target_is_directory=True)
    groups = Groups(directory)

    problems = groups.reload().problems

    assert groups.members("family") == groups.members("linked") == {KEY}
    assert "groups/family/b.pub: leads nowhere" in problems
    assert any(each.startswith("groups/family/c.pub: cannot be read") for each in problems)


def test_what_is_no_file_keeps_nobody_waiting(directory):
    os.mkfifo(directory / "family" / "pipe.pub")
    (directory / "family" / "directory.pub").mkdir()
    (directory / "family" / "endless.pub").symlink_to("/dev/zero")
    (directory / "family" / "huge.pub").write_bytes(b"x" * ((1 << 20) + 1))
    (directory / "family" / "good.pub").write_text(key_text(KEY))
    groups = Groups(directory)

    problems = groups.reload().problems

    assert groups.members("family") == {KEY}
    assert [each.split(":")[0].rpartition("/")[2] for each in problems] == [
        "directory.pub",
        "endless.pub",
        "huge.pub",
        "pipe.pub",
    ]


def test_ten_thousand_files_count_each(directory):
    keys = [hashlib.sha256(str(n).encode()).digest() for n in range(10_000)]
    for number, key in enumerate(keys):
        (directory / "family" / f"{number}.pub").write_text(key_text(Key(key)))
    groups = Groups(directory)

    assert groups.reload().problems == ()
    assert groups.members("family") == set(keys)


def test_files_that_come_and_go_meanwhile_harm_nothing(directory):
    (directory / "family" / "always.pub").write_text(key_text(KEY))
    groups, stop = Groups(directory), threading.Event()

    def churn() -> None:
        path = directory / "family" / "now.pub"
        while not stop.is_set():
            path.write_text(key_text(OTHER))
            path.unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            # A file that is half written has no key yet, and says so; nothing else may.
            problems = groups.reload().problems
            assert all(each == "groups/family/now.pub: holds no key" for each in problems)
            assert KEY in groups.members("family")
    finally:
        stop.set()
        thread.join()


def test_a_key_is_added_once_and_removed_wherever_it_stands(directory):
    groups = Groups(directory)
    groups.reload()
    assert groups.add("friends", KEY, "gil") == "groups/friends/gil.pub"
    groups.reload()
    assert groups.add("friends", KEY, "gil") is None
    assert groups.add("friends", OTHER, "gil") == f"groups/friends/gil-{OTHER.hex()[:16]}.pub"
    (directory / "friends" / "again.pub").write_text(KEY.hex())
    groups.reload()
    assert groups.files_of("friends", KEY) == (
        "groups/friends/again.pub",
        "groups/friends/gil.pub",
    )

    assert len(groups.remove("friends", KEY)) == 2
    groups.reload()
    assert groups.members("friends") == {OTHER}
    with pytest.raises(InvalidInput):
        groups.add("../x", KEY, "gil")


def test_a_file_with_other_keys_is_left_to_its_owner(directory):
    file = directory / "family" / "both.pub"
    file.write_text(f"{key_text(KEY)}\n{key_text(OTHER)}\n")
    groups = Groups(directory)
    groups.reload()
    with pytest.raises(Conflict, match="other keys"):
        groups.remove("family", KEY)
    assert file.exists()
