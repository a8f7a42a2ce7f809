"""Files of rules as files: a draft is put in place whole, without a mistake, over nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orvalho.daemon.home import Home, find_home
from orvalho.daemon.policy_files import drafted, formatted, installed, outcome, put_in_place
from orvalho.errors import Conflict, NotFound, Unavailable
from orvalho.policies.shipped import write_context, write_defaults

GOOD = "p, laptop, peer, fs.read, /x, allow\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = find_home({}, str(tmp_path))
    for directory in (found.keys, found.contexts / "peer"):
        directory.mkdir(parents=True)
    write_defaults(found.config)
    write_context(found.config, "peer")
    return found


def test_a_draft_without_a_mistake_takes_the_files_place(home: Home) -> None:
    file = home.policy / "peer.csv"
    file.chmod(0o640)
    draft = Path(drafted(home, "peer").draft)
    assert draft.read_bytes() == file.read_bytes()

    draft.write_text(GOOD)
    reply = installed(home, "peer")

    assert reply.installed
    assert file.read_text() == GOOD
    assert file.stat().st_mode & 0o777 == 0o640
    assert not draft.exists()
    assert sorted(each.name for each in home.policy.iterdir()) == ["default.csv", "peer.csv"]


def test_a_draft_that_says_nothing_new_goes(home: Home) -> None:
    draft = Path(drafted(home, "peer").draft)

    assert not installed(home, "peer").installed
    assert not draft.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("p, laptop, peer, fs.raed, /x, allow\n", 'did you mean "fs.read"?'),
        ("p, laptop, peer, fs.read, /x, allow, batery>4\n", 'did you mean "battery"?'),
        (f"{GOOD}#? deny laptop peer fs.read /x\n", "this test fails: deny was expected"),
        ("p, *, *, *, **, deny\n", "this test fails"),  # one of default.csv
        ("", "is empty"),  # the editor was interrupted, or truncated it
    ],
)
def test_a_draft_with_a_mistake_is_kept_and_the_file_stays(
    home: Home, text: str, told: str
) -> None:
    before = (home.policy / "peer.csv").read_bytes()
    draft = Path(drafted(home, "peer").draft)
    draft.write_text(text)

    reply = installed(home, "peer")

    assert not reply.installed
    assert told in reply.problems[0]
    assert (home.policy / "peer.csv").read_bytes() == before
    again = drafted(home, "peer")
    assert again.kept
    assert Path(again.draft).read_text() == text


def test_what_somebody_else_changed_meanwhile_is_not_written_over(home: Home) -> None:
    draft = Path(drafted(home, "peer").draft)
    draft.write_text(GOOD)
    (home.policy / "peer.csv").write_text("# theirs\n")

    with pytest.raises(Conflict, match="changed by somebody else") as caught:
        installed(home, "peer")

    assert str(draft) in caught.value.message
    assert (home.policy / "peer.csv").read_text() == "# theirs\n"
    assert draft.read_text() == GOOD


def test_an_editor_that_truncates_the_file_itself_is_seen(home: Home) -> None:
    Path(drafted(home, "peer").draft).write_text(GOOD)
    (home.policy / "peer.csv").write_text("")

    with pytest.raises(Conflict):
        installed(home, "peer")


def test_a_file_that_comes_meanwhile_is_not_written_over(home: Home) -> None:
    file = home.policy / "peer.csv"
    file.unlink()
    draft = Path(drafted(home, "peer").draft)
    draft.write_text(GOOD)
    file.write_text("")
    with pytest.raises(Conflict):
        installed(home, "peer")
    file.unlink()

    assert installed(home, "peer").installed
    assert file.read_text() == GOOD


def test_mistakes_of_another_file_do_not_keep_a_good_draft_back(home: Home) -> None:
    (home.policy / "other.csv").write_text("p\n")
    Path(drafted(home, "peer").draft).write_text(GOOD)

    reply = installed(home, "peer")

    assert reply.installed
    assert reply.problems[0].startswith("policy/other.csv:1")


@pytest.mark.parametrize("name", ["paer", "../config", "", "/etc/passwd", "peer.csv"])
def test_only_files_of_rules_are_drafted(home: Home, name: str) -> None:
    with pytest.raises(NotFound):
        drafted(home, name)


def test_an_old_link_in_the_place_of_the_draft_is_not_followed(home: Home, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    (home.state / "drafts").mkdir()
    (home.state / "drafts/peer.csv").symlink_to(treasure)

    with pytest.raises(Unavailable, match="cannot be drafted"):
        drafted(home, "peer")
    assert treasure.read_text() == "mine"


def test_layout_is_written_once_and_then_nothing_changes(home: Home) -> None:
    file = home.policy / "peer.csv"
    file.write_text("p,laptop,peer,fs.read,/x,allow")

    assert formatted(home, [], writes=False).changed == ("policy/peer.csv",)
    assert file.read_text() == "p,laptop,peer,fs.read,/x,allow"
    assert formatted(home, [], writes=True).changed == ("policy/peer.csv",)
    assert file.read_text() == GOOD
    assert formatted(home, [], writes=True).changed == ()


def test_a_broken_file_is_not_laid_out_but_the_others_are(home: Home) -> None:
    broken = "p,laptop,peer,fs.raed,/x,allow\n"
    (home.policy / "broken.csv").write_text(broken)
    (home.policy / "peer.csv").write_text("p,laptop,peer,fs.read,/x,allow\n")

    reply = formatted(home, [], writes=True)

    assert reply.changed == ("policy/peer.csv",)
    assert reply.problems[0].startswith("policy/broken.csv:1:15: unknown action")
    assert (home.policy / "broken.csv").read_text() == broken


def test_a_link_stays_a_link_and_what_it_leads_to_is_laid_out(home: Home, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.csv"
    real.write_text("p,laptop,peer,fs.read,/x,allow\n")
    link = home.policy / "peer.csv"
    link.unlink()
    link.symlink_to(real)

    assert formatted(home, [], writes=True).problems == ()
    assert link.is_symlink()
    assert real.read_text() == GOOD


def test_a_link_to_what_is_no_file_of_rules_touches_nothing(home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "passwd"
    secret.write_text("root:x:0:0\n")
    (home.policy / "a.csv").symlink_to(secret)
    (home.policy / "b.csv").symlink_to("/dev/zero")
    os.mkfifo(home.policy / "c.csv")

    paths = [home.policy / name for name in ("a.csv", "b.csv", "c.csv")]
    reply = formatted(home, paths, writes=True)

    assert reply.changed == ()
    assert len(reply.problems) == 3
    assert secret.read_text() == "root:x:0:0\n"


def test_a_file_that_changes_while_it_is_laid_out_is_left(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("# theirs\n")

    with pytest.raises(Conflict):
        put_in_place(file, b"# ours\n", was=b"# before\n")
    assert file.read_text() == "# theirs\n"
    assert list(tmp_path.iterdir()) == [file]


def test_the_tests_of_the_files_are_told_one_by_one(home: Home) -> None:
    (home.policy / "peer.csv").write_text(f"{GOOD}#? deny laptop peer fs.read /x\n")

    reply = outcome(home)

    assert reply.failed == 1
    failed = next(each for each in reply.tests if not each.passed)
    assert failed.test == "policy/peer.csv:2"
    assert failed.by == "policy/peer.csv:1 (p, laptop, peer, fs.read, /x, allow)"
    (home.policy / "peer.csv").write_text("#? deny laptop\n")
    assert outcome(home).tests == ()
    assert "a test is" in outcome(home).problems[0]
